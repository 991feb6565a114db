"""Servers that share L3's data keys."""

from __future__ import annotations

import asyncio
from typing import Any

from fix_secrets import entropy
from holdfast.audit.log import AuditLog
from holdfast.documents import Sealed
from holdfast.sensitivity.key_keeper import KeyKeeper
from holdfast.sensitivity.key_ring import KeyRing
from holdfast.sensitivity.master_keys import MasterKeys
from holdfast.sensitivity.rotating import Rotated, rotate
from holdfast.sensitivity.sealing import Place
from holdfast.testing import MemoryAudit, MemoryKeys, MemoryStorage

PLACE = Place("run", "r1", "token", "1")


class Servers:
    """Servers over one L3."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.rows = MemoryKeys(self.storage)
        self._started = 0

    async def start(self, *master_keys: str) -> KeyRing:
        """One more, with these master keys."""
        self._started += 1
        ring = KeyRing(MemoryKeys(self.storage), MasterKeys.read(master_keys), entropy(self._started))
        await ring.renew()
        return ring

    async def make(self, master_key: str) -> Sealed:
        """Something sealed with a new data key that a master key wraps, whatever there is already."""
        ring = KeyRing(MemoryKeys(self.storage), MasterKeys.read([master_key]), entropy(100 + self._started))
        self._started += 1
        ring.known.learn(await ring._made())
        other = await self.start(master_key)
        return other.known.seal("hush", PLACE)

    async def rotate(self, *master_keys: str) -> Rotated:
        """Rotate to the first of these."""
        self._started += 1
        return await rotate(
            MemoryKeys(self.storage),
            MasterKeys.read(master_keys),
            entropy(self._started),
            print,
            audit=self.audit,
            reason="it is due",
        )

    def noted(self) -> list[tuple[str, str, str]]:
        """Actor, subject and detail of what the audit log says of rotations."""
        notes = [entry.note for entry in self.storage.log.marks.audit]
        assert all((each.action, each.reason) == ("rotated", "it is due") for each in notes)
        return [(each.actor, each.subject, each.detail) for each in notes]

    @property
    def audit(self) -> AuditLog:
        """The audit log, by a server."""
        return AuditLog(MemoryAudit(self.storage), server="a")

    async def put_right(self, ring: KeyRing) -> int:
        """Let a server find that L3 is another than it was; returns how many rows it has wrapped anew."""
        keeper = KeyKeeper(ring, self.audit, asyncio.sleep)
        await keeper.put_right()
        return keeper.rewrapped

    async def uses(self) -> dict[str, int]:
        """How many data keys each master key wraps."""
        return {each.id: each.rows for each in await self.rows.masters()}


async def opened(ring: KeyRing, sealed: Sealed) -> Any:
    """What a server reads."""
    await ring.know([sealed.key_id])
    return ring.known.open(sealed, PLACE)


def sealer_of(ring: KeyRing) -> str:
    """The data key that a server seals with."""
    assert ring.known.sealer is not None
    return ring.known.sealer.key_id
