"""A history made by hand, and the rules that one breaks."""

from __future__ import annotations

from holdfast.keys import Key
from holdfast.testing.history import History, check

A, B = Key("swarm", "a"), Key("swarm", "b")
BOUND = 0.25


def two_commits() -> History:
    """Versions 4 and 9, visible by 1 s and 2 s, each begun 0.1 s before."""
    history = History()
    history.committed(A, 4, 1.0, begun=0.9)
    history.committed(A, 9, 2.0, begun=1.9)
    return history


def broken(history: History) -> list[str]:
    """The rules broken, in the order found."""
    return [violation.what for violation in check(history)]
