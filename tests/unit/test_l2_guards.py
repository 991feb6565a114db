"""Which nodes of L2 are cut off, and when they are asked again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.recovery.breaker import Breaker, Circuit
from holdfast.tiers.l2_guards import RULES, NodeGuards

A, B = "a:1", "b:1"
REQUEST_SECONDS = 0.5


def guards_of() -> NodeGuards:
    return NodeGuards(RULES, request_timeout_seconds=REQUEST_SECONDS)


def one_silence(patch: pytest.MonkeyPatch) -> None:
    """Mutant: a silent node is cut off by its third failure in a second, as any other."""
    patch.setattr(Breaker, "trip", lambda self, now: self.ended(self.permit(now), now, well=False))


def healthy(_patch: pytest.MonkeyPatch) -> None:
    """Not a mutant."""


@pytest.mark.parametrize(("mutation", "is_cut_off"), [(healthy, True), (one_silence, False)])
def test_a_silent_node_is_cut_off_by_its_first_request(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, *, is_cut_off: bool
) -> None:
    """It had all its time, and nothing else was heard of it: the next caller must not wait as long again."""
    mutation(monkeypatch)
    guards = guards_of()
    guards.answered_together([A, B], 9.0, 9.001)
    guards.failed(A, 10.0, 10.5)
    assert guards.is_cut_off(A) is is_cut_off
    assert not guards.is_cut_off(B)
    assert guards.circuits([A, B])[B] is Circuit.CLOSED


def test_a_node_that_answered_others_meanwhile_is_not_silent() -> None:
    """One request was lost, or slow; it is one failure."""
    guards = guards_of()
    guards.answered_together([A], 10.1, 10.2)
    guards.failed(A, 10.0, 10.5)
    assert not guards.is_cut_off(A)


def test_connections_that_are_lost_at_once_count() -> None:
    """One reset says little; three in a second without as many answers say that nobody is there."""
    guards = guards_of()
    for moment in (10.0, 10.1):
        guards.failed(A, moment, moment + 0.001)
        assert not guards.is_cut_off(A)
    guards.failed(A, 10.2, 10.201)
    assert guards.is_cut_off(A)


def test_a_few_failures_among_many_answers_do_not() -> None:
    """A share of one in ten cuts nobody off."""
    guards = guards_of()
    for step in range(100):
        moment = 10 + step / 100
        if step % 10:
            guards.answered_together([A], moment, moment + 0.001)
        else:
            guards.failed(A, moment, moment + 0.001)
    assert not guards.is_cut_off(A)


def test_a_failure_is_forgotten_with_its_window() -> None:
    """Then a batch costs no more than before: there is no breaker to be told."""
    guards = guards_of()
    guards.failed(A, 10.0, 10.001)
    assert guards.any_suspect
    guards.answered(A, 10.5, 10.501)
    assert guards.any_suspect
    guards.answered(A, 11.2, 11.201)
    assert not guards.any_suspect


def test_slow_answers_are_failures() -> None:
    """Three that took longer than half of what a request may take: L3 is faster by now."""
    guards = guards_of()
    for moment in (10.0, 10.1, 10.2):
        guards.answered(A, moment, moment + 0.3)
    assert guards.is_cut_off(A)


def test_probes_bring_a_node_back() -> None:
    """One at a time, after a pause; so many in a row as the rules say; one that fails begins anew."""
    guards = guards_of()
    guards.failed(A, 10.0, 10.5)
    assert guards.probe(A, 10.6) is None
    permit = guards.probe(A, 11.1)
    assert permit is not None
    assert guards.probe(A, 11.1) is None
    guards.probed(A, permit, 11.2, well=False)
    assert guards.probe(A, 12.1) is None
    for _ in range(RULES.probes):
        assert guards.is_cut_off(A)
        permit = guards.probe(A, 12.3)
        assert permit is not None
        guards.probed(A, permit, 12.3, well=True)
    assert not guards.is_cut_off(A)
    assert guards.probe(A, 12.4) is None
    assert guards.heard_at(A) == 12.3


def test_what_began_before_it_was_cut_off_says_nothing() -> None:
    """Only probes tell how a node is now."""
    guards = guards_of()
    guards.failed(A, 10.0, 10.5)
    guards.answered(A, 10.1, 10.6)
    guards.answered_together([A], 10.5, 10.6)
    assert guards.is_cut_off(A)


def test_a_node_that_l2_has_no_more_is_forgotten() -> None:
    """Nothing is kept of it; one that takes its name starts anew."""
    guards = guards_of()
    guards.failed(A, 10.0, 10.5)
    permit = guards.probe(A, 11.1)
    guards.keep_only([B])
    assert not guards.any_suspect
    assert permit is not None
    guards.probed(A, permit, 11.2, well=True)
    assert guards.circuits([A])[A] is Circuit.CLOSED
    assert guards.probe(A, 12.0) is None


def test_no_caller_waits_longer_than_one_and_a_half_requests() -> None:
    """A request to several nodes has the time they take, at most half of a request's; then each has a whole one."""
    guards = guards_of()
    assert guards.timeout_seconds == REQUEST_SECONDS / 2
    for step in range(50):
        guards.answered_together([A, B], step, step + 0.001)
    assert guards.timeout_seconds == 0.1
    for _ in range(10):
        guards.answered_together([], 0.0, 0.0, expired=True)
    assert guards.timeout_seconds == REQUEST_SECONDS / 2
