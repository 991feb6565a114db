"""What a read returns beside the value, and the marker for "there is no such row"."""

from __future__ import annotations

import enum
from typing import Final, Generic, Self, TypeVar

import msgspec

Value = TypeVar("Value")


class Missing(enum.Enum):
    """Its one member, `MISSING`, says that L3 has no row: a fact, unlike None and unlike an error."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing.MISSING


class Tier(enum.Enum):
    """Where an answer came from."""

    L1 = "l1"
    L2 = "l2"
    L3 = "l3"


class Consistency(enum.Enum):
    """How fresh an answer must be."""

    BOUNDED = "bounded"
    """From the nearest tier; misses nothing that was committed more than the staleness bound before the call."""
    STRONG = "strong"
    """Confirmed by L3's primary, by a query begun after the call: nothing committed before the call is missing."""


class Durability(enum.Enum):
    """What a write has survived, in rising order."""

    ACCEPTED = "accepted"
    """This process holds it; lost if it dies before the journal has it, as a rule within 10 ms."""
    JOURNALED = "journaled"
    """L2's journal holds it, as secured as the setting `journal_replicas` asks; it will be decided exactly once."""
    COMMITTED = "committed"
    """Committed in L3, and visible to every read of L3."""

    def covers(self, other: Durability) -> bool:
        """Whether what has survived this has survived the other too."""
        return _RANKS[self] >= _RANKS[other]


_RANKS: Final = {level: rank for rank, level in enumerate(Durability)}


class Entry(msgspec.Struct, Generic[Value], frozen=True):
    """A value with its history.

    Attributes:
        value: the document.
        version: drawn by L3 under the row's lock from one sequence for all rows; rises with each write of the
            row.
        tier: the tier that answered.
        age_seconds: time since the value was read from L3, as far as the answering tier can tell.
        stale: L3 could not be asked, and the value may be older than the staleness bound; only with `max_stale`.
        pending: writes of this server, accepted and not yet committed, are laid over what the tier answered; `version`
            is that of what lies below them.
    """

    value: Value
    version: int
    tier: Tier
    age_seconds: float
    stale: bool = False
    pending: bool = False


class Receipt:
    """What a write returns.

    Attributes:
        version: the version the row has now; a deleted row's receipt carries the number its deletion drew; 0 until the
            write is committed.
        durability: what the write has survived so far.
        existed: for `delete`, whether there was a row.
        replicas: how many replicas of L2 had its entry in the journal when it became JOURNALED.
    """

    __slots__ = ("durability", "existed", "replicas", "version")

    def __init__(
        self,
        version: int,
        durability: Durability = Durability.COMMITTED,
        *,
        existed: bool = True,
        replicas: int = 0,
    ) -> None:
        self.version = version
        self.durability = durability
        self.existed = existed
        self.replicas = replicas

    async def reached(self, durability: Durability, timeout: float | None = None) -> Self:  # noqa: ARG002
        """Wait until the write has survived that much.

        Args:
            timeout: seconds to wait at most; None: for as long as it takes.

        Raises:
            Refused: it was decided otherwise: it is not in effect.
            Undecided: the time is over; the write is not given up.
            Closed: the store was closed, and the write stayed in the journal.
        """
        Durability(durability)  # refused here too if it is none
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(version={self.version}, durability={self.durability.value!r})"
