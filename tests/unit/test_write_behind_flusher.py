"""The flusher: one transaction at a time, backing off while L3 is away, and finding what it refuses."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import pytest

from fix_undecided import B1, B2, KINDS, LIMITS, pending
from holdfast import Append, Bot, Set
from holdfast.entry import Durability
from holdfast.errors import (
    OutcomeUnknown,
    Refused,
    RowRefused,
    SerializationFailure,
    StorageFull,
    TierError,
    TierUnavailable,
)
from holdfast.keys import Key
from holdfast.metrics.counters import RecoveryCounters, WriteBehindCounters
from holdfast.protocols import Write
from holdfast.recovery.pacing import RetryBudget
from holdfast.recovery.reports import FaultReports
from holdfast.row_decoding import RowDecoder
from holdfast.testing import MemoryJournalBase, MemoryStorage
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.bisecting import bisected
from holdfast.write_behind.buffer import Buffer, BufferRules, KeyQueue
from holdfast.write_behind.flusher import BACKOFF_MAX_SECONDS, BACKOFF_SECONDS, Flusher
from holdfast.write_behind.flushing import Flushing
from holdfast.write_behind.operations import Operation
from holdfast.write_behind.overlay import Overlay
from holdfast.write_behind.pace import Pace
from holdfast.write_behind.receipts import PendingWrite


class Caches:
    """Told of what is in effect."""

    def begin(self, keys: Iterable[Key]) -> None:
        """A flush begins."""

    def publish(self, settled: object, begun: object) -> None:
        """Rows are in effect."""

    def tell(self, versions: object) -> None:
        """Rows of others are."""

    def doubt(self, keys: Iterable[Key]) -> None:
        """Rows may be."""


class Stage:
    """A flusher over an L3 in memory whose constraint refuses bots named "bad"."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.l3 = MemoryStorage(refuses=lambda key, body: b'"bad"' in body)
        self.base = MemoryJournalBase(self.l3, world)
        self.buffer = Buffer(BufferRules())
        self.pauses: list[float] = []
        self.counters = WriteBehindCounters()
        self.retries = RetryBudget()
        self.replaced = 0
        self.faults = FaultReports(world.monotonic, RecoveryCounters())
        self.decided: list[int] = []
        self.refused: list[Refused] = []
        self.flusher = Flusher(
            Flushing(self.base, KINDS, LIMITS, RowDecoder(KINDS, self.faults).stored),
            self.buffer,
            Overlay(self.buffer, {"bot": {}}),
            journal="j",
            clock=world,
            sleep=self._sleep,
            random_=random.Random(1),
            counters=self.counters,
            retries=self.retries,
            caches=Caches(),
            on_decided=lambda writes: self.decided.extend(write.entry.seq for write in writes),
            on_refused=lambda refused, _journal, _seq: self.refused.append(refused),
            on_replaced=self._count,
            faults=self.faults,
        )
        self._seq = 0

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.world.pause(0.001)

    def _count(self) -> None:
        self.replaced += 1

    def add(self, *operations: Operation, key: Key = B1) -> PendingWrite:
        """One more write, due at once."""
        self._seq += 1
        write = pending(self._seq, *operations, key=key, at=self.world.monotonic())
        self.buffer.add(write)
        self.buffer.hurry([key], self.world.monotonic())
        self.flusher.wake()
        return write


