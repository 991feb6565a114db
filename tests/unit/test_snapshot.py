"""`Snapshot`: which transactions a reader sees, held against a model of histories."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocols import Snapshot

FIRST_XID = 3
steps = st.lists(st.one_of(st.just("begin"), st.just("look"), st.integers(0, 9)), max_size=60)
"""Begin a transaction, take a snapshot, or end one of those that run."""


class Server:
    """Transactions as PostgreSQL numbers them: in the order of their first write; they end in any order."""

    def __init__(self) -> None:
        self.next_xid = FIRST_XID
        self.running: list[int] = []
        self.over: set[int] = set()

    def begin(self) -> None:
        """Begin one."""
        self.running.append(self.next_xid)
        self.next_xid += 1

    def end(self, which: int) -> None:
        """End one of those that run, by commit or rollback."""
        if self.running:
            self.over.add(self.running.pop(which % len(self.running)))

    def snapshot(self) -> Snapshot:
        """As `pg_current_snapshot` does: up to the latest xid that ended."""
        xmax = max(self.over, default=FIRST_XID - 1) + 1
        running = tuple(xid for xid in self.running if xid < xmax)
        return Snapshot(min(running, default=xmax), xmax, running)


def history(of: Iterable[str | int]) -> list[tuple[Snapshot, frozenset[int], int]]:
    """Snapshots in the order they were taken, what was over then, and the next xid."""
    server, taken = Server(), []
    for step in of:
        if step == "begin":
            server.begin()
        elif isinstance(step, int):
            server.end(step)
        else:
            taken.append((server.snapshot(), frozenset(server.over), server.next_xid))
    return taken


@given(steps)
def test_it_sees_what_was_over(of: list[str | int]) -> None:
    """No more and no less, up to xids that nobody has drawn yet."""
    for snapshot, over, next_xid in history(of):
        assert {xid for xid in range(FIRST_XID, next_xid + 5) if snapshot.sees(xid)} == over


@given(steps)
def test_one_covers_another_if_it_sees_all_that_the_other_sees(of: list[str | int]) -> None:
    """For any two of one history, whichever came first; so the later always covers the earlier."""
    taken = history(of)
    for number, (snapshot, over, _) in enumerate(taken):
        for other, also_over, _ in taken:
            assert snapshot.covers(other) == (over >= also_over)
        assert all(snapshot.covers(earlier) for earlier, _, _ in taken[: number + 1])


@given(steps)
def test_its_text_is_read_back(of: list[str | int]) -> None:
    """In the form that PostgreSQL writes."""
    for snapshot, _, _ in history(of):
        assert Snapshot.parse(str(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("text", "snapshot"),
    [
        ("10:10:", Snapshot(10, 10)),
        ("10:20:10,14,15", Snapshot(10, 20, (10, 14, 15))),
        ("18446744073709551000:18446744073709551610:", Snapshot(2**64 - 616, 2**64 - 6)),
    ],
)
def test_texts_of_postgresql(text: str, snapshot: Snapshot) -> None:
    """As `pg_current_snapshot()::text` gives them."""
    assert Snapshot.parse(text) == snapshot
    assert str(snapshot) == text


@pytest.mark.parametrize("text", ["", "10", "10:20", "10:20:30:40", "a:b:", "10:20:x", "10:20;30:"])
def test_another_text_is_refused(text: str) -> None:
    """It is never read as some snapshot."""
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        Snapshot.parse(text)


def test_a_transaction_that_began_before_and_ended_after() -> None:
    """It is in neither, or in the later one; the one that lacks it covers only what lacks it too."""
    running, over = Snapshot(10, 20, (10,)), Snapshot(20, 20)
    assert not running.sees(10)
    assert over.sees(10)
    assert over.covers(running)
    assert not running.covers(over)
    assert running.covers(running)
