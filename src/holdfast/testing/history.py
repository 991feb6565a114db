"""What a run committed and answered, and whether that kept the promises: a checker for proofs about any Holdfast.

    history = History()
    history.committed(key, 7, at=10.2, begun=10.1)              # in the order of the change feed
    history.read("agent-1", key, 7, 10.15, 10.3, bound=0.25)    # None for the version of MISSING
    history.wrote("agent-1", key, 7, 10.2)
    assert check(history) == []

All times are seconds of one clock, and all may tie. The answers are right if there are times of the commits, each
between its `begun` and its `at` and all in the feed's order, so that each answer was the newest state at some time
between its bound before the read began and the read's end; for reads with `strong` this is linearizability per key
against real time. So commits, acknowledged writes and other answers all prove what was visible.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from itertools import islice
from math import inf

from holdfast.testing.history_order import Call, Commit
from holdfast.testing.history_rules import KeyCheck, Rule, Violation

__all__ = ["History", "Rule", "Violation", "check"]

RECORDS_MAX = 20_000_000
VIOLATIONS_MAX = 10_000


class History:
    """The record of a run.

    Calls may be recorded in any order; commits in the order of the feed for each key. The calls of one session follow
    each other where one ended by the moment the next began (of two that took no time at the same moment, the one
    recorded first came first); calls of a session that overlap do not bind each other.

    Args:
        records_max: commits, reads and writes together; more are refused. A read takes about 180 bytes.

    Attributes:
        commits: number recorded.
        reads: number recorded.
        writes: number recorded.
    """

    def __init__(self, *, records_max: int = RECORDS_MAX) -> None:
        self.commits = self.reads = self.writes = 0
        self._records_max = records_max
        self._keys: dict[Hashable, _KeyRecord] = {}

    def committed(
        self, key: Hashable, version: int, at: float, *, begun: float | None = None, deleted: bool = False
    ) -> None:
        """Record the key's next commit in the order of the feed.

        Args:
            version: the number L3 drew, 1 or more; lower than the one before after a delete and a new insert.
            at: when it surely was visible, seconds; -inf for a row that was there before the run.
            begun: until when it surely was not visible; None: not known.
            deleted: the commit deleted the row, and the number is the delete's.

        Raises:
            ValueError: no such version or times, the key has this version already, or the history is full.
        """
        begun = -inf if begun is None else begun
        if not isinstance(version, int) or version < 1:
            raise ValueError(f"{key}: a version is a whole number from 1, not {version!r}")
        if not begun <= at < inf:
            raise ValueError(f"{key}: version {version} cannot be visible by {at} s and begin at {begun} s")
        record = self._record(key)
        if version in record.versions:
            raise ValueError(f"{key}: version {version} is recorded as committed already: record each commit once")
        record.versions.add(version)
        record.commits.append(Commit(version, begun, at, deleted))
        self.commits += 1

    def read(
        self,
        session: Hashable,
        key: Hashable,
        version: int | None,
        began: float,
        ended: float,
        *,
        bound: float,
        strong: bool = False,
    ) -> None:
        """Record a read that was answered.

        Args:
            session: whose calls follow each other, on whatever servers; None: nobody's.
            version: of the value answered; None for MISSING.
            began: when it was called, seconds.
            ended: when it was answered.
            bound: how old the answer may be when the read begins, seconds; inf for no bound.
            strong: it promised the newest: the bound is 0 whatever was passed.

        Raises:
            ValueError: no such version, times or bound, or the history is full.
        """
        if version is not None and not isinstance(version, int):
            raise ValueError(f"{key}: a read answers a version or None for MISSING, not {version!r}")
        if not -inf < began <= ended < inf:
            raise ValueError(f"{key}: a read cannot begin at {began} s and end at {ended} s")
        if not bound >= 0:
            raise ValueError(f"{key}: a bound is 0 s or more, not {bound}")
        oldest = began if strong else began - bound
        self._record(key).calls.append(Call(began, oldest, ended, session, version, False))  # noqa: FBT003 - hot
        self.reads += 1

    def wrote(self, session: Hashable, key: Hashable, version: int, ended: float) -> None:
        """Record a write that was acknowledged as committed; a delete counts as one, with the delete's version.

        Args:
            session: whose write it was; None: nobody's.
            version: the number on its receipt.
            ended: when it was acknowledged, seconds.

        Raises:
            ValueError: no such version or time, or the history is full.
        """
        if not isinstance(version, int) or version < 1:
            raise ValueError(f"{key}: a version is a whole number from 1, not {version!r}")
        if not -inf < ended < inf:
            raise ValueError(f"{key}: the write of version {version} cannot end at {ended} s")
        self._record(key).calls.append(Call(ended, -inf, ended, session, version, wrote=True))
        self.writes += 1

    def judge(self, rules: Collection[Rule]) -> Iterator[Violation]:
        """Violations as they are found, key by key; `check` lists them."""
        for key, record in self._keys.items():
            yield from KeyCheck(key, record.commits, rules).violations(record.calls)

    def _record(self, key: Hashable) -> _KeyRecord:
        if self.commits + self.reads + self.writes >= self._records_max:
            raise ValueError(f"{key}: the history is full with {self._records_max} records; check it and begin another")
        record = self._keys.get(key)
        if record is None:
            record = self._keys[key] = _KeyRecord()
        return record


class _KeyRecord:
    """One key's commits in the feed's order, and its calls in the order recorded."""

    __slots__ = ("calls", "commits", "versions")

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.versions: set[int] = set()
        self.calls: list[Call] = []


def check(
    history: History, *, rules: Collection[Rule] = frozenset(Rule), violations_max: int = VIOLATIONS_MAX
) -> list[Violation]:
    """Judge a history, in n log n of its records and without changing it.

    Args:
        rules: the rules to judge by; all, unless a test is to show that one is needed.
        violations_max: the check ends there, so a list of that length may not be complete.

    Returns:
        The violations, by key in the order of first record, then by time. A read that breaks several rules is in the
        list once for each.

    Raises:
        ValueError: a rule that is none, or `violations_max` under 1.
    """
    if violations_max < 1:
        raise ValueError(f"violations_max is 1 or more, not {violations_max}")
    return list(islice(history.judge(frozenset(map(Rule, rules))), violations_max))