def staged(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    """Run a scenario with a flusher that is started and stopped."""

    async def run(world: World) -> None:
        stage = Stage(world)
        await stage.base.register("j", "a server")
        stage.flusher.start()
        await scenario(stage)
        await stage.flusher.stop()
        await stage.flusher.stop()

    simulate(1, run)


def test_it_flushes_what_is_due_and_sleeps_until_something_is() -> None:
    """A key that is not hurried waits for its quiet."""

    async def scenario(stage: Stage) -> None:
        write = pending(1, at=stage.world.monotonic())
        stage.buffer.add(write)
        stage.flusher.wake()
        began = stage.world.monotonic()
        await write.reached(Durability.COMMITTED)
        assert stage.world.monotonic() - began == pytest.approx(2.0)
        assert (len(stage.buffer), stage.decided) == (0, [1])
        assert write.version == (await stage.l3.load([B1])).rows[B1].version

    staged(scenario)


def test_while_l3_is_away_its_pauses_grow_and_vary_and_all_is_kept() -> None:
    """One retry at a time, within bounds; the first success forgets the pauses."""

    async def scenario(stage: Stage) -> None:
        stage.l3.away = True
        first, second = stage.add(key=B1), stage.add(key=B2)
        while len(stage.pauses) < 30:
            await stage.world.pause(0.01)
        fault = stage.flusher.fault
        assert isinstance(fault, TierUnavailable)
        assert all(BACKOFF_SECONDS <= pause <= BACKOFF_MAX_SECONDS for pause in stage.pauses)
        assert max(stage.pauses[10:]) > 10 * BACKOFF_SECONDS
        assert len(set(stage.pauses)) > 10
        assert len(stage.buffer) == 2
        stage.l3.away = False
        await first.reached(Durability.COMMITTED)
        await second.reached(Durability.COMMITTED)
        assert stage.flusher.fault is None
        assert stage.counters.retries == len(stage.pauses)
        count = len(stage.pauses)
        stage.l3.away = True
        stage.add()
        while len(stage.pauses) == count:
            await stage.world.pause(0.01)
        assert stage.pauses[count] <= 3 * BACKOFF_SECONDS

    staged(scenario)


@pytest.mark.parametrize(
    ("fault", "subject"), [(StorageFull("L3: its disk is full"), "tier:l3"), (TierUnavailable("L3: it is away"), None)]
)
def test_an_l3_without_room_is_a_fault_that_is_told(fault: TierError, subject: str | None) -> None:
    """It answers, so no guard notices; one that does not answer the guard reports, once for all."""

    async def refuse(*_: object, **__: object) -> None:
        raise fault

    async def scenario(stage: Stage) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryFlush, "load", refuse)
            write = stage.add()
            while len(stage.pauses) < 5:
                await stage.world.pause(0.01)
        report = stage.faults.take()
        assert (None if report is None else report.subject) == subject
        assert stage.faults.take() is None
        await write.reached(Durability.COMMITTED)

    staged(scenario)


def test_while_the_disk_of_l3_is_full_all_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of a row: nothing is given up, and all of it is in effect once there is room."""

    async def scenario(stage: Stage) -> None:
        async def full(_flush: MemoryFlush, *_: object) -> None:
            raise StorageFull("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(MemoryFlush, "save", full)
            writes = [stage.add(key=B1), stage.add(key=B2)]
            while len(stage.pauses) < 10:
                await stage.world.pause(0.01)
            assert isinstance(stage.flusher.fault, StorageFull)
            assert (len(stage.buffer), stage.decided, stage.counters.dead_letters) == (2, [], 0)
        for write in writes:
            await write.reached(Durability.COMMITTED)
        assert stage.refused == []

    staged(scenario)


def test_a_server_that_has_repeated_too_much_retries_seldom() -> None:
    """What was accepted is never given up, but with the budget spent its pauses are long from the first on."""

    async def scenario(stage: Stage) -> None:
        while stage.retries.take():
            pass
        stage.l3.away = True
        write = stage.add()
        while len(stage.pauses) < 5:
            await stage.world.pause(0.01)
        assert min(stage.pauses) >= BACKOFF_MAX_SECONDS / 2
        stage.l3.away = False
        await write.reached(Durability.COMMITTED)

    staged(scenario)


def test_a_row_that_l3_refuses_holds_up_nothing_else() -> None:
    """Of many keys, and of its own writes, only what is refused is given up, and kept as a letter."""

    async def scenario(stage: Stage) -> None:
        others = [stage.add(key=Key("bot", f"o{number}")) for number in range(5)]
        good = stage.add(Set(Bot(name="good")))
        bad = stage.add(Set("name", "bad"))
        later = stage.add(Append("capabilities", "later"))
        for write in (*others, good, later):
            await write.reached(Durability.COMMITTED)
        with pytest.raises(Refused, match="poison"):
            await bad.reached(Durability.COMMITTED)
        row = (await stage.l3.load([B1])).rows[B1]
        assert (b'"good"' in row.body, b'"later"' in row.body) == (True, True)
        assert [dead.letter.seq for dead in await stage.base.letters(limit=10)] == [bad.entry.seq]
        assert (stage.counters.dead_letters, stage.counters.refused, len(stage.buffer)) == (1, 1, 0)

    staged(scenario)


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_fault_among_the_halves_has_the_rest_tried_again_at_once(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Whichever half L3 goes away at, and whatever of the key was decided before: somebody waits for the others."""
    saves, save = 0, MemoryFlush.save

    async def away_once(flush: MemoryFlush, writes: Sequence[Write]) -> Mapping[Key, int]:
        nonlocal saves
        saves += 1
        if saves == nth:
            raise TierUnavailable("L3: it is away")
        return await save(flush, writes)

    async def scenario(stage: Stage) -> None:
        began = stage.world.monotonic()
        good = [stage.add(Set(Bot(name="good"))), stage.add(Append("capabilities", "a"))]
        bad = stage.add(Set("name", "bad"))
        for write in [*good, stage.add(Append("capabilities", "b"))]:
            await write.reached(Durability.COMMITTED)
        with pytest.raises(Refused, match="poison"):
            await bad.reached(Durability.COMMITTED)
        assert stage.world.monotonic() - began < BufferRules().quiet_seconds / 2
        assert saves > nth, "there are not as many"
        assert len(stage.pauses) == 1

    monkeypatch.setattr(MemoryFlush, "save", away_once)
    staged(scenario)


