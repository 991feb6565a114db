"""`holdfast quarantine` and `holdfast recovery`, on real servers."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import importlib
import io
import json
from typing import Any

import msgspec
import pytest
from rich.console import Console

from fix_commands import name_servers, run_command
from fix_races import until
from fix_recovery import PostgresRecords
from holdfast.cli import serving
from holdfast.cli.quarantine import dumped
from holdfast.errors import TierUnavailable
from holdfast.protocols import LineFilter, LoggedLine
from holdfast.recovery.log_reading import RecoveryLog
from holdfast.settings import Settings
from holdfast.testing import MemoryRecoveryLog, MemoryStorage
from holdfast.testing.conformance.recovery_rows import AT, FOUND, LINE, line

MANY = 1000
recovery_command = importlib.import_module("holdfast.cli.recovery")  # the package has the command under that name


@pytest.fixture
async def records(
    settings: Settings, postgres_records: PostgresRecords, monkeypatch: pytest.MonkeyPatch
) -> PostgresRecords:
    """Recovery's records; commands find them."""
    name_servers(settings, monkeypatch)
    return postgres_records


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in capsys.readouterr().out.splitlines()]


async def test_evidence_is_listed_shown_and_discarded(
    records: PostgresRecords, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bytes are shown if it is asked for alone; discarding is recorded with its reason."""
    other = msgspec.structs.replace(FOUND, id="b2", evidence=b"other", size=5)
    await records.quarantine().keep([FOUND], rows_max=MANY)
    await records.quarantine().keep([other], rows_max=MANY)
    assert await run_command("quarantine", "list") == 0
    one, _ = printed(capsys)
    assert (one["kind"], one["id"], one["tier"], one["fault"], one["evidence"]) == (
        "bot",
        "b1",
        "l2",
        "no\nchecksum",
        None,
    )
    assert await run_command("quarantine", "show", str(one["number"])) == 0
    (shown,) = printed(capsys)
    assert base64.b64decode(shown["evidence"]) == FOUND.evidence
    assert await run_command("quarantine", "discard", str(one["number"]), "--reason", "looked at") == 0
    assert capsys.readouterr().out == f"{one['number']}: discarded\n"
    assert await run_command("quarantine", "discard", str(one["number"])) == 1
    assert await run_command("quarantine", "show", str(one["number"])) == 1
    capsys.readouterr()
    assert await run_command("quarantine", "list", "--after", str(one["number"])) == 0
    assert [each["id"] for each in printed(capsys)] == ["b2"]
    (entry,) = await records.audit().list(after=0, limit=10)
    assert (entry.note.action, entry.note.subject, entry.note.reason) == (
        "discarded",
        f"quarantine:{one['number']}",
        "looked at",
    )


async def test_the_recovery_log_is_shown(records: PostgresRecords, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest lines, or those before a number, of a subject, of a recovery, or since a moment; as written."""
    other = msgspec.structs.replace(line("o", at=AT + dt.timedelta(hours=1)), subject="tier:l2", recovery_id="r2")
    await records.log().append([LINE, *(line(f"m{number}") for number in range(4)), other], rows_max=MANY)
    assert await run_command("recovery", "log", "--limit", "2") == 0
    newest = printed(capsys)
    assert [each["id"] for each in newest] == ["m3", "o"]
    assert await run_command("recovery", "log", "--before", str(newest[0]["number"])) == 0
    older = printed(capsys)
    assert [each["id"] for each in older] == ["l1", "m0", "m1", "m2"]
    assert msgspec.convert(older[0], type(LINE)) == LINE
    since = (AT + dt.timedelta(minutes=1)).isoformat()
    for argument in ("--subject=tier:l2", "--recovery=r2", f"--since={since}"):
        assert await run_command("recovery", "log", argument) == 0
        assert [each["id"] for each in printed(capsys)] == ["o"]


async def test_the_log_is_followed_through_an_outage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says once that L3 is waited for, and goes on behind the last line that was shown."""
    monkeypatch.setattr(recovery_command, "FOLLOW_SECONDS", 0.01)
    l3, out, complaints = MemoryStorage(), list[str](), list[str]()

    async def has(told: list[str], what: str) -> bool:
        shown = capsys.readouterr()
        out.append(shown.out)
        complaints.append(shown.err)
        return what in "".join(told)

    log = MemoryRecoveryLog(l3)
    await log.append([line("a")], rows_max=MANY)
    following = asyncio.ensure_future(
        recovery_command._follow(RecoveryLog(log), LineFilter(), recovery_command._Printer(), 0)
    )
    try:
        await until(lambda: has(out, '"id":"a"'))
        l3.away = True
        await until(lambda: has(complaints, "waiting for L3: "))
        l3.away = False
        await log.append([line("b")], rows_max=MANY)
        await until(lambda: has(out, '"id":"b"'))
    finally:
        following.cancel()
    assert "".join(complaints).count("waiting") == 1
    assert "".join(out).count('"id":"a"') == 1


def test_a_terminal_shows_a_recovery_under_its_name() -> None:
    """Once, with its id; each line with the number that `--before` takes, none broken."""
    printer, file = recovery_command._Printer(), io.StringIO()
    printer._console = Console(file=file, force_terminal=True, width=80)
    printer.print(recovery_command._line(LoggedLine(number, line(f"m{number}"))) for number in (11, 12))
    heading, *lines = file.getvalue().splitlines()
    assert heading == 'bot:b1 "\\ ä: cache_failure, ERROR; recovery r1, ada@here:1'
    assert [each.split()[0] for each in lines] == ["11", "12"]
    assert lines[0].endswith("retry_operation mended, 12 ms: at\\u000aonce")


@pytest.mark.parametrize("command", ["recovery log", "quarantine list", "escalations list", "reviews list"])
async def test_a_command_does_not_wait_for_an_l3_that_says_nothing(
    command: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so before somebody takes it for hanging, however long servers wait."""

    async def silence(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        name_servers(
            msgspec.structs.replace(settings, postgres_url=f"postgres://ada:x@127.0.0.1:{port}/x"), monkeypatch
        )
        monkeypatch.setattr(serving, "CONNECT_SECONDS_MAX", 0.3)
        with pytest.raises(TierUnavailable, match=r"L3: no connection within 0\.3 s"):
            await run_command(*command.split())
    finally:
        gone.set()
        server.close()


@pytest.mark.parametrize("words", [("show",), ("discard",), ("discard", "1"), ("list", "--after")])
async def test_a_number_that_none_can_have_is_refused(
    words: tuple[str, ...], records: PostgresRecords, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is done."""
    await records.quarantine().keep([FOUND], rows_max=MANY)
    with pytest.raises(SystemExit):
        await run_command("quarantine", *words, str(2**70))
    assert "Must be <" in capsys.readouterr().err
    assert len(await records.quarantine().list(limit=10)) == 1


def test_bytes_are_dumped_as_text_that_does_nothing() -> None:
    """Whatever they are: only printable ASCII reaches a terminal."""
    lines = list(dumped(bytes(range(256)) * 2))
    assert len(lines) == 32
    assert lines[0].startswith("00000000  00 01 02")
    assert lines[4].endswith(" @ABCDEFGHIJKLMNO")
    assert all(text.isprintable() and text.isascii() for text in lines)
