"""The way of a read past L1's fast path (rules R3, R5).

A hit of L1 under a valid lease never comes here. When the lease has run out, all readers wait for one poll of the feed,
begun after they came; if it succeeds, L1 counts again. If it fails, each key is asked of L3 itself. If L3 is away
too, a caller who allowed it gets what L1 last held, labelled as stale; everybody else gets an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from holdfast.clock import Clock
from holdfast.entry import Consistency, Tier
from holdfast.errors import StaleUnavailable, TierError
from holdfast.flights import Resolved
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.lease import NEVER, FeedLease
from holdfast.keys import Key
from holdfast.protocols import Row, Storage
from holdfast.resolution import Resolver
from holdfast.tiers.l1_local import Shelf

PATIENCE_SECONDS: Final = 1.0
"""How long a reader who takes a stale answer waits for a fresh one."""
HURRY_SECONDS: Final = 0.1


class Reads(Protocol):
    """What a collection reads by: `Reader`, or a scope's way of using it. Answers hold committed values."""

    async def read(self, key: Key, consistency: Consistency, max_stale: float | None = None) -> Resolved:
        """See `Reader.read`."""
        ...

    async def read_many(
        self, keys: Sequence[Key], consistency: Consistency, max_stale: float | None = None
    ) -> dict[Key, Resolved]:
        """See `Reader.read_many`."""
        ...

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """See `Reader.scan`."""
        ...


