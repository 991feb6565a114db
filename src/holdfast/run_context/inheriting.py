"""What a child run gets of its parent's variables (pure)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from holdfast.documents import ContextVariable, Sealed, VariableSource
from holdfast.documents.frozen import EMPTY_DICT
from holdfast.run_context.differences import identical


def inherited(variable: ContextVariable) -> ContextVariable:
    """A variable as a child gets it: to be read, from the moment it had in the parent."""
    if is_inherited(variable):
        return variable
    return msgspec.structs.replace(variable, source=VariableSource.PARENT.value, mutable=False, ancestor=None)


def copies(
    parent: Mapping[str, ContextVariable], own: Mapping[str, ContextVariable] = EMPTY_DICT
) -> dict[str, ContextVariable]:
    """What a run takes over of its parent's variables now: those that it has not made its own, and does not have so.

    Args:
        own: what it has.
    """
    found = {key: inherited(each) for key, each in parent.items() if key not in own or is_inherited(own[key])}
    return {key: copy for key, copy in found.items() if key not in own or not is_same_write(own[key], copy)}


def is_inherited(variable: ContextVariable) -> bool:
    """Whether a run has a variable from its parent and has not written it."""
    return variable.source == VariableSource.PARENT and not variable.mutable


def is_same_write(one: ContextVariable, other: ContextVariable) -> bool:
    """Whether two runs have the same write of a variable: if it is sealed, by its clock, as each has it sealed anew."""
    if type(one.value) is Sealed and type(other.value) is Sealed and one.clock:
        other = msgspec.structs.replace(other, value=one.value)
    return identical(one, other)


def ancestor_of(before: ContextVariable | None) -> str | None:
    """The `ContextVariable.ancestor` of what a run writes over this; None: it has no such variable."""
    if before is None:
        return None
    return before.clock if is_inherited(before) else before.ancestor
