"""Journals in memory, with the rules of the scripts in `holdfast.tiers.lua`.

Each server of a test has one `MemoryJournals` over the `JournalHub` they share. Nothing here waits or draws lots, so
a simulated server behaves the same under the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.errors import OutcomeUnknown, TierUnavailable
from holdfast.protocols import Appended, JournalBehind, JournalSealed
from holdfast.tiers.l2_journal_entries import check_append, names_of


@dataclass(slots=True)
class _Journal:
    """One stream.

    Attributes:
        last: the highest number that was ever in it.
        kept: lower ones may have been dropped.
    """

    entries: dict[int, bytes] = field(default_factory=dict)
    last: int = 0
    kept: int = 0
    is_sealed: bool = False
    is_dropped: bool = False

    def append(self, entries: Sequence[tuple[int, bytes]], expected: int, keep_from: int) -> None:
        """Put those at its end that are not there yet."""
        if self.is_sealed:
            raise JournalSealed(self.last)
        if self.last < expected:
            raise JournalBehind(self.last)
        hole = [seq for seq, _ in entries if self.kept <= seq <= self.last and seq not in self.entries]
        if hole:
            raise TierUnavailable(f"L2 in memory: a journal has numbers above {hole[0]}, and not that")
        new = {seq: body for seq, body in entries if seq > self.last}
        self.entries.update(new)
        self.last = max(new, default=self.last)
        self.trim(keep_from)

    def trim(self, keep_from: int) -> None:
        """Drop what is lower."""
        self.kept = max(self.kept, keep_from)
        self.entries = {seq: body for seq, body in self.entries.items() if seq >= self.kept}


class JournalHub:
    """What keeps the journals of a test's servers.

    Attributes:
        replicas: what an append is told of them.
        away: while True every call fails, and has no effect.
        lose_requests: so many of the next appends, seals and drops have no effect, and nobody knows.
        lose_answers: so many of the next ones after those take effect, and nobody knows.
        unfit: why it cannot keep a journal.
    """

    def __init__(self, *, replicas: int = 1) -> None:
        self.replicas = replicas
        self.away = False
        self.lose_requests = 0
        self.lose_answers = 0
        self.unfit: str | None = None
        self._journals: dict[str, _Journal] = {}

    def journal(self, name: str, *, is_made: bool = False) -> _Journal:
        """One of them, made if it is to be kept.

        Raises:
            InvalidKey: it cannot be called that.
        """
        names_of(b"", name)
        found = self._journals.get(name)
        if found is None:
            found = _Journal()
            if is_made:
                self._journals[name] = found
        return found

    def lasts(self) -> dict[str, int]:
        """Of each journal the highest number."""
        return {name: journal.last for name, journal in self._journals.items()}

    def lose(self, journal: str, *, back_to: int) -> None:
        """Forget all that was appended above a number, as a failover may to a replica that was behind."""
        found = self.journal(journal)
        found.entries = {seq: body for seq, body in found.entries.items() if seq <= back_to}
        found.last = min(found.last, back_to)

    def check(self) -> None:
        """Fail if it is away."""
        if self.away:
            raise TierUnavailable("L2 in memory is away")

    def lose_request(self) -> None:
        """Fail before anything is done, if that is due."""
        self.check()
        if self.lose_requests:
            self.lose_requests -= 1
            raise OutcomeUnknown("L2 in memory lost a request")

    def lose_answer(self) -> None:
        """Fail after all is done, if that is due."""
        if self.lose_answers:
            self.lose_answers -= 1
            raise OutcomeUnknown("L2 in memory lost an answer")


class MemoryJournals:
    """`JournalStreams` of one server."""

    def __init__(self, hub: JournalHub) -> None:
        self._hub = hub

    async def append(
        self, journal: str, entries: Sequence[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        """Append entries; see `JournalStreams.append`."""
        check_append(entries, expected, keep_from)
        self._hub.lose_request()
        found = self._hub.journal(journal, is_made=expected == 0)
        found.append(entries, expected, keep_from)
        self._hub.lose_answer()
        return Appended(found.last, self._hub.replicas)

    async def read(self, journal: str, *, after: int, limit: int, sealed: bool = False) -> Sequence[tuple[int, bytes]]:
        """Entries above a number; see `JournalStreams.read`."""
        self._hub.check()
        found = self._hub.journal(journal)
        if sealed and not found.is_sealed:
            raise TierUnavailable("L2 in memory: the journal is not sealed")
        return [(seq, body) for seq, body in found.entries.items() if seq > after][:limit]

    async def last(self, journal: str) -> int:
        """The highest number; see `JournalStreams.last`."""
        self._hub.check()
        found = self._hub.journal(journal)
        return 0 if found.is_dropped else found.last

    async def seal(self, journal: str) -> int:
        """Let nothing be appended any more; see `JournalStreams.seal`."""
        self._hub.lose_request()
        found = self._hub.journal(journal, is_made=True)
        found.is_sealed = True
        self._hub.lose_answer()
        return found.last

    async def drop(self, journal: str) -> None:
        """Remove a stream; see `JournalStreams.drop`."""
        self._hub.lose_request()
        found = self._hub.journal(journal, is_made=True)
        found.entries.clear()
        found.is_sealed = found.is_dropped = True
        self._hub.lose_answer()

    async def unfit(self) -> str | None:
        """Why it cannot keep a journal; see `JournalStreams.unfit`."""
        self._hub.check()
        return self._hub.unfit
