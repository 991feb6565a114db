"""One journal and what works on it, from its registration to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.write_behind.flusher import Flusher
from holdfast.write_behind.heartbeat import Heartbeat
from holdfast.write_behind.journal import JournalWriter


@dataclass(frozen=True, slots=True)
class Life:
    """What one life of a server writes by."""

    journal: JournalWriter
    flusher: Flusher
    heartbeat: Heartbeat

    @property
    def name(self) -> str:
        """Of its journal."""
        return self.journal.journal

    def start(self) -> None:
        """Begin to work in the background."""
        self.heartbeat.start()
        self.flusher.start()
        self.journal.start()

    async def stop(self) -> None:
        """End what works; may be called twice."""
        await self.journal.stop()
        await self.flusher.stop()
        await self.heartbeat.stop()


LifeMaker = Callable[[str], Life]
