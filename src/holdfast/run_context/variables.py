"""The variables of a run's context as its owner writes them: which may be written, and what is written (no I/O)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from holdfast.documents import (
    ContextChange,
    ContextVariable,
    DataSensitivity,
    FreeValue,
    Sealed,
    VariableSource,
    freeze,
)
from holdfast.entry import MISSING
from holdfast.errors import InvalidDocument, ReadOnlyVariable
from holdfast.run_context.conflicts import Resolution, VariableConflict
from holdfast.run_context.differences import identical
from holdfast.run_context.hybrid_clock import HybridClock, hybrid_time
from holdfast.run_context.inheriting import ancestor_of, is_inherited
from holdfast.run_context.secrets import opened, protected
from holdfast.run_context.settling import settled
from holdfast.run_context.tracked import TrackedState
from holdfast.sensitivity.known_keys import KnownKeys
from holdfast.sensitivity.levels import is_secret, strictest


class Variables:
    """Writes them.

    Args:
        keys: that secret ones are sealed and opened with.
    """

    __slots__ = ("_clock", "_draft", "_keys", "_run_id", "_tracked")

    def __init__(self, run_id: str, tracked: TrackedState, clock: HybridClock, keys: KnownKeys) -> None:
        self._run_id = run_id
        self._tracked = tracked
        self._draft = tracked.draft
        self._clock = clock
        self._keys = keys

    def value(self, key: str) -> FreeValue:
        """The value of a variable, opened if it is sealed.

        Raises:
            KeyError: there is none.
            KeyMissing, SealBroken: it cannot be opened.
        """
        return opened(self._draft.variables[key], self._run_id, self._keys)

    def check_writable(self, key: str, variable: ContextVariable | None) -> None:
        """Raises ReadOnlyVariable for one that was set so here; what is inherited is not."""
        if variable is not None and not variable.mutable and not is_inherited(variable):
            raise ReadOnlyVariable(self._run_id, key)

    def written(
        self, key: str, value: FreeValue, source: str, sensitivity: str | None, *, mutable: bool = True
    ) -> ContextVariable:
        """A variable as it is when it is written now: later than the write it replaces, wherever that was made.

        Args:
            sensitivity: None: as before. If it is secret, the value is sealed.
        """
        before = self._draft.variables.get(key)
        if before is not None and (seen := hybrid_time(before.clock)) is not None:
            self._clock.observe(seen)
        time = self._clock.now()
        kept = DataSensitivity.INTERNAL.value if before is None else before.sensitivity
        level = kept if sensitivity is None else sensitivity
        variable = ContextVariable(
            key=key,
            value=_frozen_secret(key, value) if is_secret(level) else value,
            source=source,
            timestamp=time.as_datetime(),
            clock=time.as_text(),
            sensitivity=level,
            mutable=mutable,
            ancestor=ancestor_of(before),
        )
        return protected(variable, self._run_id, self._keys)

    def _taken_in(self, variable: ContextVariable) -> ContextVariable:
        """Another run's variable as this one holds it: its own, and no less closed than what it replaces."""
        before = self._draft.variables.get(variable.key)
        levels = [variable.sensitivity] if before is None else [before.sensitivity, variable.sensitivity]
        own = msgspec.structs.replace(variable, sensitivity=strictest(*levels), mutable=True)
        return own if type(own.value) is Sealed else protected(own, self._run_id, self._keys)

    def take_over(self, birth: int, variables: Mapping[str, ContextVariable], removed: Sequence[str]) -> None:
        """Write what stands of a child's exports, and that it was merged; see `RunContext.merge`."""
        for variable in variables.values():
            if (seen := hybrid_time(variable.clock)) is not None:
                self._clock.observe(seen)
        change = ContextChange(
            at=self._clock.now().as_datetime(),
            variables={key: self._taken_in(variable) for key, variable in variables.items()},
            removed_variables=removed,
            removed_exports=[key for key in removed if key in self._draft.exports],
            merged=birth,
        )
        self._tracked.write(change)

    def resolve(self, conflicts: Iterable[VariableConflict]) -> list[Resolution]:
        """Decide conflicts, and write what stands; see `RunContext.resolve_variable_conflicts`."""
        decided = [settled(conflict, self._run_id, self._keys) for conflict in conflicts]
        values: dict[str, FreeValue] = {}
        for conflict, _, resolution in decided:
            values[conflict.variable_name] = resolution.value
            for time in (conflict.parent_clock, conflict.child_clock):
                if time is not None:
                    self._clock.observe(time)
        secret = {each.conflict.variable_name for each in decided if each.is_secret}
        self._settle({key: value for key, value in values.items() if not self._holds(key, value)}, secret)
        return [each.told(self._draft.variables) for each in decided]

    def _holds(self, key: str, value: FreeValue) -> bool:
        variable = self._draft.variables.get(key)
        return value is MISSING if variable is None else identical(self.value(key), value)

    def _settle(self, values: Mapping[str, FreeValue], secret: AbstractSet[str]) -> None:
        """Write what stands, all of it or nothing: writes of their own, later than both sides.

        Args:
            secret: names of those that are secret at least.
        """
        before = self._draft.variables
        for key in values:
            self.check_writable(key, before.get(key))
        gone = [key for key, value in values.items() if value is MISSING]
        own = {key: before[key].source for key in values if key in before and not is_inherited(before[key])}
        written = {
            key: self.written(key, value, own.get(key, VariableSource.STEP.value), self._level(key, secret))
            for key, value in values.items()
            if value is not MISSING
        }
        if values:
            exported = [key for key in gone if key in self._draft.exports]
            change = ContextChange(
                at=self._clock.now().as_datetime(),
                variables=written,
                removed_variables=gone,
                removed_exports=exported,
            )
            self._tracked.write(change)

    def _level(self, key: str, secret: AbstractSet[str]) -> str | None:
        """What sensitivity a value that stands is written with; None: what it had."""
        before = self._draft.variables.get(key)
        is_kept = key not in secret or (before is not None and is_secret(before.sensitivity))
        return None if is_kept else DataSensitivity.SECRET.value


def _frozen_secret(key: str, value: FreeValue) -> FreeValue:
    """A secret that cannot change any more; a refusal names the variable, and nothing that is inside of it."""
    try:
        return freeze(value)
    except InvalidDocument:
        raise InvalidDocument(key, "the value of this secret nests too deep, or contains itself") from None
