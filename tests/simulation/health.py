"""What servers tell of how they are, and whether it is true.

An outage shows in the mode of every server, and no mode is left for a better one before the tier has answered for a
while; recoveries of tiers that did not mend them tell when these answer again; and when nothing fails any more, every
server is as it was, and recovers from nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final, NamedTuple

from holdfast.clock import Clock
from holdfast.events import Event
from holdfast.flows import Flows
from holdfast.invalidation.topics import MODE_CHANGED, RECOVERY_COMPLETED, RECOVERY_RETURNED
from holdfast.protocols import LoggedLine
from holdfast.recovery.health import RULES
from holdfast.recovery.modes import Mode
from holdfast.recovery.strategies import StateErrorType
from holdfast.recovery.telling import End

SHOWN_SECONDS: Final = 2.0
"""After which an outage shows in the mode of every server, however slow its way to the tiers."""
LATE_SECONDS: Final = 0.01
"""Times in events are rounded."""
WITHOUT: Final = {
    "L2": frozenset({Mode.L2_BYPASSED, Mode.MEMORY_ONLY}),
    "L3": frozenset({Mode.READ_ONLY, Mode.WRITE_BUFFERING, Mode.MEMORY_ONLY}),
}
"""Modes that a server may show while a tier is away."""

OF_TIERS: Final = frozenset({StateErrorType.CACHE_FAILURE, StateErrorType.COMMUNICATION_FAILURE})
"""What an outage is; a write whose outcome is unknown may be named after its tier too, and does not come back."""


class Changed(NamedTuple):
    """A server's mode changed.

    Attributes:
        at: monotonic seconds.
        before: why it had the mode that it left.
    """

    at: float
    mode: Mode
    was: Mode
    before: str


class Recovery(NamedTuple):
    """Of a tier.

    Attributes:
        subject: ``tier:l2``, say.
        began, ended: monotonic seconds; it ended when the tier was mended or had returned, and not before.
    """

    subject: str
    began: float
    ended: float

    def is_of(self, tier: str, began: float, ended: float) -> bool:
        """Whether it was under way during an outage."""
        return self.subject == f"tier:{tier.lower()}" and self.began < ended and began < self.ended


class HealthRecords:
    """Of one world.

    Attributes:
        faults: what was told, or not told, and is wrong.
    """

    def __init__(self, clock: Clock) -> None:
        self.faults: list[str] = []
        self._clock = clock
        self._outages: dict[str, list[list[float]]] = {tier: [] for tier in WITHOUT}
        self._listeners: list[Listener] = []

    @property
    def modes(self) -> frozenset[Mode]:
        """That any server came into."""
        return frozenset(changed.mode for each in self._listeners for changed in each.changes)

    async def listen(self, name: str, flows: Flows) -> None:
        """Begin to note what a server tells."""
        listener = Listener(name, flows, self._clock.monotonic())
        self._listeners.append(listener)
        await flows.store.subscribe("state/mode/*", listener.hear).ready()
        await flows.store.subscribe("state/recovery/*", listener.hear).ready()

    def died(self, name: str) -> None:
        """A server is no more: nothing is expected of it."""
        for each in self._listeners:
            each.is_dead = each.is_dead or each.name == name

    @asynccontextmanager
    async def outage(self, *tiers: str) -> AsyncIterator[None]:
        """Tiers are away for everybody; begins its block when every server must show it, and ends with it."""
        times = [self._clock.monotonic(), inf]
        for tier in tiers:
            self._outages[tier].append(times)
        try:
            await asyncio.sleep(SHOWN_SECONDS)
            self._check_shown(tiers, times[0])
            yield
        finally:
            times[1] = self._clock.monotonic()

    def _check_shown(self, tiers: Sequence[str], began: float) -> None:
        wanted = WITHOUT[tiers[0]] if len(tiers) == 1 else {Mode.MEMORY_ONLY}
        self.faults += [
            f"{each.name} is {each.flows.health.mode} though {' and '.join(tiers)} is away for {SHOWN_SECONDS} s"
            for each in self._listeners
            if not each.is_dead and each.began <= began and each.flows.health.mode not in wanted
        ]

    def unsettled(self) -> list[str]:
        """What is not yet as it was, in words."""
        living = [each for each in self._listeners if not each.is_dead]
        return [f"{each.name}: {words}" for each in living if (words := each.unsettled())]

    def unrecorded(self, lines: Iterable[LoggedLine]) -> list[str]:
        """Outages that no recovery of a server was of, and recoveries that the log does not have to their end."""
        logged = {each.line.recovery_id for each in lines if each.line.step == "completed"}
        living = [each for each in self._listeners if not each.is_dead]
        return [f"{each.name}: {words}" for each in living for words in each.unrecorded(self._outages, logged)]

    def violations(self) -> list[str]:
        """All faults found."""
        changes = [(each.name, changed) for each in self._listeners for changed in each.changes]
        return self.faults + [f"{name}: {words}" for name, changed in changes for words in self._too_early(changed)]

    def _too_early(self, changed: Changed) -> list[str]:
        """A mode was left that said that a tier is away, and it is, or was until just now.

        An outage may be too short to be noticed.
        """
        return [
            f"{changed.was} became {changed.mode} at {changed.at}, and {tier} was away from {began} to {ended}"
            for tier, without in WITHOUT.items()
            if changed.was in without and changed.mode not in without and f"{tier} is away" in changed.before
            for began, ended in self._outages[tier]
            if began + SHOWN_SECONDS < changed.at < ended + RULES.settle_seconds - LATE_SECONDS
            and ended - began > SHOWN_SECONDS
        ]


class Listener:
    """What one server tells.

    Attributes:
        began: when it began to, monotonic seconds.
        changes: of its mode.
        is_dead: nothing is expected of it.
    """

    def __init__(self, name: str, flows: Flows, began: float) -> None:
        self.name = name
        self.began = began
        self.flows = flows
        self.changes: list[Changed] = []
        self.is_dead = False
        self._why = ""
        self._recoveries: dict[str, Recovery] = {}

    async def hear(self, event: Event) -> None:
        """Note what it says."""
        data: Any = event.data
        if event.type == MODE_CHANGED:
            mode, was = Mode(data["mode"]), Mode(data["was"])
            self.changes.append(Changed(data["timestamp"] / 1000, mode, was, self._why))
            self._why = data["why"]
        elif event.type == RECOVERY_COMPLETED and data["subject"].startswith("tier:"):
            if data["errorType"] in OF_TIERS:
                ended = data["timestamp"] / 1000
                began = ended - data["millis"] / 1000
                ended = ended if data["outcome"] == End.RECOVERED else inf
                self._recoveries[data["recoveryId"]] = Recovery(data["subject"], began, ended)
        elif event.type == RECOVERY_RETURNED:
            found = self._recoveries[data["recoveryId"]]
            self._recoveries[data["recoveryId"]] = found._replace(ended=data["timestamp"] / 1000)

    def unrecorded(self, outages: Mapping[str, Sequence[Sequence[float]]], logged: Container[str]) -> list[str]:
        """See `HealthRecords.unrecorded`."""
        missing = [
            f"no recovery was of the outage of {tier} from {began} to {ended}"
            for tier, times in outages.items()
            for began, ended in times
            if self.began <= began
            and ended - began > SHOWN_SECONDS
            and not any(each.is_of(tier, began, ended) for each in self._recoveries.values())
        ]
        return missing + [f"recovery {each} is not in the log" for each in self._recoveries if each not in logged]

    def unsettled(self) -> str:
        """How it is not as it was; empty: it is."""
        flows = self.flows
        health, manager = flows.health.health(), flows.recovery
        away = [each.subject for each in self._recoveries.values() if each.ended == inf]
        under_way = len(manager._walking) + len(manager._watching) + len(flows.faults._waiting)
        if health.mode is Mode.NORMAL and not (under_way or away or flows.recovery_log.waiting):
            return ""
        return (
            f"mode {health.mode} ({health.why}), L2 {health.l2.state}, L3 {health.l3.state}, {under_way} recoveries,"
            f" {flows.recovery_log.waiting} lines of the log, never told to be back: {away}"
        )
