"""What one server runs to recover from faults of state."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from holdfast.given import Given
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols import Target, View
from holdfast.protocols.escalations import FaultEscalator
from holdfast.protocols.guards import Degrading
from holdfast.recovery.handlers import Handlers, Means
from holdfast.recovery.leaders import Leaders
from holdfast.recovery.log import RecoveryRecorder
from holdfast.recovery.manager import RecoveryManager
from holdfast.recovery.pacing import RetryBudget
from holdfast.recovery.probing import Prober
from holdfast.recovery.reports import FaultReports
from holdfast.recovery.strategies import answered_within, strategies_with
from holdfast.recovery.telling import RecoveryTeller
from holdfast.resolution import Resolver
from holdfast.run_context.rescuing import Rescuing
from holdfast.run_context.restoring import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """What of a server's flows recovery acts on.

    Attributes:
        faults: where they are reported.
        leaders: tells those of swarms; `announce`: this server's own subscribers.
        masked: takes secrets out of a text.
        void: makes a target void.
        rebuild, escalator, degrading, retries: see `Means`.
    """

    faults: FaultReports
    resolver: Resolver
    feed: ChangeFeed
    view: View
    rescue: Rescuing
    rebuild: Callable[[str], Awaitable[tuple[str, Loss]]]
    leaders: Leaders
    announce: Callable[[str, Any], None]
    masked: Callable[[str], str]
    counters: RecoveryCounters
    void: Callable[[Target, str, str | None], Awaitable[object]]
    degrading: Degrading
    escalator: FaultEscalator
    retries: RetryBudget


class RecoveryFlows:
    """Puts them together.

    Attributes:
        manager: recovers; `recorder`: brings its records to L3. Whoever starts them stops the manager first.
    """

    def __init__(self, given: Given, affected: Affected) -> None:
        self._given = given
        self._affected = affected
        settings = given.settings
        self.recorder = RecoveryRecorder(
            given.recovery_log,
            given.quarantine,
            affected.escalator,
            lines_max=settings.recovery_log_rows_max,
            evidence_max=settings.quarantine_rows_max,
            counters=affected.counters,
            sleep=given.sleep,
        )
        prober = Prober(
            l2=given.l2,
            l3=given.l3,
            l3_guard=given.l3_guard,
            feed=affected.feed,
            resolver=affected.resolver,
            view=affected.view,
        )
        strategies = strategies_with(given.recovery, answered_within(settings.escalation_timeout_seconds))
        self.manager = RecoveryManager(
            affected.faults,
            self._handlers(prober),
            prober,
            self._teller(),
            strategies=strategies,
            of_kinds={
                name: strategies_with(kind.recovery, strategies) for name, kind in given.kinds.items() if kind.recovery
            },
            clock=given.clock,
            sleep=given.sleep,
            new_id=given.new_id,
        )

    def _handlers(self, prober: Prober) -> Handlers:
        given, affected = self._given, self._affected
        return Handlers(
            Means(
                prober=prober,
                void=affected.void,
                rescue=affected.rescue,
                rebuild=affected.rebuild,
                leaders=affected.leaders,
                masked=affected.masked,
                escalator=affected.escalator,
                ask_later=self.recorder.ask,
                degrading=affected.degrading,
                l2=given.l2_guard,
                clock=given.clock,
                sleep=given.sleep,
                # Of its own: how often tiers fail must not change what is drawn for anything else.
                random_=random.Random(given.server),  # noqa: S311 - jitter, nothing secret
                retries=affected.retries,
            )
        )

    def _teller(self) -> RecoveryTeller:
        given, affected = self._given, self._affected
        return RecoveryTeller(
            self.recorder,
            affected.counters,
            announce=affected.announce,
            masked=affected.masked,
            clock=given.clock,
            wall=given.wall,
            new_id=given.new_id,
            server=given.server,
        )
