"""Secret variables: sealed for the run, the name and the write that they are of, and opened there (pure).

A variable whose sensitivity is `secret` or `pii` never has its plain value in a document; so none is in a cache, a
journal, a snapshot, a difference, an event or a `repr`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from holdfast.documents import ContextVariable, FreeValue, Sealed
from holdfast.documents.frozen import seal_dict
from holdfast.errors import InvalidDocument, KeyMissing, SealBroken
from holdfast.run_context.changes import ContextState
from holdfast.run_context.differences import identical
from holdfast.sensitivity.known_keys import KnownKeys
from holdfast.sensitivity.levels import is_secret
from holdfast.sensitivity.sealing import Place

_KIND: Final = "run"


def place_of(run_id: str, name: str, clock: str) -> Place:
    """Where the value of a variable belongs."""
    return Place(_KIND, run_id, name, clock)


def protected(variable: ContextVariable, run_id: str, keys: KnownKeys) -> ContextVariable:
    """A variable with its plain value as a run is to hold it: sealed, if its sensitivity asks for that.

    Raises:
        InvalidDocument: the value was taken sealed from a variable, or cannot be stored.
        KeyMissing: there is nothing to seal with.
    """
    if type(variable.value) is Sealed:
        raise InvalidDocument(
            variable.key,
            "this is the sealed value of a variable, which cannot be opened elsewhere: read it by its name",
        )
    if not is_secret(variable.sensitivity):
        return variable
    return msgspec.structs.replace(variable, value=keys.seal(variable.value, _place(variable, run_id)))


def opened(variable: ContextVariable, run_id: str, keys: KnownKeys) -> FreeValue:
    """The plain value of a run's variable.

    Raises:
        KeyMissing: its key is not known here.
        SealBroken: it was sealed for another variable, run or write, or was changed.
    """
    value = variable.value
    if type(value) is not Sealed:
        return value
    return keys.open(value, _place(variable, run_id))


def moved(variable: ContextVariable, from_run_id: str, run_id: str, keys: KnownKeys) -> ContextVariable:
    """A variable of one run as another may hold it: sealed for that one, if it is sealed. Raises as `opened`."""
    if type(variable.value) is not Sealed or run_id == from_run_id:
        return variable
    sealed = keys.move(variable.value, _place(variable, from_run_id), _place(variable, run_id))
    return msgspec.structs.replace(variable, value=sealed)


def moved_state(state: ContextState, from_run_id: str, run_id: str, keys: KnownKeys) -> ContextState:
    """A context as another run may hold it; raises as `opened`."""
    variables = {name: moved(each, from_run_id, run_id, keys) for name, each in state.variables.items()}
    return msgspec.structs.replace(state, variables=seal_dict(variables))


def is_same_secret(
    one: ContextVariable, one_run_id: str, other: ContextVariable, other_run_id: str, keys: KnownKeys
) -> bool:
    """Whether variables of two runs are sealed and hold identical values; False, too, where one cannot be opened."""
    if type(one.value) is not Sealed or type(other.value) is not Sealed:
        return False
    try:
        return identical(opened(one, one_run_id, keys), opened(other, other_run_id, keys))
    except (KeyMissing, SealBroken):
        return False


def key_ids(variables: Iterable[ContextVariable]) -> Iterator[str]:
    """The ids of the data keys that are needed to open variables."""
    for variable in variables:
        if type(variable.value) is Sealed and variable.value.is_known:
            yield variable.value.key_id


def _place(variable: ContextVariable, run_id: str) -> Place:
    return place_of(run_id, variable.key, variable.clock)
