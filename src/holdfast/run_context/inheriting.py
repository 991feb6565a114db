"""What a child run gets of its parent's variables (pure)."""

from __future__ import annotations

import msgspec

from holdfast.documents import ContextVariable, Sealed, VariableSource
from holdfast.run_context.differences import identical


def inherited(variable: ContextVariable) -> ContextVariable:
    """A variable as a child gets it: to be read, from the moment it had in the parent."""
    if is_inherited(variable):
        return variable
    return msgspec.structs.replace(variable, source=VariableSource.PARENT.value, mutable=False)


def is_inherited(variable: ContextVariable) -> bool:
    """Whether a run has a variable from its parent and has not written it."""
    return variable.source == VariableSource.PARENT and not variable.mutable


def is_same_write(one: ContextVariable, other: ContextVariable) -> bool:
    """Whether two runs have the same write of a variable: if it is sealed, by its clock, as each has it sealed anew."""
    if type(one.value) is Sealed and type(other.value) is Sealed and one.clock:
        other = msgspec.structs.replace(other, value=one.value)
    return identical(one, other)
