"""A scenario's own success conditions, judged on the replay. Pure.

Met: it holds in the replay. Unmet: the recording covers what it asks about, and it does not hold. Not
covered: the recording never touches what it asks about, so nothing can be said.

* A required event is met if the recording shows it: emitted, a step's trigger, or the opening event.
  Otherwise it is unmet if the recording is complete, and not covered if it is not: where a step does not say
  what was done, where an event leaves open which it was, or where an event that an agent listens to is not
  followed up.
* A blackboard condition is judged on the item's value at the end. If it does not hold and no step wrote the
  item, it is not covered.
* The number of routine calls is always covered.
* Conditions of any other name ask for what the recording has no measure of.
"""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from holdfast.cli.demo.replay import TOOL_CALLS, Outcome, clipped, occurred
from holdfast.cli.demo.scenario import Scenario, alternatives

_COMPARISON = re.compile(r"(?P<length>length)?\s*(?P<sign>>=|<=|==|>|<|=)\s*(?P<number>-?\d+(?:\.\d+)?)\Z")
_SIGNS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
}


class Verdict(enum.Enum):
    """What the replay says of a condition."""

    MET = "met"
    UNMET = "unmet"
    NOT_COVERED = "not covered"


class Judgement(msgspec.Struct, frozen=True):
    """One condition judged.

    Attributes:
        condition: as the scenario states it.
        reason: what the verdict rests on.
    """

    condition: str
    verdict: Verdict
    reason: str


def judge(scenario: Scenario, outcome: Outcome) -> list[Judgement]:
    """Judge every condition the scenario states, in its order."""
    return [
        judgement for name, wanted in scenario.success.items() for judgement in _judge(name, wanted, scenario, outcome)
    ]


def _judge(name: str, wanted: object, scenario: Scenario, outcome: Outcome) -> Iterator[Judgement]:
    match name, wanted:
        case "requiredEvents", list():
            yield from (_event(str(event), scenario) for event in wanted)
        case "blackboardState", dict():
            yield from (_item(str(item), expected, scenario, outcome) for item, expected in wanted.items())
        case "routineCallsMin", int() if not isinstance(wanted, bool):
            calls = outcome.counters[TOOL_CALLS]
            verdict = Verdict.MET if calls >= wanted else Verdict.UNMET
            yield Judgement(f"at least {wanted} routine calls", verdict, f"the recording has {calls}")
        case _:
            reason = "the recording has no measure of it"
            yield Judgement(f"{name} is {_words(wanted)}", Verdict.NOT_COVERED, reason)


def _event(event: str, scenario: Scenario) -> Judgement:
    condition = f"event {event}"
    if event in occurred(scenario):
        return Judgement(condition, Verdict.MET, "in the recording")
    gap = _gap(scenario)
    if gap:
        return Judgement(condition, Verdict.NOT_COVERED, f"not in the recording, which is incomplete: {gap}")
    return Judgement(condition, Verdict.UNMET, "not in the recording, which is complete")


def _gap(scenario: Scenario) -> str | None:
    """Why the recording is incomplete; None if it is complete."""
    subscribed = {topic for bot in scenario.bots for topic in bot.subscriptions}
    last = {step.trigger: at for at, step in enumerate(scenario.steps)}
    for at, step in enumerate(scenario.steps):
        if step.action is None:
            return f"step {step.number} does not say what was done"
        for event in step.events:
            if len(alternatives(event)) > 1:
                return f"step {step.number} leaves open which event it emitted"
            if event in subscribed and last.get(event, at) <= at:
                return f"nothing follows {event} of step {step.number}"
    return None


def _item(item: str, wanted: object, scenario: Scenario, outcome: Outcome) -> Judgement:
    rule = isinstance(wanted, str) and _is_rule(wanted)
    condition = f"{item} {wanted}" if rule else f"{item} is {_words(wanted)}"
    blackboard = dict(outcome.blackboard)
    holds = item in blackboard and _holds(blackboard[item], wanted)
    value = f"is {clipped(blackboard[item])}" if item in blackboard else "is not on the blackboard"
    if holds:
        return Judgement(condition, Verdict.MET, value)
    if not any(change.item == item for step in scenario.steps for change in step.changes):
        return Judgement(condition, Verdict.NOT_COVERED, f"no step writes it; it {value}")
    return Judgement(condition, Verdict.UNMET, value)


def _words(wanted: object) -> str:
    return wanted if isinstance(wanted, str) else clipped(wanted)


def _is_rule(text: str) -> bool:
    return text == "exists" or _COMPARISON.match(text) is not None


def _holds(value: object, wanted: object) -> bool:
    if not isinstance(wanted, str):
        return type(value) is type(wanted) and value == wanted
    if wanted == "exists":
        return value is not None
    if wanted in {"true", "false"}:
        return value == wanted or value is (wanted == "true")
    comparison = _COMPARISON.match(wanted)
    if comparison is None:
        return value == wanted
    measured = _measure(value, by_length=comparison["length"] is not None)
    return measured is not None and _SIGNS[comparison["sign"]](measured, float(comparison["number"]))


def _measure(value: object, *, by_length: bool) -> float | None:
    if by_length:
        return len(value) if isinstance(value, list | dict | str) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
