"""The change feed's loop: when it polls, and what a failed poll costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fix_races import until
from holdfast.errors import TierUnavailable
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.keys import Key
from holdfast.protocols import Cursor, Poll
from holdfast.testing import ManualClock, MemoryFeed, MemoryStorage

KEY = Key("bot", "b1")
LONG = 60.0
"""A bound under which no poll comes by itself within a test."""


class Applied:
    """Keeps what was applied; may refuse."""

    def __init__(self) -> None:
        self.polls: list[Poll] = []
        self.fault: Exception | None = None

    def __call__(self, poll: Poll, began: float) -> None:
        if self.fault is not None:
            raise self.fault
        self.polls.append(poll)

    @property
    def versions(self) -> list[int]:
        return [change.version for poll in self.polls for change in poll.changes]


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def source(l3: MemoryStorage) -> MemoryFeed:
    return MemoryFeed(l3)


@pytest.fixture
def applied() -> Applied:
    return Applied()


@pytest.fixture
async def feed(source: MemoryFeed, applied: Applied) -> AsyncIterator[ChangeFeed]:
    found = ChangeFeed(source, applied, clock=ManualClock(), bound_seconds=LONG)
    await found.start()
    yield found
    await found.stop()


async def until_applied(applied: Applied, polls: int) -> None:
    async def are_there() -> bool:
        await asyncio.sleep(0)
        return len(applied.polls) >= polls

    async with asyncio.timeout(5):
        await until(are_there)


async def test_the_first_poll_is_the_beginning(feed: ChangeFeed, applied: Applied) -> None:
    """It is applied before `start` returns, so that the lease holds from then on."""
    assert len(applied.polls) == 1
    assert feed.fault is None


async def test_a_first_poll_that_fails_is_an_error_of_start(l3: MemoryStorage, applied: Applied) -> None:
    """And nothing runs afterwards."""
    l3.away = True
    feed = ChangeFeed(MemoryFeed(l3), applied, clock=ManualClock(), bound_seconds=LONG)
    with pytest.raises(TierUnavailable):
        await feed.start()
    assert not await feed.refresh()
    await feed.stop()


async def test_a_hint_brings_the_change_at_once(feed: ChangeFeed, applied: Applied, l3: MemoryStorage) -> None:
    """The next poll by itself would come after 5 s."""
    other = MemoryFeed(l3)
    version = await l3.raw_put(KEY, b"{}")
    await other.poll(None, announce=True)
    await until_applied(applied, 2)
    assert applied.versions == [version]


async def test_a_commit_here_is_announced_to_the_others(feed: ChangeFeed, l3: MemoryStorage, applied: Applied) -> None:
    """The poll that follows it wakes them."""
    hints: list[None] = []
    MemoryFeed(l3).on_hint(lambda: hints.append(None))
    await l3.raw_put(KEY, b"{}")
    feed.committed()
    await until_applied(applied, 2)
    await asyncio.sleep(0)
    assert hints == [None]


async def test_unannounced_changes_are_looked_for_again_soon(l3: MemoryStorage, applied: Applied) -> None:
    """Somebody writes with another tool: the next poll comes 20 ms later, not a third of the bound."""
    feed = ChangeFeed(MemoryFeed(l3), applied, clock=ManualClock(), bound_seconds=LONG)
    await feed.start()
    await l3.raw_put(KEY, b"{}")
    assert await feed.refresh()
    version = await l3.raw_put(KEY, b"{}")
    await until_applied(applied, 3)
    assert applied.versions[-1] == version
    await feed.stop()


async def test_refresh_waits_for_a_poll_that_begins_after_it(
    feed: ChangeFeed, source: MemoryFeed, applied: Applied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is under way may have looked before what the caller wants to know of."""
    entered, poll = asyncio.Event(), source.poll

    async def noted(cursor: Cursor | None, *, announce: bool = False) -> Poll:
        entered.set()
        return await poll(cursor, announce=announce)

    monkeypatch.setattr(source, "poll", noted)
    source.hold()
    first = asyncio.ensure_future(feed.refresh())
    await entered.wait()
    second = asyncio.ensure_future(feed.refresh())
    await asyncio.sleep(0)
    source.release()
    assert await first
    assert not second.done()
    assert await second
    assert len(applied.polls) == 3


async def test_a_poll_that_fails_keeps_the_cursor(feed: ChangeFeed, l3: MemoryStorage, applied: Applied) -> None:
    """What was committed meanwhile comes with the next good one, once."""
    l3.away = True
    assert not await feed.refresh()
    assert isinstance(feed.fault, TierUnavailable)
    version = await l3.raw_put(KEY, b"{}")
    l3.away = False
    await until_applied(applied, 2)
    assert applied.versions == [version]
    assert feed.fault is None


async def test_while_polls_fail_nobody_is_kept_waiting(feed: ChangeFeed, l3: MemoryStorage) -> None:
    """Readers go to L3 themselves; the loop goes on trying."""
    l3.away = True
    await feed.refresh()
    async with asyncio.timeout(1):
        for _ in range(100):
            assert not await feed.refresh()


async def test_a_fault_of_our_own_does_not_end_the_loop(feed: ChangeFeed, applied: Applied) -> None:
    """It is shown, and the next poll is tried."""
    shown: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
    applied.fault = ZeroDivisionError()
    assert not await feed.refresh()
    applied.fault = None
    await until_applied(applied, 2)
    assert isinstance(shown[0]["exception"], ZeroDivisionError)


async def test_stop_may_come_twice_and_answers_those_who_wait(feed: ChangeFeed, source: MemoryFeed) -> None:
    """Nobody waits for a poll that will never be."""
    source.hold()
    waiting = asyncio.ensure_future(feed.refresh())
    await asyncio.sleep(0)
    await feed.stop()
    await feed.stop()
    assert not await waiting
    assert not await feed.refresh()
