"""`holdfast reviews`: list, show and resolve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final, Literal

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from holdfast.cli.reviews.outlines import COLUMNS, cells, columns_of, heading, review_line, shown_review
from holdfast.cli.serving import serving
from holdfast.cli.showing import Place, cell, line, show, tell_left_out
from holdfast.documents import FreeValue, Review
from holdfast.documents.faults import FaultError
from holdfast.documents.untagging import from_wire
from holdfast.entry import MISSING
from holdfast.errors import NotFound, SettingsError
from holdfast.node import OpenStore, process_name
from holdfast.protocols.decisions import DECISIONS_LISTED_MAX
from holdfast.reviews.given_values import VALUE_BYTES_MAX
from holdfast.sensitivity.levels import is_secret

STDIN: Final = "-"
Text = Annotated[str, Parameter(allow_leading_hyphen=True)]
reviews = cyclopts.App(name="reviews", help="Conflicts between runs and their children that a person decides.")


@reviews.command(name="list")
async def list_(
    *,
    status: Literal["open", "resolved", "timed_out", "any"] = "open",
    run: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=DECISIONS_LISTED_MAX))] = 100,
    after: Place | None = None,
    json: bool = False,
) -> None:
    """Show reviews, the oldest first; values are shown by `show`.

    On a terminal it is a table, otherwise one JSON object a line.

    Parameters
    ----------
    status
        What became of them.
    run
        Id of the run that merges.
    limit
        How many to show.
    after
        The cursor of the last one shown: those behind it.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        wanted = None if status == "any" else status
        found = await state.reviews.list(status=wanted, run_id=run, after=after, limit=limit)
    show(
        [review_line(each.id, each.review, each.cursor) for each in found],
        COLUMNS,
        cells,
        "there is no such review",
        json=json,
    )
    tell_left_out([each.cursor for each in found], found.unreadable, limit)


@reviews.command(name="show")
async def show_(review: str, /, *, json: bool = False) -> None:
    """Show a review: both values side by side, who asked and when, and the deadline.

    Values that are more than internal are not shown, on neither side.

    Parameters
    ----------
    review
        Its id, as `list` shows it.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        shown = shown_review(review, await _found(state, review))
    console = Console()
    if json or not console.is_terminal:
        line(console, msgspec.json.encode(shown).decode())
        return
    for text in heading(shown):
        line(console, text)
    headings, rows = columns_of(shown)
    table = Table(*headings, box=None)
    for row in rows:
        table.add_row(*map(cell, row))
    console.print(table)


@reviews.command
async def resolve(
    review: str,
    /,
    *,
    choice: Literal["parent", "child"] | None = None,
    value: Text | None = None,
    value_file: Text | None = None,
    reason: str,
    by: str | None = None,
) -> None:
    """Decide a review. The run that waits for it goes on, whichever server runs it.

    Give one of --choice, --value and --value-file.

    Parameters
    ----------
    review
        Its id, as `list` shows it.
    choice
        Whose value stands.
    value
        Another value, as JSON. Not for secrets: what stands on a command line others can read.
    value_file
        A file with the value as JSON; - stands for the standard input.
    reason
        Why, for the audit log.
    by
        Who decides, for the audit log; by default user@host:pid.
    """
    given = _given(choice, value, value_file)
    async with serving() as state:
        if value is not None:
            await _check_open_value(state, review)
        done = await state.reviews.resolve(review, choice=choice, value=given, by=by or process_name(), reason=reason)
    line(Console(), f"{review}: {done.status} by {done.resolved_by}, for: {done.choice}")


async def _found(state: OpenStore, identifier: str) -> Review:
    review = await state.reviews.get(identifier)
    if review is None:
        raise NotFound(f"there is no review {identifier}; `holdfast reviews list` shows those that there are")
    return review


async def _check_open_value(state: OpenStore, identifier: str) -> None:
    """Refuse a value that others could read here, though it is to be a secret."""
    level = await state.reviews.sensitivity(await _found(state, identifier))
    if is_secret(level):
        raise SettingsError(
            f"review {identifier} is about a variable that is {level}: give its value by --value-file -, from the "
            "standard input, since a command line can be read by others"
        )


def _given(choice: str | None, value: str | None, value_file: str | None) -> FreeValue:
    """The value that was given; `MISSING`: a choice was."""
    if sum(each is not None for each in (choice, value, value_file)) != 1:
        raise SettingsError("reviews resolve: give one of --choice, --value and --value-file")
    if value is not None:
        return _read_value(value.encode())
    return MISSING if value_file is None else _read_value(_content(value_file))


def _content(name: str) -> bytes:
    """What a file holds, up to a byte more than is allowed."""
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
        with Path(name).open("rb") as file:
            return file.read(VALUE_BYTES_MAX + 1)
    except OSError as fault:
        raise SettingsError(f"--value-file {name}: {fault.strerror}") from fault


def _read_value(text: bytes) -> FreeValue:
    """The free value that a text is the JSON of; what is wrong with it is told without a word of it."""
    if len(text) > VALUE_BYTES_MAX:
        raise SettingsError(f"reviews resolve: a value has at most {VALUE_BYTES_MAX} bytes")
    try:
        return from_wire(msgspec.json.decode(text))
    except (msgspec.DecodeError, FaultError, RecursionError):
        raise SettingsError("reviews resolve: the value is no JSON; a text stands in double quotes") from None
