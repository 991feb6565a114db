"""The history checker on histories made by hand: what each rule catches, and what it must let pass."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from fix_history import BOUND, A, B, broken, two_commits
from holdfast.testing.history import History, Rule, Violation, check


def a_life_and_the_next() -> History:
    """Version 20 at 1 s, deleted as 21 at 2 s, inserted again under the lower number 15 at 3 s."""
    history = History()
    history.committed(A, 20, 1.0, begun=0.9)
    history.committed(A, 21, 2.0, begun=1.9, deleted=True)
    history.committed(A, 15, 3.0, begun=2.9)
    return history


def stale() -> History:
    history = two_commits()
    history.read("s", A, 4, 2.26, 2.3, bound=BOUND)
    return history


def phantom() -> History:
    history = two_commits()
    history.read("s", A, 5, 2.0, 2.1, bound=BOUND)
    return history


def read_your_writes() -> History:
    history = two_commits()
    history.wrote("s", A, 9, 2.0)
    history.read("s", A, 4, 2.0, 2.1, bound=BOUND)
    return history


def monotonic() -> History:
    history = two_commits()
    history.read("s", A, 9, 1.95, 2.0, bound=BOUND)
    history.read("s", A, 4, 2.0, 2.1, bound=BOUND)
    return history


def order() -> History:
    history = History()
    history.committed(A, 9, 2.0, begun=1.9)
    history.committed(A, 4, 1.0, begun=0.9)
    return history


MADE: dict[Rule, Callable[[], History]] = {
    Rule.ORDER: order,
    Rule.PHANTOM: phantom,
    Rule.STALE: stale,
    Rule.READ_YOUR_WRITES: read_your_writes,
    Rule.MONOTONIC: monotonic,
}


@pytest.mark.parametrize("rule", Rule)
def test_each_rule_catches_its_own_fault_and_no_other_rule_does(rule: Rule) -> None:
    """With the rule the fault is found under its name; with that one rule switched off nothing is."""
    assert broken(MADE[rule]()) == [rule]
    assert check(MADE[rule](), rules=set(Rule) - {rule}) == []
    assert [found.what for found in check(MADE[rule](), rules={rule})] == [rule]


def test_a_violation_tells_key_session_and_the_facts_that_prove_it() -> None:
    """The sentence holds the versions, their places in the feed and the times."""
    assert check(stale()) == [
        Violation(
            what=Rule.STALE,
            key=A,
            session="s",
            facts="swarm:a: a read from 2.260000 to 2.300000 s with bound 0.25 s answered version 4 (place 1 in the "
            "feed), but version 9 (place 2 in the feed) was visible by 2.000000 s",
        )
    ]
    assert check(stale())[0].what == "stale"


@pytest.mark.parametrize(
    ("made", "facts"),
    [
        (
            order,
            "version 4 (place 2 in the feed) was visible by 1.000000 s, but version 9 (place 1 in the feed), which",
        ),
        (phantom, "answered version 5, but the feed has no commit of this version for this key"),
        (read_your_writes, "but version 9 (place 2 in the feed) was written by this session by 2.000000 s"),
        (monotonic, "but version 9 (place 2 in the feed) was read by this session by 2.000000 s"),
    ],
)
def test_the_facts_name_what_binds_the_answer(made: Callable[[], History], facts: str) -> None:
    """Which state, and since when, by the rule that is broken."""
    assert facts in check(made())[0].facts


def test_a_right_history_has_no_violation() -> None:
    """Reads of each state in its time, by one session and by nobody, strong and bounded, before and after commits."""
    history = two_commits()
    history.read("s", A, None, 0.1, 0.2, bound=BOUND)
    history.read(None, A, None, 0.95, 0.96, bound=BOUND, strong=True)
    history.read("s", A, 4, 1.1, 1.2, bound=BOUND, strong=True)
    history.wrote("s", A, 9, 2.0)
    history.read("s", A, 9, 2.0, 2.1, bound=BOUND)
    history.read(None, A, 4, 2.2, 2.3, bound=BOUND)
    history.read("t", B, None, 5.0, 5.1, bound=0.0)
    assert check(history) == []
    assert (history.commits, history.reads, history.writes) == (2, 6, 1)


@pytest.mark.parametrize(("began", "found"), [(2.25, []), (2.251, [Rule.STALE])])
def test_an_answer_may_be_as_old_as_the_bound_and_no_older(began: float, found: list[Rule]) -> None:
    """The older version is still right while the newer one was committed exactly the bound before the read began."""
    history = two_commits()
    history.read(None, A, 4, began, 3.0, bound=BOUND)
    assert broken(history) == found


@pytest.mark.parametrize(("strong", "found"), [(False, []), (True, [Rule.STALE])])
def test_a_strong_read_has_no_bound_to_lean_on(strong: bool, found: list[Rule]) -> None:  # noqa: FBT001 - a case
    """What was visible before it began binds it, whatever bound is passed."""
    history = two_commits()
    history.read(None, A, 4, 2.1, 2.2, bound=BOUND, strong=strong)
    assert broken(history) == found


def test_a_strong_read_during_the_commit_may_see_either_version() -> None:
    """Between `begun` and `at` nobody knows which is right."""
    history = two_commits()
    history.read(None, A, 9, 1.92, 1.94, bound=0.0, strong=True)
    history.read(None, A, 4, 1.91, 1.99, bound=0.0, strong=True)
    assert check(history) == []


def test_what_one_strong_read_saw_the_next_must_see_as_well() -> None:
    """An answer proves that its version was visible when the read ended, before the commit is known to be over."""
    history = two_commits()
    history.read(None, A, 9, 1.92, 1.94, bound=0.0, strong=True)
    history.read(None, A, 4, 1.95, 1.99, bound=0.0, strong=True)
    assert broken(history) == [Rule.STALE]


def test_an_acknowledged_write_binds_the_strong_reads_of_others() -> None:
    """A write that has completed is visible to all, though the feed was seen to deliver it later."""
    history = two_commits()
    history.wrote("s", A, 9, 1.95)
    history.read("t", A, 4, 1.96, 1.99, bound=0.0, strong=True)
    assert broken(history) == [Rule.STALE]


def test_a_later_commit_known_earlier_makes_the_earlier_ones_visible() -> None:
    """The feed's order carries knowledge back: who saw version 9 committed need not wait for word of 4."""
    history = History()
    history.committed(A, 4, 10.0)
    history.committed(A, 9, 2.0)
    history.read(None, A, None, 3.0, 3.1, bound=BOUND)
    assert "version 9" in check(history)[0].facts


