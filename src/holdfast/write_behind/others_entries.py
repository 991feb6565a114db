"""Deciding what another server has written to its journal, in its place; and counting and telling what was refused."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.errors import Refused, SerializationFailure
from holdfast.keys import Key
from holdfast.metrics.counters import WriteBehindCounters
from holdfast.write_behind.bisecting import bisected
from holdfast.write_behind.entries import Entry
from holdfast.write_behind.flushing import Flushing, written
from holdfast.write_behind.publishing import FlushPublisher
from holdfast.write_behind.refusals import OnRefused


class OthersEntries:
    """Decides entries of journals that this server does not write; one per server.

    Args:
        publisher: is told the versions of rows that were written, and `on_refused` of writes that were refused.
    """

    def __init__(
        self,
        flushing: Flushing,
        counters: WriteBehindCounters,
        *,
        publisher: FlushPublisher,
        on_refused: OnRefused,
    ) -> None:
        self._flushing = flushing
        self._counters = counters
        self._publisher = publisher
        self._on_refused = on_refused

    async def decide(self, journal: str, epoch: int, batch: dict[Key, list[Entry]]) -> None:
        """Decide a batch under a journal's epoch, but for what L3 refuses of it: that becomes dead letters.

        Raises:
            SerializationFailure: a row is locked: what is behind it in the journal waits too, until it is tried again.
            NotOwner: the journal is under another epoch.
            TierError: L3 did not take it.
        """

        async def flush(part: dict[Key, list[Entry]]) -> None:
            settled = await self._flushing.flush(journal, epoch, part)
            self._publisher.tell(written(settled))
            for each in settled.values():
                self.refused(journal, each.refused)

        async def give_up(entry: Entry, reason: str) -> None:
            refused = await self._flushing.refuse(journal, epoch, [entry], reason)
            self._counters.dead_letters += len(refused)
            self.refused(journal, refused)

        if batch:
            await bisected(batch, flush, give_up, _raise)

    def refused(self, journal: str, refused: Mapping[int, Refused]) -> None:
        """Count and tell what was refused, by its number in the journal."""
        self._counters.refused += len(refused)
        for seq, why in refused.items():
            self._on_refused(why, journal, seq)


def _raise(_key: Key, fault: SerializationFailure) -> None:
    raise fault
