"""How reviews are opened, decided, and what a merge makes of them."""

from __future__ import annotations

import datetime as dt
import itertools
import pickle
from collections.abc import Iterable
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_reviews import CHILD, PARENT
from fix_runs import free_values, hybrid_clock
from holdfast.documents import ContextVariable, Review, ReviewChoice, ReviewPolicy, Run, decode, encode
from holdfast.errors import ReviewSettled
from holdfast.keys import ID_BYTES_MAX, check_id
from holdfast.protocols import Settled
from holdfast.protocols.reviews import OVERTAKEN
from holdfast.reviews import outcomes, rules
from holdfast.reviews.rules import Decision, ReviewRules, review_id
from holdfast.run_context.conflicts import ConflictStrategy

NOON = dt.datetime(2025, 6, 5, 12, tzinfo=dt.UTC)
LATER = NOON + dt.timedelta(hours=2)
FALLBACKS = [each for each in ConflictStrategy if each is not ConflictStrategy.MANUAL_REVIEW]


def opened(
    parent: ContextVariable | None = PARENT,
    child: ContextVariable = CHILD,
    *,
    policy: ReviewPolicy = ReviewPolicy.WAIT,
    fallback: ConflictStrategy = ConflictStrategy.PARENT_WINS,
) -> Review:
    """A review of noon, due an hour later."""
    how = ReviewRules(policy, 3600.0, fallback)
    return rules.opened("r1", "c1", parent, child, rules=how, at=NOON, by="server a")


def settled(
    review: Review, parent: ContextVariable | None, child: ContextVariable = CHILD, decided: Iterable[str] = ()
) -> Settled | None:
    """What a merge makes of a review."""
    return outcomes.settled(review, parent, child, hybrid_clock(), decided)


def timed_out(review: Review, by: str = "server b") -> Review:
    """A review that its fallback has decided."""
    return rules.timed_out("v", review, LATER, by, hybrid_clock())


def decision(choice: ReviewChoice, variable: ContextVariable | None = None) -> Decision:
    """Ada's."""
    return Decision(choice=choice, by="ada", reason="she knows", variable=variable)


def test_a_review_says_what_is_to_be_decided_and_until_when() -> None:
    """And is stored and read back."""
    review = opened()
    assert (review.run_id, review.child_run_id, review.variable) == ("r1", "c1", "site")
    assert (review.parent, review.child) == (PARENT, CHILD)
    assert (review.opened_by, review.opened_at) == ("server a", NOON)
    assert review.deadline == NOON + dt.timedelta(hours=1)
    assert decode(Review, encode(review)) == review
    assert decode(Review, encode(opened(None))) == opened(None)


@given(st.lists(st.text(alphabet="a/%2F", min_size=1, max_size=4), min_size=3, max_size=3).map(tuple))
def test_no_two_conflicts_have_one_review(parts: tuple[str, str, str]) -> None:
    """Wherever slashes stand in their names; and each id is one."""
    for other in itertools.product("/a", repeat=3):
        assert other == parts or review_id(*other) != review_id(*parts)
    text = "/".join(parts)
    for first, second in itertools.combinations([place for place, each in enumerate(text) if each == "/"], 2):
        split = text[:first], text[first + 1 : second], text[second + 1 :]
        assert split == parts or review_id(*split) != review_id(*parts)
    check_id(review_id(*parts))


def test_an_id_is_readable_as_long_as_it_fits() -> None:
    """Else a digest of it."""
    assert review_id("r1", "c1", "a/b") == "r1/c1/a/b"
    assert review_id("r/1", "c%1", "v") == "r%2F1/c%251/v"
    long = review_id("r" * 300, "c" * 300, "v")
    assert long.startswith("sha256:")
    assert len(check_id(long)) < ID_BYTES_MAX
    assert long != review_id("r" * 300, "c" * 300, "w")


