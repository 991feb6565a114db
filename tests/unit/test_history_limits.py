"""The history checker refuses what cannot be, keeps to its limits, and is no search."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import pytest

from fix_history import BOUND, A, B, broken, two_commits
from holdfast.testing.history import History, Rule, check


def test_the_list_of_violations_has_a_limit() -> None:
    """A run that is wrong throughout costs no more memory than the limit asks for."""
    history = two_commits()
    for _ in range(10):
        history.read(None, A, 5, 2.0, 2.1, bound=BOUND)
    assert len(check(history)) == 10
    assert len(check(history, violations_max=3)) == 3
    with pytest.raises(ValueError, match="violations_max is 1 or more, not 0"):
        check(history, violations_max=0)
    with pytest.raises(ValueError, match="speed"):
        check(history, rules=["speed"])  # type: ignore[list-item]


def test_a_history_has_a_limit() -> None:
    """The record over it is refused with its key, and the history is as before."""
    history = History(records_max=3)
    history.committed(A, 4, 1.0)
    history.wrote("s", A, 4, 1.0)
    history.read("s", A, 4, 1.0, 1.1, bound=BOUND)
    too_many: list[Callable[[], None]] = [
        lambda: history.committed(B, 5, 1.0),
        lambda: history.wrote("s", B, 5, 1.0),
        lambda: history.read("s", A, 5, 1.0, 1.1, bound=BOUND),
    ]
    for record in too_many:
        with pytest.raises(ValueError, match=r"swarm:.: the history is full with 3 records"):
            record()
    assert (history.commits, history.reads, history.writes) == (1, 1, 1)
    assert check(history) == []


@pytest.mark.parametrize(
    ("version", "at", "begun", "fault"),
    [
        (0, 1.0, None, "a version is a whole number from 1, not 0"),
        ("4", 1.0, None, "a version is a whole number from 1, not '4'"),
        (5, 1.0, 1.1, "version 5 cannot be visible by 1.0 s and begin at 1.1 s"),
        (5, nan, None, "cannot be visible by nan s"),
        (5, inf, None, "cannot be visible by inf s"),
        (5, 1.0, nan, "begin at nan s"),
        (4, 3.0, None, "version 4 is recorded as committed already"),
    ],
)
def test_commits_that_cannot_be_are_refused(version: int, at: float, begun: float | None, fault: str) -> None:
    """The sentence names the key and what is wrong; nothing is recorded."""
    history = two_commits()
    with pytest.raises(ValueError, match=rf"^swarm:a: .*{fault}"):
        history.committed(A, version, at, begun=begun)
    assert history.commits == 2


@pytest.mark.parametrize(
    ("version", "began", "ended", "bound", "fault"),
    [
        ("4", 1.0, 2.0, 0.0, "a version or None for MISSING, not '4'"),
        (4, 2.0, 1.0, 0.0, "cannot begin at 2.0 s and end at 1.0 s"),
        (4, nan, 1.0, 0.0, "cannot begin at nan s"),
        (4, 1.0, nan, 0.0, "end at nan s"),
        (4, -inf, 1.0, 0.0, "cannot begin at -inf s"),
        (4, 1.0, inf, 0.0, "end at inf s"),
        (4, 1.0, 2.0, -0.1, "a bound is 0 s or more, not -0.1"),
        (4, 1.0, 2.0, nan, "a bound is 0 s or more, not nan"),
    ],
)
def test_reads_that_cannot_be_are_refused(version: int, began: float, ended: float, bound: float, fault: str) -> None:
    """The sentence names the key and what is wrong; nothing is recorded."""
    history = two_commits()
    with pytest.raises(ValueError, match=rf"^swarm:a: .*{fault}"):
        history.read("s", A, version, began, ended, bound=bound)
    assert history.reads == 0


@pytest.mark.parametrize(("version", "ended"), [(0, 1.0), (None, 1.0), (4, nan), (4, inf), (4, -inf)])
def test_writes_that_cannot_be_are_refused(version: int, ended: float) -> None:
    """A write has a version and an end."""
    history = two_commits()
    with pytest.raises(ValueError, match=r"^swarm:a: (a version is a whole number|the write of version 4 cannot end)"):
        history.wrote("s", A, version, ended)
    assert history.writes == 0


@pytest.mark.timeout(60)
def test_a_hot_key_with_every_call_open_at_once_is_no_search() -> None:
    """30,000 commits and 60,000 reads that nest in each other on one key: quadratic work would take many minutes."""
    history = History()
    for number in range(1, 30_001):
        history.committed(A, number, 60_000.0 + number, begun=0.0, deleted=number % 2 == 0)
    for number in range(30_000):
        seen = number + 1
        history.read("s", A, None if seen % 2 == 0 else seen, number, 60_000.0 - number, bound=0.0)
        history.read(None, A, None, number, 60_000.0 - number, bound=0.0)
    history.read("s", A, 29_999, 60_000.5, 60_000.6, bound=0.0)
    history.read("s", A, 1, 60_001.0, 60_001.0, bound=0.0)
    assert broken(history) == [Rule.STALE, Rule.MONOTONIC]
