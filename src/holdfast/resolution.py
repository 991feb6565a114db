"""Cache miss resolution: L1 -> L2 -> L3, one flight per key, guarded fills.

A flight is one load of one key that any number of callers wait for. The callers of one moment share a round
trip per L2 node and one L3 query. A flight belongs to nobody: it goes on when its callers are cancelled, and
its result still fills the tiers.

What closes which race:

* A write detaches the key's flight: callers that come after the write start their own, which began after it
  (rule R4). A `STRONG` read joins no flight at all; it enters the next L3 batch, whose query is not yet
  begun.
* A flight's ticket and L2 node time are taken before it reads; fills show them, and are refused when
  overtaken (R1, C2).
* L2 is believed only under the incarnation and generations known now; L3 tells both with every batch. A new
  incarnation empties L1 before anything read under it is handed out.
* A key whose fence has not reached L2 yet is read past L2.

An error of L2 is counted as an error and the read goes on to L3; it is never a miss. An error of L3 reaches
every caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from holdfast.clock import Clock
from holdfast.documents import decode
from holdfast.entry import MISSING, Missing, Tier
from holdfast.errors import Closed, CorruptDocument, HoldfastError, Overloaded, SchemaTooNew, WrongEventLoop
from holdfast.invalidation.fences import FenceSender
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.metrics.counters import Counters
from holdfast.protocols import Absent, Cached, Coherence, Failed, Fill, Row, SharedCache, Storage
from holdfast.tiers.batching import Batcher
from holdfast.tiers.l1_local import LocalCache

BATCH_KEYS_MAX: Final = 256
OVERLAP_SECONDS: Final = 0.002
L2_BATCHES_MAX: Final = 16
FILLS_MAX: Final = 32
"""Batches of fills on their way to L2; further ones are left out."""


class Resolved:
    """The result of a flight: a document (or MISSING), its version, where it came from and when it was read from L3."""

    __slots__ = ("read_at", "tier", "value", "version")

    def __init__(self, value: Any | Missing, version: int, tier: Tier, read_at: float) -> None:
        self.value = value
        self.version = version
        self.tier = tier
        self.read_at = read_at


class Flight:
    """One load of one key.

    Attributes:
        future: settled once with `Resolved` or an error.
        ticket: of L1, taken before anything was read.
        node_time_ms: of L2's miss; None when L2 was not asked, and then nothing is filled there.
    """

    __slots__ = ("coherence", "future", "key", "node_time_ms", "ticket")

    def __init__(self, key: Key, future: asyncio.Future[Resolved], ticket: int) -> None:
        self.key = key
        self.future = future
        self.ticket = ticket
        self.node_time_ms: int | None = None
        self.coherence: Coherence | None = None


class Resolver:
    """Loads keys through the tiers.

    Args:
        caches: the L1 cache of each kind.
        l3_batches_max: L3 queries of this resolver at once.
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, Kind[Any]],
        caches: Mapping[str, LocalCache],
        l2: SharedCache,
        l3: Storage,
        fences: FenceSender,
        coherence: Coherence,
        clock: Clock,
        counters: Counters,
        l3_batches_max: int,
    ) -> None:
        self._kinds = kinds
        self._caches = caches
        self._l2 = l2
        self._l3 = l3
        self._fences = fences
        self._clock = clock
        self._counters = counters
        self._flights: dict[Key, Flight] = {}
        self.coherence = coherence
        self._adopted_at = clock.monotonic()
        self._loop = asyncio.get_running_loop()
        self._filling: set[asyncio.Task[None]] = set()
        self.closing = False
        self._l2_batcher: Batcher[Flight] = Batcher(
            self._ask_l2,
            items_max=BATCH_KEYS_MAX,
            batches_max=L2_BATCHES_MAX,
            overlap_seconds=OVERLAP_SECONDS,
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
        flight = self._flights.get(key)
        if flight is None:
            flight = self._new_flight(key)
            batcher = self._l3_batcher if key in self._fences.pending else self._l2_batcher
            batcher.add(flight)
            self._flights[key] = flight  # not before: one that was refused would be waited for in vain
        return flight.future

    def load_strong(self, key: Key) -> asyncio.Future[Resolved]:
        """Read a key from L3 by a query that begins after this call. Cancelled before that, it is not sent.

        Raises:
            Overloaded: too many flights wait already.
        """
        self.check_open()
        flight = self._new_flight(key)
        self._l3_batcher.add(flight)
        return flight.future

    def detach(self, key: Key) -> None:
        """Let later callers start a flight of their own: something newer than what this one may bring exists."""
        self._flights.pop(key, None)

    async def drain(self) -> None:
        """Wait for the flights under way, fills included."""
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

    async def _ask_l2(self, flights: list[Flight]) -> None:
        try:
            await self._read_l2(flights)
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is the callers' to see: no flight may be lost
            self._settle_all(flights, fault)

    async def _read_l2(self, flights: list[Flight]) -> None:
        coherence, started = self.coherence, self._clock.monotonic()
        answers = await self._l2.read([flight.key for flight in flights], coherence)
        now = self._clock.monotonic()
        self._counters.l2.observe(now - started, len(flights))
        for flight in flights:
            self._judge_l2(flight, answers[flight.key], coherence, now)

    def _judge_l2(self, flight: Flight, answer: Cached | Absent | Failed, coherence: Coherence, now: float) -> None:
        if isinstance(answer, Cached) and coherence is self.coherence:
            try:
                value = self.decode(flight.key, answer.row)
            except (CorruptDocument, SchemaTooNew) as fault:
                answer = Failed(fault)  # its checksum held, so it was stored that way: L3 decides
            else:
                self._counters.l2.hits += 1
                self._fill_l1(flight, value, answer.row.version, now - answer.age_seconds, answer.remaining_seconds)
                self._settle(flight, Resolved(value, answer.row.version, Tier.L2, now - answer.age_seconds))
                return
        if isinstance(answer, Failed):
            self._counters.l2.errors += 1
        else:
            self._counters.l2.misses += 1
        if not isinstance(answer, Cached):
            flight.node_time_ms, flight.coherence = answer.node_time_ms, coherence
        try:
            self._l3_batcher.add(flight)
        except Overloaded as fault:  # this flight's own fault: the others of its batch have been answered, or will be
            self._settle(flight, fault)

    async def _ask_l3(self, flights: list[Flight]) -> None:
        try:
            fills = await self._read_l3(flights)
        except Exception as fault:  # noqa: BLE001 - as above
            self._counters.l3.errors += 1
            self._settle_all(flights, fault)
            return
        if fills and len(self._filling) < FILLS_MAX:  # L2 can do without a fill; L3's readers must not wait for one
            task = self._loop.create_task(self._fill_l2(fills, self.coherence))
            self._filling.add(task)
            task.add_done_callback(self._filling.discard)

    async def _fill_l2(self, fills: list[Fill], coherence: Coherence) -> None:
        stored = await self._l2.fill(fills, coherence)
        self._counters.l2.fills += stored

    async def _read_l3(self, flights: list[Flight]) -> list[Fill]:
        """Settle flights with L3's answer; returns what L2 should be offered."""
        started = self._clock.monotonic()
        loaded = await self._l3.load(list(dict.fromkeys(flight.key for flight in flights)))
        self._counters.l3.observe(self._clock.monotonic() - started, len(flights))
        self.adopt(loaded.coherence, started)
        fills = (self._judge_l3(flight, loaded.rows.get(flight.key), started) for flight in flights)
        return [fill for fill in fills if fill is not None]

    def _judge_l3(self, flight: Flight, row: Row | None, started: float) -> Fill | None:
        """Settle a flight with L3's answer; returns what L2 should be offered."""
        ttl_seconds = self._kinds[flight.key.kind].caching.l2_ttl_seconds
        if row is None:
            self._counters.l3.misses += 1
            self._fill_l1(flight, MISSING, 0, started, ttl_seconds)
            self._settle(flight, Resolved(MISSING, 0, Tier.L3, started))
            return None
        try:
            value = self.decode(flight.key, row)
        except HoldfastError as fault:
            self._settle(flight, fault)
            return None
        self._counters.l3.hits += 1
        self._fill_l1(flight, value, row.version, started, ttl_seconds)
        self._settle(flight, Resolved(value, row.version, Tier.L3, started))
        if flight.node_time_ms is None or flight.coherence is not self.coherence:
            return None
        return Fill(flight.key, row, ttl_seconds, flight.node_time_ms)

    def _fill_l1(self, flight: Flight, value: Any, version: int, read_at: float, ttl_seconds: float) -> None:
        self._caches[flight.key.kind].fill(
            flight.key, value, version, ticket=flight.ticket, read_at=read_at, ttl_seconds=ttl_seconds
        )

    def now(self) -> float:
        """The server's clock, monotonic seconds."""
        return self._clock.monotonic()

    def decode(self, key: Key, row: Row) -> Any:
        """The document in a row.

        Raises:
            CorruptDocument, SchemaTooNew: also for whatever a class's own `upgrade` or `__post_init__` raised.
        """
        try:
            return decode(self._kinds[key.kind].document, row.body, what=str(key))
        except HoldfastError:
            raise
        except Exception as fault:
            raise CorruptDocument(f"{key}: its class could not make it: {type(fault).__name__}: {fault}") from fault

    def adopt(self, coherence: Coherence, started: float) -> None:
        """Take over what L3 said of itself in a call begun at `started`; a new one empties L1 first."""
        if started < self._adopted_at:
            return  # an answer overtaken by one that began later must not bring the past back
        self._adopted_at = started
        if coherence is self.coherence or coherence == self.coherence:
            return
        self.coherence = coherence
        self._counters.flushes += 1
        for cache in set(self._caches.values()):
            cache.flush()

    def _settle_all(self, flights: list[Flight], fault: Exception) -> None:
        for flight in flights:
            self._settle(flight, fault)

    def _settle(self, flight: Flight, result: Resolved | Exception) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        if flight.future.done():
            return
        if isinstance(result, Resolved):
            flight.future.set_result(result)
        else:
            flight.future.set_exception(result)
            flight.future.exception()  # its callers may all have been cancelled: nobody is left to see it then


def _wanted(flight: Flight) -> bool:
    """A strong read belongs to its caller, who may have cancelled it."""
    return not flight.future.done()
