"""What everything that acts on runs stands on: one server's collections, tiers and clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from holdfast.clock import Clock
from holdfast.collection import Collection
from holdfast.documents import Limits, Run, RunContextSnapshot
from holdfast.invalidation.bus import EventBus
from holdfast.kinds import RUN, RUN_SNAPSHOT
from holdfast.protocols import FaultSink, JournalBase, LateReviews, Reviewer, RunIndex, Storage
from holdfast.row_decoding import Stored
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.run_context.exports import Terms, Transformation
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.run_context.limits import RunLimits
from holdfast.sensitivity.key_ring import KeyRing
from holdfast.settings import Settings
from holdfast.transactions import Transactions
from holdfast.write_behind.handing_over import HandingOver
from holdfast.write_behind.lives import Lives


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One server, as runs see it.

    Attributes:
        index: finds runs and their snapshots in L3.
        handing_over: decides what the owner before has written.
        lives: of this server's journal.
        hybrid: the clock of variables.
        keys: that secret variables are sealed with.
        server: this one, in words, as its journals are entered.
        deltas_per_base: at least, behind one base.
        takeover_seconds: a server whose beat is older is dead.
        terms: on which anything leaves a run.
        on_conflict: the strategy of runs and variables that say none.
        skew_ms_max: how far ahead of this server's clock another's may be.
        reviewer: makes what has conflicts decided that no strategy may resolve, for the owner of a run under an epoch.
        late_reviews: knows what was decided on them after a run had gone on.
        faults: is told of contexts that cannot be restored.
        stored: the document in a row of L3.
    """

    collections: Mapping[str, Collection[Any]]
    transactions: Transactions
    l3: Storage
    index: RunIndex
    journals: JournalBase
    handing_over: HandingOver
    lives: Lives
    bus: EventBus
    clock: Clock
    hybrid: HybridClock
    keys: KeyRing
    new_id: Callable[[], str]
    server: str
    limits: RunLimits
    deltas_per_base: int
    takeover_seconds: float
    terms: Terms
    on_conflict: ConflictStrategy
    skew_ms_max: int
    reviewer: Callable[[int], Reviewer]
    late_reviews: LateReviews
    faults: FaultSink
    stored: Stored

    @property
    def runs(self) -> Collection[Run]:
        """The rows of runs."""
        return self.collections[RUN.name]

    @property
    def snapshots(self) -> Collection[RunContextSnapshot]:
        """Their snapshots."""
        return self.collections[RUN_SNAPSHOT.name]

    async def journal(self) -> str:
        """The name of the journal that this server writes now."""
        return (await self.lives.living()).name


def run_limits(settings: Settings) -> RunLimits:
    """The limits of each run."""
    return RunLimits(
        variables_max=settings.run_variables_max,
        bytes_max=settings.run_bytes_max,
        depth_max=settings.run_depth_max,
        children_max=settings.run_children_max,
        value_depth_max=settings.document_depth_max,
    )


def run_terms(settings: Settings, transformations: Mapping[str, Transformation], exporters: Iterable[str]) -> Terms:
    """On which anything leaves a run."""
    return Terms(
        transformations=transformations,
        masks=settings.export_secrets == "mask",
        limits=Limits(settings.document_bytes_max, settings.document_depth_max),
        exporters=frozenset(exporters),
    )
