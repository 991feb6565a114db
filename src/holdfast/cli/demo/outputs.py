"""Output operations: how a routine's answer reaches the blackboard in recordings of shape (b). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from holdfast.cli.demo.oddities import Oddities
from holdfast.cli.demo.scenario import Change, Operation


class OutputRule(msgspec.Struct, rename="camel"):
    """Moves one result to one blackboard item; one of the three sources is given.

    Attributes:
        routine_output: path into the routine's answer, with dots.
        emit_output: a property of the event that was emitted; recordings do not have it.
        constant_value: a value that needs no result.
    """

    blackboard_id: str
    routine_output: str | None = None
    emit_output: str | None = None
    constant_value: Any = msgspec.UNSET


OutputOperations = dict[str, tuple[OutputRule, ...]]
"""Operation to its rules, in the order in which they are applied."""

OPERATIONS = tuple(operation.value for operation in Operation)


def changes_of(place: str, operations: OutputOperations, response: object, odd: Oddities) -> Iterator[Change]:
    """The changes that the operations make of an answer. A path that the answer does not have makes none."""
    for name, rules in operations.items():
        for rule in rules:
            if rule.constant_value is not msgspec.UNSET:
                yield Change(rule.blackboard_id, Operation(name), rule.constant_value)
            elif rule.routine_output is not None:
                found, value = _at_path(response, rule.routine_output)
                if found:
                    yield Change(rule.blackboard_id, Operation(name), value)
            else:
                source = rule.emit_output or "nothing"
                odd.add("unrecorded output", place, f"{rule.blackboard_id} takes {source}, which was not recorded")


def _at_path(value: object, path: str) -> tuple[bool, object]:
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def unclaimed(response: object, operations: Sequence[OutputOperations]) -> list[str]:
    """Results of an answer that no operation moves to the blackboard."""
    rules = (rule for each in operations for group in each.values() for rule in group)
    taken = [rule.routine_output for rule in rules if rule.routine_output is not None]
    return [name for name in _result_paths(response) if not any(_overlap(name, path) for path in taken)]


def _result_paths(response: object) -> Iterator[str]:
    """The results of an answer: the fields of its `result`, or its own."""
    if not isinstance(response, dict):
        return
    for name, value in response.items():
        if name == "result" and isinstance(value, dict):
            yield from (f"result.{inner}" for inner in value)
        else:
            yield name


def _overlap(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")
