"""The fence map: what L2 is judged by."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest

from holdfast.invalidation.fence_map import FenceMap
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Coherence, Cursor, Snapshot, Watermark
from holdfast.tags import EVERY_TAG

L3 = Coherence(UUID(int=1), {"all": 5})
KEY, OTHER = Key("bot", "b1"), Key("bot", "b2")


def snapshot(upto: int) -> Snapshot:
    return Snapshot(upto, upto)


def mark(upto: int, *, incarnation: UUID = L3.incarnation, known: int = 5) -> Watermark:
    return Watermark(incarnation.bytes, snapshot(upto), 1, known, ((0, 16383),))


def advanced(*polls: tuple[float, int], window_seconds: float = 60.0, keys_max: int = 100) -> FenceMap:
    found = FenceMap(L3, window_seconds=window_seconds, keys_max=keys_max)
    for began, upto in polls:
        found.advance(Cursor(L3, snapshot(upto)), began)
    return found


def test_no_node_is_trusted_before_the_first_poll() -> None:
    """Without a poll nothing is known of what changed."""
    assert not FenceMap(L3).trusts(mark(100))


def test_a_node_that_was_told_all_up_to_the_start_is_trusted() -> None:
    """What came after the start is in the map; what came before it the node must have been told."""
    found = advanced((0.0, 10), (1.0, 20))
    assert found.trusts(mark(10))
    assert not found.trusts(mark(9))


def test_the_start_moves_with_the_window() -> None:
    """A node that lags by more than the window is trusted no more, for its changes are forgotten."""
    found = advanced((0.0, 10), (30.0, 20), (61.0, 30))
    assert found.trusts(mark(10))
    found.advance(Cursor(L3, snapshot(40)), 91.0)
    assert not found.trusts(mark(10))
    assert found.trusts(mark(20))


def test_a_key_is_remembered_as_long_as_the_map_starts_before_it() -> None:
    """A change noted after a poll began is not seen by that poll's snapshot for sure, so it outlives that start."""
    found = advanced((0.0, 10))
    found.note(KEY, 7, 5.0)
    found.advance(Cursor(L3, snapshot(20)), 6.0)
    found.advance(Cursor(L3, snapshot(30)), 65.9)
    assert found.fenced(KEY) == 7
    found.advance(Cursor(L3, snapshot(40)), 66.0)
    assert found.fenced(KEY) == 0


def test_a_poll_that_began_before_the_change_does_not_forget_it() -> None:
    """The start may not move to a snapshot that does not see what is forgotten."""
    found = advanced((0.0, 10))
    found.advance(Cursor(L3, snapshot(20)), 6.0)
    found.note(KEY, 7, 6.5)
    found.advance(Cursor(L3, snapshot(30)), 66.2)
    assert found.fenced(KEY) == 7


def test_the_highest_version_counts() -> None:
    """Changes may be told twice and out of order."""
    found = advanced((0.0, 10))
    found.note(KEY, 9, 1.0)
    found.note(KEY, 7, 2.0)
    assert found.fenced(KEY) == 9


def test_what_was_written_here_is_not_believed_before_a_later_poll() -> None:
    """The version drawn may be lower than that of an older state (V1), and a reply may be late: no number proves it."""
    found = advanced((0.0, 10))
    found.note(KEY, 9, 1.0)
    found.note_unheard(KEY, 9, 1.0)
    assert (found.fenced(KEY), found.fenced(OTHER)) == (ANY_VERSION, 0)
    found.advance(Cursor(L3, snapshot(20)), 1.0)
    assert found.fenced(KEY) == ANY_VERSION, "it may have begun before"
    found.advance(Cursor(L3, snapshot(20)), 1.1)
    assert found.fenced(KEY) == 9


def test_the_feed_brings_what_was_written_here() -> None:
    """It is known by its version: another one is news, and so is the same one after a reset."""
    found = advanced((0.0, 10))
    assert not found.is_noted(KEY, 9)
    found.note_unheard(KEY, 9, 1.0)
    assert (found.is_noted(KEY, 9), found.is_noted(KEY, 8), found.is_noted(OTHER, 9)) == (True, False, False)
    found.note_unheard(KEY, 12, 2.0)
    assert (found.is_noted(KEY, 9), found.is_noted(KEY, 12)) == (False, True)
    found.reset(L3)
    assert not found.is_noted(KEY, 12)


def test_a_whole_kind_is_barred() -> None:
    """After a change of any number of its keys, no answer for the kind counts while the map remembers."""
    found = advanced((0.0, 10))
    found.note_kind("bot", 1.0)
    assert found.fenced(OTHER) == ANY_VERSION
    assert found.fenced(Key("team", "t1")) == 0
    for began in (2.0, 62.0):
        found.advance(Cursor(L3, snapshot(20)), began)
    assert found.fenced(OTHER) == 0


