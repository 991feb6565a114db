"""What L3 knows of deliveries, in memory.

Each server of a test has one `MemoryDeliveries` over the `MemoryStorage` they share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from holdfast.audit.chain import AuditNote
from holdfast.clock import Clock
from holdfast.keys import Key
from holdfast.kinds import DELIVERY
from holdfast.protocols import DeliveryRow, Isolation, Row
from holdfast.protocols.deliveries import EXPORTERS_MAX, LISTED_MAX
from holdfast.protocols.runs import check_limit
from holdfast.testing.memory_storage import MemoryStorage, Turn
from holdfast.testing.memory_transaction import MemoryTransaction


class MemoryDeliveries:
    """`DeliveryQueue` in memory. A delivery is due since somebody first looked at it.

    Args:
        clock: L3's.
    """

    def __init__(self, storage: MemoryStorage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def claim(self, exporters: Collection[str], *, limit: int, lease_seconds: float) -> Sequence[DeliveryRow]:
        """Take deliveries that are due; see `DeliveryQueue.claim`."""
        check_limit(limit, LISTED_MAX)
        async with await self._open():
            due = [each for each in self._all() if not each.dead and each.wait_seconds <= 0]
            mine = [each for each in due if _exporter(each) in exporters]
            mine.sort(key=lambda each: each.wait_seconds)
            ends = self._clock.monotonic() + lease_seconds
            claimed = [
                msgspec.structs.replace(each, attempts=each.attempts + 1, lease=ends, wait_seconds=lease_seconds)
                for each in mine[:limit]
            ]
            for each in claimed:
                self._note(each, lease_seconds)
        return claimed

    async def delivered(self, identifier: str, birth: int) -> bool:
        """Forget what was brought out; see `DeliveryQueue.delivered`."""
        async with await self._open() as transaction:
            held = self._row(identifier)
            return held is not None and held.birth == birth and await self._forget(transaction, identifier)

    async def failed(self, row: DeliveryRow, error: str, *, again_seconds: float | None) -> bool:
        """Note an attempt that failed; see `DeliveryQueue.failed`."""
        async with await self._open():
            if (held := self._leased(row)) is None:
                return False
            is_same = held.attempts == row.attempts
            noted = msgspec.structs.replace(held, error=error, dead=is_same and again_seconds is None, lease=0.0)
            self._note(noted, (again_seconds or 0.0) if is_same else 0.0)
        return is_same

    async def broken_off(self, row: DeliveryRow) -> bool:
        """Forget an attempt; see `DeliveryQueue.broken_off`."""
        async with await self._open():
            if (held := self._leased(row)) is None:
                return False
            self._note(msgspec.structs.replace(held, attempts=max(held.attempts - 1, 0), lease=0.0), 0.0)
        return True

    async def list(self, *, dead: bool | None = None, after: str | None = None, limit: int) -> Sequence[DeliveryRow]:
        """Deliveries in order of their ids; see `DeliveryQueue.list`."""
        check_limit(limit, LISTED_MAX)
        async with await self._open():
            found = [each for each in self._all() if dead in {None, each.dead} and each.id > (after or "")]
        return sorted(found, key=lambda each: each.id)[:limit]

    async def neglected(self, seconds: float) -> Mapping[str, int]:
        """Exporters whose deliveries nobody takes; see `DeliveryQueue.neglected`."""
        async with await self._open():
            late = [each for each in self._all() if not each.dead and each.wait_seconds < -seconds]
        found = Counter(_exporter(each) for each in late)
        return {name: found[name] for name in sorted(found)[:EXPORTERS_MAX]}

    async def retry(self, identifier: str, note: AuditNote | None = None) -> bool:
        """Begin anew; see `DeliveryQueue.retry`."""
        async with await self._open() as transaction:
            held = self._row(identifier)
            if held is None:
                return False
            if note is not None:
                await transaction.audit(note)
            left = max(held.lease - self._clock.monotonic(), 0.0)
            self._note(msgspec.structs.replace(held, attempts=0, dead=False), left)
        return True

    async def discard(self, identifier: str, note: AuditNote | None = None) -> bool:
        """Forget a delivery; see `DeliveryQueue.discard`."""
        async with await self._open() as transaction:
            if not await self._forget(transaction, identifier):
                return False
            if note is not None:
                await transaction.audit(note)
        return True

    async def _open(self) -> MemoryTransaction:
        return await self._storage.open_transaction(Isolation.READ_COMMITTED)

    async def _forget(self, transaction: MemoryTransaction, identifier: str) -> bool:
        _, existed = await transaction.delete(Key(DELIVERY.name, identifier))
        self._storage.turns.pop(identifier, None)
        return existed

    def _all(self) -> Iterator[DeliveryRow]:
        return (self._told(key.id, row) for key, row in self._storage.log.rows.items() if key.kind == DELIVERY.name)

    def _row(self, identifier: str) -> DeliveryRow | None:
        row = self._storage.log.rows.get(Key(DELIVERY.name, identifier))
        return None if row is None else self._told(identifier, row)

    def _leased(self, row: DeliveryRow) -> DeliveryRow | None:
        """The delivery as it is, if it is under the lease of that claim still."""
        held = self._row(row.id)
        if held is None or held.dead or (held.birth, held.lease) != (row.birth, row.lease):
            return None
        return held

    def _told(self, identifier: str, row: Row) -> DeliveryRow:
        now = self._clock.monotonic()
        turn = self._storage.turns.setdefault(identifier, Turn(0, now, dead=False, error=None))
        wait = turn.due - now
        return DeliveryRow(identifier, row.birth, row.body, turn.attempts, turn.dead, turn.error, wait, turn.lease)

    def _note(self, row: DeliveryRow, wait_seconds: float) -> None:
        due = self._clock.monotonic() + wait_seconds
        self._storage.turns[row.id] = Turn(row.attempts, due, row.dead, row.error, row.lease)


def _exporter(row: DeliveryRow) -> str:
    name: str = msgspec.json.decode(row.body)["exporter"]
    return name
