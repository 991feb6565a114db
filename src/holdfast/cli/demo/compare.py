"""What a server's swarm and the replay disagree on. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from holdfast.cli.demo.messages import RunReading
from holdfast.cli.demo.replay import Outcome, clipped
from holdfast.cli.demo.swarms import step_id
from holdfast.documents import RunStatus

DIFFERENCES_MAX = 50
COMPLETED = RunStatus.COMPLETED.value


def compare(expected: Outcome, found: Outcome) -> list[str]:
    """Every difference between the replay and a server's swarm, one sentence each; empty if they are equal.

    Equal means equal as JSON: 1, 1.0 and true are three different values. At most `DIFFERENCES_MAX` are
    spelled out, a last sentence counts the others.
    """
    differences = [
        *_blackboard(expected, found),
        *_sequence(
            "record",
            [*map(msgspec.to_builtins, expected.records)],
            [*map(msgspec.to_builtins, found.records)],
        ),
        *_sequence("event", expected.events, found.events),
        *_mapping("counter", dict(expected.counters), dict(found.counters)),
    ]
    if len(differences) > DIFFERENCES_MAX:
        rest = len(differences) - DIFFERENCES_MAX
        return [*differences[:DIFFERENCES_MAX], f"and {rest} more differences"]
    return differences


def compare_execution(steps: int, found: RunReading | None) -> list[str]:
    """Every difference between what a scenario's runs have to be at the end and what they are.

    Args:
        steps: of the scenario.
    """
    if found is None:
        return [f"run: there is none, of {steps} steps"] if steps else []
    numbers = range(1, steps + 1)
    wanted: list[object] = [[step_id(number), COMPLETED] for number in numbers]
    return [
        *_mapping("run", {"status": COMPLETED}, {"status": found.status}),
        *_sequence("step in the run's context", wanted, [list(step) for step in found.steps]),
        *_sequence("run of a step", [[each, COMPLETED] for each in numbers], [list(each) for each in found.children]),
    ][: DIFFERENCES_MAX + 1]


def _blackboard(expected: Outcome, found: Outcome) -> Iterator[str]:
    ids = [item for item, _ in found.blackboard]
    for item, count in sorted(Counter(ids).items()):
        if count > 1:
            yield f"blackboard item {item!r}: the server has it {count} times"
    wanted = dict(expected.blackboard)
    yield from _mapping("blackboard item", wanted, dict(found.blackboard))
    if list(wanted) != ids and sorted(wanted) == sorted(ids):
        yield f"blackboard order: the replay has {', '.join(wanted)}; the server has {', '.join(ids)}"


def _mapping(what: str, expected: dict[str, object], found: dict[str, object]) -> Iterator[str]:
    for name in dict.fromkeys([*expected, *found]):
        if name not in found:
            yield f"{what} {name!r}: the replay has {clipped(expected[name])}, the server has none"
        elif name not in expected:
            yield f"{what} {name!r}: the server has {clipped(found[name])}, the replay has none"
        elif _text(expected[name]) != _text(found[name]):
            yield _unequal(f"{what} {name!r}", expected[name], found[name])


def _sequence(what: str, expected: Sequence[object], found: Sequence[object]) -> Iterator[str]:
    if len(expected) != len(found):
        yield f"{what}s: the replay has {len(expected)}, the server has {len(found)}"
    for at, (wanted, got) in enumerate(zip(expected, found, strict=False), 1):
        if _text(wanted) != _text(got):
            yield _unequal(f"{what} {at}", wanted, got)


def _unequal(what: str, expected: object, found: object) -> str:
    path, wanted, got = _first_difference(expected, found)
    at = f" at {path}" if path else ""
    return f"{what}{at}: the replay has {clipped(wanted)}, the server has {clipped(got)}"


def _first_difference(expected: object, found: object) -> tuple[str, object, object]:
    """The path of the first place where two unequal values part, and what each has there."""
    path = ""
    while unequal := _unequal_members(expected, found):
        step, expected, found = unequal[0]
        path += step
    return path.removeprefix("."), expected, found


def _unequal_members(expected: object, found: object) -> list[tuple[str, object, object]]:
    """The members in which two containers of the same make differ; none for anything else."""
    members: list[tuple[str, object, object]] = []
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        members = [(f".{name}", expected[name], found[name]) for name in expected]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        members = [(f"[{at}]", *pair) for at, pair in enumerate(zip(expected, found, strict=True))]
    return [(step, wanted, got) for step, wanted, got in members if _text(wanted) != _text(got)]


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
