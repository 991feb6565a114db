"""`holdfast quarantine` and `holdfast recovery`, on real servers."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import Any

import msgspec
import pytest

from fix_commands import name_servers, run_command
from fix_recovery import PostgresRecords
from holdfast.cli.quarantine import dumped
from holdfast.settings import Settings
from holdfast.testing.conformance.recovery_rows import AT, FOUND, LINE, line

MANY = 1000


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


def test_bytes_are_dumped_as_text_that_does_nothing() -> None:
    """Whatever they are: only printable ASCII reaches a terminal."""
    lines = list(dumped(bytes(range(256)) * 2))
    assert len(lines) == 32
    assert lines[0].startswith("00000000  00 01 02")
    assert lines[4].endswith(" @ABCDEFGHIJKLMNO")
    assert all(text.isprintable() and text.isascii() for text in lines)
