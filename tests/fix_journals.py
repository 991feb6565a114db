"""`JournalServers` for the suite of its contract: in memory."""

from __future__ import annotations

from holdfast.testing import JournalHub, MemoryJournals


class MemoryServers:
    """`JournalServers` in memory."""

    def __init__(self) -> None:
        self.hub = JournalHub()

    def streams(self) -> MemoryJournals:
        return MemoryJournals(self.hub)

    async def lose(self, journal: str, *, back_to: int) -> None:
        self.hub.lose(journal, back_to=back_to)
