"""Servers that write behind: what they write, how they die, and processes of their own that can be killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from fix_races import until
from holdfast import Append, Consistency, Increment, Settings, Swarm
from holdfast.documents.swarm import ToolCallRecord
from holdfast.flows import Flows
from holdfast.node import OpenStore
from holdfast.protocols import JournalState
from holdfast.write_behind.operations import Operation

PROGRAM = Path(__file__).with_name("write_behind_child.py")
ANSWER_SECONDS = 120.0


def quick(settings: Settings, **changes: Any) -> Settings:
    """The same with short times: quiet 0.1 s, age 0.3 s, takeover 0.6 s; the file of an L2 without replicas will do."""
    short: dict[str, Any] = {
        "write_behind_quiet_seconds": 0.1,
        "write_behind_age_seconds": 0.3,
        "write_behind_takeover_seconds": 0.6,
        "journal_replicas": 0,
        "verify_share": 0.0,
    }
    return msgspec.structs.replace(settings, **(short | changes))


def patient(settings: Settings, **changes: Any) -> Settings:
    """The same where nothing is due before it is waited for, and dead servers are taken over from soon."""
    return quick(settings, write_behind_quiet_seconds=600.0, write_behind_age_seconds=600.0, **changes)


def noted(name: str) -> tuple[Operation, ...]:
    """A write that tells how often it took effect: its name is appended, and a count goes up."""
    return Append("records", ToolCallRecord(id=name, routine_id="r")), Increment("stats", "total_tool_calls")


def names_in(swarm: Swarm | None) -> list[str]:
    """The names of the writes in effect, in their order; none of them half, and none twice."""
    if swarm is None:
        return []
    names = [record.id for record in swarm.records]
    assert swarm.stats.total_tool_calls == len(names), "a write is in effect by half"
    assert len(set(names)) == len(names), f"twice: {[name for name in set(names) if names.count(name) > 1]}"
    return names


async def stored(state: OpenStore, *keys: str) -> dict[str, Swarm]:
    """The rows in L3."""
    return await state.swarms.get_many(keys, consistency=Consistency.STRONG)


async def die(flows: Flows) -> str:
    """Let a server's write-behind end as if it were killed: it tells nobody. Returns its journal."""
    lives = flows.write_behind.lives
    life = lives.current
    assert life is not None
    await flows.takeover.stop()
    await life.stop()
    lives.current = None
    return life.name


async def until_drained(flows: Flows, journal: str) -> None:
    """Wait until a server sees that every entry of a journal is decided."""
    base = flows._given.journals

    async def drained() -> bool:
        return any(each.journal == journal and each.state is JournalState.DRAINED for each in await base.records())

    await until(drained)


def lines_in(file: Path) -> int:
    """How many lines a file has so far; 0: there is none."""
    try:
        return file.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


async def until_lines(file: Path, count: int) -> None:
    """Wait until a file has so many lines."""

    async def enough() -> bool:
        return lines_in(file) >= count

    await until(enough)


def state_of(pid: int) -> str:
    """A process's, as one letter: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class Process:
    """A server in a process of its own; see `write_behind_child`.

    Args:
        log: what it says on its error output.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, settings: Settings, log: Path, *changes: str) -> Process:
        """Start it; it says "ready" in its time."""
        with log.open("wb") as errors:
            return cls(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    str(PROGRAM),
                    msgspec.json.encode(settings).decode(),
                    *changes,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    env={"PYTHONPATH": ":".join(filter(None, sys.path))},
                ),
                log,
            )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it said on its error output so far."""
        return self._log.read_text()

    def order(self, sort: str, **words: object) -> None:
        """Tell it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"type": sort, **words}).encode() + b"\n")

    async def told(self, word: str) -> None:
        """Wait until it says so."""
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self._process.stdout.readline()
        assert line.decode().strip() == word, f"{line!r} instead of {word}: {self.log}"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill -9, if it still lives, stopped or not. Until then none of its loops has met a fault of its own."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        assert "Traceback" not in self.log, self.log[-4000:]

    async def ended(self) -> int:
        """Wait for its end; returns its exit code."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._process.wait()

    async def until_stopped(self) -> None:
        """Wait until it stands still, by SIGSTOP."""

        async def stopped() -> bool:
            return state_of(self.pid) == "T"

        await until(stopped)

    async def journal(self, flows: Flows) -> str:
        """The name of its newest journal, as another server sees it."""
        ending = f":{self.pid}"
        return [each.journal for each in await flows._given.journals.records() if each.server.endswith(ending)][-1]


@asynccontextmanager
async def processes(settings: Settings, folder: Path, count: int = 1, *changes: str) -> AsyncIterator[list[Process]]:
    """So many servers in processes of their own, ready; killed at the end."""
    running: list[Process] = []
    try:
        running += [await Process.start(settings, folder / f"log-{number}", *changes) for number in range(count)]
        for each in running:
            await each.told("ready")
        yield running
    finally:
        for each in running:
            await each.kill()


def missing(wanted: Collection[str], rows: Mapping[str, Swarm], key: str) -> list[str]:
    """Those of some names that are not in effect."""
    there = set(names_in(rows.get(key)))
    return [name for name in wanted if name not in there]
