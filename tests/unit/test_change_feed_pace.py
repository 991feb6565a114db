"""The pace of the change feed's loop: when the next poll is due, how long readers wait, how often a start is tried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest

from fix_loop import settle
from fix_races import until
from holdfast.clock import SystemClock
from holdfast.errors import TierUnavailable
from holdfast.invalidation import change_feed
from holdfast.invalidation.change_feed import PAUSE_SECONDS_MAX, START_ATTEMPTS, UNANNOUNCED_SECONDS, ChangeFeed
from holdfast.keys import Key
from holdfast.protocols import Change, Coherence, Cursor, Poll, Snapshot

BOUND_SECONDS = 30.0
CHANGE = Change(Key("bot", "b1"), 7)
DOWN = TierUnavailable("L3 is away")


class Source:
    """`ChangeSource` whose answers are set by hand.

    Attributes:
        changes: brought by the next poll that succeeds.
        fault: raised by every poll.
        held: while set, polls stop before they are answered.
        asked: the cursor's snapshot and whether it announced, of each poll; None for a beginning.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.fault: Exception | None = None
        self.held: asyncio.Event | None = None
        self.asked: list[tuple[int | None, bool]] = []
        self.hint: Callable[[], None] = lambda: None
        self._at = 0

    async def poll(self, cursor: Cursor | None, *, announce: bool = False) -> Poll:
        """Answer as set."""
        self.asked.append((cursor.snapshot.xmax if cursor is not None else None, announce))
        if self.held is not None:
            await self.held.wait()
        if self.fault is not None:
            raise self.fault
        self._at += 1
        changes, self.changes = self.changes, []
        return Poll(Cursor(Coherence(UUID(int=1)), Snapshot(self._at, self._at)), changes)

    async def since(self, cursor: Cursor) -> Poll:
        raise NotImplementedError

    def on_hint(self, wake: Callable[[], None]) -> None:
        """Note whom to wake."""
        self.hint = wake

    async def lead(self) -> bool:
        """Never."""
        return False

    async def raise_generation(self, scope: str) -> Coherence:
        """Nobody asks."""
        raise NotImplementedError(scope)

    async def tidy(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing is open."""


class Bench:
    """A feed over such a source, and what it applied: the changes, and when their polls began."""

    def __init__(self, bound_seconds: float = BOUND_SECONDS) -> None:
        self.source = Source()
        self.applied: list[tuple[list[Change], float]] = []
        self.feed = ChangeFeed(self.source, self._apply, clock=SystemClock(), bound_seconds=bound_seconds)

    def _apply(self, poll: Poll, began: float) -> None:
        self.applied.append((list(poll.changes), began))

    async def until_asked(self, times: int) -> None:
        """Wait until the source was asked so often."""

        async def asked() -> bool:
            return len(self.source.asked) >= times

        await until(asked)
        await settle()

    async def start(self) -> None:
        """Start, and wait until the loop waits for something to do."""
        await self.feed.start()
        await self.until_asked(2)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A feed that has been started and is at rest: two polls are over, and the next is due in seconds."""
    bench = Bench()
    await bench.start()
    yield bench
    await bench.feed.stop()


@pytest.mark.parametrize(
    ("bound_seconds", "wakes", "changes", "pause_seconds"),
    [
        (0.3, False, False, 0.1),
        (0.3, False, True, UNANNOUNCED_SECONDS),
        (0.3, True, True, 0.1),
        (60.0, False, False, PAUSE_SECONDS_MAX),
    ],
    ids=["idle", "unannounced", "hinted", "long bound"],
)
async def test_when_the_next_poll_is_due(
    bound_seconds: float, pause_seconds: float, *, wakes: bool, changes: bool
) -> None:
    """After a third of the bound, soon after changes that nobody announced, and in time to keep the session alive."""
    bench = Bench(bound_seconds)
    bench.source.held = asyncio.Event()
    starting = asyncio.ensure_future(bench.feed.start())
    await settle()
    bench.source.held.set()
    bench.source.held = None
    await starting
    bench.source.changes = [CHANGE] if changes else []
    if wakes:
        bench.source.hint()
    await bench.until_asked(2)
    assert bench.feed._pause_seconds == pytest.approx(pause_seconds)
    await bench.feed.stop()


async def test_a_hint_and_a_commit_of_ones_own_poll_at_once(bench: Bench) -> None:
    """Only the commit is announced to the others."""
    bench.source.hint()
    await bench.until_asked(3)
    bench.feed.committed()
    await bench.until_asked(4)
    assert [announced for _, announced in bench.source.asked] == [False, False, False, True]


async def test_a_poll_that_fails_costs_neither_cursor_nor_announcement(bench: Bench) -> None:
    """The next one goes on from the same place and announces what the failed one could not."""
    bench.source.fault = DOWN
    bench.feed.committed()
    await bench.until_asked(4)
    assert bench.feed.fault is DOWN
    bench.source.fault, bench.source.changes = None, [CHANGE]

    async def mended() -> bool:
        return bench.feed.fault is None

    await until(mended)
    assert [at for at, _ in bench.source.asked[2:]] == [2] * len(bench.source.asked[2:])
    assert all(announced for _, announced in bench.source.asked[2:])
    assert bench.applied[-1][0] == [CHANGE]


async def test_readers_share_one_poll_begun_after_they_came(bench: Bench) -> None:
    """R3: one that is under way may have begun before a commit they must see, so it does not count for them."""
    bench.source.held = asyncio.Event()
    bench.source.hint()
    await bench.until_asked(3)
    waiting = [asyncio.ensure_future(bench.feed.refresh()) for _ in range(50)]
    await settle()
    bench.source.held.set()
    bench.source.held = None
    assert await asyncio.gather(*waiting) == [True] * 50
    assert len(bench.source.asked) == 4


async def test_readers_wait_for_the_bound_at_most() -> None:
    """And for nothing at all while polls fail, or when the loop does not run."""
    bench = Bench(bound_seconds=0.05)
    assert not await bench.feed.refresh()
    await bench.start()
    bench.source.held = asyncio.Event()
    async with asyncio.timeout(5):
        assert not await bench.feed.refresh()
    bench.source.fault = DOWN
    bench.source.held.set()

    async def failed() -> bool:
        return bench.feed.fault is DOWN

    await until(failed)
    bench.source.held = asyncio.Event()
    assert not await bench.feed.refresh()
    await bench.feed.stop()


async def test_under_a_long_bound_readers_do_not_wait_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """L3 answers while the feed's connection stands still."""
    monkeypatch.setattr(change_feed, "REFRESH_SECONDS_MAX", 0.01)
    bench = Bench(bound_seconds=60.0)
    await bench.start()
    bench.source.held = asyncio.Event()
    async with asyncio.timeout(5):
        assert not await bench.feed.refresh()
    await bench.feed.stop()


async def test_a_reader_that_gives_up_takes_nothing_from_the_others(bench: Bench) -> None:
    """The poll that readers share is not cancelled with one of them."""
    bench.source.held = asyncio.Event()
    leaving, staying = (asyncio.ensure_future(bench.feed.refresh()) for _ in range(2))
    await bench.until_asked(3)
    leaving.cancel()
    await settle()
    bench.source.held.set()
    assert await staying
    assert leaving.cancelled()


async def test_listeners_hear_of_changes_when_they_are_applied(bench: Bench) -> None:
    """And of nothing else."""
    heard: list[int] = []
    bench.feed.on_changes(lambda: heard.append(len(bench.applied)))
    assert await bench.feed.refresh()
    assert heard == []
    bench.source.changes = [CHANGE]
    assert await bench.feed.refresh()
    assert heard == [len(bench.applied)]


async def test_a_first_poll_that_is_slow_once_is_repeated() -> None:
    """A server need not fail to start because L3 was busy for a moment."""
    bench = Bench()
    bench.source.fault = DOWN
    starting = asyncio.ensure_future(bench.feed.start())
    await bench.until_asked(1)
    bench.source.fault = None
    await starting
    assert [at for at, _ in bench.source.asked[:2]] == [None, None]
    await bench.feed.stop()


async def test_without_a_first_poll_nothing_runs() -> None:
    """The start fails with what the last attempt said."""
    bench = Bench()
    bench.source.fault = DOWN
    with pytest.raises(TierUnavailable, match="away"):
        await bench.feed.start()
    assert len(bench.source.asked) == START_ATTEMPTS
    assert len(asyncio.all_tasks()) == 1
    assert not await bench.feed.refresh()
