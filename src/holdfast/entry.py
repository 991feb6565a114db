"""What a read returns beside the value, and the marker for "there is no such row"."""

from __future__ import annotations

import enum
from typing import Final, Generic, TypeVar

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
    """What a write has survived when it returns."""

    COMMITTED = "committed"
    """Committed in L3, and visible to every read of L3."""


class Entry(msgspec.Struct, Generic[Value], frozen=True):
    """A value with its history.

    Attributes:
        value: the document.
        version: drawn by L3 under the row's lock from one sequence for all rows; rises with each write of the
            row.
        tier: the tier that answered.
        age_seconds: time since the value was read from L3, as far as the answering tier can tell.
        stale: L3 could not be asked, and the value may be older than the staleness bound; only with `max_stale`.
    """

    value: Value
    version: int
    tier: Tier
    age_seconds: float
    stale: bool = False


class Receipt(msgspec.Struct, frozen=True):
    """What a write returns.

    Attributes:
        version: the version the row has now; a deleted row's receipt carries the number its deletion drew.
        durability: what the write has survived.
        existed: for `delete`, whether there was a row.
    """

    version: int
    durability: Durability = Durability.COMMITTED
    existed: bool = True
