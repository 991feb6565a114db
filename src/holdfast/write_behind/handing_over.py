"""Deciding what a server has written to one document, before somebody else takes that over (rule S3).

Its journal stays its own: it may live, and go on with all else. What L2 has acknowledged of it for this document is
decided by an ordinary flush, under the journal's own epoch and with its marks, so that the server itself, and whoever
takes its journal over, finds it decided. What it writes later is for the new owner's epoch to refuse.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from holdfast.documents import Limits
from holdfast.errors import (
    CorruptDocument,
    HoldfastError,
    NotOwner,
    TierError,
    TierUnavailable,
)
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import JournalBase, JournalRecord, JournalSealed, JournalState, JournalStreams
from holdfast.write_behind.entries import Entry, decode_entry, key_of
from holdfast.write_behind.others_entries import OthersEntries

logger = logging.getLogger("holdfast")

PAGE: Final = 500
"""Entries read at a time."""
ATTEMPTS_MAX: Final = 12
"""At one journal, while another server takes it over, or its flushes or a row's lock are in the way."""
ROUNDS_MAX: Final = 8
"""Journals of one server may turn up so often while the ones before are read."""
PAUSE_SECONDS: Final = 0.25


class HandingOver:
    """Decides the writes of one document; one per server."""

    def __init__(
        self,
        base: JournalBase,
        streams: JournalStreams,
        entries: OthersEntries,
        *,
        kinds: Mapping[str, Kind[Any]],
        limits: Limits,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._base = base
        self._streams = streams
        self._entries = entries
        self._kinds = kinds
        self._limits = limits
        self._sleep = sleep

    async def decide_for(self, key: Key, server: str) -> int:
        """Decide what a server has acknowledged for a key, as JOURNALED or more, before this was called.

        It may be repeated, whatever became of it. Whoever takes the key over then raises its epoch, if it still is the
        one of before.

        Args:
            server: the one that owned the key until now, in words, as its journals are entered.

        Returns:
            The number of its last entry for the key, in the newest journal that has one; 0: none is left in any.

        Raises:
            TierUnavailable: L2 or L3 cannot tell; some of it may be decided.
            SchemaTooNew: this server cannot read an entry.
        """
        last, seen = 0, set[str]()
        for _ in range(ROUNDS_MAX):
            new = [each for each in await self._records() if each.server == server and each.journal not in seen]
            if not new:
                return last
            for record in new:
                last = await self._decided(key, record) or last
                seen.add(record.journal)
        raise TierUnavailable(f"{key}: {server} begins one journal after the other; try again")

    async def _records(self) -> list[JournalRecord]:
        """Of journals that somebody still has to decide entries of."""
        return [each for each in await self._base.records() if each.state is not JournalState.DRAINED]

    async def _decided(self, key: Key, record: JournalRecord) -> int:
        """Decide the entries of one journal; returns the number of the last one, 0: there is none."""
        last = 0
        fault: HoldfastError | None = None
        for _ in range(ATTEMPTS_MAX):
            try:
                is_sealed = await self._is_sealed(record.journal)
                async for page in self._pages(key, record.journal, sealed=is_sealed):
                    last = max(last, page[-1][0])
                    await self._decide(record, key, page)
                # Only the node that is the primary still can say so: what was read came from one that was, before and
                # after. One that was cut off, and does not know, lacks what was acknowledged since.
                if await self._is_sealed(record.journal) == is_sealed:
                    return last
                fault = TierUnavailable("it was taken over while it was read")
            except (TierError, NotOwner) as met:
                logger.debug("handing %s over: %s", key, met)
                fault = met
            await self._sleep(PAUSE_SECONDS)
            now = await self._again(record)
            if now is None:
                return last
            record = now
        raise TierUnavailable(f"{key}: what its owner has written is not known: {fault}") from fault

    async def _again(self, record: JournalRecord) -> JournalRecord | None:
        """What L3 knows of a journal now, or as it was, if L3 is away; None: all of its entries are decided."""
        try:
            return next((each for each in await self._records() if each.journal == record.journal), None)
        except TierError:
            return record

    async def _is_sealed(self, journal: str) -> bool:
        """Whether nothing can be appended any more; answered only by a node that is the journal's primary now."""
        try:
            await self._streams.append(journal, [], expected=0, keep_from=0)
        except JournalSealed:
            return True
        return False

    async def _pages(self, key: Key, journal: str, *, sealed: bool) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Numbers and bytes of the entries for a key that are still in a stream, some at a time; most are decided."""
        after = 0
        while page := await self._streams.read(journal, after=after, limit=PAGE, sealed=sealed):
            after = page[-1][0]
            if entries := [(seq, data) for seq, data in page if self._is_for(key, seq, data)]:
                yield entries

    def _is_for(self, key: Key, seq: int, data: bytes) -> bool:
        """What cannot be read is left to the journal's owner, and refused when it comes."""
        try:
            return key_of(data, seq, self._limits) == key
        except CorruptDocument as fault:
            logger.warning("handing %s over: an entry is left out: %s", key, fault)
            return False

    def _entry(self, key: Key, seq: int, data: bytes) -> Entry | None:
        try:
            return decode_entry(data, seq, self._kinds, self._limits)
        except CorruptDocument as fault:
            logger.warning("handing %s over: an entry is left out: %s", key, fault)
            return None

    async def _decide(self, record: JournalRecord, key: Key, page: Sequence[tuple[int, bytes]]) -> None:
        """Decide what of some entries was not decided when the record was read."""
        left = [self._entry(key, seq, data) for seq, data in page if seq not in record.decided]
        entries = [entry for entry in left if entry is not None]
        await self._entries.decide(record.journal, record.epoch, {key: entries} if entries else {})
