"""Reads through the overlay: what the tiers hold, with this server's undecided writes over it (rule W7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from holdfast.entry import Consistency, Durability
from holdfast.errors import Refused, TierUnavailable, Undecided
from holdfast.flights import Resolved
from holdfast.keys import Key
from holdfast.protocols import Row
from holdfast.reading import Reads
from holdfast.write_behind.accepting import WriteBehind

ATTEMPTS: Final = 8
"""Of a read whose key is decided meanwhile."""
DOUBT_LOOKS: Final = 50
DOUBT_LOOK_SECONDS: Final = 0.1
"""So often, and for so long, a read waits to learn whether a commit is in effect, while L3 answers, who can tell."""


class PendingReader:
    """Reads of one server, or of one scope, with undecided writes laid over.

    Args:
        reader: answers with committed values.
        seen: told of each key whose undecided writes were shown.
    """

    def __init__(self, reader: Reads, write_behind: WriteBehind, seen: Callable[[Key], None] = lambda _: None) -> None:
        self._reader = reader
        self._write_behind = write_behind
        self._queues = write_behind.buffer.queues
        self._overlay = write_behind.overlay
        self._seen = seen

    async def read(self, key: Key, consistency: Consistency, max_stale: float | None = None) -> Resolved:
        """The value of a key; see `Reader.read`."""
        if key not in self._queues:
            read = await self._reader.read(key, consistency, max_stale)
            if self._is_certain(key, read.version):
                return self._over(key, read)
        return (await self._read_certain([key], consistency, max_stale))[key]

    async def read_many(
        self, keys: Sequence[Key], consistency: Consistency, max_stale: float | None = None
    ) -> dict[Key, Resolved]:
        """The values of several keys of one kind; see `Reader.read_many`."""
        queued = [key for key in keys if key in self._queues]
        plain = [key for key in keys if key not in self._queues] if queued else keys
        found = dict(await self._reader.read_many(plain, consistency, max_stale)) if plain else {}
        queued += [key for key in plain if key in found and not self._is_certain(key, found[key].version)]
        found = {key: self._over(key, resolved) for key, resolved in found.items()}
        if queued:
            found |= await self._read_certain(queued, consistency, max_stale)
        return found

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows of a kind behind an id, from L3, after this server's writes of that kind were brought there."""
        await self._write_behind.settle([key for key in self._queues if key.kind == kind])
        return await self._reader.scan(kind, after=after, limit=limit)

    async def _read_certain(
        self, keys: Sequence[Key], consistency: Consistency, max_stale: float | None
    ) -> dict[Key, Resolved]:
        """Read keys that have undecided writes; those that are decided meanwhile are read again.

        What was read before the commit lacks what is no longer laid over it. And if another server has taken this one
        for dead, or has taken over the document alone, what was read may have what is laid over it.
        """
        found: dict[Key, Resolved] = {}
        left = list(keys)
        for _ in range(ATTEMPTS):
            await self._until_certain(left)
            before = {key: (queue, queue.decisions) for key in left if (queue := self._queues.get(key)) is not None}
            read = await self._reader.read_many(left, consistency, max_stale)
            if not all(resolved.stale for resolved in read.values()):
                await self._write_behind.lives.make_sure()
            if unknown := [key for key, resolved in read.items() if not self._overlay.knows(key, resolved.version)]:
                await self._write_behind.lives.find_out(unknown)
            left = []
            for key, resolved in read.items():
                queue, decisions = before.get(key, (None, 0))
                held = self._queues.get(key)
                is_certain = (held is None or not held.doubt) and self._overlay.knows(key, resolved.version)
                if (queue is not None and queue.decisions != decisions) or not is_certain:
                    left.append(key)
                else:
                    found[key] = self._over(key, resolved)
            if not left:
                return found
        raise TierUnavailable(f"{left[0]}: writes of this server are decided all the time; read again")

    def _is_certain(self, key: Key, version: int) -> bool:
        """Whether what is laid over a row is not in it; a write may have been accepted while the key was read."""
        queue = self._queues.get(key)
        if queue is None:
            return True
        return self._write_behind.lives.is_sure and not queue.doubt and self._overlay.knows(key, version)

    async def _until_certain(self, keys: Iterable[Key]) -> None:
        """Wait until it is known whether the last commit of each key is in effect.

        Raises:
            TierUnavailable: it is not in time, or L3, which alone can tell, is known to be away.
        """
        looks = DOUBT_LOOKS  # for all of them together
        for key in keys:
            while (queue := self._queues.get(key)) is not None and queue.doubt:
                try:
                    self._write_behind.check_writes()
                    await queue.writes[0].reached(Durability.COMMITTED, DOUBT_LOOK_SECONDS)
                except Refused:
                    pass
                except (TierUnavailable, Undecided) as fault:
                    looks -= 1
                    if not looks or isinstance(fault, TierUnavailable):
                        raise TierUnavailable(
                            f"{key}: whether a write of this server is in effect is not known yet"
                        ) from fault

    def _over(self, key: Key, read: Resolved) -> Resolved:
        if key not in self._queues:
            return read
        self._seen(key)
        value = self._overlay.over(key, read.value, read.version)
        return Resolved(value, read.version, read.tier, read.read_at, stale=read.stale, birth=read.birth, pending=True)
