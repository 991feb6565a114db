"""The feed lease: until when cached answers count (pure).

A poll of the change feed that began at t0 and succeeded proves that everything committed before t0 was delivered. So a
cached answer given at most the staleness bound after t0 misses nothing that was committed more than the bound before
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from holdfast.protocols import Snapshot

NEVER = -math.inf


class FeedLease:
    """When this server's caches may answer, for each kind.

    Args:
        bounds: the staleness bound of each kind, seconds.
        tell: for each kind, what wants to know the moment (monotonic seconds) until which answers count.
        untrusted: kinds that no cache may answer for, with the reason.

    Attributes:
        renewed_at: when the last good poll began, monotonic seconds.
    """

    def __init__(
        self,
        bounds: Mapping[str, float],
        tell: Mapping[str, Callable[[float], None]],
        untrusted: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.renewed_at = NEVER
        self.untrusted = untrusted
        self._bounds = dict(bounds)
        self._tell = dict(tell)
        self._held: set[int] = set()
        self._until = dict.fromkeys(bounds, NEVER)
        self._publish()

    def bound(self, kind: str) -> float:
        """The kind's staleness bound, seconds."""
        return self._bounds[kind]

    def valid(self, kind: str, now: float) -> bool:
        """Whether cached answers of a kind count now."""
        return now < self._until[kind]

    def renew(self, began: float, snapshot: Snapshot) -> None:
        """A poll begun at `began` was delivered up to a snapshot, and its changes are applied."""
        self._held = {xid for xid in self._held if not snapshot.sees(xid)}
        self.renewed_at = max(self.renewed_at, began)
        self._publish()

    def hold(self, xid: int) -> None:
        """Trust no cache until the feed has come past this transaction, which may have changed anything (rule S1)."""
        self._held.add(xid)
        self._publish()

    def revoke(self) -> None:
        """Trust no cache until the next good poll. Transactions of a past that is gone are waited for no longer."""
        self._held.clear()
        self.renewed_at = NEVER
        self._publish()

    def _publish(self) -> None:
        for kind, bound in self._bounds.items():
            until = NEVER if self._held or kind in self.untrusted else self.renewed_at + bound
            self._until[kind] = until
            self._tell[kind](until)
