"""What a parent comes to by what its children have exported, told apart from how Holdfast finds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from holdfast.documents import ContextVariable, Run

STRATEGIES = ("parent_wins", "child_wins", "merge_objects", "keep_latest", "manual_review")


class Held(NamedTuple):
    """A variable of the parent; `clock` of a value that was merged from two: none that a child could name."""

    value: Any
    clock: str


class Child(NamedTuple):
    """A child as L3 has it."""

    name: str
    birth: int
    run: Run


def is_approved(name: str) -> bool:
    """Whether a person decides for what a child of this name has made."""
    return int(name.removeprefix("ct")) % 2 == 0


def merged(before: Mapping[str, ContextVariable], children: Iterable[Child], until: int) -> dict[str, Any]:
    """The values of a parent that began with these variables and has merged the children born until then."""
    state = {key: Held(variable.value, variable.clock) for key, variable in before.items()}
    for child in sorted(children, key=lambda each: each.birth):
        if child.birth <= until and child.run.status == "completed":
            for key, variable in child.run.exported.items():
                state[key] = _decided(key, before.get(key), state.get(key), variable, child.name)
    return {key: held.value for key, held in state.items()}


def _decided(key: str, before: ContextVariable | None, held: Held | None, made: ContextVariable, name: str) -> Held:
    """What stands; all children were begun before the parent wrote the variables with a 1 once more."""
    new = Held(made.value, made.clock)
    if held is None or before is None or (held.clock == before.clock and not key.endswith("1")):
        return new
    if held.value == made.value:
        return held
    stands = {
        "parent_wins": held,
        "child_wins": new,
        "keep_latest": max(held, new, key=lambda each: each.clock),
        "merge_objects": Held(_joined(held.value, made.value), "merged"),
        "manual_review": new if is_approved(name) else held,
    }
    return stands[key.partition(".")[0]]


def _joined(one: Any, other: Any) -> Any:
    """Two mappings as one: what both have is joined, or is the second's."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return other
    both = {**one, **other}
    return {key: _joined(one[key], other[key]) if key in one and key in other else both[key] for key in both}
