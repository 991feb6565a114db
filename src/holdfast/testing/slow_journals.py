"""Journals in L2 behind a slow and lossy network, on nodes that fail over."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.errors import OutcomeUnknown
from holdfast.protocols import Appended
from holdfast.testing.memory_journals import JournalHub, MemoryJournals
from holdfast.testing.simulation import World
from holdfast.testing.slow_link import SlowLink


class Replication:
    """What a failover of L2 may lose: of each journal the entries that no replica has acknowledged.

    Attributes:
        failovers: how many there were so far.
    """

    def __init__(self, hub: JournalHub, world: World) -> None:
        self.failovers = 0
        self._hub = hub
        self._world = world
        self._secured: dict[str, int] = {}

    def secured(self, journal: str, last: int) -> None:
        """Replicas have acknowledged a journal up to a number."""
        self._secured[journal] = max(last, self._secured.get(journal, 0))

    def fail_over(self) -> None:
        """Of each journal a replica goes on, which may lack what was not acknowledged."""
        self.failovers += 1
        for journal, last in self._hub.lasts().items():
            self._hub.lose(journal, back_to=self._world.random.randint(min(self._secured.get(journal, 0), last), last))


class SlowJournals:
    """`JournalStreams` as one process sees it."""

    def __init__(self, hub: JournalHub, replication: Replication, link: SlowLink) -> None:
        self._inner = MemoryJournals(hub)
        self._replication = replication
        self._link = link

    async def append(
        self, journal: str, entries: Sequence[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        """Append entries; see `JournalStreams.append`."""

        async def act() -> Appended:
            appended = await self._inner.append(journal, entries, expected=expected, keep_from=keep_from)
            await self._secure(journal, appended.last)
            return appended

        return await self._link.write(act, "append")

    async def read(self, journal: str, *, after: int, limit: int, sealed: bool = False) -> Sequence[tuple[int, bytes]]:
        """Entries above a number; see `JournalStreams.read`."""
        return await self._link.call(
            lambda: self._inner.read(journal, after=after, limit=limit, sealed=sealed), "reading a journal"
        )

    async def last(self, journal: str) -> int:
        """The highest number; see `JournalStreams.last`."""
        return await self._link.call(lambda: self._inner.last(journal), "asking a journal")

    async def seal(self, journal: str) -> int:
        """Let nothing be appended any more; see `JournalStreams.seal`."""

        async def act() -> int:
            last = await self._inner.seal(journal)
            await self._secure(journal, last)
            return last

        return await self._link.write(act, "seal")

    async def drop(self, journal: str) -> None:
        """Remove a stream; see `JournalStreams.drop`."""
        await self._link.write(lambda: self._inner.drop(journal), "drop")

    async def unfit(self) -> str | None:
        """Why it cannot keep a journal; see `JournalStreams.unfit`."""
        return await self._link.call(self._inner.unfit, "asking L2")

    async def _secure(self, journal: str, last: int) -> None:
        """Wait for the replicas; a failover meanwhile leaves it open whether they had it (rule W2)."""
        failovers = self._replication.failovers
        await self._link.world.pause(self._link.most_seconds)
        if self._replication.failovers != failovers:
            raise OutcomeUnknown("L2 failed over meanwhile")
        self._replication.secured(journal, last)
