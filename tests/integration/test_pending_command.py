"""`holdfast pending`: what no server has decided yet."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from holdfast import Append, Durability, Increment, Settings, Swarm
from holdfast.node import OpenStore
from holdfast.settings import PREFIX

CALM = 3600.0
"""Nothing is flushed before its time."""
Command = Callable[[], Awaitable[list[dict[str, Any]]]]


@pytest.fixture
async def calm(settings: Settings) -> AsyncIterator[OpenStore]:
    """A server whose writes stay in the journal until it is told."""
    own = msgspec.structs.replace(
        settings, write_behind_quiet_seconds=CALM, write_behind_age_seconds=CALM, journal_replicas=0
    )
    async with holdfast.connect(own) as state:
        yield state


@pytest.fixture
def pending(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """What the command prints on this test's servers, for programs."""
    name_servers(settings, monkeypatch)

    async def run() -> list[dict[str, Any]]:
        capsys.readouterr()
        assert await run_command("pending") == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


async def test_what_is_in_a_journal_is_counted(calm: OpenStore, pending: Command) -> None:
    """Nothing before the first write, then each that is not decided; none once they are."""
    assert await pending() == []
    await calm.swarms.put("s1", Swarm(goal="x"))
    for _ in range(3):
        await calm.swarms.patch("s1", Increment("stats", "total_tool_calls"), durability=Durability.JOURNALED)
    (journal,) = await pending()
    assert journal["journal"] == calm.backlog().journal
    assert (journal["state"], journal["epoch"], journal["entries"]) == ("live", 1, 3)
    assert journal["bytes"] == calm.backlog().bytes
    assert 0 <= journal["oldest_seconds"] < 60
    assert "@" in journal["server"]
    assert await calm.flush() == []
    (journal,) = await pending()
    assert (journal["entries"], journal["bytes"], journal["oldest_seconds"], journal["decided"]) == (0, 0, None, 3)


async def test_a_terminal_gets_a_table(
    calm: OpenStore, pending: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a journal, and a sentence if there is none."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "250")
    await run_command("pending")
    assert "no server keeps a journal: all that was accepted is committed" in capsys.readouterr().out
    await calm.swarms.put("s1", Swarm())
    await calm.swarms.patch("s1", Append("available_tools", "[red]"), durability=Durability.JOURNALED)
    await run_command("pending")
    heading, row = (line.strip() for line in plain(capsys.readouterr().out).splitlines())
    assert heading.split()[:4] == ["journal", "server", "state", "epoch"]
    assert re.match(rf"{calm.backlog().journal} +\S+@\S+ +live +1 +1 +{calm.backlog().bytes} +\d+\.\d s", row)


async def test_while_l2_is_away_what_l3_knows_is_shown(
    calm: OpenStore, pending: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How much waits nobody can tell then, and it says so; on a terminal too."""
    await calm.swarms.put("s1", Swarm())
    await calm.swarms.patch("s1", Increment("stats", "total_tool_calls"), durability=Durability.JOURNALED)
    monkeypatch.setenv(PREFIX + "REDIS_URLS", "redis://127.0.0.1:1")
    monkeypatch.setenv(PREFIX + "L2_CONNECT_TIMEOUT_SECONDS", "1")
    (journal,) = await pending()
    assert (journal["journal"], journal["state"]) == (calm.backlog().journal, "live")
    assert (journal["entries"], journal["bytes"], journal["oldest_seconds"]) == (None, None, None)
    assert "L2" in journal["unread"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "250")
    await run_command("pending")
    printed = capsys.readouterr()
    assert re.search(r"live +1 +\? +\? +\?", plain(printed.out))
    assert "what is pending cannot be told: L2" in printed.err


def plain(text: str) -> str:
    """What a terminal shows, without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