@pytest.mark.parametrize(
    ("choice", "given", "stands"),
    [
        (ReviewChoice.PARENT, None, PARENT),
        (ReviewChoice.CHILD, None, CHILD),
        (ReviewChoice.VALUE, msgspec.structs.replace(CHILD, value="east"), "east"),
    ],
)
def test_a_decision_is_what_a_merge_makes_of_it(
    choice: ReviewChoice, given: ContextVariable | None, stands: ContextVariable | str
) -> None:
    """With who made it and why; until then the merge waits."""
    review = opened()
    assert settled(review, PARENT) is None
    done = rules.decided("v", review, decision(choice, given), LATER)
    assert (done.status, done.choice, done.resolved_by, done.resolved_at) == ("resolved", choice, "ada", LATER)
    found = settled(done, PARENT)
    assert found is not None
    assert found.variable == (stands if isinstance(stands, ContextVariable) else given)
    assert found.reason == "resolved by ada: she knows"


def test_what_the_parent_wrote_since_stays_if_it_is_chosen() -> None:
    """Not what it had when the review was opened."""
    newer = msgspec.structs.replace(PARENT, value="far north")
    done = rules.decided("v", opened(), decision(ReviewChoice.PARENT), LATER)
    assert settled(done, newer) == Settled(newer, "resolved by ada: she knows")
    assert settled(done, None) == Settled(None, "resolved by ada: she knows")


def test_a_run_that_goes_on_keeps_its_value_until_it_is_decided() -> None:
    """At once, and then it is what was decided."""
    review = opened(policy=ReviewPolicy.GO_ON)
    found = settled(review, PARENT)
    assert found is not None
    assert found.variable is PARENT
    done = rules.decided("v", review, decision(ReviewChoice.CHILD), LATER)
    assert settled(done, PARENT) == Settled(CHILD, "resolved by ada: she knows")


def test_nothing_is_decided_twice() -> None:
    """By whom it was decided the error says, also as a copy from another process."""
    resolved = rules.decided("v", opened(), decision(ReviewChoice.CHILD), LATER)
    late = timed_out(opened())
    for done in (resolved, late):
        acts = [
            partial(timed_out, done, "server c"),
            partial(rules.decided, "v", done, decision(ReviewChoice.PARENT), LATER),
        ]
        for act in acts:
            with pytest.raises(ReviewSettled) as caught:
                act()
            assert (caught.value.by, caught.value.status) == (done.resolved_by, done.status)
            assert pickle.loads(pickle.dumps(caught.value)).by == done.resolved_by  # noqa: S301 - our own
    with pytest.raises(ReviewSettled, match=r"review v was resolved by ada at .*, for: child"):
        timed_out(resolved, "server c")


def test_a_review_is_due_at_its_deadline() -> None:
    """Not before, never without one, and not once it is decided."""
    review = opened()
    assert review.deadline is not None
    assert rules.is_due(review, review.deadline)
    assert not rules.is_due(review, review.deadline - dt.timedelta(microseconds=1))
    assert not rules.is_due(msgspec.structs.replace(review, deadline=None), LATER)
    assert not rules.is_due(rules.decided("v", review, decision(ReviewChoice.CHILD), NOON), LATER)


MERGED = {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("fallback", "parent", "child", "choice", "value"),
    [
        (ConflictStrategy.PARENT_WINS, "north", "south", "parent", "north"),
        (ConflictStrategy.CHILD_WINS, "north", "south", "child", "south"),
        (ConflictStrategy.KEEP_LATEST, "north", "south", "child", "south"),
        (ConflictStrategy.MERGE_OBJECTS, {"a": 1}, {"b": 2}, "value", MERGED),
        (ConflictStrategy.MERGE_OBJECTS, "north", {"b": 2}, "parent", "north"),
    ],
)
def test_the_fallback_decides_what_nobody_has(
    fallback: ConflictStrategy, parent: object, child: object, choice: str, value: object
) -> None:
    """And the reason says that no person answered."""
    sides = msgspec.structs.replace(PARENT, value=parent), msgspec.structs.replace(CHILD, value=child)
    done = timed_out(opened(*sides, fallback=fallback))
    assert (done.status, done.choice, done.resolved_by) == ("timed_out", choice, "server b")
    assert done.reason.startswith(f"no person answered until 2025-06-05 13:00:00+00:00; {fallback.value}: ")
    found = settled(done, *sides)
    assert found is not None
    assert found.variable is not None
    assert found.variable.value == value


