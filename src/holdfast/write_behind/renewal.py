"""A server that was taken for dead finds out what became of its writes (rule W9).

Its epoch is over, so it decides nothing any more. It waits until whoever took over has drained its journal. What is
decided then was in the journal; what is not decided never will be, for the stream is sealed: only that is entered
again, in a new journal. Nothing is lost, and nothing is applied twice.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from holdfast.errors import Refused, TierError
from holdfast.keys import Key
from holdfast.protocols import JournalBase, JournalRecord, JournalState, Row
from holdfast.write_behind.deciding import RefusalReason
from holdfast.write_behind.receipts import PendingWrite
from holdfast.write_behind.refusals import OnRefused

logger = logging.getLogger("holdfast")


async def drained(base: JournalBase, journal: str, pause: Callable[[], Awaitable[object]]) -> JournalRecord | None:
    """What L3 knows of a journal once nobody needs to decide any of its entries; None: nothing at all."""
    while True:
        try:
            found = next((each for each in await base.records() if each.journal == journal), None)
        except TierError as fault:
            logger.debug("waiting for the takeover of journal %s: %s", journal, fault)
        else:
            if found is None or found.state is JournalState.DRAINED:
                return found
        await pause()


def settle(
    journal: str,
    writes: Iterable[PendingWrite],
    record: JournalRecord | None,
    rows: Mapping[Key, Row],
    on_refused: OnRefused,
) -> list[PendingWrite]:
    """Tell the receipts what was decided elsewhere; returns the writes that were not decided.

    Args:
        journal: their own, which was taken over.
        record: of it; None: L3 does not know it any more.
        rows: as they are now, of all these writes.
        on_refused: told of those that were refused.
    """
    again = []
    for write in writes:
        seq, row = write.entry.seq, rows.get(write.key)
        if (why := _refusal(write, record)) is not None:
            write.refused(why)
            on_refused(why, journal, seq)
        elif record is not None and seq in record.decided:
            write.committed(0 if row is None else row.version)
        else:
            again.append(write)
    return again


def _refusal(write: PendingWrite, record: JournalRecord | None) -> Refused | None:
    """Why a write is not in effect; None: it is, or is not decided."""
    if record is None:
        detail = "L3 does not know the journal of this server any more: read, and decide anew"
    elif write.entry.seq in record.refused:
        detail = f"{record.taker}, which took this server's journal over, refused it"
    else:
        return None
    return Refused(write.key, RefusalReason.NOT_OWNER.value, detail)
