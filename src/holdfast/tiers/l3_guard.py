"""Cuts L3 off when it does not answer: calls fail at once, and those that wait are let go.

How long a statement takes says nothing: it may wait for a lock, or read a large table. So what counts is whether L3
answers at all. If a connection could not be opened or was lost, or statements run and nothing was heard for a while,
L3 is asked for a sign of life by a connection of the guard's own. If that fails too, and nobody has heard anything from
L3 meanwhile, it is cut off. Then only the guard asks, until it is answered, or somebody else is: the change feed, which
asks by a connection of its own, or a call that was under way. An L3 that gives no connections is as good as one that
says nothing, unless some are open still.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import asyncpg

from holdfast.errors import TierError, TierUnavailable
from holdfast.protocols.guards import TierHealth
from holdfast.recovery.breaker import Breaker, BreakerRules, Circuit
from holdfast.recovery.pacing import AdaptiveTimeout
from holdfast.tiers.l3_errors import mapped

logger = logging.getLogger("holdfast")
RULES: Final = BreakerRules(pause_seconds=0.25, pause_max_seconds=1.0, probes=1, probe_seconds=5.0)
SLOW_SECONDS: Final = 0.2
"""If calls wait and nothing was heard for so long, L3 is asked."""
TIMEOUT_LEAST_SECONDS: Final = 0.25
TIMEOUT_MOST_SECONDS: Final = 0.4
CONNECT_SECONDS: Final = 0.6
"""More, to connect first; a server that is gone refuses that at once."""
SILENT_SECONDS: Final = 0.8
"""Cut off and silent for so long, L3 is not waited for any more by calls that it was sent."""
LATE_SECONDS: Final = 0.1
"""If the guard comes to itself so late, this process stood still, and not hearing L3 says nothing."""

Opener = Callable[[], Awaitable["asyncpg.Connection[Any]"]]


class Waiting(Protocol):
    """Calls that wait for L3: a pool."""

    def waits_since(self) -> float | None:
        """Since when the oldest does, monotonic seconds; None: none does."""
        ...

    def refuse_waiting(self) -> None:
        """Let those go, with an error, that have no connection yet."""
        ...

    def end_lent(self) -> None:
        """End the connections that are lent; their calls fail."""
        ...

    def is_connected(self) -> bool:
        """Whether any of their connections is open."""
        ...


class PostgresGuard:
    """`StorageGuard` over the pools of one server.

    Args:
        opener: opens the connection by which L3 is asked.
    """

    def __init__(self, opener: Opener, *, monotonic: Callable[[], float]) -> None:
        self._opener = opener
        self.monotonic = monotonic
        self._pools: list[Waiting] = []
        self._breaker = Breaker(RULES)
        self._timeout = AdaptiveTimeout(TIMEOUT_LEAST_SECONDS, TIMEOUT_MOST_SECONDS)
        self._connection: asyncpg.Connection[Any] | None = None
        self._heard_at = monotonic()
        self._doubted = False
        self._fault: Exception | None = None
        self._ending: asyncio.TimerHandle | None = None

    async def connect(self) -> None:
        """Connect, so that the time for it is not missing when L3 must be asked.

        Raises:
            TierUnavailable: that failed.
        """
        self._connection = await self._opener()

    def join(self, pool: Waiting) -> None:
        """Guard a pool's calls too."""
        self._pools.append(pool)

    @property
    def answers(self) -> bool:
        """Whether calls are let through."""
        return self._breaker.circuit is Circuit.CLOSED

    @property
    def in_doubt(self) -> bool:
        """Whether it is cut off, or lost a connection, or says nothing while calls wait."""
        if self._doubted or not self.answers:
            return True
        long_ago = self.monotonic() - SLOW_SECONDS
        return self._heard_at < long_ago and any(
            (since := pool.waits_since()) is not None and since < long_ago for pool in self._pools
        )

    def health(self) -> TierHealth:
        """See `TierGuard.health`."""
        return TierHealth.of({"postgresql": self._breaker.circuit}, None if self._fault is None else str(self._fault))

    def admit(self) -> None:
        """Refuse a call while L3 is cut off.

        Raises:
            TierUnavailable: it is.
        """
        if self._breaker.circuit is not Circuit.CLOSED:
            raise TierUnavailable(f"L3: it is cut off, for it did not answer ({self._fault})") from self._fault

    def heard(self) -> None:
        """See `StorageGuard.heard`.

        What L1 held may be void by what was heard: it must be possible to ask for it, and not only with the next probe.
        """
        self._heard_at = self.monotonic()
        if self._breaker.circuit is not Circuit.CLOSED:
            self._breaker.mend(self._heard_at)
            self._let_lent_be()
            logger.warning("L3 answers again")

    def lost(self) -> None:
        """A connection could not be opened, or was lost in the middle of a call: perhaps L3 is gone."""
        self._doubted = True

    async def check(self) -> None:
        """Ask for a sign of life, unless that was done just now."""
        began = self.monotonic()
        if (permit := self._breaker.permit(began)) is None:
            return
        timeout = self._timeout.seconds + (0.0 if self._is_connected() else CONNECT_SECONDS)
        self._doubted = False
        try:
            async with asyncio.timeout(timeout):
                await self._ask()
        except TierError as fault:
            self._unanswered(permit, began, fault)
        except TimeoutError:
            if self.monotonic() - began > timeout + LATE_SECONDS and self.answers:
                self._doubted = True  # this process stood still; the next attempt tells
            else:
                self._timeout.expired()
                self._unanswered(permit, began, TierUnavailable(f"L3: no sign of life within {timeout:g} s"))
        else:
            self._answered(began)

    async def close(self) -> None:
        """Disconnect; may be called twice."""
        self._forget()
        self._let_lent_be()

    async def _ask(self) -> None:
        with mapped("asking for a sign of life"):
            try:
                if self._connection is None or not self._is_connected():
                    self._connection = await self._opener()
                await self._connection.fetchval("SELECT 1")
            except BaseException:
                self._forget()  # what was given up may still be running
                raise

    def _is_connected(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    def _answered(self, began: float) -> None:
        self._timeout.observe(self.monotonic() - began)
        self.heard()

    def _unanswered(self, permit: int, began: float, fault: TierError) -> None:
        now = self.monotonic()
        if not self.answers:
            self._breaker.ended(permit, now, well=False)
        elif self._heard_at < began and isinstance(fault, TierUnavailable) and not self._is_just_full(fault):
            self._fault = fault
            self._breaker.trip(now)
            logger.warning("L3 is cut off, for it does not answer: %s", fault)
            for pool in self._pools:
                pool.refuse_waiting()
            silent = now - self._heard_at
            self._ending = asyncio.get_running_loop().call_later(max(0.0, SILENT_SECONDS - silent), self._end_lent)

    def _is_just_full(self, fault: TierError) -> bool:
        """L3 has no connection left for the guard, but calls have some: cut off, they would not even use these."""
        is_full = isinstance(fault.__cause__, asyncpg.TooManyConnectionsError)
        return is_full and any(pool.is_connected() for pool in self._pools)

    def _end_lent(self) -> None:
        self._ending = None
        for pool in self._pools:
            pool.end_lent()

    def _let_lent_be(self) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            ending.cancel()

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