@given(st.sampled_from(FALLBACKS), st.none() | free_values, free_values)
def test_a_fallback_is_the_same_for_whoever_asks(fallback: ConflictStrategy, parent: object, child: object) -> None:
    """On any server, from the stored review: it does not matter which values are one object."""
    own = None if parent is None else msgspec.structs.replace(PARENT, value=parent)
    review = opened(own, msgspec.structs.replace(CHILD, value=child), fallback=fallback)
    one = timed_out(review, "s")
    assert encode(one) == encode(timed_out(decode(Review, encode(review)), "s"))


@pytest.mark.parametrize("word", ["manual_review", "of a later version"])
def test_a_fallback_that_decides_nothing_lets_the_parent_stand(word: str) -> None:
    """Otherwise the run would wait for ever."""
    review = msgspec.structs.replace(opened(), fallback=word)
    assert timed_out(review, "s").choice == "parent"


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("public", "secret", "secret"),
        ("pii", "internal", "pii"),
        ("confidential", "internal", "confidential"),
        ("a later word", "secret", "a later word"),
    ],
)
def test_what_is_made_of_both_sides_is_as_closed_as_either(one: str, other: str, both: str) -> None:
    """In whatever order."""
    for parent, child in ((one, other), (other, one)):
        sides = [
            msgspec.structs.replace(side, value={name: 1}, sensitivity=level)
            for side, name, level in ((PARENT, "a", parent), (CHILD, "b", child))
        ]
        done = timed_out(opened(*sides, fallback=ConflictStrategy.MERGE_OBJECTS), "s")
        assert done.resolved is not None
        assert done.resolved.sensitivity == both


LATER_WRITE = ContextVariable(key="site", value="since", clock="000000000009.0000.a")
EARLIER_WRITE = ContextVariable(key="site", value="since", clock="000000000000.0001.z")
GIVEN = msgspec.structs.replace(CHILD, value="east", clock="000000000005.0000.c")


@pytest.mark.parametrize("policy", list(ReviewPolicy))
@pytest.mark.parametrize(("choice", "given"), [(ReviewChoice.CHILD, None), (ReviewChoice.VALUE, GIVEN)])
@pytest.mark.parametrize(
    ("seen", "now", "is_overtaken"),
    [
        (PARENT, PARENT, False),
        (PARENT, msgspec.structs.replace(PARENT, sensitivity="confidential"), False),
        (PARENT, CHILD, False),
        (PARENT, LATER_WRITE, True),
        (PARENT, EARLIER_WRITE, True),
        (PARENT, None, True),
        (None, None, False),
        (None, LATER_WRITE, True),
    ],
)
def test_what_the_run_wrote_since_is_never_undone(
    policy: ReviewPolicy,
    choice: ReviewChoice,
    given: ContextVariable | None,
    seen: ContextVariable | None,
    now: ContextVariable | None,
    *,
    is_overtaken: bool,
) -> None:
    """Nor what it removed, whichever of two clocks is ahead: for a merge, and for a decision that comes late."""
    done = rules.decided("v", opened(seen, policy=policy), decision(choice, given), LATER)
    found = settled(done, now)
    assert found is not None
    assert (found.overtaken, found.variable) == (is_overtaken, now if is_overtaken else given or CHILD)
    assert found.reason.endswith(OVERTAKEN) is is_overtaken
    late = outcomes.late_decision("v", done, ())
    assert late.basis.is_overtaken(now) is is_overtaken
    assert (late.variable, late.overtaken) == (given or CHILD, False)


