"""Watches that come and go on two servers, while everybody writes: each change once, in the order of its key's commits.

Whole servers run in the seeded simulation, behind a slow network. The truth is what the storage committed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from holdfast import ChangeOperation, Collection, Watch, watching
from holdfast.invalidation import watchers
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.keys import Key
from holdfast.protocols import Change, Poll
from holdfast.testing import MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_transaction import MemoryTransaction
from holdfast.testing.simulation import World, simulate
from holdfast.testing.slow_feed import SlowFeed

SEEDS: Final = range(40)
RESUMED_MIN: Final = 12
KEYS: Final = [*(Key("bot", f"b{number}") for number in range(5)), Key("team", "not watched")]
END: Final = Key("bot", "end")
MOST_SECONDS: Final = 0.02
Event = tuple[int, ChangeOperation]
History = Mapping[str, Sequence[Event]]
Mutation = Callable[[pytest.MonkeyPatch], None]


class Verdict(NamedTuple):
    """What was committed, what was told, and how often a watch came back."""

    committed: History
    told: History
    resumed: int


async def write(world: World, l3: MemoryStorage, over: asyncio.Event) -> None:
    """Transactions, some of which stay open for long, or are rolled back, until it is over."""
    while not over.is_set():
        transaction = l3.begin()
        for key in sorted(world.random.sample(KEYS, world.random.randint(1, 3))):  # in order: nobody waits in a ring
            await world.pause(MOST_SECONDS)
            await change(world, transaction, key)
        await world.pause(3 * MOST_SECONDS)
        if world.chance(0.1):
            await transaction.rollback()
        else:
            await transaction.commit()


async def change(world: World, transaction: MemoryTransaction, key: Key) -> None:
    if world.chance(0.25):
        await transaction.delete(key)
    else:
        await transaction.put(key, b"{}")


class Follower:
    """Watches; leaves now and then, and comes back on any server with any token that says what it was given."""

    def __init__(self, world: World, doors: Sequence[Collection[Any]]) -> None:
        self.told: dict[str, list[Event]] = defaultdict(list)
        self.resumed = 0
        self.enough = asyncio.Event()
        self._world = world
        self._doors = doors
        self._watch: Watch[Any] = doors[0].watch()

    async def follow(self) -> None:
        """Until the end is told."""
        while True:
            before = self._watch.token
            found = await anext(self._watch)
            if self._world.chance(0.05):
                await self._come_back(before)  # as if killed before it could do anything with the change
                continue
            self.told[found.id or found.operation.value].append((found.version, found.operation))
            if found.id == END.id:
                return
            if self._world.chance(0.2):
                await self._come_back(self._world.random.choice((found.token, self._watch.token)))

    async def _come_back(self, token: str) -> None:
        await self._watch.aclose()
        await self._world.pause(2 * MOST_SECONDS)
        self._watch = self._world.random.choice(self._doors).watch(after=token)
        self.resumed += 1
        if self.resumed == RESUMED_MIN:
            self.enough.set()


async def scene(world: World) -> Verdict:
    committed: dict[str, list[Event]] = defaultdict(list)

    def note(_xid: int, changes: Sequence[Change]) -> None:
        for each in changes:
            if each.key.kind == "bot":
                committed[each.key.id].append((each.version, each.operation))

    l3 = MemoryStorage(on_commit=note)
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        doors = []
        for _ in range(2):
            feed = SlowFeed(MemoryFeed(l3), world, most_seconds=MOST_SECONDS, lost_share=0.05)
            flows = await stack.enter_async_context(connect_flows(l3=l3, feed=feed, clock=world))
            doors.append(flows.store.bots)
        follower = Follower(world, doors)
        following = asyncio.ensure_future(follower.follow())
        await asyncio.gather(*(write(world, l3, follower.enough) for _ in range(3)))
        await l3.raw_put(END, b"{}")
        await following
    return Verdict(committed, follower.told, follower.resumed)


def right(verdict: Verdict) -> bool:
    return verdict.told == verdict.committed


def verdicts() -> Iterator[Verdict | None]:
    """Of all seeds, one after the other; None: a watch waited in vain."""
    for seed in SEEDS:
        try:
            yield simulate(seed, scene)
        except TimeoutError:
            yield None


def test_each_change_is_told_once_and_in_order() -> None:
    """Under every seed; and watches did come back."""
    found = list(verdicts())
    assert all(verdict is not None and right(verdict) for verdict in found)
    assert all(verdict.resumed >= RESUMED_MIN for verdict in found if verdict is not None)


def no_catch_up(patch: pytest.MonkeyPatch) -> None:
    """What was missed is not looked for."""
    patch.setattr(watching, "history", lambda *_: [])


def not_cut(patch: pytest.MonkeyPatch) -> None:
    """What the outbox holds is told, and the feed tells it again."""
    healthy = watchers.history

    def history(position: Any, answer: Poll, now: Any, wants: Any) -> Any:
        everything = msgspec.structs.replace(now, snapshot=answer.cursor.snapshot)
        return healthy(position, answer, everything, wants)

    patch.setattr(watching, "history", history)


def whole_polls(patch: pytest.MonkeyPatch) -> None:
    """A token in the middle of a poll tells the poll again."""
    healthy = watchers.history

    def history(position: Any, answer: Poll, now: Any, wants: Any) -> Any:
        return healthy(msgspec.structs.replace(position, after=None, given=0), answer, now, wants)

    patch.setattr(watching, "history", history)


def ends_of_polls(patch: pytest.MonkeyPatch) -> None:
    """A token in the middle of a poll counts as one of its end."""
    healthy = watchers.history

    def history(position: Any, answer: Poll, now: Any, wants: Any) -> Any:
        if position.after is not None:
            rest = [each for each in answer.changes if not position.after.sees(each.xid)]
            answer = msgspec.structs.replace(answer, changes=rest)
        return healthy(position, answer, now, wants)

    patch.setattr(watching, "history", history)


def by_number(patch: pytest.MonkeyPatch) -> None:
    """The first of a poll are counted among all that was committed since."""
    healthy = watchers.history

    def history(position: Any, answer: Poll, now: Any, wants: Any) -> Any:
        if position.after is not None:
            answer = msgspec.structs.replace(answer, changes=answer.changes[position.given :])
            position = msgspec.structs.replace(position, after=None, given=0)
        return healthy(position, answer, now, wants)

    patch.setattr(watching, "history", history)


def not_come_past(patch: pytest.MonkeyPatch) -> None:
    """A server whose feed is behind the token does not wait for it."""

    async def refresh(self: ChangeFeed) -> bool:
        return True

    patch.setattr(ChangeFeed, "refresh", refresh)


@pytest.mark.parametrize("mutation", [no_catch_up, not_cut, whole_polls, ends_of_polls, by_number, not_come_past])
def test_a_mutant_is_caught(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    """Some seed shows a gap, a double or the wrong order."""
    mutation(monkeypatch)
    assert not all(verdict is not None and right(verdict) for verdict in verdicts())
