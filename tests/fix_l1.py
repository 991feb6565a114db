"""L1 on a clock set by hand, with short forms of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.entry import MISSING
from holdfast.keys import Key
from holdfast.testing import ManualClock
from holdfast.tiers.l1_local import LocalCache

TTL = 300.0
KEY = Key("bot", "b1")


class Cache:
    """A `LocalCache` on a clock set by hand, with short forms of its calls."""

    def __init__(self, entries_max: int = 100) -> None:
        self.clock = ManualClock()
        self.local = LocalCache(entries_max=entries_max, ttl_seconds=TTL, clock=self.clock.monotonic)

    def fill(
        self,
        key: Key = KEY,
        version: int = 1,
        value: Any = None,
        *,
        ticket: int | None = None,
        read_at: float | None = None,
        ttl_seconds: float = TTL,
        tags: tuple[str, ...] = (),
    ) -> bool:
        """Fill with a value that names its key and version, read just now and overtaken by nothing."""
        return self.local.fill(
            key,
            (key, version) if value is None else value,
            version,
            ticket=self.local.ticket() if ticket is None else ticket,
            read_at=self.clock.monotonic() if read_at is None else read_at,
            ttl_seconds=ttl_seconds,
            tags=tags,
        )

    def missing(self, key: Key = KEY, *, ticket: int | None = None, read_at: float | None = None) -> bool:
        """Fill with "no such row"."""
        return self.fill(key, 0, MISSING, ticket=ticket, read_at=read_at)

    def held(self, key: Key = KEY) -> Any:
        """The value of the live entry, looked at without counting or renewing; None if there is none."""
        entry = self.local.shelf(key.kind).entry(key.id)
        return None if entry is None else entry.value

    def peek(self, key: Key = KEY) -> Any:
        """What the hot path answers."""
        return self.local.shelf(key.kind).peek(key.id)

    def fill_all(self, keys: Sequence[Key]) -> None:
        """Fill keys one after the other, a second apart."""
        for key in keys:
            self.fill(key)
            self.clock.advance(1)
