"""Counters of the tiers (pure). Each moves exactly when its line here says; none is ever labelled by key.

The L1 counters live in the caches (`tiers.l1_local`), whose hits are too hot to be reported anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class TierCounters:
    """One tier's counters.

    Attributes:
        hits: keys answered with a document.
        misses: keys answered with "not here" (L2) or "no such row" (L3). An error is not a miss.
        errors: L2: keys whose node failed or whose entry was unreadable; L3: queries that failed.
        fills: entries that the tier took over from the tier below.
        round_trips: batches asked, answered or not.
        keys: in these batches.
        seconds: spent waiting for these, summed.
    """

    hits: int = 0
    misses: int = 0
    errors: int = 0
    fills: int = 0
    round_trips: int = 0
    keys: int = 0
    seconds: float = 0.0

    def observe(self, seconds: float, keys: int) -> None:
        """Note one answered round trip."""
        self.round_trips += 1
        self.keys += keys
        self.seconds += seconds


@dataclass(slots=True)
class WriteBehindCounters:
    """Write-behind's counters.

    Attributes:
        accepted: writes taken in.
        overloaded: writes refused because too many waited.
        flushes: transactions that decided writes, of `flushed_keys` keys, in `flush_seconds` in all; `largest_flush`:
            most keys in one.
        retries: flushes that failed and are tried again.
        refused: accepted writes that were decided otherwise.
        dead_letters: writes that were given up and are kept for a person.
        takeovers: journals of other servers that were taken over, with `taken_over` entries in all.
    """

    accepted: int = 0
    overloaded: int = 0
    flushes: int = 0
    flushed_keys: int = 0
    flush_seconds: float = 0.0
    largest_flush: int = 0
    retries: int = 0
    refused: int = 0
    dead_letters: int = 0
    takeovers: int = 0
    taken_over: int = 0

    def flushed(self, keys: int, seconds: float) -> None:
        """Note one committed flush."""
        self.flushes += 1
        self.flushed_keys += keys
        self.flush_seconds += seconds
        self.largest_flush = max(self.largest_flush, keys)


@dataclass(slots=True)
class PartitionCounters:
    """Of those who look after the partitions of history.

    Attributes:
        made: months that were missing and are there now.
        dropped: months of snapshots that were older than is kept.
        failures: attempts that failed, and will be made again.
    """

    made: int = 0
    dropped: int = 0
    failures: int = 0


@dataclass(slots=True)
class DeliveryCounters:
    """Of who brings values of completed runs to external systems.

    Attributes:
        delivered: deliveries that came out.
        failures: attempts that failed, and will be made again.
        dead: deliveries that were given up and are kept for a person.
        neglected: of all servers: that were due and taken by nobody when this one looked last.
    """

    delivered: int = 0
    failures: int = 0
    dead: int = 0
    neglected: int = 0


@dataclass(slots=True)
class ModeCounters:
    """Of the modes a server works in.

    Attributes:
        changes: of the mode.
        seconds: spent in each, by its name.
        cut_off: how often a tier, or a node of it, was cut off, by the tier.
    """

    changes: int = 0
    cut_off: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def spent(self, mode: str, seconds: float) -> None:
        """Note time that passed in a mode."""
        self.seconds[mode] = self.seconds.get(mode, 0.0) + seconds


@dataclass(slots=True)
class RecoveryCounters:
    """Of recovery.

    Attributes:
        reported: faults of state that were met.
        repeated: of these, those whose recovery was under way, or had ended just before.
        dropped: of these, those that began no recovery since too many waited.
        recovered, degraded, escalated, failed: recoveries by what came of them.
        returned: tiers that answered again.
        steps: what was done, by action or fallback and outcome.
        lines_lost: lines of the recovery log, `evidence_lost`: entries of the quarantine, `requests_lost`: questions
            to people, that L3 refused, or that made room for newer ones before L3 took them.
        retries_refused: what was not tried again, since a share of all attempts was spent.
    """

    reported: int = 0
    repeated: int = 0
    dropped: int = 0
    recovered: int = 0
    degraded: int = 0
    escalated: int = 0
    failed: int = 0
    returned: int = 0
    steps: dict[tuple[str, str], int] = field(default_factory=dict)
    lines_lost: int = 0
    evidence_lost: int = 0
    requests_lost: int = 0
    retries_refused: int = 0

    def retry_refused(self) -> None:
        """Note one retry that was not made."""
        self.retries_refused += 1

    def stepped(self, step: str, outcome: str) -> None:
        """Note one step."""
        self.steps[step, outcome] = self.steps.get((step, outcome), 0) + 1


@dataclass(slots=True)
class EscalationCounters:
    """Of escalations.

    Attributes:
        opened, resolved, timed_out: by this server.
        oldest_open_seconds: for how long the oldest one of all servers had been open at the last sweep; 0: none is.
    """

    opened: int = 0
    resolved: int = 0
    timed_out: int = 0
    oldest_open_seconds: float = 0.0


@dataclass(slots=True)
class Counters:
    """The counters of one server.

    Attributes:
        flushes: times L1, or the part of a kind, was emptied: L3 is another incarnation, a generation was raised, or a
            kind changed by more keys than are told apart.
    """

    l2: TierCounters = field(default_factory=TierCounters)
    l3: TierCounters = field(default_factory=TierCounters)
    write_behind: WriteBehindCounters = field(default_factory=WriteBehindCounters)
    partitions: PartitionCounters = field(default_factory=PartitionCounters)
    deliveries: DeliveryCounters = field(default_factory=DeliveryCounters)
    modes: ModeCounters = field(default_factory=ModeCounters)
    recovery: RecoveryCounters = field(default_factory=RecoveryCounters)
    escalations: EscalationCounters = field(default_factory=EscalationCounters)
    flushes: int = 0
