"""Knows how a server is: which tiers answer, which mode follows from it, and since when and why.

It looks ten times a second, and has a tier asked that is in doubt: each by a task of its own, so that one that is
silent holds up neither the look at the others nor anybody's call. A tier is used again as soon as its guard lets calls
through, which a probe has to prove; the word for the mode follows when that has lasted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf
from typing import Any, Final

import msgspec

from holdfast.background import Background
from holdfast.clock import Clock
from holdfast.errors import TierUnavailable
from holdfast.invalidation.topics import MODE_CHANGED
from holdfast.metrics.counters import ModeCounters
from holdfast.protocols import FaultSink, Source
from holdfast.protocols.guards import StorageGuard, TierGuard, TierHealth
from holdfast.recovery.forcing import Forcing
from holdfast.recovery.modes import Mode, ModeRules, Presence, Tiers, mode_of
from holdfast.write_behind.accepting import Backlog

logger = logging.getLogger("holdfast")
RULES: Final = ModeRules()
LOOK_SECONDS: Final = 0.1
LATE_SECONDS: Final = 0.25
"""How often L3 is asked, at most, because its feed is not heard."""
REPORT_SECONDS: Final = 0.5
"""How often an outage is reported while it lasts."""
SILENT_SECONDS: Final = 1.0
"""For so long at least nothing is said of a feed that is not heard."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is.

    Attributes:
        mode: how it works, for so many `seconds`, and `why`, in words.
        l2, l3: the tiers.
        feed_seconds: how long ago that was of which the change feed has told everything; None: never yet.
        staleness_seconds: how old an answer of the caches may be now; beyond the bound only where the kind or the call
            allows it.
        backlog: what was accepted and is not committed yet.
    """

    mode: Mode
    seconds: float
    why: str
    l2: TierHealth
    l3: TierHealth
    feed_seconds: float | None
    staleness_seconds: float
    backlog: Backlog


class HealthKeeper:
    """Keeps one server's mode; implements `Degrading`.

    Args:
        feed_seconds: how long ago that was of which the change feed has told everything; infinite: never yet.
        bound_seconds: the shortest staleness bound of any kind.
        buffers: whether writes can be accepted while L3 is away, and be as durable as they are meant to be.
        backlog: what was accepted and is not committed yet.
        skip_l2: told, again and again, whether reads are to pass L2 by.
        announce: gives an event to this server's own subscribers; must neither wait nor raise.
        faults: is told when a tier is cut off.
        wall: the time of day, seconds since 1970.

    Attributes:
        mode: how the server works.
    """

    def __init__(
        self,
        *,
        l2: TierGuard,
        l3: StorageGuard,
        feed_seconds: Callable[[], float],
        bound_seconds: float,
        buffers: Callable[[], bool],
        backlog: Callable[[], Backlog],
        skip_l2: Callable[[bool], None],
        announce: Callable[[str, Any], None],
        faults: FaultSink,
        counters: ModeCounters,
        clock: Clock,
        wall: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
        rules: ModeRules = RULES,
    ) -> None:
        self._guards: Mapping[str, TierGuard] = {"L2": l2, "L3": l3}
        self._report_at = dict.fromkeys(self._guards, -inf)
        self._l2, self._l3 = l2, l3
        self._feed_seconds = feed_seconds
        self._bound_seconds = bound_seconds
        self._buffers = buffers
        self._backlog = backlog
        self._skip_l2 = skip_l2
        self._announce = announce
        self._faults = faults
        self._counters = counters
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._there = {name: Presence(rules.settle_seconds) for name in self._guards}
        self._forcing = Forcing()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._began = self._late_at = self._counted_at = self._since = clock.monotonic()
        self._loop = Background(self._run, "health")
        self.mode = Mode.NORMAL
        self._why = "every tier answers"

    def start(self) -> None:
        """Begin in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End; may be called twice."""
        await self._loop.stop()
        checks, self._checks = list(self._checks.values()), {}
        for check in checks:
            check.cancel()
        if checks:
            await asyncio.wait(checks)

    def health(self) -> Health:
        """How the server is now."""
        self.observe()
        feed_seconds = self._feed_seconds()
        return Health(
            mode=self.mode,
            seconds=self._clock.monotonic() - self._since,
            why=f"{self._why}{self._unheard(feed_seconds)}",
            l2=self._l2.health(),
            l3=self._l3.health(),
            feed_seconds=feed_seconds if feed_seconds < inf else None,
            staleness_seconds=max(self._bound_seconds, feed_seconds),
            backlog=self._backlog(),
        )

    def degrade(self, seconds: float, why: str, *, subject: str = "") -> None:
        """Have the server work in `l2_bypassed`; see `Degrading.degrade`."""
        self._forcing.force(seconds, why, self._clock.monotonic(), subject=subject)
        self.observe()

    def check_writes(self) -> None:
        """Refuse a write that goes to L3 at once, while L3 is cut off; the word for the mode may last longer.

        Raises:
            TierUnavailable: it is; nothing was written.
        """
        if self._l3.answers:
            return
        self.observe()
        fault = self._l3.health().fault
        raise TierUnavailable(f"mode {self.mode}: L3 is away, writes that must be committed are refused ({fault})")

    def observe(self) -> None:
        """Take in how the tiers are, and change the mode accordingly."""
        now = self._clock.monotonic()
        self._counters.spent(self.mode.value, now - self._counted_at)
        self._counted_at = now
        for name, guard in self._guards.items():
            self._there[name].observe(now, answers=guard.answers)
            self._counters.cut_off[name] = guard.opened
            self._report(name, guard, now)
        there = Tiers(l2=self._there["L2"].is_there, l3=self._there["L3"].is_there, buffers=self._buffers())
        mode = self._forcing.worse(mode_of(there), now)
        self._skip_l2(not self._l2.answers or self._forcing.forced() is not None)
        if mode is not self.mode:
            self._change(mode, now)

    def _report(self, name: str, guard: TierGuard, now: float) -> None:
        """Have an outage recovered from, and recorded, also where no caller has met it.

        Again and again: what follows the end of another recovery closely is not taken up at once.
        """
        if guard.answers:
            self._report_at[name] = -inf
        elif now >= self._report_at[name]:
            self._report_at[name] = now + REPORT_SECONDS
            fault = TierUnavailable(f"{name} is away ({guard.health().fault})")
            self._faults.report(fault, Source.L2 if guard is self._l2 else Source.L3)

    def _change(self, mode: Mode, now: float) -> None:
        was, self.mode, self._since, self._why = self.mode, mode, now, self._reason()
        self._counters.changes += 1
        logger.warning("mode %s, was %s: %s", mode, was, self._why)
        timestamp = round(self._wall() * 1000)
        self._announce(MODE_CHANGED, {"mode": mode, "was": was, "why": self._why, "timestamp": timestamp})

    def _reason(self) -> str:
        reasons = [
            f"{name} is away ({guard.health().fault})"
            for name, guard in self._guards.items()
            if not self._there[name].is_there
        ]
        if (forced := self._forcing.forced()) is not None:
            reasons.append(forced.why)
        return "; ".join(reasons) or "every tier answers"

    def _unheard(self, feed_seconds: float) -> str:
        """That the feed alone is silent makes no mode of its own, but every read a call of L3."""
        seconds = min(feed_seconds, self._clock.monotonic() - self._began)
        if not self._l3.answers or seconds <= max(self._bound_seconds, SILENT_SECONDS):
            return ""
        return f"; the change feed was not heard for {seconds:.0f} s, so L3 is read instead of the caches"

    def _look(self) -> None:
        self.observe()
        for name, guard in self._guards.items():
            if name not in self._checks and (guard.in_doubt or (guard is self._l3 and self._feed_is_late())):
                check = asyncio.get_running_loop().create_task(self._check(guard), name=f"holdfast check of {name}")
                self._checks[name] = check
                check.add_done_callback(partial(self._checked, name))

    def _checked(self, name: str, _check: asyncio.Task[None]) -> None:
        self._checks.pop(name, None)

    def _feed_is_late(self) -> bool:
        """L3 may be silent, or only the feed's own connection; whoever asks L3 finds out."""
        now = self._clock.monotonic()
        if self._feed_seconds() <= self._bound_seconds or now < self._late_at:
            return False
        self._late_at = now + LATE_SECONDS
        return True

    async def _check(self, guard: TierGuard) -> None:
        try:
            await guard.check()
        except Exception as fault:  # noqa: BLE001 - a tier whose check fails is asked again, whatever it was
            _show(fault)
        self.observe()

    async def _run(self) -> None:
        while True:
            try:
                self._look()
            except Exception as fault:  # noqa: BLE001 - without a next look no mode would ever be left
                _show(fault)
            await self._sleep(LOOK_SECONDS)


def _show(fault: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": "holdfast: looking after a server's health failed", "exception": fault}
    )