@pytest.mark.parametrize("scope", ["l2:bot", "kind:bot", "all"])
def test_a_whole_kind_is_barred_until_its_next_generation(scope: str) -> None:
    """It was committed after the change, so that who fills under it read later; none known before proves that."""
    found = advanced((0.0, 10))
    found.note_kind("bot", 1.0)
    found.learn(Coherence(L3.incarnation, {**L3.generations, "l2:team": 50, "l2": 60}))
    assert found.fenced(OTHER) == ANY_VERSION
    found.learn(Coherence(L3.incarnation, {**L3.generations, scope: 70}))
    assert found.fenced(OTHER) == 0
    found.note(OTHER, 80, 2.0)
    found.note_kind("bot", 2.0)
    assert found.fenced(OTHER) == ANY_VERSION
    found.learn(Coherence(L3.incarnation, {**L3.generations, scope: 90}))
    assert found.fenced(OTHER) == 80


def test_another_incarnation_is_not_trusted() -> None:
    """Nor is a node that knows a generation which this server does not know yet."""
    found = advanced((0.0, 10))
    assert not found.trusts(mark(10, incarnation=UUID(int=2)))
    assert not found.trusts(mark(10, known=6))
    found.learn(Coherence(L3.incarnation, {"all": 6}))
    assert found.trusts(mark(10, known=6))


def test_a_mark_of_another_start_of_l3_is_not_trusted() -> None:
    """Older files may have been put in place meanwhile, and their snapshots are no part of the line."""
    found = FenceMap(L3)
    found.advance(Cursor(L3, snapshot(10), ("second start",)), 0.0)
    marked = msgspec.structs.replace(mark(10), anchor=("first start",))
    assert not found.trusts(marked)
    assert found.trusts(msgspec.structs.replace(marked, anchor=("second start",)))


def test_a_tag_is_void_below_its_generation_and_news_only_once() -> None:
    """The highest of an entry's tags counts; the newest of all counts for every tag; nothing for no tag."""
    known = FenceMap(L3)
    assert known.note_tags({"x": 120, "y": 110}) == {"x", "y"}
    assert known.note_tags({"x": 119, "y": 130}) == {"y"}
    voids = [known.void_below(tags) for tags in (("x",), ("x", "y"), ("z",), (EVERY_TAG,), ())]
    assert voids == [120, 130, 0, 130, 0]


def test_tags_that_l3_forgot_are_forgotten_here_and_lie_below_a_floor() -> None:
    """Of whatever has tags; and an answer that was overtaken brings none of them back."""
    known = FenceMap(L3)
    known.note_tags({f"t{number}": 110 + number for number in range(10)})
    known.learn(Coherence(L3.incarnation, {"all": 100, "tag": 130, "tagged": 114}))
    assert [known.void_below(tags) for tags in (("t2",), ("t7",), ("z",), ())] == [114, 117, 114, 0]
    assert known.tags_known == 5 + 1
    assert known.note_tags({"t2": 112, "t7": 117}) == set()
    assert known.tags_known == 5 + 1


def test_a_map_that_begins_anew_knows_no_tags() -> None:
    """They were of another past."""
    known = FenceMap(L3)
    known.note_tags({"x": 120})
    known.reset(L3)
    assert known.void_below(["x"]) == 0


def test_older_generations_are_not_taken_back() -> None:
    """An answer that was overtaken must not lower what is known."""
    found = advanced((0.0, 10))
    found.learn(Coherence(L3.incarnation, {"all": 4}))
    assert found.coherence == L3


def test_the_map_is_bounded() -> None:
    """Over the bound the oldest changes go, and the map starts at a snapshot that sees them."""
    found = advanced((0.0, 10), keys_max=3)
    for number in range(3):
        found.note(Key("bot", str(number)), 7, 1.0 + number)
    found.advance(Cursor(L3, snapshot(20)), 2.5)
    found.note(KEY, 7, 4.0)
    found.note(OTHER, 7, 4.0)
    found.advance(Cursor(L3, snapshot(30)), 5.0)
    assert len(found) <= 3
    assert not found.trusts(mark(10))
    assert found.trusts(mark(30))
    assert found.fenced(Key("bot", "0")) == 0


def test_a_reset_forgets_all_and_trusts_nobody() -> None:
    """After a crash of L3 the snapshots of before mean nothing."""
    found = advanced((0.0, 10))
    found.note(KEY, 7, 1.0)
    after = Coherence(UUID(int=2), {"all": 5})
    found.reset(after)
    assert not found.trusts(mark(100, incarnation=after.incarnation))
    assert found.fenced(KEY) == 0


def test_an_unknown_version_is_remembered_for_the_window_and_no_longer() -> None:
    """However often the key is written meanwhile: a hot key must not stay out of L2."""
    found = advanced((0.0, 10))
    found.note(KEY, ANY_VERSION, 5.0)
    for second in range(10, 70, 10):
        found.note(KEY, second, float(second))
        found.advance(Cursor(L3, snapshot(10 + second)), float(second))
        assert found.fenced(KEY) == ANY_VERSION
    found.note(KEY, 70, 70.0)
    found.advance(Cursor(L3, snapshot(90)), 75.0)
    assert found.fenced(KEY) == 70
