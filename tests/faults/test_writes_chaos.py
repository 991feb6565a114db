"""Servers that write behind while everything breaks: writers, L3 and nodes of L2 are killed or stand still, at random.

What was acknowledged as JOURNALED or COMMITTED takes effect, each write once, whoever decides it in the end.
"""

from __future__ import annotations

import asyncio
import io
import random
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

import holdfast
from faults.test_events_killed import kill_a_primary
from faults.test_writes_killed import DURABLE, Line, lines_of
from fix_races import until
from fix_tiers import flows_of
from fix_write_behind import Process, lines_in, names_in, quick, stored
from holdfast import Durability, Settings, TierError
from holdfast.node import OpenStore
from holdfast.protocols import JournalState
from holdfast.testing.server_controls import ServerControls

pytestmark = [pytest.mark.xdist_group("faults_writes"), pytest.mark.timeout(240)]

WRITERS = 2
LINES_BETWEEN = 150
"""Acknowledgements between two faults."""


class Chaos:
    """Two writers, and what happens to them and their servers.

    Attributes:
        happened: how often what happened.
    """

    def __init__(self, controls: ServerControls, settings: Settings, folder: Path, source: random.Random) -> None:
        self.happened = Counter[str]()
        self._controls = controls
        self._settings = settings
        self._folder = folder
        self._source = source
        self._writers: list[Process] = []
        self._started = 0

    @property
    def files(self) -> dict[str, Path]:
        """The ledger of each writer that ever was, by its prefix."""
        return {f"w{number}": self._folder / f"lines-{number}" for number in range(self._started)}

    async def begin(self) -> None:
        """Start the writers."""
        for _ in range(WRITERS):
            await self._start()

    async def end(self) -> None:
        """Kill the writers: what they hold is for others to decide."""
        for writer in self._writers:
            await writer.kill()

    async def one(self, what: str) -> None:
        """Let one thing happen, while writes are acknowledged before it and after it."""
        await self._more(LINES_BETWEEN)
        await getattr(self, what)()
        self.happened[what] += 1

    async def kill_a_writer(self) -> None:
        await self._writers.pop(self._source.randrange(len(self._writers))).kill()
        await self._start()

    async def freeze_a_writer(self) -> None:
        writer = self._source.choice(self._writers)
        writer.send(signal.SIGSTOP)
        await asyncio.sleep(self._settings.write_behind_takeover_seconds * self._source.uniform(0.5, 2.0))
        writer.send(signal.SIGCONT)

    async def kill_l3(self) -> None:
        await self._controls.kill("postgres")
        await self._controls.restart("postgres")
        await self._controls.wait_up("postgres")

    async def freeze_l3(self) -> None:
        await self._controls.stop("postgres")
        await asyncio.sleep(self._settings.write_behind_takeover_seconds * self._source.uniform(0.2, 2.0))
        await self._controls.cont("postgres")

    async def kill_a_node(self) -> None:
        await kill_a_primary(self._controls, self._source)

    async def freeze_a_node(self) -> None:
        name = self._source.choice([each for each in self._controls.names if each != "postgres"])
        await self._controls.stop(name)
        await asyncio.sleep(self._source.uniform(0.2, 1.0))
        await self._controls.cont(name)

    async def _start(self) -> None:
        number, self._started = self._started, self._started + 1
        writer = await Process.start(self._settings, self._folder / f"log-{number}")
        self._writers.append(writer)
        await writer.told("ready")
        writer.order("Write", file=str(self._folder / f"lines-{number}"), prefix=f"w{number}")

    async def _more(self, count: int) -> None:
        """Wait until so many more writes are acknowledged."""
        before = sum(map(lines_in, self.files.values()))

        async def enough() -> bool:
            return sum(map(lines_in, self.files.values())) >= before + count

        try:
            await until(enough)
        except TimeoutError:
            pytest.fail(f"no writes are acknowledged any more\n{await self._where()}")

    async def _where(self) -> str:
        """Where the writers, and this process, wait."""
        for writer in self._writers:
            writer.send(signal.SIGUSR1)

        async def told() -> bool:
            return all("Stack for" in writer.log for writer in self._writers)

        with suppress(TimeoutError):
            await until(told)
        own = io.StringIO()
        for task in asyncio.all_tasks():
            task.print_stack(limit=12, file=own)
        return "\n".join([*(writer.log for writer in self._writers), own.getvalue()])


FAULTS = ("kill_a_writer", "freeze_a_writer", "kill_l3", "freeze_l3", "kill_a_node", "freeze_a_node")


async def until_all_is_decided(state: OpenStore) -> None:
    """Wait until no journal needs anybody."""
    base = flows_of(state)._given.journals

    async def decided() -> bool:
        with suppress(TierError):
            return all(each.state is JournalState.DRAINED for each in await base.records())
        return False

    await until(decided)


async def chaos(
    controls: ServerControls, prefix: str, folder: Path, *, times: int, seed: int
) -> tuple[Counter[str], Counter[Durability], list[Line]]:
    """Let everything happen so many times; what happened, what was acknowledged, and what of it is lost."""
    source, running = random.Random(seed), await controls.start()
    settings = quick(
        Settings(postgres_url=running.postgres_url, redis_urls=running.redis_urls, key_prefix=prefix),
        write_behind_takeover_seconds=1.0,
        journal_replicas=int(len(controls.names) > 4),
    )
    async with holdfast.connect(settings) as survivor:
        happening = Chaos(controls, settings, folder, source)
        try:
            await happening.begin()
            schedule = [*FAULTS * times]
            source.shuffle(schedule)
            for what in schedule:
                await happening.one(what)
        finally:
            await happening.end()
        await until_all_is_decided(survivor)
        acknowledged, lost = Counter[Durability](), list[Line]()
        for name, file in happening.files.items():
            rows = await stored(survivor, f"{name}-mixed", *(f"{name}-{each.value}" for each in Durability))
            there = {key: set(names_in(row)) for key, row in rows.items()}
            lines = lines_of(file) if file.exists() else []
            acknowledged.update(line.asked for line in lines)
            lost += [line for line in lines if line.asked in DURABLE and line.name not in there.get(line.key, set())]
    return happening.happened, acknowledged, lost


async def test_whatever_breaks_nothing_durable_is_lost(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """W1, W2, W4, W9: each thing happens once."""
    _, acknowledged, lost = await chaos(controls, prefix, tmp_path, times=1, seed=1)
    assert lost == []
    assert all(acknowledged[each] > 0 for each in Durability)


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_writes_over_restarts(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """Each thing happens fifteen times."""
    await prove(controls, prefix, tmp_path, times=15, seed=2)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_prove_writes_over_failovers(server_controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The same, eight times, where each node of L2 has a replica, which takes over when it is killed."""
    await prove(server_controls, prefix, tmp_path, times=8, seed=3)


async def prove(controls: ServerControls, prefix: str, folder: Path, *, times: int, seed: int) -> None:
    """The long form, with its figures."""
    happened, acknowledged, lost = await chaos(controls, prefix, folder, times=times, seed=seed)
    counts = ", ".join(f"{number} {durability.value}" for durability, number in acknowledged.items())
    sys.stdout.write(f"{dict(happened)}; acknowledged {counts}; lost {len(lost)}\n")
    assert lost == []
