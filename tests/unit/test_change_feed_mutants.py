"""What makes a poll of the change feed come at once, and that without it the poll comes late (rule F2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from holdfast.invalidation import change_feed
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.keys import Key
from holdfast.protocols import Poll
from holdfast.testing import MemoryFeed, MemoryStorage
from holdfast.testing.simulation import World, simulate

KEY = Key("bot", "b1")
BOUND_SECONDS = 3.0
SOON_SECONDS = 0.05
Mutation = Callable[[pytest.MonkeyPatch], None]


def no_hint(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChangeFeed, "_hint", lambda self: None)


def no_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChangeFeed, "committed", lambda self: None)


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(change_feed, "UNANNOUNCED_SECONDS", BOUND_SECONDS)


async def hinted(feed: ChangeFeed, l3: MemoryStorage) -> None:
    """Another server announces what it committed."""
    await l3.raw_put(KEY, b"{}")
    await MemoryFeed(l3).poll(None, announce=True)


async def committed(feed: ChangeFeed, l3: MemoryStorage) -> None:
    """This server committed."""
    await l3.raw_put(KEY, b"{}")
    feed.committed()


async def unannounced(feed: ChangeFeed, l3: MemoryStorage) -> None:
    """Another tool goes on writing."""
    await l3.raw_put(KEY, b"{}")
    await feed.refresh()
    await l3.raw_put(KEY, b"{}")


CASES: Final = {
    "hint": (hinted, no_hint),
    "commit": (committed, no_commit),
    "other tool": (unannounced, no_second_look),
}


async def seconds_until_applied(world: World, name: str) -> float:
    """How long the last change of a case takes to be applied."""
    l3 = MemoryStorage()
    applied: asyncio.Queue[int] = asyncio.Queue()

    def apply(poll: Poll, _: float) -> None:
        for change in poll.changes:
            applied.put_nowait(change.version)

    feed = ChangeFeed(MemoryFeed(l3), apply, clock=world, bound_seconds=BOUND_SECONDS)
    await feed.start()
    await world.pause(0.1)
    await CASES[name][0](feed, l3)
    began, wanted = world.monotonic(), l3.log.rows[KEY].version
    while await applied.get() != wanted:
        pass
    await feed.stop()
    return world.monotonic() - began


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_applied_soon(name: str) -> None:
    """Within 50 ms, though the next poll by itself is a second away."""
    assert simulate(1, lambda world: seconds_until_applied(world, name)) <= SOON_SECONDS


@pytest.mark.parametrize("name", CASES)
def test_without_its_reason_it_comes_late(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reason is the only one of its case."""
    CASES[name][1](monkeypatch)
    assert simulate(1, lambda world: seconds_until_applied(world, name)) > SOON_SECONDS
