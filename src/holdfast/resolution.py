"""Cache miss resolution: L1 -> L2 -> L3, one flight per key, guarded fills.

The callers of one moment share a round trip per L2 node and one L3 query. What closes which race:

* A change, a fence or a write detaches the key's flight (`flights`): callers that come after it start their own
  (rule R4). A `STRONG` read joins no flight at all; it enters the next L3 batch, whose query is not yet begun.
* A flight's ticket and L2's miss are taken before it reads; fills show them, and are refused when overtaken (R1, C2).
* L2 is asked only while the feed lease holds, and believed only by what the fence map knows when the answer comes (C3).
* L3 tells its identity with every batch. A new incarnation empties L1 before anything read under it is handed out.
* Of several servers that miss a key in L2 at once, one takes the lease to load it; the others look again for a while,
  once, and then load it themselves (R4): a key that is written all the time keeps nobody waiting.
* What of L2 does not verify is withdrawn by compare before it is filled anew, under L3's version (C5).

An error of L2 is counted as one, never as a miss, and the read goes on to L3. An error of L3 reaches every caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from holdfast.clock import Clock
from holdfast.entry import MISSING, Tier
from holdfast.errors import Closed, CorruptDocument, HoldfastError, Overloaded, SchemaTooNew, WrongEventLoop
from holdfast.flights import Flight, Flights, Resolved, known_versions, leases_of
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.fence_map import FenceMap
from holdfast.invalidation.key_history import KeyHistory
from holdfast.invalidation.lease import FeedLease
from holdfast.invalidation.sampling import AnswerSampler
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.metrics.counters import Counters
from holdfast.protocols import (
    Absent,
    Cached,
    Coherence,
    Failed,
    FaultSink,
    Fill,
    Loaded,
    Row,
    SharedCache,
    Source,
    Storage,
    Withdrawal,
)
from holdfast.recovery.pacing import RetryBudget
from holdfast.row_decoding import RowDecoder
from holdfast.tiers.batching import Batcher
from holdfast.tiers.l1_local import LocalCache

BATCH_KEYS_MAX: Final = 256
OVERLAP_SECONDS: Final = 0.002
L2_BATCHES_MAX: Final = 16
L2_LANES: Final = 2
FILLS_MAX: Final = 32
"""Batches of fills on their way to L2; further ones are left out."""
LOOKS_MAX: Final = 1000
"""However long a lease, and whatever the clock does, no flight asks L2 more often than this."""
LOOK_AGAIN_SECONDS: Final = 0.004
"""How long a flight waits before it asks L2 again for what another server loads."""


class Resolver:
    """Loads keys through the tiers.

    Args:
        caches: the L1 cache of each kind.
        l3_batches_max: L3 queries of this resolver at once.
        history: is told of each fill.
        sampler: is shown each hit of L2.
        faults: is told of tiers that do not answer, and of what they hold that does not verify.

    Attributes:
        decode, stored: the document in a row, wherever that comes from, and as L3 holds it; see `RowDecoder`.
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, Kind[Any]],
        caches: Mapping[str, LocalCache],
        l2: SharedCache,
        l3: Storage,
        flights: Flights,
        view: FenceMap,
        lease: FeedLease,
        applier: ChangeApplier,
        clock: Clock,
        counters: Counters,
        l3_batches_max: int,
        history: KeyHistory,
        sampler: AnswerSampler,
        faults: FaultSink,
        retries: RetryBudget,
    ) -> None:
        self._kinds = kinds
        rows = RowDecoder(kinds, faults)
        self.decode, self.stored = rows.decode, rows.stored
        self._faults = faults
        self._retries = retries
        self._caches = caches
        self._l2 = l2
        self._l3 = l3
        self._flights = flights
        self._view = view
        self._lease = lease
        self._applier = applier
        self._clock = clock
        self._counters = counters
        self._history = history
        self._sampler = sampler
        self._loop = asyncio.get_running_loop()
        self._filling: set[asyncio.Task[None]] = set()
        self._looking_again: dict[Flight, asyncio.TimerHandle] = {}
        self.closing = False
        self._skips_l2 = False
        self._l2_batcher: Batcher[Flight] = Batcher(
            self._ask_l2,
            items_max=BATCH_KEYS_MAX,
            batches_max=L2_BATCHES_MAX,
            overlap_seconds=OVERLAP_SECONDS,
            lanes=L2_LANES,
            wanted=_wanted,
        )
        self._l3_batcher: Batcher[Flight] = Batcher(
            self._ask_l3,
            items_max=BATCH_KEYS_MAX,
            batches_max=l3_batches_max,
            overlap_seconds=OVERLAP_SECONDS,
            wanted=_wanted,
        )

    def load(self, key: Key) -> asyncio.Future[Resolved]:
        """Join or start the flight of a key. Await it shielded: it is shared.

        Raises:
            Overloaded: too many flights wait already.
        """
        self.check_open()
        now = self._clock.monotonic()
        trusted = self._lease.valid(key.kind, now)
        flight = self._flights.find(key)
        # While the feed is not heard no change detaches a flight: an old one may bring too old a value.
        if flight is None or (not trusted and flight.began < now - self._lease.bound(key.kind)):
            flight = self._new_flight(key)
            batcher = self._l2_batcher if trusted and not self._skips_l2 else self._l3_batcher
            batcher.add(flight)
            self._flights.offer(flight)  # not before: one that was refused would be waited for in vain
        return flight.future

    def load_strong(self, key: Key, known: tuple[int, Any] | None = None) -> asyncio.Future[Resolved]:
        """Read a key from L3 by a query that begins after this call. Cancelled before that, it is not sent.

        Args:
            known: a version and its value: if L3 has the same version, that value is the answer and is not sent again.

        Raises:
            Overloaded: too many flights wait already.
        """
        self.check_open()
        flight = self._new_flight(key)
        flight.known, flight.coherence = known, self._view.coherence
        self._l3_batcher.add(flight)
        return flight.future

    def skip_l2(self, skips: bool) -> None:  # noqa: FBT001 - what is told, again and again, is no option
        """Have reads go to L3 at once, which the bounds on its batches and on what waits for them protect; or not."""
        self._skips_l2 = skips

    async def drain(self) -> None:
        """Wait for the flights under way, fills included."""
        for flight, timer in list(self._looking_again.items()):
            timer.cancel()
            self._look_again(flight)
        await self._l2_batcher.drain()
        await self._l3_batcher.drain()
        while self._filling:
            await asyncio.wait(self._filling)

    def check_open(self) -> None:
        """Refuse a call that this store could not bring to an end.

        Raises:
            Closed: the store is being closed.
            WrongEventLoop: the caller runs in another loop, where this one's futures cannot be awaited.
        """
        if self.closing:
            raise Closed("the store is closed")
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoop("this store was opened in another event loop: call connect() in this one too")

    def _new_flight(self, key: Key) -> Flight:
        future: asyncio.Future[Resolved] = asyncio.get_running_loop().create_future()
        return Flight(key, future, self._caches[key.kind].ticket())

    def _begin(self, flights: list[Flight]) -> float:
        now = self._clock.monotonic()
        for flight in flights:
            flight.began = min(flight.began, now)
        return now

    async def _ask_l2(self, flights: list[Flight]) -> None:
        try:
            await self._read_l2(flights)
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is the callers' to see: no flight may be lost
            self._settle_all(flights, fault)

    async def _read_l2(self, flights: list[Flight]) -> None:
        started = self._begin(flights)
        answers = await self._l2.read([flight.key for flight in flights], self._view)
        now = self._clock.monotonic()
        self._counters.l2.observe(now - started, len(flights))
        for flight in flights:
            self._judge_l2(flight, answers[flight.key], now)

    def _judge_l2(self, flight: Flight, answer: Cached | Absent | Failed, now: float) -> None:
        if isinstance(answer, Cached) and self._lease.valid(flight.key.kind, now):
            try:
                value = self.decode(flight.key, answer.row)
            except (CorruptDocument, SchemaTooNew) as fault:
                # Its checksum held, so it was stored that way: L3 decides.
                flight.note_bad(answer.row.version if isinstance(fault, CorruptDocument) else None)
                answer = Failed(fault, evidence=answer.row.body)
            else:
                self._counters.l2.hits += 1
                read_at = now - answer.age_seconds
                resolved = Resolved(value, answer.row.version, Tier.L2, read_at, birth=answer.row.birth)
                self._sampler.answered(flight.key, answer.row, resolved.read_at)
                self._fill_l1(flight, resolved, answer.remaining_seconds, now, answer.tags, offered=False)
                self._settle(flight, resolved)
                return
        if isinstance(answer, Failed):
            self._counters.l2.errors += 1
            self._faults.report(answer.error, Source.L2, key=flight.key, evidence=answer.evidence)
            if answer.absent is not None:
                flight.note_bad(0, answer.evidence)
                answer = answer.absent
        else:
            self._counters.l2.misses += 1
        if isinstance(answer, Absent):
            if self._waits_for_another(flight, answer.leased_seconds, now):
                return
            flight.absent = answer
        self._add(self._l3_batcher, flight)

    def _waits_for_another(self, flight: Flight, leased_seconds: float, now: float) -> bool:
        """Another server loads the key: ask L2 again until its lease ends, but no second lease is waited for."""
        if not leased_seconds or self.closing:
            return False
        if not flight.lease_until:
            flight.lease_until = now + leased_seconds
        flight.looks += 1
        if now >= flight.lease_until or flight.looks > LOOKS_MAX:
            return False
        self._looking_again[flight] = self._loop.call_later(
            min(LOOK_AGAIN_SECONDS, flight.lease_until - now), self._look_again, flight
        )
        return True

    def _look_again(self, flight: Flight) -> None:
        del self._looking_again[flight]
        self._add(self._l2_batcher, flight)

    def _add(self, batcher: Batcher[Flight], flight: Flight) -> None:
        try:
            batcher.add(flight)
        except Overloaded as fault:  # this flight's own fault: the others of its batch have been answered, or will be
            self._settle(flight, fault)
            self._offer(leases_of([flight]), self._view.coherence)

    async def _ask_l3(self, flights: list[Flight]) -> None:
        try:
            loaded, fills = await self._read_l3(flights)
        except Exception as fault:  # noqa: BLE001 - as above
            self._counters.l3.errors += 1
            if not isinstance(fault, Overloaded):  # that slows callers down, and there is nothing to recover from
                self._faults.report(fault, Source.L3)
            self._settle_all(flights, fault)
            self._offer(leases_of(flights), self._view.coherence)
        else:
            # Its own, not what is known by now: a generation that rose after its snapshot must void what it fills.
            self._offer(fills, loaded.coherence, [flight.bad for flight in flights if flight.bad is not None])

    def _offer(self, fills: list[Fill], coherence: Coherence, bad: Sequence[Withdrawal] = ()) -> None:
        """Fill L2 in the background: it can do without, and L3's readers must not wait for it."""
        if (fills or bad) and len(self._filling) < FILLS_MAX:
            task = self._loop.create_task(self._fill_l2(fills, bad, coherence))
            self._filling.add(task)
            task.add_done_callback(self._filling.discard)

    async def _fill_l2(self, fills: list[Fill], bad: Sequence[Withdrawal], coherence: Coherence) -> None:
        if bad:  # first: what cannot be read may look as if it were newer than all that is filled (rule C5)
            await self._l2.withdraw(bad, coherence)
        stored = await self._l2.fill(fills, coherence) if fills else 0
        self._counters.l2.fills += stored

    async def _read_l3(self, flights: list[Flight]) -> tuple[Loaded, list[Fill]]:
        """Settle flights with L3's answer; returns it, and what L2 should be offered."""
        started = self._begin(flights)
        keys, incarnation = list(dict.fromkeys(flight.key for flight in flights)), self._view.coherence.incarnation
        loaded = await self._l3.load(keys, known := known_versions(flights, incarnation))
        if known and (
            loaded.coherence.incarnation != incarnation
            or not all(self._is_still_known(flight, loaded.rows.get(flight.key)) for flight in flights)
        ):
            # A crash, or an older copy of L3, may have drawn the same versions again: what was known then says nothing.
            for flight in flights:
                flight.known = None
            loaded = await self._l3.load(keys)
        now = self._clock.monotonic()
        self._retries.note_answered()
        self._counters.l3.observe(now - started, len(flights))
        self._applier.adopt(loaded.coherence, started)
        fills = (self._judge_l3(flight, loaded.rows.get(flight.key), started, now) for flight in flights)
        return loaded, [fill for fill in fills if fill is not None]

    def _is_still_known(self, flight: Flight, row: Row | None) -> bool:
        """Whether L1 still holds, and may answer with, what a strong read knew and L3 therefore did not send."""
        if flight.known is None or row is None or row.version != flight.known[0]:
            return True
        held = self._caches[flight.key.kind].shelf(flight.key.kind).entry(flight.key.id)
        trusted = self._lease.valid(flight.key.kind, self._clock.monotonic())
        return trusted and held is not None and held.version == row.version and held.value is flight.known[1]

    def _judge_l3(self, flight: Flight, row: Row | None, started: float, now: float) -> Fill | None:
        """Settle a flight with L3's answer, asked for at `started`; returns what L2 should be offered."""
        if flight.bad is not None:
            flight.fence_bad(row, self._view.fenced(flight.key))
        kind = self._kinds[flight.key.kind]
        ttl_seconds = kind.caching.l2_ttl_seconds
        value: Any = MISSING
        tags: tuple[str, ...] | None = None
        if row is not None:
            try:
                value = self._value(flight, row)
            except HoldfastError as fault:
                self._settle(flight, fault)
                return flight.lease()  # or each reader would wait for its end
            tags = kind.cached_tags_of(flight.key, value)
        version = row.version if row is not None else 0
        self._counters.l3.hits += row is not None
        self._counters.l3.misses += row is None
        resolved = Resolved(value, version, Tier.L3, started, birth=row.birth if row is not None else 0)
        self._fill_l1(flight, resolved, ttl_seconds, now, tags, offered=flight.absent is not None and row is not None)
        self._settle(flight, resolved)
        return Fill(flight.key, row, ttl_seconds, flight.absent, tags) if flight.absent is not None else None

    def _value(self, flight: Flight, row: Row) -> Any:
        if flight.known is not None and flight.known[0] == row.version:
            return flight.known[1]
        return self.stored(flight.key, row)

    def _fill_l1(
        self,
        flight: Flight,
        read: Resolved,
        ttl_seconds: float,
        now: float,
        tags: tuple[str, ...] | None,
        *,
        offered: bool,
    ) -> None:
        key, version = flight.key, read.version
        held = self._caches[key.kind].fill(
            key,
            read.value,
            version,
            ticket=flight.ticket,
            read_at=read.read_at,
            ttl_seconds=ttl_seconds,
            tags=tags or (),
            birth=read.birth,
        )
        self._history.filled(now, key, version, read.tier, held=held, offered=offered)

    def now(self) -> float:
        """The server's clock, monotonic seconds."""
        return self._clock.monotonic()

    def _settle_all(self, flights: list[Flight], fault: Exception) -> None:
        for flight in flights:
            self._settle(flight, fault)

    def _settle(self, flight: Flight, result: Resolved | Exception) -> None:
        self._flights.settle(flight, result)


def _wanted(flight: Flight) -> bool:
    """A strong read belongs to its caller, who may have cancelled it."""
    return not flight.future.done()
