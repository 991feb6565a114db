"""`holdfast dead-letters`: accepted writes that were given up, on real servers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from fix_events import Notes
from fix_races import until
from holdfast import Document, Durability, Increment, Kind, Refused, Settings, Swarm
from holdfast.invalidation.topics import WRITE_REFUSED
from holdfast.node import OpenStore

CALM = 3600.0
"""Nothing is flushed before its time."""


class Plan(Document, frozen=True, kw_only=True):
    """An own document."""

    points: int | str = 0


PLANS = Kind("plan", Plan)
MODULE = """
from holdfast import Document, Kind
class Plan(Document, frozen=True, kw_only=True):
    points: int | str = 0
PLANS = Kind("plan", Plan)
"""


@pytest.fixture
async def pair(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[OpenStore, OpenStore]]:
    """Two servers whose writes stay in the journal until they are told; commands find their tiers."""
    name_servers(settings, monkeypatch)
    calm = msgspec.structs.replace(
        settings, write_behind_quiet_seconds=CALM, write_behind_age_seconds=CALM, journal_replicas=0
    )
    async with holdfast.connect(calm, kinds=[PLANS]) as one, holdfast.connect(calm, kinds=[PLANS]) as two:
        yield one, two


async def given_up(one: OpenStore, two: OpenStore, identifier: str = "s1") -> None:
    """A write that was accepted on one server, and cannot be applied to what the other has made of the row."""
    await one.swarms.put(identifier, Swarm(metadata={"n": 1}))
    receipt = await one.swarms.patch(identifier, Increment("metadata", "n", by=41), durability=Durability.JOURNALED)
    await two.swarms.put(identifier, Swarm(metadata={"n": "text"}))
    (unwritten,) = await one.flush()
    assert unwritten.refused
    with pytest.raises(Refused, match="poison"):
        await receipt.reached(Durability.COMMITTED)


async def test_a_write_that_was_given_up_is_shown_kept_and_applied(
    pair: tuple[OpenStore, OpenStore], capsys: pytest.CaptureFixture[str]
) -> None:
    """As long as the row does not allow it, it stays; then it is a write like any other, for all servers."""
    one, two = pair
    notes = Notes()
    one.subscribe(WRITE_REFUSED, notes)
    await given_up(one, two)
    await notes.until(1)
    assert (notes.data[0]["kind"], notes.data[0]["id"], notes.data[0]["reason"]) == ("swarm", "s1", "poison")
    assert await run_command("dead-letters", "list") == 0
    (letter,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (letter["key"], letter["operations"]) == (["swarm", "s1"], ["add 41 to metadata.n"])
    assert letter["reason"].startswith("poison: ")
    assert 0 <= letter["seconds"] < 60
    name = str(letter["id"])
    assert await run_command("dead-letters", "replay", name) == 1
    assert capsys.readouterr().out.startswith(f"{name}: kept: swarm:s1: the write was refused (poison)")
    assert [each.id for each in await one.dead_writes.list()] == [letter["id"]]
    receipt = await two.swarms.put("s1", Swarm(metadata={"n": 1}))
    assert await run_command("dead-letters", "replay", name) == 0
    words, version = capsys.readouterr().out.strip().rsplit(" ", 1)
    assert words == f"{name}: applied, version"
    assert int(version) > receipt.version
    assert await run_command("dead-letters", "replay", name) == 1
    assert capsys.readouterr().out == f"{name}: not there\n"
    assert [entry.note.action for entry in await one.audit.list()] == ["replayed"]
    for state in pair:

        async def is_applied(state: OpenStore = state) -> bool:
            swarm = await state.swarms.get("s1")
            return swarm is not None and swarm.metadata["n"] == 42

        await until(is_applied)
    assert await one.dead_writes.list() == []


async def test_a_write_is_discarded(pair: tuple[OpenStore, OpenStore], capsys: pytest.CaptureFixture[str]) -> None:
    """Once; the row is left alone."""
    await given_up(*pair)
    ((identifier,),) = [[each.id for each in await pair[0].dead_writes.list()]]
    words = (str(identifier), "--reason", "not wanted", "--by", "ada")
    assert await run_command("dead-letters", "discard", *words) == 0
    assert await run_command("dead-letters", "discard", str(identifier), str(identifier)) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{identifier}: discarded",
        f"{identifier}: not there",
        f"{identifier}: not there",
    ]
    (note,) = [entry.note for entry in await pair[0].audit.list()]
    told = note.action, note.subject, note.actor, note.reason
    assert told == ("discarded", f"dead_write:{identifier}", "ada", "not wanted")


async def test_a_terminal_gets_a_table(
    pair: tuple[OpenStore, OpenStore], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a letter, and a sentence if there is none."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "250")
    await run_command("dead-letters", "list")
    assert "no write was given up" in capsys.readouterr().out
    await given_up(*pair)
    await run_command("dead-letters", "list", "--limit", "1")
    heading, row = capsys.readouterr().out.splitlines()
    assert "operations" in heading
    assert "swarm:s1" in row
    assert "add 41 to metadata.n" in row


async def test_an_own_kind_is_shown_and_applied_with_its_class(
    pair: tuple[OpenStore, OpenStore],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Showing it takes no class; applying it does, and says so."""
    one, two = pair
    plans = one.collection(PLANS)
    await plans.put("p1", Plan(points=1))
    await plans.patch("p1", Increment("points"), durability=Durability.JOURNALED)
    await two.collection(PLANS).put("p1", Plan(points="many"))
    await one.flush()
    await run_command("dead-letters", "list")
    letter = json.loads(capsys.readouterr().out)
    assert letter["operations"] == ["add 1 to points"]
    await two.collection(PLANS).put("p1", Plan(points=1))
    (tmp_path / "own_plans.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert await run_command("dead-letters", "replay", str(letter["id"])) == 1
    assert "kept: its kind is not known here; --kinds MODULE:NAME tells it" in capsys.readouterr().out
    assert await run_command("dead-letters", "replay", str(letter["id"]), "--kinds", "own_plans:PLANS") == 0
    assert "applied, version" in capsys.readouterr().out