@pytest.mark.parametrize(("ended", "found"), [(1.89, [Rule.PHANTOM]), (1.9, [])])
def test_no_read_sees_a_commit_that_had_not_begun_when_it_ended(ended: float, found: list[Rule]) -> None:
    """An answer from the future is a phantom."""
    history = two_commits()
    history.read(None, A, 9, 1.5, ended, bound=BOUND)
    assert broken(history) == found


def test_a_state_behind_a_commit_that_had_not_begun_is_a_phantom_too() -> None:
    """The feed's order carries this knowledge forward."""
    history = History()
    history.committed(A, 4, 3.0, begun=2.0)
    history.committed(A, 9, 4.0)
    history.read(None, A, 9, 1.0, 1.5, bound=BOUND)
    assert "answered version 9, but version 4 (place 1 in the feed) began only at 2.0" in check(history)[0].facts


def test_a_version_of_another_key_is_a_phantom() -> None:
    """Versions come from one sequence for all keys, but each belongs to one key."""
    history = two_commits()
    history.committed(B, 7, 1.0)
    history.read(None, B, 9, 2.0, 2.1, bound=BOUND)
    assert [(found.what, found.key) for found in check(history)] == [(Rule.PHANTOM, B)]


def test_the_number_of_a_delete_is_no_value() -> None:
    """A read answers MISSING after a delete, never the number the delete drew; the write itself has that number."""
    history = a_life_and_the_next()
    history.wrote("s", A, 21, 2.0)
    assert check(history) == []
    history.read(None, A, 21, 2.1, 2.2, bound=BOUND)
    assert "drawn by a delete" in check(history)[0].facts


@pytest.mark.parametrize(("version", "ended"), [(5, 2.0), (9, 1.5)])
def test_a_write_acknowledged_and_not_committed_by_then_is_a_phantom(version: int, ended: float) -> None:
    """A write that the feed never delivered, or that began after its acknowledgement."""
    history = two_commits()
    history.wrote("s", A, version, ended)
    assert [(found.what, found.session) for found in check(history)] == [(Rule.PHANTOM, "s")]


def test_a_new_life_with_a_lower_number_is_newer() -> None:
    """Places in the feed count, numbers do not: after 20, 21 and a new insert, 15 is the newest."""
    history = a_life_and_the_next()
    history.read("s", A, 20, 1.5, 1.6, bound=BOUND)
    history.read("s", A, 15, 3.5, 3.6, bound=BOUND)
    assert check(history) == []
    history.read("s", A, 20, 3.6, 3.7, bound=BOUND)
    assert broken(history) == [Rule.STALE, Rule.MONOTONIC]


