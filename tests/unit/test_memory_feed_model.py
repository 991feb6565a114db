"""A model of all that can interleave: the feed in memory tells each commit once, in the order of each key."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from fix_loop import settle
from holdfast.keys import Key
from holdfast.protocols import Change, Coherence, Cursor
from holdfast.testing import MemoryFeed, MemoryStorage
from holdfast.testing.memory_transaction import MemoryTransaction

# A model of writers and readers: steps (what, who, key), from which one run is made.

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "delete", "commit", "rollback", "poll", "poll", "save"]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=40,
)


class Reader(Protocol):
    """Takes what is new from the feed."""

    async def read(self) -> Sequence[Change]: ...


class Healthy:
    """Follows the feed by its cursor."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.feed = MemoryFeed(storage)
        self.cursor = Cursor(storage.coherence(), storage.log.snapshot(), (storage.started,))

    async def read(self) -> Sequence[Change]:
        poll = await self.feed.poll(self.cursor)
        assert poll.reset is None
        self.cursor = poll.cursor
        return poll.changes


class GoingBack(Healthy):
    """Follows the feed from snapshots alone, as the relay does from a node's watermark."""

    async def read(self) -> Sequence[Change]:
        self.cursor = Cursor(Coherence(self.cursor.coherence.incarnation), self.cursor.snapshot, self.cursor.anchor)
        return await super().read()


class BySeq:
    """Mutant: the cursor is the highest `seq` seen."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.storage = storage
        self.seq = 0

    async def read(self) -> Sequence[Change]:
        new = sorted(entry for entry in self.storage.log.entries() if entry.seq > self.seq)
        self.seq = new[-1].seq if new else self.seq
        return [entry.change for entry in new]


class ByHorizon:
    """Mutant: the cursor is the highest (xid, seq) of the transactions below which none runs."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.storage = storage
        self.last = (0, 0)

    async def read(self) -> Sequence[Change]:
        xmin = self.storage.log.snapshot().xmin
        entries = [entry for entry in self.storage.log.entries() if entry.xid < xmin]
        new = sorted((entry.xid, entry.seq, entry.change) for entry in entries if (entry.xid, entry.seq) > self.last)
        self.last = new[-1][:2] if new else self.last
        return [change for _, _, change in new]


class OneAtATime(Healthy):
    """Mutant: takes the first change only, and the cursor."""

    async def read(self) -> Sequence[Change]:
        return (await super().read())[:1]


class Model:
    """Three transactions at a time over three keys, and three readers of one sort."""

    def __init__(self, reader: Callable[[MemoryStorage], Reader]) -> None:
        self.committed: list[Change] = []
        self.storage = MemoryStorage(on_commit=lambda _, changes: self.committed.extend(changes))
        self.transactions: list[MemoryTransaction | None] = [None] * 3
        self.waiting: dict[int, asyncio.Task[object]] = {}
        self.readers = [reader(self.storage) for _ in range(3)]
        self.delivered: list[list[Change]] = [[], [], []]

    async def step(self, what: str, who: int, key: int) -> None:
        if what == "poll":
            self.delivered[who] += await self.readers[who].read()
        elif who not in self.waiting:
            await self.write(what, who, Key("bot", str(key)))
        await settle()
        for writer in [writer for writer, task in self.waiting.items() if task.done()]:
            fault = self.waiting.pop(writer).exception()
            if fault is not None:
                assert "deadlock" in str(fault), fault
                self.transactions[writer] = None

    async def write(self, what: str, who: int, key: Key) -> None:
        transaction = self.transactions[who]
        if what in {"commit", "rollback"}:
            self.transactions[who] = None
            if transaction is not None:
                await (transaction.commit() if what == "commit" else transaction.rollback())
            return
        if what == "save":
            statement = self.storage.raw_put(key, b"{}") if transaction is None else transaction.put(key, b"{}")
        else:
            transaction = self.transactions[who] = transaction or self.storage.begin()
            statement = transaction.put(key, b"{}") if what == "put" else transaction.delete(key)  # type: ignore[assignment]
        self.waiting[who] = asyncio.get_running_loop().create_task(statement)

    async def finish(self) -> None:
        """End whatever is open, and read to the end."""
        for _ in range(10):
            for who in range(3):
                await self.step("commit", who, 0)
        assert not self.waiting, "a transaction waits for ever"
        for who in range(3):
            await self.step("poll", who, 0)

    def faults(self) -> list[str]:
        """What a reader missed, got twice, or got in another order than it was committed in."""
        found = []
        for delivered in self.delivered:
            found += ["missed"] * bool(Counter(self.committed) - Counter(delivered))
            found += ["repeated"] * bool(Counter(delivered) - Counter(self.committed))
            common = Counter(delivered) & Counter(self.committed)
            for key in {change.key for change in common}:
                orders = [[change for change in side if change.key == key] for side in (self.committed, delivered)]
                found += ["misordered"] * (len(orders[0]) == len(orders[1]) and orders[0] != orders[1])
        return found


def faults_of(steps: Sequence[Step], reader: Callable[[MemoryStorage], Reader]) -> list[str]:
    """Run the steps and compare."""

    async def run() -> list[str]:
        model = Model(reader)
        for step in steps:
            await model.step(*step)
        await model.finish()
        assert model.storage.log.snapshot().running == ()
        return model.faults()

    return asyncio.run(run())


@pytest.mark.parametrize("reader", [Healthy, GoingBack])
@settings(max_examples=400)
@given(steps=STEPS)
def test_each_commit_is_delivered_once_and_per_key_in_order(
    reader: Callable[[MemoryStorage], Reader], steps: list[Step]
) -> None:
    """Whatever is open, waits, commits late or is rolled back while readers poll."""
    assert faults_of(steps, reader) == []


@pytest.mark.parametrize(
    ("mutant", "fault"),
    [(BySeq, "missed"), (ByHorizon, "misordered"), (OneAtATime, "missed")],
    ids=["seq", "horizon", "limit"],
)
def test_the_model_catches_other_cursors(mutant: Callable[[MemoryStorage], Reader], fault: str) -> None:
    """The usual recipes miss changes or swap them, and the same model shows it."""
    once = settings(max_examples=2000, derandomize=True, database=None, phases=[Phase.generate])
    steps = find(STEPS, lambda steps: fault in faults_of(steps, mutant), settings=once)
    assert faults_of(steps, Healthy) == []
