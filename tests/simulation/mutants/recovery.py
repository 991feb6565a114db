"""Guards, modes and recovery, with a mechanism switched off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.errors import TierUnavailable
from holdfast.recovery import health
from holdfast.recovery.breaker import Breaker, Circuit
from holdfast.recovery.forcing import Forcing
from holdfast.recovery.health import HealthKeeper
from holdfast.recovery.log import RecoveryRecorder
from holdfast.recovery.manager import RecoveryManager
from holdfast.recovery.modes import Presence
from holdfast.tiers.l2_watch import NodeWatch
from holdfast.tiers.l3_guard import PostgresGuard
from simulation.mutants.registry import mutant


@mutant("E2")
def breaker_never_half_opens(patch: pytest.MonkeyPatch) -> None:
    """What is cut off stays so: no probe is let through."""
    healthy = Breaker.permit

    def permit(self: Breaker, now: float) -> int | None:
        return healthy(self, now) if self.circuit is Circuit.CLOSED else None

    patch.setattr(Breaker, "permit", permit)


@mutant("E2")
def probe_of_l2_always_succeeds(patch: pytest.MonkeyPatch) -> None:
    """A node that is asked for a sign of life counts as there, whatever it answers."""
    healthy = NodeWatch.__init__

    async def ask(_node: Any) -> None:
        await asyncio.sleep(0)

    def init(self: NodeWatch, _ask: Any, **parts: Any) -> None:
        healthy(self, ask, **parts)

    patch.setattr(NodeWatch, "__init__", init)


@mutant("E2")
def probe_of_l3_always_succeeds(patch: pytest.MonkeyPatch) -> None:
    """The guard of L3 asks nobody, and counts that as an answer."""

    async def ask(self: PostgresGuard) -> None:
        await asyncio.sleep(0)

    patch.setattr(PostgresGuard, "_ask", ask)


@mutant("E2")
def forced_mode_never_ends(patch: pytest.MonkeyPatch) -> None:
    """Who has put a server into a worse mode has done so for ever."""
    healthy = Forcing.force

    def force(self: Forcing, seconds: float, why: str, now: float, *, subject: str = "") -> None:
        healthy(self, float("inf") if seconds != 0 else seconds, why, now, subject=subject)

    patch.setattr(Forcing, "force", force)


@mutant("E2")
def told_at_once_to_be_back(patch: pytest.MonkeyPatch) -> None:
    """A tier counts as back with its first answer."""
    healthy = Presence.__init__
    patch.setattr(Presence, "__init__", lambda self, _settle_seconds: healthy(self, 0.0))


@mutant("E2")
def watch_dies(patch: pytest.MonkeyPatch) -> None:
    """Who looks whether a tier is back does not outlive its first look at one that is not."""
    healthy = RecoveryManager._is_back

    async def is_back(self: RecoveryManager, report: Any) -> bool:
        if not await healthy(self, report):
            raise asyncio.CancelledError
        return True

    patch.setattr(RecoveryManager, "_is_back", is_back)


@mutant("E2")
def health_looks_once(patch: pytest.MonkeyPatch) -> None:
    """The loop that looks after the mode dies with the first tier."""

    async def run(self: HealthKeeper) -> None:
        while self._l2.answers and self._l3.answers:
            self._look()
            await self._sleep(health.LOOK_SECONDS)

    patch.setattr(HealthKeeper, "_run", run)


@mutant("E2")
def outage_is_not_reported(patch: pytest.MonkeyPatch) -> None:
    """An outage that no caller met begins no recovery."""
    patch.setattr(HealthKeeper, "_report", lambda *_: None)


@mutant("E2")
def outage_is_reported_once(patch: pytest.MonkeyPatch) -> None:
    """An outage is reported when it begins, whether or not that is taken up."""
    patch.setattr(health, "REPORT_SECONDS", float("inf"))


@mutant("E2")
def calls_wait_for_a_silent_l3(patch: pytest.MonkeyPatch) -> None:
    """What waits for L3 is not let go when it is cut off."""
    patch.setattr(PostgresGuard, "_end_lent", lambda self: None)


@mutant("E2")
def log_of_an_outage_is_lost(patch: pytest.MonkeyPatch) -> None:
    """What L3 did not take at once is not kept for later."""
    healthy = RecoveryRecorder.write

    async def write(self: RecoveryRecorder) -> None:
        try:
            await healthy(self)
        except TierUnavailable:
            self._lines.clear()

    patch.setattr(RecoveryRecorder, "write", write)