class Reader:
    """Answers reads of all kinds; one per server.

    Args:
        shelves: L1's, by kind.
        max_stale: by kind, how old an answer may be while L3 is away if the call does not say, seconds; 0: refuse.
    """

    def __init__(
        self,
        *,
        shelves: Mapping[str, Shelf],
        resolver: Resolver,
        l3: Storage,
        lease: FeedLease,
        feed: ChangeFeed,
        clock: Clock,
        max_stale: Mapping[str, float],
    ) -> None:
        self._shelves = shelves
        self._resolver = resolver
        self._l3 = l3
        self._lease = lease
        self._feed = feed
        self._clock = clock
        self._max_stale = max_stale

    async def ready(self, kind: str) -> bool:
        """Whether L1 may answer for a kind, after a poll if the lease has run out."""
        if self._trusted(kind):
            return True
        if kind in self._lease.untrusted:
            return False
        return await self._feed.refresh() and self._trusted(kind)

    async def read(self, key: Key, consistency: Consistency, max_stale: float | None = None) -> Resolved:
        """The value of a key.

        Raises:
            TierError: L3 was needed and could not answer.
            StaleUnavailable: and what L1 holds is older than may be answered.
        """
        self._resolver.check_open()
        if consistency is Consistency.BOUNDED and await self.ready(key.kind) and (held := self._held(key)) is not None:
            return held
        fallback: Resolved | None = None
        try:
            load = self._load(key, consistency)
            # A strong read is nobody else's: cancelled in time, it is not sent.
            if consistency is Consistency.STRONG:
                return await load
            fallback, patience = self._fallback(key, max_stale)
            if fallback is None:
                return await asyncio.shield(load)
            await asyncio.wait([load], timeout=patience)
            return load.result() if load.done() else fallback
        except TierError as fault:
            return await self._instead(key, consistency, max_stale, fault, was_held=fallback is not None)

    async def read_many(
        self, keys: Sequence[Key], consistency: Consistency, max_stale: float | None = None
    ) -> dict[Key, Resolved]:
        """The values of several keys of one kind; raises like `read`."""
        self._resolver.check_open()
        found: dict[Key, Resolved] = {}
        if consistency is Consistency.BOUNDED and await self.ready(keys[0].kind):
            found = {key: held for key in keys if (held := self._held(key)) is not None}
        loads: dict[Key, asyncio.Future[Resolved]] = {}
        fallbacks: dict[Key, Resolved] = {}
        try:
            for key in keys:
                if key not in found:
                    loads[key] = self._load(key, consistency)
            if loads and consistency is not Consistency.STRONG:
                fallbacks = await self._wait(loads, max_stale)
            if unanswered := [load for key, load in loads.items() if key not in fallbacks]:
                await asyncio.wait(unanswered)
        finally:
            if consistency is Consistency.STRONG:  # what this caller no longer waits for; other flights are shared
                for load in loads.values():
                    load.cancel()
        for key, load in loads.items():
            try:
                found[key] = load.result() if load.done() else fallbacks[key]
            except TierError as fault:
                found[key] = await self._instead(key, consistency, max_stale, fault, was_held=key in fallbacks)
        return found

    def held_version(self, key: Key) -> int | None:
        """The version that L1 holds, trusted or not, 0 if it knows that there is no row; None: it holds nothing."""
        held = self._shelves[key.kind].entry(key.id)
        return None if held is None else held.version

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows of a kind behind an id, from L3; see `Storage.scan`."""
        return await self._l3.scan(kind, after=after, limit=limit)

    def _held(self, key: Key) -> Resolved | None:
        held = self._shelves[key.kind].entry(key.id)
        if held is None:
            return None
        return Resolved(held.value, held.version, Tier.L1, held.read_at, birth=held.birth)

    def _load(self, key: Key, consistency: Consistency) -> asyncio.Future[Resolved]:
        """The flight of a key that L1 does not answer."""
        if consistency is not Consistency.STRONG:
            return self._resolver.load(key)
        held = self._shelves[key.kind].entry(key.id) if self._trusted(key.kind) else None
        return self._resolver.load_strong(
            key, (held.version, held.value) if held is not None and held.version else None
        )

    def _trusted(self, kind: str) -> bool:
        return self._lease.valid(kind, self._clock.monotonic())

    async def _instead(
        self, key: Key, consistency: Consistency, max_stale: float | None, fault: TierError, *, was_held: bool
    ) -> Resolved:
        """What is answered where L3 was not: what L1 holds, or, if it held something and was emptied, L3 once more.

        A new life of L3 empties L1; who was refused just before has neither, and L3 answers by now.
        """
        if was_held and self._shelves[key.kind].entry(key.id) is None:
            return await asyncio.shield(self._resolver.load(key))
        return self._stale(key, consistency, max_stale, fault)

    def _stale(self, key: Key, consistency: Consistency, max_stale: float | None, fault: TierError) -> Resolved:
        """What L1 last held, if the caller allows its age."""
        held = self._held(key)
        if held is None or consistency is Consistency.STRONG:
            raise fault
        allowed, age = self._allowed(key, max_stale), self._age(key, held)
        if age > allowed:
            raise StaleUnavailable(
                f"{key}: L3 cannot be asked, and what L1 holds was last known to be current {age:.3g} s ago; "
                f"at most {allowed:g} s is allowed here (max_stale)"
            ) from fault
        held.stale = True
        return held

    def _allowed(self, key: Key, max_stale: float | None) -> float:
        return self._max_stale[key.kind] if max_stale is None else max_stale

    def _age(self, key: Key, held: Resolved) -> float:
        """Seconds since a value was last known to be current."""
        # For an untrusted kind the feed does not speak; and a value may be younger than what the feed told last.
        heard = NEVER if key.kind in self._lease.untrusted else self._lease.renewed_at
        return self._clock.monotonic() - max(heard, held.read_at)

    def _fallback(self, key: Key, max_stale: float | None) -> tuple[Resolved | None, float | None]:
        """What L1 may answer if L3 does not, and how long to wait for that; None: as long as it takes.

        An L3 that hangs is found out after half a minute only, when the value may be too old even for this caller.
        """
        allowed = self._allowed(key, max_stale)
        if allowed <= 0 or (held := self._held(key)) is None:
            return None, None
        left = allowed - self._age(key, held)
        if left < HURRY_SECONDS:  # a healthy L3 answers no sooner
            return None, None
        held.stale = True
        return held, min(left, PATIENCE_SECONDS)

    async def _wait(
        self, loads: Mapping[Key, asyncio.Future[Resolved]], max_stale: float | None
    ) -> dict[Key, Resolved]:
        """Wait for answers, and say what L1 may give instead of those that do not come in time."""
        fallbacks: dict[Key, Resolved] = {}
        patience = PATIENCE_SECONDS
        for key in loads:
            held, seconds = self._fallback(key, max_stale)
            if held is not None and seconds is not None:
                fallbacks[key], patience = held, min(patience, seconds)
        if fallbacks:
            await asyncio.wait([loads[key] for key in fallbacks], timeout=patience)
        return fallbacks
