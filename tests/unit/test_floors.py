"""Floors: what a scope may be shown after what it saw."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.keys import Key
from holdfast.scopes.floors import FLOORS_MAX, NEVER, Floor, Floors, digest

KEY, OTHER = Key("bot", "b1"), Key("bot", "b2")


def test_a_scope_that_saw_nothing_may_be_shown_anything() -> None:
    """Also while the feed was never heard."""
    assert Floors().of(KEY) == Floor(None, NEVER)
    assert Floor(None, NEVER).passed(NEVER)


def test_what_was_seen_is_the_floor_until_a_later_poll() -> None:
    """A poll that began at the same moment may have begun before."""
    floors = Floors()
    floors.see(KEY, 7, 1.0, 2.0, NEVER)
    assert floors.of(KEY) == Floor(7, 2.0)
    assert [floors.of(KEY).passed(heard) for heard in (1.9, 2.0, 2.1)] == [False, False, True]
    assert floors.of(OTHER) == Floor(None, NEVER)


def test_seeing_the_same_again_does_not_put_off_the_poll() -> None:
    """A key that is read all the time would otherwise need a poll for each change."""
    floors = Floors()
    floors.see(KEY, 7, 1.0, 2.0, NEVER)
    floors.see(KEY, 7, 5.0, 6.0, NEVER)
    assert floors.of(KEY) == Floor(7, 2.0)


def test_no_row_may_be_another_one() -> None:
    """It has no version: after a row that was there meanwhile, what told of the one before proves nothing."""
    floors = Floors()
    floors.see(KEY, 0, 1.0, 2.0, NEVER)
    floors.see(KEY, 0, 5.0, 6.0, NEVER)
    assert floors.of(KEY) == Floor(0, 6.0)
    floors.see(KEY, 0, 5.5, 7.0, NEVER)
    assert floors.of(KEY) == Floor(0, 7.0)


def test_of_overlapping_calls_nobody_knows_which_saw_the_newer_state() -> None:
    """Versions of two lives of a row do not say which came first, so that only a poll proves an answer."""
    floors = Floors()
    floors.see(KEY, 8, 1.0, 2.0, NEVER)
    floors.see(KEY, 7, 1.5, 3.0, NEVER)
    assert floors.of(KEY) == Floor(None, 3.0)
    floors.see(KEY, 9, 4.0, 5.0, NEVER)
    assert floors.of(KEY) == Floor(9, 5.0)


def test_after_a_transaction_no_version_seen_before_proves_anything() -> None:
    """It may have changed any key, by SQL; nor does one that a call brings which began before its end."""
    floors = Floors()
    floors.see(KEY, 7, 1.0, 2.0, NEVER)
    floors.see_all(4.0)
    assert floors.of(KEY) == floors.of(OTHER) == Floor(None, 4.0)
    floors.see(KEY, 7, 3.0, 5.0, NEVER)
    assert floors.of(KEY) == Floor(None, 5.0)
    floors.see(OTHER, 8, 5.0, 6.0, NEVER)
    assert floors.of(OTHER) == Floor(8, 6.0)


def test_a_version_that_overlapped_the_transaction_is_not_believed_later() -> None:
    """A read that ended after the commit, but before the scope was told of it, may have begun before it."""
    floors = Floors()
    floors.see(KEY, 7, 1.0, 5.0, NEVER)
    floors.see_all(4.0)
    assert floors.of(KEY) == Floor(None, 5.0)


def test_what_a_token_carried_counts_from_its_arrival() -> None:
    """Until a call showed the key anew."""
    floors = Floors({digest(KEY): 7}, 10.0)
    assert floors.of(KEY) == Floor(7, 10.0)
    assert floors.ahead(9.0) == ({digest(KEY): 7}, False)
    floors.see(KEY, 8, 11.0, 12.0, 9.0)
    assert floors.of(KEY) == Floor(8, 12.0)
    assert floors.ahead(11.0) == ({digest(KEY): 8}, False)
    assert floors.ahead(13.0) == ({}, False)


def test_a_token_that_says_everything_still_proves_its_versions() -> None:
    """They were seen last; what a scan or a transaction showed since, at whatever moment, makes them prove nothing."""
    floors = Floors({digest(KEY): 7}, 10.0, everything=True)
    assert (floors.of(KEY), floors.of(OTHER)) == (Floor(7, 10.0), Floor(None, 10.0))
    assert floors.ahead(9.0) == ({digest(KEY): 7}, True)
    floors.see_all(10.0)
    assert floors.of(KEY) == floors.of(OTHER) == Floor(None, 10.0)
    assert floors.ahead(9.0) == ({}, True)


def test_a_token_tells_what_is_not_known_by_its_version() -> None:
    """The receiver must not believe a version that proves nothing."""
    floors = Floors({digest(KEY): 7}, 0.5)
    floors.see(KEY, 8, 1.0, 2.0, NEVER)
    floors.see(KEY, 9, 1.5, 3.0, NEVER)
    assert floors.ahead(NEVER) == ({}, True)
    floors.see_all(4.0)
    assert floors.ahead(3.5) == ({}, True)
    assert floors.ahead(4.5) == ({}, False)


def test_floors_are_bounded() -> None:
    """Those that the feed has come past go first; if that is not enough one moment stands for all."""
    floors = Floors()
    for number in range(FLOORS_MAX):
        floors.see(Key("bot", str(number)), 1, 1.0, 2.0, NEVER)
    floors.see(KEY, 7, 3.0, 4.0, 2.5)
    assert floors.of(KEY) == Floor(7, 4.0)
    assert floors.of(Key("bot", "0")) == Floor(None, NEVER)
    for number in range(FLOORS_MAX):
        floors.see(Key("bot", str(number)), 1, 5.0, 6.0, 2.5)
    assert floors.of(KEY) == Floor(None, 6.0)
    assert floors.ahead(2.5) == ({}, True)


Step = tuple[str, int, float]
steps = st.lists(
    st.tuples(st.sampled_from(["read", "all", "poll", "forget"]), st.integers(0, 3), st.floats(0, 3, width=16)),
    max_size=30,
)


@given(steps)
def test_no_floor_is_forgotten_before_a_later_poll(taken: list[Step]) -> None:
    """Whatever happens in whatever order: what was seen and not told since is either the version, or unproven."""
    floors, now, heard = Floors(), 0.0, NEVER
    seen: dict[Key, tuple[int, float]] = {}  # the version that must be kept to, and when it was seen
    everything = NEVER
    for what, number, back in taken:
        now += 1.0
        key = Key("bot", str(number % 2))
        if what == "read":
            floors.see(key, number, now - back, now, heard)
            seen[key] = (number, now)
        elif what == "all":
            floors.see_all(now)
            everything = now
        elif what == "poll":
            heard = now - back
        else:
            floors.forget(heard)
        for each, (version, at) in seen.items():
            floor = floors.of(each)
            if not floor.passed(heard):
                assert floor.version in {None, version}
                assert floor.version is None or everything < at
            else:
                assert heard > everything or everything == NEVER