def test_what_another_decision_put_there_is_no_write_of_the_run() -> None:
    """The child's of another review, or a value that a person gave; of one that is open nothing was put there."""
    other = msgspec.structs.replace(CHILD, value="other", clock="000000000003.0000.d")
    open_ = opened(child=other)
    assert outcomes.decided_clocks(open_) == frozenset()
    given = rules.decided("w", open_, decision(ReviewChoice.VALUE, GIVEN), LATER)
    done = rules.decided("v", opened(), decision(ReviewChoice.CHILD), LATER)
    for held in (other, GIVEN):
        alone, beside = settled(done, held), settled(done, held, decided=outcomes.decided_clocks(given))
        assert alone is not None
        assert beside is not None
        assert (alone.overtaken, beside.overtaken, beside.variable) == (True, False, CHILD)


@pytest.mark.parametrize("policy", list(ReviewPolicy))
def test_a_choice_of_a_later_version_is_left_to_it(policy: ReviewPolicy) -> None:
    """A merge waits as if nothing were decided, or goes on with its own; nothing is removed, and it is not applied."""
    done = rules.decided("v", opened(policy=policy), decision(ReviewChoice.CHILD), LATER)
    later = msgspec.structs.replace(done, choice="neither")
    assert not outcomes.is_decided(later)
    assert outcomes.decided_clocks(later) == frozenset()
    assert not outcomes.is_unapplied(later)
    found = settled(later, PARENT)
    assert (None if found is None else found.variable) == (PARENT if policy is ReviewPolicy.GO_ON else None)


def test_what_is_merged_of_both_sides_is_a_write_of_its_own() -> None:
    """Later than both, so nobody takes it for the child's; also where it is merged without having been reviewed."""
    sides = [msgspec.structs.replace(side, value={side.clock: 1}) for side in (PARENT, CHILD)]
    done = timed_out(opened(*sides, fallback=ConflictStrategy.MERGE_OBJECTS))
    assert done.resolved is not None
    assert done.resolved.clock > CHILD.clock > PARENT.clock
    large = rules.too_large("v", opened(*sides, fallback=ConflictStrategy.MERGE_OBJECTS), LATER, "s")
    found = settled(large, sides[0], sides[1])
    assert found is not None
    assert found.variable is not None
    assert (len(found.variable.value), found.variable.clock > CHILD.clock) == (2, True)


@pytest.mark.parametrize(("fallback", "stands"), [("parent_wins", LATER_WRITE), ("child_wins", CHILD)])
def test_what_was_too_large_is_decided_where_it_is_merged(fallback: str, stands: ContextVariable) -> None:
    """From the values there; the review has none, and no run that has gone on has still to take it over."""
    review = msgspec.structs.replace(opened(policy=ReviewPolicy.GO_ON), fallback=fallback)
    large = rules.too_large("v", review, LATER, "s")
    assert (large.status, large.choice, large.resolved_by) == ("timed_out", "fallback", "s")
    assert b"north" not in encode(large)
    assert b"south" not in encode(large)
    assert not outcomes.is_unapplied(large)
    found = settled(large, LATER_WRITE)
    assert found is not None
    assert (found.variable, found.overtaken) == (stands, False)
    assert f"too large to be reviewed; {fallback}: " in found.reason


@pytest.mark.parametrize("status", ["running", "paused", "completed", "failed", "cancelled", "a later word", None])
def test_a_run_that_is_over_is_reached_by_no_decision(status: str | None) -> None:
    """Nor one that was deleted; one that is paused may be resumed."""
    run = None if status is None else Run(routine_id="search", status=status)
    why = rules.nobody_waits("r1", run)
    if status in {"running", "paused", "a later word"}:
        assert why is None
        return
    assert why == f"run r1 is {status or 'deleted'}: a decision would reach nobody"
    closed = rules.given_up("v", opened(fallback=ConflictStrategy.CHILD_WINS), LATER, "s", why)
    assert (closed.status, closed.choice, closed.reason) == ("timed_out", "parent", why)