def test_a_replaced_server_flushes_no_more() -> None:
    """What it holds stays, for its renewal to find out about."""

    async def scenario(stage: Stage) -> None:
        assert await stage.base.take("j", 1, "another server")
        stage.add()
        while not stage.replaced:
            await stage.world.pause(0.01)
        stage.add(key=B2)
        await stage.world.pause(1.0)
        assert (stage.replaced, len(stage.buffer), len((await stage.l3.load([B1, B2])).rows)) == (1, 2, 0)

    staged(scenario)


async def test_halving_finds_each_write_that_is_refused_and_keeps_the_order() -> None:
    """Whatever is flushed is flushed once, each key's writes in their order, all but those refused."""
    flushed: list[int] = []
    given_up: list[int] = []

    async def flush(batch: dict[Key, list[int]]) -> None:
        seqs = [seq for writes in batch.values() for seq in writes]
        if {3, 8} & set(seqs):
            raise RowRefused("a constraint")
        flushed.extend(seqs)

    async def give_up(seq: int, reason: str) -> None:
        given_up.append(seq)

    def no_lock(key: Key, fault: SerializationFailure) -> None:
        raise AssertionError(f"{key} is not locked")

    await bisected({B1: [1, 2, 3, 4, 5], B2: [6, 7, 8], Key("bot", "b3"): [9]}, flush, give_up, no_lock)
    assert (flushed, given_up) == ([1, 2, 4, 5, 6, 7, 9], [3, 8])


def stamps_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of one write in doubt and one that is not, whether each is stamped after a transaction with both has failed."""
    stamped: list[bool] = []

    async def unheard(_flush: MemoryFlush) -> None:
        raise OutcomeUnknown("the answer was lost")

    async def unanswered(_flush: MemoryFlush, *_: object) -> None:
        raise TierUnavailable("the answer was lost")

    async def attempt(stage: Stage, method: str, fault: Callable[..., Awaitable[None]]) -> None:
        batch = stage.buffer.take(stage.world.monotonic(), Pace(), 1 << 20)
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFlush, method, fault)
            with pytest.raises(TierError):
                await stage.flusher._flush(batch)
        stage.buffer.give_back(batch, stage.world.monotonic())

    async def scenario(stage: Stage) -> None:
        await stage.flusher.stop()
        first = stage.add(Set(Bot(name="a")))
        await attempt(stage, "commit", unheard)
        second = stage.add(Set("name", "b"))
        await attempt(stage, "decide", unanswered)
        stamped.extend(write.stamp is not None for write in (first, second))
        stage.flusher.start()
        await second.reached(Durability.COMMITTED)

    staged(scenario)
    return stamped


def test_only_what_is_in_doubt_stays_stamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """W7: the other one is in no row, whatever became of the first."""
    assert stamps_after_a_failure(monkeypatch) == [True, False]


def test_mutant_one_in_doubt_keeps_the_stamps_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the other is hidden by any later row."""
    monkeypatch.setattr(KeyQueue, "is_doubted", lambda queue, write: queue.doubt)
    assert stamps_after_a_failure(monkeypatch) == [True, True]
