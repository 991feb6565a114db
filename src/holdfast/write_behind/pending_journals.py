"""What is accepted and not yet decided, in the journals of all servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from holdfast.documents import Limits
from holdfast.errors import TierError
from holdfast.protocols import JournalBase, JournalRecord, JournalState, JournalStreams
from holdfast.seq_set import SeqSet
from holdfast.write_behind.outlines import accepted_at_ms

PAGE: Final = 500


class PendingJournal(msgspec.Struct, frozen=True):
    """A journal, as L3 and L2 know it.

    Attributes:
        server: whose life it is of, in words; `taker`: the server that took it over last.
        seconds: since its record was last changed, as each sign of life does, by L3's clock.
        decided: entries that were applied or refused; `refused`: those of them that were refused.
        entries: that are not decided yet, `bytes` of them in all; None: L2 could not be asked.
        oldest_seconds: since the oldest of them was accepted, by two clocks: its server's, and that of who asks; None
            also if there is none, or it cannot be read.
        unread: why L2 could not be asked, in words.
    """

    journal: str
    server: str
    state: str
    epoch: int
    taker: str | None
    seconds: float
    decided: int
    refused: int
    entries: int | None = None
    bytes: int | None = None
    oldest_seconds: float | None = None
    unread: str | None = None


class _Waiting(NamedTuple):
    """An entry of a stream; `accepted_at_ms` since 1970."""

    seq: int
    size: int
    accepted_at_ms: int | None


async def pending_journals(
    base: JournalBase, streams: JournalStreams, *, limits: Limits, wall: Callable[[], float]
) -> list[PendingJournal]:
    """All journals that L3 knows, the oldest first.

    Args:
        limits: of documents.
        wall: the time of day, seconds since 1970.

    Raises:
        TierError: L3 could not be asked.
    """
    records = await base.records()
    found = await asyncio.gather(*(_waiting(streams, record, limits) for record in records))
    # The marks are asked after the streams: what was decided meanwhile does not wait any more.
    _, marks = await base.rows_and_marks([], [record.journal for record in records])
    return [
        _pending(record, waiting, marks.get(record.journal), wall())
        for record, waiting in zip(records, found, strict=True)
    ]


async def _waiting(streams: JournalStreams, record: JournalRecord, limits: Limits) -> list[_Waiting] | TierError:
    """The entries of a stream behind those that are decided, or why they cannot be read."""
    if record.state is JournalState.DRAINED:
        return []
    entries: list[_Waiting] = []
    after = record.decided.through
    try:
        while page := await streams.read(record.journal, after=after, limit=PAGE):
            entries += [_Waiting(seq, len(data), accepted_at_ms(data, seq, limits)) for seq, data in page]
            after = page[-1][0]
    except TierError as fault:
        return fault
    return entries


def _pending(
    record: JournalRecord, waiting: Sequence[_Waiting] | TierError, decided: SeqSet | None, now: float
) -> PendingJournal:
    told = PendingJournal(
        journal=record.journal,
        server=record.server,
        state=record.state.value,
        epoch=record.epoch,
        taker=record.taker,
        seconds=record.seconds,
        decided=len(record.decided if decided is None else decided),
        refused=len(record.refused),
    )
    if isinstance(waiting, TierError):
        return msgspec.structs.replace(told, unread=str(waiting))
    # A journal that L3 does not know any more was left by its server when all of it was decided.
    left = [] if decided is None else [entry for entry in waiting if entry.seq not in decided]
    times = [entry.accepted_at_ms for entry in left if entry.accepted_at_ms is not None]
    return msgspec.structs.replace(
        told,
        entries=len(left),
        bytes=sum(entry.size for entry in left),
        oldest_seconds=max(0.0, now - min(times) / 1000) if times else None,
    )