@pytest.mark.parametrize(("began", "found"), [(0.5, []), (1.5, [Rule.STALE]), (2.5, []), (3.5, [Rule.STALE])])
def test_missing_is_right_before_the_first_commit_and_after_a_delete(began: float, found: list[Rule]) -> None:
    """Each of the times at which the key is MISSING will do, and none between."""
    history = a_life_and_the_next()
    history.read(None, A, None, began, began + 0.1, bound=BOUND)
    assert broken(history) == found


def test_missing_is_taken_for_the_state_that_all_rules_together_allow() -> None:
    """After reading version 20 a session may read MISSING only as the delete, and then 20 is gone for it."""
    history = a_life_and_the_next()
    history.read("s", A, 20, 1.0, 1.1, bound=inf)
    history.read("s", A, None, 1.95, 1.96, bound=inf)
    assert check(history) == []
    history.read("s", A, 20, 1.97, 1.98, bound=inf)
    assert broken(history) == [Rule.MONOTONIC]


def test_missing_that_may_be_old_proves_nothing() -> None:
    """MISSING from before the first commit is allowed without a bound, so the version after it is no step back."""
    history = a_life_and_the_next()
    history.read("s", A, None, 2.5, 2.6, bound=inf)
    history.read("s", A, 20, 2.7, 2.8, bound=inf)
    assert check(history) == []


def test_missing_before_the_delete_began_is_a_step_back() -> None:
    """The only MISSING then known is the one before the version that the session has read."""
    history = a_life_and_the_next()
    history.read("s", A, 20, 1.0, 1.1, bound=inf)
    history.read("s", A, None, 1.2, 1.3, bound=inf)
    assert broken(history) == [Rule.MONOTONIC]


def test_a_row_from_before_the_run_was_always_visible() -> None:
    """Visible at -inf: MISSING was never right."""
    history = History()
    history.committed(A, 3, -inf)
    history.read(None, A, 3, 0.0, 0.1, bound=BOUND)
    history.read(None, A, None, 0.0, 0.1, bound=BOUND)
    assert broken(history) == [Rule.STALE]


def test_sessions_are_bound_by_their_own_calls_only() -> None:
    """Another session, no session and another key go their own ways."""
    history = two_commits()
    history.committed(B, 7, 1.0)
    history.wrote("s", A, 9, 2.0)
    history.wrote(None, A, 9, 2.0)
    history.read("t", A, 4, 2.1, 2.2, bound=BOUND)
    history.read(None, A, 9, 2.1, 2.2, bound=BOUND)
    history.read(None, A, 4, 2.21, 2.22, bound=BOUND)
    history.read("s", B, 7, 2.1, 2.2, bound=BOUND)
    assert check(history) == []


def test_calls_of_a_session_that_overlap_do_not_bind_each_other() -> None:
    """Of two reads under way together, either may have the newer answer; a third after both is bound by both."""
    history = two_commits()
    history.read("s", A, 9, 1.95, 2.2, bound=BOUND)
    history.read("s", A, 4, 2.0, 2.1, bound=BOUND)
    history.wrote("s", A, 9, 2.05)
    assert check(history) == []
    history.read("s", A, 4, 2.2, 2.21, bound=BOUND)
    assert broken(history) == [Rule.READ_YOUR_WRITES, Rule.MONOTONIC]


@pytest.mark.parametrize("write_first", [True, False])
def test_calls_at_one_moment_follow_each_other_as_recorded(write_first: bool) -> None:  # noqa: FBT001 - a case
    """A virtual clock stands still over many calls: a read recorded before the write does not know it."""
    history = two_commits()
    if write_first:
        history.wrote("s", A, 9, 2.0)
    history.read("s", A, 4, 2.0, 2.0, bound=BOUND)
    if not write_first:
        history.wrote("s", A, 9, 2.0)
    assert broken(history) == ([Rule.READ_YOUR_WRITES] if write_first else [])


def test_calls_recorded_out_of_order_are_judged_by_their_times() -> None:
    """A session that moved between servers is recorded by each in turn."""
    history = two_commits()
    history.read("s", A, 4, 2.1, 2.2, bound=BOUND)
    history.read("s", A, 9, 1.95, 2.0, bound=BOUND)
    assert broken(history) == [Rule.MONOTONIC]


def test_a_wrong_answer_proves_nothing_against_right_ones() -> None:
    """A read that came from nowhere or from the past leaves the reads after it as they were."""
    history = two_commits()
    history.read("s", A, 9, 1.0, 1.1, bound=BOUND)
    history.read("s", A, 4, 1.2, 1.3, bound=BOUND, strong=True)
    assert broken(history) == [Rule.PHANTOM]


def test_checking_changes_nothing_and_can_go_on() -> None:
    """The same history is judged the same again, and with what is recorded after."""
    history = stale()
    assert check(history) == check(history)
    history.read("s", A, 9, 2.4, 2.5, bound=BOUND)
    assert broken(history) == [Rule.STALE]
