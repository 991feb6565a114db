"""The queue of one subscription."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from holdfast.events import Event
from holdfast.invalidation.event_queue import EventQueue, Waiting


class Source:
    """Where events come from; all of them may be handled. Counts those that are parked."""

    def __init__(self) -> None:
        self.source = self
        self.parked = 0

    def holds(self) -> bool:
        return True

    def settle(self, fault: str | None = None, *, attempts: int = 1) -> None: ...

    def park(self) -> None:
        self.parked += 1

    def unpark(self) -> None:
        self.parked -= 1


SOURCE = Source()


def item(name: str, rank: int = 0, *, lane: str | None = None, source: Source | None = SOURCE) -> Waiting:
    return Waiting(Event(name, "t", dt.datetime.now(dt.UTC), "s", None), rank, lane, source)


def queue(live_max: int = 3) -> EventQueue:
    return EventQueue(ranks=4, live_max=live_max)


def names(waiting: EventQueue) -> list[str]:
    """Take all that can be taken."""
    found = []
    while (each := waiting.pop()) is not None:
        found.append(each.event.id)
    return found


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_the_most_urgent_first_and_each_priority_in_order(made: list[tuple[int, bool]]) -> None:
    """Whatever comes in whichever order; of one priority the reliable ones first."""
    waiting = queue(live_max=1000)
    for number, (rank, is_live) in enumerate(made):
        waiting.push(item(f"{number}", rank, source=None if is_live else SOURCE))
    expected = sorted(range(len(made)), key=lambda number: (made[number], number))
    assert names(waiting) == [f"{number}" for number in expected]


def test_a_full_queue_drops_the_oldest_of_the_least_urgent() -> None:
    """Be it the new one; what has an origin is neither dropped nor counted."""
    waiting = queue()
    for number in range(10):
        waiting.push(item(f"kept-{number}", 3))
    for name, rank in (("low-1", 3), ("low-2", 3), ("high-1", 1)):
        assert waiting.push(item(name, rank, source=None)) is None
    dropped = [waiting.push(item(name, rank, source=None)) for name, rank in (("high-2", 1), ("top", 0), ("low-3", 3))]
    assert [each.event.id for each in dropped if each is not None] == ["low-1", "low-2", "low-3"]
    assert len(waiting) == 13
    assert names(waiting)[:3] == ["top", "high-1", "high-2"]


def test_a_held_event_holds_up_its_lane_only() -> None:
    """And goes first once it is released, before those that came meanwhile."""
    waiting = queue()
    for name, lane in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("none", None)):
        waiting.push(item(name, lane=lane))
    first = waiting.pop()
    assert first is not None
    waiting.hold(first)
    assert names(waiting) == ["b1", "none"]
    waiting.push(item("a3", lane="a"))
    assert names(waiting) == []
    assert len(waiting) == 3
    waiting.release(first)
    assert names(waiting) == ["a1", "a2", "a3"]


def test_an_event_without_a_lane_holds_up_nobody() -> None:
    """Whatever others have none either."""
    waiting = queue()
    waiting.push(item("1"))
    waiting.push(item("2"))
    first = waiting.pop()
    assert first is not None
    waiting.hold(first)
    assert names(waiting) == ["2"]
    waiting.release(first)
    assert names(waiting) == ["1"]


def test_what_a_source_withdraws_is_forgotten() -> None:
    """Others' events stay, those without an origin too."""
    waiting, other = queue(), Source()
    waiting.push(item("1"))
    waiting.push(item("2", source=other))
    waiting.push(item("3", source=None))
    waiting.withdraw(SOURCE)
    assert names(waiting) == ["2", "3"]
