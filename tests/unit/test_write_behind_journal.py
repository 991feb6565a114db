"""The writer of a journal: in order, in groups, whole again after a loss, and out of the way when L2 is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest

from fix_undecided import pending
from holdfast.entry import Durability
from holdfast.errors import Overloaded
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols import Appended
from holdfast.recovery.reports import FaultReports
from holdfast.testing import JournalHub, MemoryJournals
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.journal import GROUP_SECONDS, JournalWriter
from holdfast.write_behind.receipts import PendingWrite

JOURNALED = Durability.JOURNALED


class Streams(MemoryJournals):
    """In memory, a tenth of a second away; remembers what was asked of it."""

    def __init__(self, hub: JournalHub) -> None:
        super().__init__(hub)
        self.rounds: list[tuple[list[int], int]] = []
        self.is_full = False

    async def append(
        self, journal: str, entries: Iterable[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        entries = list(entries)
        self.rounds.append(([seq for seq, _ in entries], keep_from))
        await asyncio.sleep(0.1)
        if self.is_full:
            raise Overloaded("L2: no memory is left")
        return await super().append(journal, entries, expected=expected, keep_from=keep_from)


class Stage:
    """A writer, and what it told others."""

    def __init__(self, world: World, *, replicas_min: int = 1) -> None:
        self.hub = JournalHub()
        self.streams = Streams(self.hub)
        self.unsecured: list[int] = []
        self.sealed = 0
        self.faults = FaultReports(world.monotonic, RecoveryCounters())
        self.writer = JournalWriter(
            self.streams,
            "j",
            replicas_min=replicas_min,
            clock=world,
            sleep=asyncio.sleep,
            on_unsecured=lambda writes: self.unsecured.extend(write.entry.seq for write in writes),
            on_sealed=self._count,
            faults=self.faults,
        )

    def _count(self) -> None:
        self.sealed += 1

    def add(self, count: int = 1) -> list[PendingWrite]:
        """So many more writes."""
        writes = []
        for _ in range(count):
            writes.append(pending(self.writer.number))
            self.writer.add(writes[-1])
        return writes

    async def seqs(self) -> list[int]:
        """What is in the stream."""
        return [seq for seq, _ in await MemoryJournals(self.hub).read("j", after=0, limit=100)]


def staged(scenario: Callable[[Stage], Awaitable[None]], **rules: int) -> None:
    """Run a scenario with a writer that is started and stopped."""

    async def run(world: World) -> None:
        stage = Stage(world, **rules)
        stage.writer.start()
        await scenario(stage)
        await stage.writer.stop()
        await stage.writer.stop()

    simulate(1, run)


def test_what_comes_while_an_append_is_away_goes_out_together() -> None:
    """The first goes out alone, the others as one, and each is told."""

    async def scenario(stage: Stage) -> None:
        (first,) = stage.add()
        await asyncio.sleep(0.05)
        others = stage.add(3)
        await asyncio.gather(*(write.reached(JOURNALED) for write in (first, *others)))
        assert [seqs for seqs, _ in stage.streams.rounds] == [[1], [2, 3, 4]]
        assert first.replicas == 1

    staged(scenario)


def test_what_nobody_waits_for_waits_a_little_for_others() -> None:
    """At most until `GROUP_SECONDS` after the round before began; here that is over when it returns."""
    assert GROUP_SECONDS < 0.1

    async def scenario(stage: Stage) -> None:
        stage.add(2)
        await asyncio.sleep(1)
        assert await stage.seqs() == [1, 2]

    staged(scenario)


def test_only_what_is_decided_is_dropped() -> None:
    """An append keeps the stream from the lowest undecided entry on."""

    async def scenario(stage: Stage) -> None:
        writes = stage.add(3)
        await writes[-1].reached(JOURNALED)
        stage.writer.decided([writes[1]])
        await stage.add()[0].reached(JOURNALED)
        assert await stage.seqs() == [1, 2, 3, 4]
        stage.writer.decided([writes[0]])
        await stage.add()[0].reached(JOURNALED)
        assert await stage.seqs() == [3, 4, 5]

    staged(scenario)


def test_what_is_decided_before_its_turn_is_left_out() -> None:
    """L3 knows more of it than the journal would."""

    async def scenario(stage: Stage) -> None:
        stage.add()
        await asyncio.sleep(0.05)
        second, third = stage.add(2)
        second.committed(9)
        await third.reached(JOURNALED)
        assert await stage.seqs() == [1, 3]

    staged(scenario)


def test_a_stream_that_lost_its_end_is_made_whole_first() -> None:
    """After a failover: what was acknowledged and is undecided is appended again, before the new one is told."""

    async def scenario(stage: Stage) -> None:
        writes = stage.add(3)
        await writes[-1].reached(JOURNALED)
        stage.writer.decided([writes[1]])
        stage.hub.lose("j", back_to=1)
        (new,) = stage.add()
        await new.reached(JOURNALED)
        assert await stage.seqs() == [1, 3, 4]

    staged(scenario)


@pytest.mark.parametrize("fault", ["lose_requests", "lose_answers"])
def test_an_append_of_unknown_outcome_is_repeated(fault: str) -> None:
    """And what came meanwhile goes with it; each entry is there once. Whoever waits is committed meanwhile."""

    async def scenario(stage: Stage) -> None:
        await stage.add()[0].reached(JOURNALED)
        setattr(stage.hub, fault, 2)
        (second,) = stage.add()
        await asyncio.sleep(0.15)
        assert stage.writer.is_away
        (third,) = stage.add()
        await third.reached(JOURNALED)
        assert await stage.seqs() == [1, 2, 3]
        assert second.unsecured
        assert {2, 3} <= set(stage.unsecured)
        assert not stage.writer.is_away

    staged(scenario)


def test_an_l2_without_room_is_a_fault_that_is_told_once() -> None:
    """It answers, so no guard notices; that it answers nothing, the guard knows."""

    async def scenario(stage: Stage) -> None:
        stage.streams.is_full = True
        (write,) = stage.add()
        await asyncio.sleep(5.0)
        report = stage.faults.take()
        assert report is not None
        assert (report.subject, type(report.fault)) == ("tier:l2", Overloaded)
        stage.faults.ended(report, mended=True)
        await asyncio.sleep(5.0)
        assert stage.faults.take() is None
        stage.streams.is_full = False
        stage.hub.lose_requests = 2
        await write.reached(JOURNALED)
        assert stage.faults.take() is None

    staged(scenario)


def test_what_too_few_replicas_have_is_not_journaled() -> None:
    """It is in the journal all the same, and its receipt says how many have it (rule W2)."""

    async def scenario(stage: Stage) -> None:
        (write,) = stage.add()
        await asyncio.sleep(1)
        assert (write.durability, write.unsecured, write.in_journal, write.replicas) == (
            Durability.ACCEPTED,
            True,
            True,
            1,
        )
        assert stage.unsecured == [1]

    staged(scenario, replicas_min=2)


def test_an_l2_that_cannot_keep_a_journal_is_not_asked_to() -> None:
    """What waits, and what comes, is committed instead (rule W3)."""

    async def scenario(stage: Stage) -> None:
        stage.hub.unfit = "maxmemory-policy is allkeys-lru"
        stage.add(2)
        await asyncio.sleep(1)
        stage.add()
        await asyncio.sleep(1)
        assert stage.unsecured == [1, 2, 3]
        assert stage.streams.rounds == []
        await stage.writer.drain()

    staged(scenario)


def test_a_sealed_journal_is_told_once_and_takes_nothing() -> None:
    """Another server has it: its writes wait for whoever finds out what became of them."""

    async def scenario(stage: Stage) -> None:
        await stage.add()[0].reached(JOURNALED)
        await MemoryJournals(stage.hub).seal("j")
        (second,) = stage.add()
        await asyncio.sleep(1)
        stage.add()
        await asyncio.sleep(1)
        assert stage.sealed == 1
        assert not second.in_journal

    staged(scenario)


def test_draining_appends_what_waits_unless_l2_is_away() -> None:
    """At a server's end: then what is not appended stays with its process."""

    async def scenario(stage: Stage) -> None:
        stage.add(2)
        await stage.writer.drain()
        assert await stage.seqs() == [1, 2]
        stage.hub.away = True
        (third,) = stage.add()
        await stage.writer.drain()
        assert not third.in_journal

    staged(scenario)
