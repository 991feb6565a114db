"""What commands print of names and texts that are anybody's."""

from __future__ import annotations

import io
import json
import sys

import msgspec
import pytest
from rich.console import Console

from holdfast import cli
from holdfast.cli import showing
from holdfast.cli.runs.outlines import shown_run
from holdfast.cli.runs.printing import COLUMNS, cells, print_run
from holdfast.cli.showing import line, printable, show, tell_left_out
from holdfast.documents import ContextVariable, Run, StepRecord
from holdfast.errors import NotFound
from holdfast.run_context.changes import ContextState

EVIL = "a\x1b[2Jb\x1b]0;owned\x07c\x9b31md\r\n\te\u202ef"
SHOWN = r"a\u001b[2Jb\u001b]0;owned\u0007c\u009b31md\u000d\u000a\u0009e\u202ef"
ACTING = ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\r", "\t", "\u202e")
RUN = Run(routine_id=EVIL, swarm_id=EVIL, owner=EVIL, error=EVIL)
STATE = ContextState(
    variables={EVIL: ContextVariable(key=EVIL, value=EVIL, sensitivity="public", source=EVIL)},
    steps={EVIL: StepRecord(step_id=EVIL, status=EVIL, error=EVIL)},
    inputs={EVIL: 1},
    current_step=EVIL,
)


def terminal() -> Console:
    """One that is wide enough."""
    return Console(file=io.StringIO(), force_terminal=True, width=1000)


def printed(console: Console) -> str:
    """What went to it."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def acting(text: str) -> list[str]:
    """What of it would act on a terminal."""
    return [each for each in ACTING if each in text]


@pytest.mark.parametrize("mutant", [False, True], ids=["as it is", "mutant: printed as it is"])
def test_nothing_in_a_run_acts_on_a_terminal(monkeypatch: pytest.MonkeyPatch, *, mutant: bool) -> None:
    """Neither in its heading nor in its tables; all of it is shown."""
    if mutant:
        monkeypatch.setattr(showing, "printable", lambda text: text)
    console = terminal()
    print_run(shown_run(EVIL, RUN, STATE, at=None, most=10), console, json=False)
    text = printed(console)
    assert bool(acting(text)) is mutant
    assert mutant or text.count(SHOWN) > 10


def test_nothing_in_a_list_acts_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In no column."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "1000")
    outline = shown_run(EVIL, RUN, STATE, at=None, most=10).run
    show([outline], COLUMNS, cells, "none")
    text = capsys.readouterr().out
    assert acting(text) == []
    assert text.count(SHOWN) == 4


def test_json_on_a_terminal_is_json() -> None:
    """JSON escapes less than what acts on some terminals; it is read as what it was."""
    console = terminal()
    line(console, msgspec.json.encode({"id": EVIL, ":bug:": 1}).decode())
    assert acting(printed(console)) == []
    assert json.loads(printed(console)) == {"id": EVIL, ":bug:": 1}


def test_whatever_else_reads_a_line_gets_it_as_it_is() -> None:
    """As `holdfast runs fork` prints an id for a script."""
    console = Console(file=io.StringIO(), width=20)
    line(console, "a\x9b :bug: [b]" + "x" * 100)
    assert printed(console) == "a\x9b :bug: [b]" + "x" * 100 + "\n"


def test_nothing_in_an_error_acts_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may have the name of an owner in it, and more than one line."""

    def fail(*_words: object, **_options: object) -> None:
        raise NotFound("there is no run \x1b[2J\nDETAIL: \x07")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["holdfast"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err == "holdfast: there is no run \\u001b[2J\nDETAIL: \\u0007\n"


def test_other_text_is_left_alone() -> None:
    """Of any language."""
    assert printable("é漢🙂👨\u200d👩 a\\u0000") == "é漢🙂👨\u200d👩 a\\u0000"


@pytest.mark.parametrize(
    ("cursors", "unreadable", "said"),
    [
        ([4, 7], [], "there may be more: --after 7\n"),
        ([4], ["b"], "b: cannot be read; a server that meets it puts it in quarantine\nthere may be more: --after 4\n"),
        ([4], [], ""),
        ([], ["b", "c"], "cannot be read"),
    ],
)
def test_what_cannot_be_read_hides_no_rest_of_a_list(
    cursors: list[int], unreadable: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts as shown: the page was full. Of a list in which nothing can be read there is no rest."""
    tell_left_out(cursors, unreadable, 2)
    printed = capsys.readouterr().err
    assert (printed == said) if cursors else (said in printed and "more" not in printed)
