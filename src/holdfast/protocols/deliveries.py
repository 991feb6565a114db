"""The contract of what L3 knows of deliveries: which are due, who brings one out at the moment, which are dead.

A delivery is a row of the kind ``delivery``, written by the transaction in which its run completed. How far it is
stands beside its document, and all times are by L3's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from holdfast.audit.chain import AuditNote

LISTED_MAX: Final = 1000
"""Deliveries in one answer."""
EXPORTERS_MAX: Final = 100
"""Exporters in one answer."""


class DeliveryRow(msgspec.Struct, frozen=True):
    """A delivery, and how far it is.

    Attributes:
        birth: of the row: with the id, it is what a delivery is known by outside.
        body: the document as UTF-8 JSON.
        attempts: that were begun.
        dead: it was given up, and is kept for a person.
        error: why the last attempt that ended failed, in words.
        wait_seconds: until it may be claimed; 0 or less: for so long it has been due.
        lease: under which it was claimed, as the time by L3's clock when that ends, which tells one claim from another;
            0: no attempt is under way that L3 knows of.
    """

    id: str
    birth: int
    body: bytes
    attempts: int = 0
    dead: bool = False
    error: str | None = None
    wait_seconds: float = 0.0
    lease: float = 0.0


class DeliveryQueue(Protocol):
    """What L3 knows of deliveries. Every method raises a `TierError` if it could not be done.

    A limit that is not 1 to `LISTED_MAX` is a ValueError.
    """

    async def claim(self, exporters: Collection[str], *, limit: int, lease_seconds: float) -> Sequence[DeliveryRow]:
        """Take deliveries of these exporters that are due, the longest due first; each has one attempt more then.

        Nobody else gets one of them before the lease is over, or what became of the attempt was told.
        """
        ...

    async def delivered(self, identifier: str, birth: int) -> bool:
        """It was brought out: forget it, whoever has claimed it meanwhile; False: it is not there any more."""
        ...

    async def failed(self, row: DeliveryRow, error: str, *, again_seconds: float | None) -> bool:
        """The attempt that was claimed as this row failed.

        False: somebody has claimed it since, or it is gone; or it was begun anew with meanwhile, and is due now.

        Args:
            again_seconds: until the next; None: it is dead.
        """
        ...

    async def broken_off(self, row: DeliveryRow) -> bool:
        """The attempt that was claimed as this row was ended by its server, which is none: it is due now.

        False: somebody has claimed it since, or it is gone.
        """
        ...

    async def list(self, *, dead: bool | None = None, after: str | None = None, limit: int) -> Sequence[DeliveryRow]:
        """Deliveries in order of their ids.

        Args:
            dead: only those that are, or are not.
            after: the id of the last one known.
        """
        ...

    async def neglected(self, seconds: float) -> Mapping[str, int]:
        """Exporters with deliveries that have been due for longer than that, and how many; `EXPORTERS_MAX` at most."""
        ...

    async def retry(self, identifier: str, note: AuditNote | None = None) -> bool:
        """Begin anew with a delivery that is dead, or waits: it is due now; False: it is not there.

        If somebody is at it, it is due when that attempt has failed, or its lease is over: never are two at it at once.

        Args:
            note: for the audit log, in the same transaction, if it was there.
        """
        ...

    async def discard(self, identifier: str, note: AuditNote | None = None) -> bool:
        """Forget a delivery that nobody shall bring out any more; False: it is not there. `note` as in `retry`."""
        ...
