"""The hybrid logical clock: never back, later than what was seen, and its text in the order of its moments."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from fix_runs import Wall
from holdfast.run_context.hybrid_clock import COUNTER_MAX, MS_MAX, HybridClock, HybridTime, hybrid_time

times = st.builds(
    HybridTime,
    st.integers(0, 20) | st.integers(0, MS_MAX),
    st.integers(0, 3) | st.integers(0, COUNTER_MAX),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)


@given(st.lists(st.floats(-10, 4e9) | times | st.none(), max_size=30))
def test_a_clock_never_goes_back(course: list[float | HybridTime | None]) -> None:
    """However the wall is set and whatever is observed, each moment is later than all before and all believed."""
    wall = Wall(1_000.0)
    clock = HybridClock(wall, "n", skew_seconds_max=1e9)
    last = clock.now()
    for event in course:
        if isinstance(event, float):
            wall.seconds = event
        elif event is not None and clock.observe(event):
            last = max(last, event)
        now = clock.now()
        assert (now.ms, now.counter) > (last.ms, last.counter)
        last = now


def test_it_follows_the_wall() -> None:
    """A moment is the wall's where that is ahead; within a millisecond the counter tells writes apart."""
    wall = Wall(5.0)
    clock = HybridClock(wall, "n")
    assert [clock.now(), clock.now()] == [HybridTime(5_000, 0, "n"), HybridTime(5_000, 1, "n")]
    wall.seconds = 6.0
    assert clock.now() == HybridTime(6_000, 0, "n")
    assert clock.now().as_datetime() == dt.datetime(1970, 1, 1, 0, 0, 6, tzinfo=dt.UTC)


def test_what_is_too_far_ahead_is_counted_and_not_followed() -> None:
    """One broken clock does not take the others along; just within the limit it is believed."""
    clock = HybridClock(Wall(100.0), "n", skew_seconds_max=60.0)
    assert not clock.observe(HybridTime(160_001, 0, "x"))
    assert (clock.ahead, clock.now()) == (1, HybridTime(100_000, 0, "n"))
    assert clock.observe(HybridTime(160_000, 7, "x"))
    assert (clock.ahead, clock.now()) == (1, HybridTime(160_000, 8, "n"))


def test_more_writes_than_a_millisecond_counts_go_on_in_the_next() -> None:
    """The text of a moment has room for 65,536 of them."""
    clock = HybridClock(Wall(1.0), "n")
    clock.observe(HybridTime(1_000, COUNTER_MAX, "x"))
    assert clock.now() == HybridTime(1_001, 0, "n")


@given(times, times)
def test_the_order_of_texts_is_that_of_moments(one: HybridTime, other: HybridTime) -> None:
    """So a reader compares them without knowing the form; each comes back from its text."""
    assert (one.as_text() < other.as_text()) == (one < other)
    assert hybrid_time(one.as_text()) == one


@given(st.text(max_size=30))
def test_other_text_is_no_moment(text: str) -> None:
    """Nothing is raised for a word that another version may have written."""
    found = hybrid_time(text)
    assert found is None or found.as_text() == text
    assert hybrid_time("") is None
