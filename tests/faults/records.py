"""What was committed and what was answered, for the history checker: one history for each life of L3.

A crash that loses commits, or an older copy, begins another life: what was lost never was. Documents are told apart by
their numbers, no two the same, and not by their versions: another life draws those again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf

from holdfast.testing.history import History, Rule, check

RULES = frozenset({Rule.ORDER, Rule.PHANTOM, Rule.STALE})
NEVER_PROVEN = 1e12
"""When a commit whose outcome is unknown is visible at the latest: nobody can tell."""


class Life:
    """One life of L3.

    Attributes:
        since: reads that begin earlier may still be of the life before, monotonic seconds.
    """

    def __init__(self, rows: Mapping[str, int], since: float) -> None:
        self.since = since
        self.history = History()
        for identifier, number in rows.items():
            self.history.committed(identifier, number, -inf)


class Records:
    """The record of one run.

    Args:
        bound: how old an answer may be, seconds.

    Attributes:
        life: the present one; None while L3 is away.
        reads: answers that were judged.
        unjudged: answers of the time between two lives.
        errors: reads that were refused.
        writes: commits that were acknowledged.
        stale: what broke a rule, in words.
    """

    def __init__(self, bound: float) -> None:
        self.life: Life | None = None
        self.reads = self.unjudged = self.errors = self.writes = 0
        self.stale: list[str] = []
        self._bound = bound
        self._number = 0

    def begin_life(self, rows: Mapping[str, int]) -> None:
        """L3 lives, with these documents: from the bound on, no answer may be of an earlier life."""
        self.life = Life(rows, time.monotonic() + self._bound)

    def end_life(self) -> None:
        """L3 is about to go away."""
        life, self.life = self.life, None
        if life is not None:
            self.stale += [violation.facts for violation in check(life.history, rules=RULES)]

    @contextmanager
    def write(self, identifiers: Iterable[str]) -> Iterator[dict[str, int]]:
        """Give each document a number to be committed in this block; an id has one writer at a time."""
        numbers = {identifier: self.next_number() for identifier in identifiers}
        life, begun, at = self.life, time.monotonic(), NEVER_PROVEN
        try:
            yield numbers
            at = time.monotonic()
            self.writes += len(numbers)
        finally:
            if life is not None:
                for identifier, number in numbers.items():
                    life.history.committed(identifier, number, at, begun=begun)

    def next_number(self) -> int:
        """A number that no document had before."""
        self._number += 1
        return self._number

    def read(self, server: str, life: Life | None, identifier: str, number: int | None, began: float) -> None:
        """A read that began in a life was answered just now, with a document's number or None for MISSING."""
        if life is None or life is not self.life or began < life.since:
            self.unjudged += 1
            return
        self.reads += 1
        life.history.read(server, identifier, number, began, time.monotonic(), bound=self._bound)
