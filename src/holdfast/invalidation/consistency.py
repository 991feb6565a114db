"""Samples of cached answers, what is found out about them, and the figures that are published (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from holdfast.documents import Limits, encode
from holdfast.entry import MISSING, Tier
from holdfast.errors import HoldfastError
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Row, Withdrawal
from holdfast.tiers.l1_local import LocalEntry

CONFIDENCE_95: Final = 1.645
"""Standard deviations that a normal variable exceeds once in twenty."""
_ANY_SIZE: Final = Limits(1 << 30, 128)


class Sample(msgspec.Struct, frozen=True, eq=False):
    """One answer that a cache gave, or would have given.

    Attributes:
        version: 0: "no such row".
        answer: what L1 held, or what L2 answered with.
        read_at: when that was read from L3, monotonic seconds of this server.
    """

    key: Key
    tier: Tier
    version: int
    answer: LocalEntry | Row
    read_at: float


def differs(sample: Sample, row: Row | None, decode: Callable[[Key, Row], Any]) -> bool:
    """Whether a sample is not what L3 holds. A row without its body is compared by its version alone.

    Versions are compared for equality only: an id that was deleted and used again may have a lower one (rule V1).
    A class that makes another document each time, as with an id for a field that the row lacks, is not compared.
    """
    if sample.version != (row.version if row is not None else 0):
        return True
    if row is None or not row.body:
        return False
    if isinstance(sample.answer, Row):
        return sample.answer.body != row.body
    try:
        loaded = decode(sample.key, row)
        return not _alike(sample.answer.value, loaded) and _alike(loaded, decode(sample.key, row))
    except HoldfastError:  # what L3 holds cannot be read here: its readers are told, and no cache is to blame
        return False


def _alike(one: Any, other: Any) -> bool:
    """Whether two documents hold the same; a class inside them need not know how to compare its instances."""
    return bool(one == other) or (
        one is not MISSING and other is not MISSING and encode(one, _ANY_SIZE) == encode(other, _ANY_SIZE)
    )


class Suspect(msgspec.Struct, frozen=True, eq=False):
    """A sample that was not what L3 held.

    Attributes:
        truth: L3's version; 0: it has no such row.
    """

    sample: Sample
    truth: int

    @property
    def fence(self) -> int:
        """A version that forbids the answer, as far as versions can: for this server's caches."""
        return self.truth if self.truth > self.sample.version else ANY_VERSION

    @property
    def withdrawal(self) -> Withdrawal:
        """What takes the answer out of L2. A body damaged at L3's own version can be filled again."""
        served = self.sample.version
        return Withdrawal(self.sample.key, served, self.truth if self.truth >= served else served + 1)

    def is_given_by(self, held: LocalEntry | None) -> bool:
        """Whether L1 still holds this very answer."""
        return held is self.sample.answer

    def is_brought_back_by(self, held: LocalEntry | None) -> bool:
        """Whether L1 holds the answer, or the same wrong value once more. Rows may be missing again, and rightly so."""
        answer = self.sample.answer
        if held is None or isinstance(answer, Row) or held is answer:
            return held is answer
        return 0 < held.version == answer.version and _alike(held.value, answer.value)


class Finding(msgspec.Struct, frozen=True):
    """A stale or damaged entry that a cache served.

    Attributes:
        served, truth: the versions of the entry and of L3's row; 0: no such row.
        differed_seconds: for how long at least the entry was wrong.
        server: who found it.
        cause: the most likely one, in words.
        history: what the server remembers of the key, oldest first, in words.
        repaired: whether the tier was seen not to hold it any more.
    """

    key: Key
    tier: Tier
    served: int
    truth: int
    differed_seconds: float
    server: str
    cause: str
    history: tuple[str, ...]
    repaired: bool = False

    def __str__(self) -> str:
        """In one sentence or three, without any content of the document."""
        served, truth = (f"version {version}" if version else "no row" for version in (self.served, self.truth))
        outcome = "repaired" if self.repaired else "not repaired yet"
        return (
            f"{self.key}: {self.tier.name} of {self.server} held {served} where L3 has {truth}, for at least "
            f"{self.differed_seconds:.3f} s; {outcome}. {self.cause}"
        )

    def data(self) -> dict[str, Any]:
        """As the data of an event: JSON's types only."""
        return {
            "kind": self.key.kind,
            "id": self.key.id,
            "tier": self.tier.value,
            "served": self.served,
            "truth": self.truth,
            "differedSeconds": self.differed_seconds,
            "server": self.server,
            "cause": self.cause,
            "history": list(self.history),
            "repaired": self.repaired,
        }


@dataclass(slots=True)
class TierConsistency:
    """How consistent one tier's answers were with L3.

    Attributes:
        samples: answers that were judged.
        differing: of these, those that L3 had moved away from when it was asked; most are younger than the bound.
        stale: of these, those that were served though the feed had come past the change: a fault.
        repaired: of these, those that were seen to be gone afterwards.
        unsettled: answers that differed and could not be judged, since a tier did not answer; not among the samples.
    """

    samples: int = 0
    differing: int = 0
    stale: int = 0
    repaired: int = 0
    unsettled: int = 0

    @property
    def consistent_share(self) -> float:
        """Of the samples, from 0 to 1; 1 if there are none."""
        return 1.0 - self.stale / self.samples if self.samples else 1.0

    @property
    def stale_share_max(self) -> float:
        """With 95 % confidence no more of all answers are stale (Wilson's bound); 1 without samples."""
        if not self.samples:
            return 1.0
        square = CONFIDENCE_95**2
        share, size = self.stale / self.samples, self.samples
        spread = CONFIDENCE_95 * math.sqrt(share * (1 - share) / size + square / (4 * size * size))
        return min(1.0, (share + square / (2 * size) + spread) / (1 + square / size))

    def __str__(self) -> str:
        return f"{self.stale:,} stale of {self.samples:,}, with 95 % confidence at most {self.stale_share_max:.2%}"


@dataclass(slots=True)
class ConsistencyReport:
    """What a server's verifier has found so far.

    Attributes:
        findings: the last ones, oldest first.
    """

    l1: TierConsistency = field(default_factory=TierConsistency)
    l2: TierConsistency = field(default_factory=TierConsistency)
    findings: tuple[Finding, ...] = ()

    def of(self, tier: Tier) -> TierConsistency:
        """The figures of L1 or L2."""
        return self.l1 if tier is Tier.L1 else self.l2
