"""Deciding what dead servers left in their journals (rule W9).

A server that answers for a journal counts up its beat in L3. One whose beat stands still for the takeover time, by this
server's own clock and while this server reaches L3, is dead or cut off: another one raises the journal's epoch, so that
no flush of the old owner can commit any more, seals the stream, and decides what is left. A server that ended and left
entries is not waited for. The taker beats meanwhile, so if it dies too, the next one takes over from it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from holdfast.background import Background
from holdfast.clock import Clock
from holdfast.documents import Limits
from holdfast.errors import (
    CorruptDocument,
    NotOwner,
    Refused,
    SchemaTooNew,
    TierError,
    UnknownKind,
)
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.metrics.counters import WriteBehindCounters
from holdfast.protocols import JournalBase, JournalRecord, JournalState, JournalStreams, Letter
from holdfast.seq_set import SeqSet
from holdfast.write_behind.deciding import RefusalReason
from holdfast.write_behind.entries import Entry, decode_entry
from holdfast.write_behind.flushing import Flushing
from holdfast.write_behind.others_entries import OthersEntries
from holdfast.write_behind.pace import Pace

logger = logging.getLogger("holdfast")

KEEP_SECONDS: Final = 7 * 86_400.0
"""How long a drained journal is known: a server that was suspended for so long finds out what became of its writes."""
LEFT_TIMES: Final = 6
"""Takeover times for which a journal that cannot be read here is left to others."""
LOOKS: Final = 3
"""At the journals, in a takeover time."""


class Seen(NamedTuple):
    """A beat, and since when this server has seen it stand still, monotonic seconds; later by what L3 took to tell."""

    epoch: int
    beat: int
    since: float


class Takeover:
    """Looks for journals of dead servers, and drains them; one per server.

    Args:
        server: this one, in words.
        own: the journal that this server writes; None: it has none.
        entries: decides them.
    """

    def __init__(
        self,
        base: JournalBase,
        streams: JournalStreams,
        flushing: Flushing,
        entries: OthersEntries,
        *,
        kinds: Mapping[str, Kind[Any]],
        limits: Limits,
        server: str,
        takeover_seconds: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        random_: random.Random,
        counters: WriteBehindCounters,
        own: Callable[[], str | None],
    ) -> None:
        self._base = base
        self._streams = streams
        self._flushing = flushing
        self._entries = entries
        self._kinds = kinds
        self._limits = limits
        self._server = server
        self._takeover_seconds = takeover_seconds
        self._clock = clock
        self._sleep = sleep
        self._random = random_
        self._counters = counters
        self._own = own
        self._seen: dict[str, Seen] = {}
        self._left: dict[str, float] = {}  # journals that cannot be read here, and until when they are left alone
        self._pace = Pace()  # one entry may be of a key of its own
        self._loop = Background(self._run, "takeover")

    def start(self) -> None:
        """Begin to look in the background; at once, for a server that ended may have left entries."""
        self._loop.start()

    async def stop(self) -> None:
        """End; a takeover under way is left to the next server. May be called twice."""
        await self._loop.stop()

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except TierError as fault:
                self._seen.clear()  # nobody's beat can be judged by one who did not hear it
                logger.debug("looking for journals of dead servers: %s", fault)
            except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: a takeover failed", "exception": fault}
                )
            # Servers that were started together do not look together.
            await self._sleep(self._takeover_seconds / LOOKS * self._random.uniform(0.8, 1.2))

    async def look(self) -> None:
        """Take over each journal whose server is dead, and remove those nobody needs any more.

        Raises:
            TierError: L3 did not answer.
        """
        asked = self._clock.monotonic()
        records = await self._base.records()
        now = self._clock.monotonic()
        self._seen = {record.journal: self._noted(record, now, now - asked) for record in records}
        self._left = {name: until for name, until in self._left.items() if name in self._seen}
        for record in records:
            if record.journal == self._own():
                continue
            if record.state is JournalState.DRAINED:
                await self._clear_away(record)
            elif self._is_left(record, now):
                continue
            elif record.state is JournalState.RELEASED or self._stands_still(record, now):
                try:
                    await self._take_over(record)
                except Exception as fault:  # noqa: BLE001 - one that cannot be read must not keep the others waiting
                    logger.warning("write-behind: the journal %s waits for its takeover: %r", record.journal, fault)
                    self._pace.slower()

    def _noted(self, record: JournalRecord, now: float, waited: float) -> Seen:
        """While L3 did not answer nobody could beat: when it is back, the old beats may be told before new ones."""
        seen = self._seen.get(record.journal)
        if seen is not None and (seen.epoch, seen.beat) == (record.epoch, record.beat):
            return seen._replace(since=seen.since + waited)
        return Seen(record.epoch, record.beat, now)

    def _stands_still(self, record: JournalRecord, now: float) -> bool:
        return now - self._seen[record.journal].since >= self._takeover_seconds

    def _is_left(self, record: JournalRecord, now: float) -> bool:
        return self._left.get(record.journal, now) > now

    async def _clear_away(self, record: JournalRecord) -> None:
        if record.seconds >= KEEP_SECONDS:
            await self._streams.drop(record.journal)
            await self._base.forget(record.journal, record.epoch)

    async def _take_over(self, record: JournalRecord) -> None:
        if not await self._base.take(record.journal, record.epoch, self._server):
            return  # another server was faster, or its own one lives after all
        journal, epoch = record.journal, record.epoch + 1
        self._counters.takeovers += 1
        logger.warning("write-behind: taking over the journal %s of %s", journal, record.server)
        try:
            await self._streams.seal(journal)
            count = await self._drain(journal, epoch, record.decided)
        except NotOwner:
            return
        except (SchemaTooNew, UnknownKind) as fault:
            # Another server can; this one looks again, for it may be the only one for long.
            logger.warning("write-behind: the journal %s is left to servers that can read it: %s", journal, fault)
            self._left[journal] = self._clock.monotonic() + LEFT_TIMES * self._takeover_seconds
            await self._base.enter_state(journal, epoch, JournalState.RELEASED)
            return
        self._counters.taken_over += count
        if await self._base.enter_state(journal, epoch, JournalState.DRAINED):  # else another server reads it still
            await self._streams.drop(journal)  # its name stays sealed for a day
        logger.warning("write-behind: the journal %s of %s is drained: %d entries", journal, record.server, count)

    async def _drain(self, journal: str, epoch: int, decided: SeqSet) -> int:
        """Decide all that is left of a sealed stream; returns how many entries that were."""
        after, count = decided.through, 0
        while found := await self._streams.read(journal, after=after, limit=self._pace.writes, sealed=True):
            left = [(seq, data) for seq, data in found if seq not in decided]
            await self._decide(journal, epoch, left)
            after, count = found[-1][0], count + len(left)
            self._pace.faster()
            if not await self._base.beat(journal, epoch):
                raise NotOwner(f"journal {journal}: another server took it over meanwhile")
        return count

    async def _decide(self, journal: str, epoch: int, left: list[tuple[int, bytes]]) -> None:
        batch: dict[Key, list[Entry]] = {}
        for seq, data in left:
            try:
                entry = decode_entry(data, seq, self._kinds, self._limits)
            except CorruptDocument as fault:
                await self._flushing.bury(journal, epoch, [Letter(NOBODY, seq, data, str(fault))])
                self._entries.refused(journal, {seq: Refused(NOBODY, RefusalReason.POISON.value, str(fault))})
            else:
                batch.setdefault(entry.key, []).append(entry)

        await self._entries.decide(journal, epoch, batch)


NOBODY: Final = Key("unknown", "unknown")
"""The key of an entry that cannot be read."""
