"""Cuts L3 off when it does not answer: calls fail at once, and those that wait are let go.

How long a statement takes says nothing: it may wait for a lock, or read a large table. So what counts is whether L3
answers at all. If a connection could not be opened or was lost, or statements run and nothing was heard for a while,
L3 is asked for a sign of life by a connection of the guard's own, and if that says nothing by a new one, for the first
was idle, and a network forgets idle connections. If that fails too, and nobody has heard anything from L3 meanwhile, it
is cut off. Then only the guard asks, and takes its time: a new connection takes long on a slow link, and nobody waits
for it. It is let through when the guard is answered, or somebody else is: the change feed, which asks by a connection
of its own, or a call that was under way. An L3 that gives no connections is as good as one that says nothing, unless
some are open still.
"""

from __future__ import annotations

import asyncio
import contextlib
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
SILENCE_SECONDS: Final = 0.7
"""How long L3 may say nothing after it was asked, before it is not waited for any more by calls that it was sent."""
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
        opener: opens the connection by which L3 is asked, within its own time.
        silence_seconds: how long L3 may say nothing after it was asked; what follows from it is said below.

    Attributes:
        opened: see `TierGuard.opened`.
    """

    def __init__(
        self, opener: Opener, *, monotonic: Callable[[], float], silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._opener = opener
        self.monotonic = monotonic
        self._silence = silence_seconds
        # If calls wait and nothing was heard for so long, L3 is asked.
        self._slow = silence_seconds / 4
        # So long the held connection may take to answer; the rest of the time is that of a new one.
        self._timeout = AdaptiveTimeout(silence_seconds / 4, silence_seconds * 3 / 8)
        # Then it is cut off: before calls are given up that were sent, so that a short silence does not cost them.
        self._patience = silence_seconds * 3 / 4
        # So long L3 may take that is cut off, where a connection takes its time; of one that is lost more is no help.
        self._probe_seconds = silence_seconds * 8
        self._breaker = Breaker(
            BreakerRules(
                pause_seconds=0.25, pause_max_seconds=1.0, probes=1, probe_seconds=self._probe_seconds + LATE_SECONDS
            )
        )
        self.opened = 0
        self._pools: list[Waiting] = []
        self._connection: asyncpg.Connection[Any] | None = None
        self._checking = asyncio.Lock()
        self._probing: asyncio.Timeout | None = None
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
        long_ago = self.monotonic() - self._slow
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
            self._breaker.mend()
            self._let_lent_be()
            if self._probing is not None and not self._probing.expired():
                self._probing.reschedule(asyncio.get_running_loop().time())  # whoever asks next must not wait for it
            logger.warning("L3 answers again")

    def lost(self) -> None:
        """A connection could not be opened, or was lost in the middle of a call: perhaps L3 is gone."""
        self._doubted = True

    async def check(self) -> None:
        """Ask for a sign of life, unless that was done just now."""
        async with self._checking:  # a connection answers one at a time
            began = self.monotonic()
            if (permit := self._breaker.permit(began)) is not None:
                await self._check(permit, began)

    async def _check(self, permit: int, began: float) -> None:
        timeout = self._patience if self.answers else self._probe_seconds
        self._doubted = False
        try:
            async with asyncio.timeout(timeout) as limit:
                self._probing = None if self.answers else limit
                try:
                    await self._ask()
                finally:
                    self._probing = None  # before the limit ends, which must not be moved any more then
        except TierError as fault:
            self._unanswered(permit, began, fault)
        except TimeoutError:
            if self.monotonic() - began > timeout + LATE_SECONDS and self.answers:
                self._doubted = True  # this process stood still; the next attempt tells
            else:
                self._unanswered(permit, began, TierUnavailable(f"L3: no sign of life within {timeout:g} s"))
        except asyncio.CancelledError:
            if not self.answers:
                self._breaker.ended(permit, self.monotonic(), well=False)  # or nobody may probe for as long as this one
            raise
        else:
            self.heard()

    async def close(self) -> None:
        """Disconnect; may be called twice."""
        self._forget()
        self._let_lent_be()

    async def _ask(self) -> None:
        """By the held connection; or, if there is none, or it is lost or half open, by a new one."""
        if self._connection is not None and not self._connection.is_closed():
            with contextlib.suppress(TierUnavailable):
                await self._ask_within(self._timeout.seconds)
                return
        await self._ask_within(None)

    async def _ask_within(self, seconds: float | None) -> None:
        with mapped("asking for a sign of life"):
            try:
                async with asyncio.timeout(seconds):
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await self._opener()
                    began = self.monotonic()
                    await self._connection.fetchval("SELECT 1")
            except BaseException as fault:
                self._forget()  # what was given up may still be running
                if isinstance(fault, TimeoutError):
                    self._timeout.expired()
                raise
            self._timeout.observe(self.monotonic() - began)

    def _unanswered(self, permit: int, began: float, fault: TierError) -> None:
        now = self.monotonic()
        if not isinstance(fault, TierUnavailable) or self._is_just_full(fault):
            self.heard()  # it has answered
        elif not self.answers:
            self._breaker.ended(permit, now, well=False)
        elif self._heard_at < began:
            self._fault = fault
            self._breaker.trip(now)
            self.opened += 1
            logger.warning("L3 is cut off, for it does not answer: %s", fault)
            for pool in self._pools:
                pool.refuse_waiting()
            # Nobody had asked before: what was not heard then says nothing.
            left = max(0.0, began + self._silence - now)
            self._ending = asyncio.get_running_loop().call_later(left, self._end_lent)

    def _is_just_full(self, fault: TierError) -> bool:
        """L3 has no connection left for the guard, but calls have some, which would not even be used if it was away."""
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
