"""What a server has counted, as a copy that stands still (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Protocol

from holdfast.metrics.counters import Counters


class Counting(Protocol):
    """The memory of one kind, which counts for itself."""

    @property
    def hits(self) -> int:
        """Reads that it answered."""
        ...

    @property
    def misses(self) -> int:
        """Reads that it did not answer."""
        ...

    @property
    def entries(self) -> Sized:
        """What it holds."""
        ...


@dataclass(slots=True)
class MemoryCounters:
    """One kind's part of L1.

    Attributes:
        hits: reads that it answered.
        misses: reads that it did not answer: what was asked for was not there, too old, or is known to be no row.
        entries: it holds now.
    """

    hits: int
    misses: int
    entries: int


@dataclass(slots=True)
class Metrics(Counters):
    """All that a server has counted since it was opened.

    Attributes:
        l1: by kind.
    """

    l1: dict[str, MemoryCounters] = field(default_factory=dict)


def snapshot(counters: Counters, memory: Mapping[str, Counting]) -> Metrics:
    """A copy of counters, with those of memory, by kind."""
    copied = {each.name: deepcopy(getattr(counters, each.name)) for each in fields(counters)}
    l1 = {kind: MemoryCounters(each.hits, each.misses, len(each.entries)) for kind, each in memory.items()}
    return Metrics(**copied, l1=l1)
