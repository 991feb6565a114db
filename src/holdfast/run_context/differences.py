"""What is different between two states of a run's context (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from holdfast.documents import FreeValue
from holdfast.documents.frozen import EMPTY_DICT, seal_dict
from holdfast.run_context.changes import ContextState

SECTIONS = ("inputs", "variables", "intermediate", "exports", "steps")


class Changed(NamedTuple):
    """A value that became another."""

    before: FreeValue
    after: FreeValue


class SectionDifference(msgspec.Struct, frozen=True):
    """What is different in one section, by key.

    Attributes:
        added, removed: what only the later state has, or only the earlier.
        changed: both values of what both have.
    """

    added: Mapping[str, Any] = EMPTY_DICT
    removed: Mapping[str, Any] = EMPTY_DICT
    changed: Mapping[str, Changed] = EMPTY_DICT

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class Difference(msgspec.Struct, frozen=True):
    """What is different between two states; false if nothing is.

    Attributes:
        sections: of `inputs`, `variables`, `intermediate`, `exports` and `steps` those where anything is.
        current_step, status: both values; None: they are the same.
    """

    sections: Mapping[str, SectionDifference] = EMPTY_DICT
    current_step: Changed | None = None
    status: Changed | None = None

    def __bool__(self) -> bool:
        return bool(self.sections or self.current_step or self.status)

    def __getitem__(self, section: str) -> SectionDifference:
        return self.sections.get(section, _SAME)


_SAME = SectionDifference()


def difference(before: ContextState, after: ContextState) -> Difference:
    """What is different; values of other types are (1 is neither 1.0 nor True)."""
    sections = {name: _of_section(getattr(before, name), getattr(after, name)) for name in SECTIONS}
    return Difference(
        seal_dict({name: found for name, found in sections.items() if found}),
        _of_value(before.current_step, after.current_step),
        _of_value(before.status, after.status),
    )


def _of_section(before: Mapping[str, Any], after: Mapping[str, Any]) -> SectionDifference:
    if before is after:
        return _SAME
    both = [(key, Changed(before[key], after[key])) for key in before if key in after]
    return SectionDifference(
        seal_dict({key: value for key, value in after.items() if key not in before}),
        seal_dict({key: value for key, value in before.items() if key not in after}),
        seal_dict({key: pair for key, pair in both if not identical(*pair)}),
    )


def _of_value(before: str | None, after: str | None) -> Changed | None:
    return None if before == after else Changed(before, after)


def identical(one: FreeValue, other: FreeValue) -> bool:  # noqa: PLR0911  # a table of cases
    """Whether two frozen values are the same, the types of all that they hold included."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(each, other[key]) for key, each in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, msgspec.Struct):
        return all(identical(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)
    if isinstance(one, frozenset):
        return {(type(each), each) for each in one} == {(type(each), each) for each in other}
    return bool(one == other or (one != one and other != other))  # noqa: PLR0124 - NaN is itself here
