"""Sets of the numbers of a journal's entries, held as ranges (pure).

The numbers rise from 1, and what is decided is nearly all that there was, so a set is few ranges however many numbers
it holds.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

_RANGE: Final = re.compile(r"[\[(](\d+),(\d+)[\])]")


class SeqSet:
    """Disjoint ranges of numbers in rising order; it does not change.

    Args:
        ranges: first and last+1 of each; they may overlap and come in any order.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted(ranges):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            elif start < end:
                self._starts.append(start)
                self._ends.append(end)

    @classmethod
    def of(cls, seqs: Iterable[int]) -> SeqSet:
        """The set of these numbers."""
        return cls((seq, seq + 1) for seq in seqs)

    @classmethod
    def parse(cls, text: str) -> SeqSet:
        """From the text of PostgreSQL's `int8multirange`, as in ``{[1,5),[7,9)}``."""
        return cls((int(start), int(end)) for start, end in _RANGE.findall(text))

    @property
    def text(self) -> str:
        """As PostgreSQL's `int8multirange` reads it."""
        return "{" + ",".join(f"[{start},{end})" for start, end in self.ranges()) + "}"

    def ranges(self) -> Iterator[tuple[int, int]]:
        """First and last+1 of each range, in order."""
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, seq: int) -> bool:
        position = bisect_right(self._starts, seq) - 1
        return position >= 0 and seq < self._ends[position]

    def __or__(self, other: SeqSet) -> SeqSet:
        return SeqSet([*self.ranges(), *other.ranges()])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqSet) and (self._starts, self._ends) == (other._starts, other._ends)

    def __hash__(self) -> int:
        return hash((*self._starts, *self._ends))

    def __len__(self) -> int:
        return sum(end - start for start, end in self.ranges())

    def __repr__(self) -> str:
        return f"SeqSet({self.text})"

    @property
    def through(self) -> int:
        """The highest number up to which, from 1 on, all are in the set; 0: not even 1 is."""
        return self._ends[0] - 1 if self._starts and self._starts[0] <= 1 else 0
