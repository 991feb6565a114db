"""What is pending, in the journals of all servers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fix_left_journals import KEY, LIMITS, leave, named
from holdfast.protocols import JournalState, Letter
from holdfast.seq_set import SeqSet
from holdfast.testing import JournalHub, ManualClock, MemoryJournalBase, MemoryJournals, MemoryStorage
from holdfast.write_behind import pending_journals as module
from holdfast.write_behind.pending_journals import PendingJournal, pending_journals


class Ground:
    """What L3 and L2 know of journals."""

    def __init__(self) -> None:
        self.hub = JournalHub()
        self.streams = MemoryJournals(self.hub)
        self.clock = ManualClock()
        self.base = MemoryJournalBase(MemoryStorage(), self.clock)

    async def decide(self, decided: Sequence[int], refused: Sequence[int] = ()) -> None:
        """Note that entries of the journal j are decided."""
        flush = await self.base.open_flush("j", 1)
        letters = [Letter(KEY, seq, b"", "why") for seq in refused]
        await flush.decide(SeqSet.of(decided), SeqSet.of(refused), letters)
        await flush.commit()

    async def pending(self, streams: MemoryJournals | None = None) -> list[PendingJournal]:
        """By a clock of the day that stands at 61 s."""
        return await pending_journals(self.base, streams or self.streams, limits=LIMITS, wall=lambda: 61.0)


@pytest.fixture
def ground() -> Ground:
    return Ground()


async def test_what_is_decided_in_between_does_not_count(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions leave holes; entries are read in pages, and what cannot be read counts too, without a time."""
    monkeypatch.setattr(module, "PAGE", 2)
    entries = [named(seq, accepted_at_ms=1000 * seq) for seq in range(1, 9)]
    await leave(ground.base, ground.streams, [*entries, (9, b"damaged")])
    await ground.decide([1, 2, 4, 6, 8], refused=[8])
    ground.clock.advance(5)
    (journal,) = await ground.pending()
    assert (journal.entries, journal.decided, journal.refused) == (4, 5, 1)
    assert (journal.oldest_seconds, journal.seconds) == (58.0, 5.0)
    assert (journal.state, journal.server, journal.epoch, journal.taker) == ("released", "dead", 1, None)


class DecidedMeanwhile(MemoryJournals):
    """While the streams are read, their entries are decided."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground.hub)
        self.ground = ground

    async def read(self, journal: str, *, after: int, limit: int, sealed: bool = False) -> Sequence[tuple[int, bytes]]:
        found = await super().read(journal, after=after, limit=limit, sealed=sealed)
        if found:
            await self.ground.decide([1])
        return found


async def test_what_is_decided_meanwhile_does_not_count(ground: Ground) -> None:
    """The marks are read last: asked first, they would show a write as pending that is in effect."""
    await leave(ground.base, ground.streams, [named(1), named(2)])
    (journal,) = await ground.pending(DecidedMeanwhile(ground))
    assert (journal.entries, journal.decided) == (1, 1)


async def test_a_journal_that_is_left_meanwhile_has_nothing(ground: Ground) -> None:
    """L3 does not know it any more: all of it was decided."""

    class LeftMeanwhile(DecidedMeanwhile):
        """Its server ends."""

        async def read(
            self, journal: str, *, after: int, limit: int, sealed: bool = False
        ) -> Sequence[tuple[int, bytes]]:
            found = await super().read(journal, after=after, limit=limit, sealed=sealed)
            await self.ground.base.forget(journal, 1)
            return found

    await leave(ground.base, ground.streams, [named(1)])
    (journal,) = await ground.pending(LeftMeanwhile(ground))
    assert journal.entries == 0


async def test_a_drained_journal_is_not_looked_for_in_l2(ground: Ground) -> None:
    """Its stream may be gone, and L2 away; of the others it is said that nobody knows."""
    await leave(ground.base, ground.streams, [named(1)])
    await ground.base.take("j", 1, "taker")
    await ground.base.enter_state("j", 2, JournalState.DRAINED)
    await leave(ground.base, ground.streams, [named(1)], journal="k")
    ground.hub.away = True
    drained, other = await ground.pending()
    assert (drained.state, drained.taker, drained.entries, drained.unread) == ("drained", "taker", 0, None)
    assert (other.entries, other.bytes, other.oldest_seconds) == (None, None, None)
    assert other.unread
