"""Journals in memory, when their L2 fails."""

from __future__ import annotations

import pytest

from holdfast import OutcomeUnknown, TierUnavailable
from holdfast.protocols import JournalBehind
from holdfast.testing import JournalHub, MemoryJournals


async def call(streams: MemoryJournals, name: str) -> None:
    """One call that changes a journal."""
    if name == "append":
        await streams.append("s1", [(1, b"x"), (2, b"y")], expected=0, keep_from=0)
    else:
        await getattr(streams, name)("s1")


async def content(streams: MemoryJournals) -> tuple[int, int]:
    """Where it ends, and how many entries it has."""
    return await streams.last("s1"), len(await streams.read("s1", after=0, limit=9))


async def test_what_is_away_does_nothing() -> None:
    """Each call fails, and has no effect."""
    hub = JournalHub()
    streams = MemoryJournals(hub)
    hub.away = True
    for attempt in (
        call(streams, "append"),
        call(streams, "seal"),
        call(streams, "drop"),
        streams.read("s1", after=0, limit=1),
        streams.last("s1"),
        streams.unfit(),
    ):
        with pytest.raises(TierUnavailable):
            await attempt
    hub.away = False
    assert await content(streams) == (0, 0)
    await call(streams, "append")
    assert await content(streams) == (2, 2)


async def test_an_outcome_that_nobody_knows_is_one_or_the_other() -> None:
    """A request that was lost has no effect, one whose answer was lost has; the next is honest again."""
    hub = JournalHub()
    streams = MemoryJournals(hub)
    hub.lose_requests = hub.lose_answers = 1
    for expected in ((0, 0), (2, 2)):
        with pytest.raises(OutcomeUnknown):
            await call(streams, "append")
        assert await content(streams) == expected
    await call(streams, "append")
    assert await content(streams) == (2, 2)


async def test_what_a_failover_forgot_is_told() -> None:
    """The tail is gone; the next append says so."""
    hub = JournalHub(replicas=0)
    streams = MemoryJournals(hub)
    await call(streams, "append")
    hub.lose("s1", back_to=1)
    assert await content(streams) == (1, 1)
    with pytest.raises(JournalBehind) as told:
        await streams.append("s1", [(3, b"z")], expected=2, keep_from=0)
    assert told.value.last == 1


async def test_what_makes_it_unfit_is_said() -> None:
    """And how many replicas an append is told."""
    hub = JournalHub(replicas=2)
    streams = MemoryJournals(hub)
    hub.unfit = "it may evict the journal"
    assert await streams.unfit() == "it may evict the journal"
    assert (await streams.append("s1", [], expected=0, keep_from=0)).replicas == 2
