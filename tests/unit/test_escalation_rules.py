"""The rules of escalations: what is opened, decided once, and told to whom."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from holdfast.documents import Escalation, TriedStep
from holdfast.errors import EscalationSettled, InvalidKey, SettingsError
from holdfast.keys import ID_BYTES_MAX, KIND_NAME_BYTES_MAX, check_id
from holdfast.recovery import escalation_rules as rules
from holdfast.recovery.escalation_rules import EscalationNotice, Opening
from holdfast.recovery.strategies import StateErrorType

NOON = dt.datetime(2025, 6, 5, 12, 0, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
ASKED = Escalation(subject="bot:b1", failed="it does not decode", fallback="read_only_mode")


def opened(asked: Escalation = ASKED, **how: Any) -> Escalation:
    """As it is stored."""
    given: dict[str, Any] = {
        "at": NOON,
        "by": "a",
        "timeout_seconds": 3600.0,
        "hooks": ("leader",),
        "masked": str,
    } | how
    return rules.opened(asked, Opening(**given))


def test_an_escalation_has_a_deadline_and_knows_whom_to_tell() -> None:
    """From the moment it is opened; whatever the caller had said of its state does not count."""
    found = opened()
    assert (found.status, found.opened_at, found.opened_by) == ("open", NOON, "a")
    assert (found.deadline, found.hooks) == (NOON + HOUR, ["leader"])


def test_its_words_hold_no_secret_and_have_an_end() -> None:
    """Also those of what was tried, of which the newest steps are kept."""
    tried = [TriedStep(step=f"step {number}", outcome="hidden-1") for number in range(40)]
    asked = msgspec.structs.replace(ASKED, failed="hidden-1" * 1000, tried=tried)
    found = opened(asked, masked=lambda text: text.replace("hidden-1", "***"))
    assert "hidden" not in repr(found)
    assert len(found.failed) == 2000
    assert [each.step for each in found.tried] == [f"step {number}" for number in range(8, 40)]


@pytest.mark.parametrize(
    ("fields", "how", "error"),
    [
        ({"subject": ""}, {}, InvalidKey),
        ({"subject": "\0"}, {}, InvalidKey),
        ({"subject": "x" * 1025}, {}, InvalidKey),
        ({"error_type": "x" * 201}, {}, InvalidKey),
        ({"fallback": "x" * 201}, {}, InvalidKey),
        ({"options": ["wait", ""]}, {}, InvalidKey),
        ({"options": [str(number) for number in range(17)]}, {}, SettingsError),
        ({"severity": "bad"}, {}, SettingsError),
        ({}, {"timeout_seconds": 0.0}, SettingsError),
        ({}, {"timeout_seconds": float("nan")}, SettingsError),
        ({}, {"timeout_seconds": 1e9}, SettingsError),
    ],
)
def test_what_cannot_be_asked_is_refused(fields: dict[str, Any], how: dict[str, Any], error: type[Exception]) -> None:
    """Before anything is stored."""
    with pytest.raises(error):
        opened(msgspec.structs.replace(ASKED, **fields), **how)


def test_a_person_decides_once() -> None:
    """Also behind the deadline, as long as the fallback was not faster; later ones are told who was."""
    done = rules.decided("e1", opened(), "wait", by="ada", reason="she knows", at=NOON + 2 * HOUR)
    assert (done.status, done.decision, done.resolved_by, done.reason) == ("resolved", "wait", "ada", "she knows")
    with pytest.raises(EscalationSettled, match="e1 was resolved by ada") as settled:
        rules.decided("e1", done, "go on", by="bob", reason="late", at=NOON)
    assert settled.value.decision == "wait"
    with pytest.raises(EscalationSettled):
        rules.timed_out("e1", done, NOON + 2 * HOUR, "b")


def test_a_decision_is_one_of_the_options() -> None:
    """If there are any; otherwise it is in free words, but in some."""
    choice = opened(msgspec.structs.replace(ASKED, options=["restore", "wait"]))
    with pytest.raises(SettingsError, match="one of: restore, wait; not 'go on'"):
        rules.decided("e1", choice, "go on", by="ada", reason="why", at=NOON)
    assert rules.decided("e1", choice, "wait", by="ada", reason="why", at=NOON).decision == "wait"
    for words in ("", "\0", "x" * 4001):
        with pytest.raises(InvalidKey):
            rules.decided("e1", opened(), words, by="ada", reason="why", at=NOON)


def test_what_nobody_answers_is_left_to_the_fallback() -> None:
    """At the deadline and not before, with the record that no person answered."""
    assert rules.timed_out("e1", opened(), NOON + HOUR - dt.timedelta(microseconds=1), "b") is None
    done = rules.timed_out("e1", opened(), NOON + HOUR, "b")
    assert done is not None
    assert (done.status, done.decision, done.resolved_by) == ("timed_out", "read_only_mode", "b")
    assert done.reason == f"no person answered until {NOON + HOUR}: left to read_only_mode"


def test_each_hook_is_told_of_each_state_by_a_delivery_of_its_own() -> None:
    """Its value reads back as the notice, whatever is in it."""
    asked = msgspec.structs.replace(
        ASKED, tried=[TriedStep(step="reload", outcome="failed")], options=["wait"], run_id="r1", swarm_id="s1"
    )
    one = opened(asked, hooks=("leader", "pager"))
    done = rules.decided("e1", one, "wait", by="ada", reason="why", at=NOON)
    told = rules.deliveries_of("e1", one) | rules.deliveries_of("e1", done)
    assert {name: each.exporter for name, each in told.items()} == {
        "e1/escalation:leader/open": "escalation:leader",
        "e1/escalation:pager/open": "escalation:pager",
        "e1/escalation:leader/resolved": "escalation:leader",
        "e1/escalation:pager/resolved": "escalation:pager",
    }
    delivery = told["e1/escalation:pager/resolved"]
    assert (delivery.run_id, delivery.swarm_id, delivery.key) == ("r1", "s1", "e1")
    assert msgspec.convert(delivery.value, EscalationNotice) == rules.notice_of("e1", done)


@pytest.mark.parametrize("recovery", ["r", "r/%" * 40, "ä" * 250, "x" * 512])
def test_any_recovery_has_an_id_with_room_for_its_deliveries(recovery: str) -> None:
    """The same each time, and another one than any other's."""
    identifier = rules.escalation_id(recovery)
    assert rules.escalation_id(recovery) == identifier != rules.escalation_id(recovery + "1")
    hooks = ("h" * KIND_NAME_BYTES_MAX,)
    done = rules.timed_out(identifier, opened(hooks=hooks), NOON + HOUR, "b")
    assert done is not None
    for name in rules.deliveries_of(identifier, done):
        assert len(check_id(name).encode()) <= ID_BYTES_MAX


def test_there_are_words_for_each_type_of_error() -> None:
    """For who does not say what failed."""
    assert set(rules.FAILED) == set(StateErrorType)
