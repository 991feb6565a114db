"""The context of a run while it runs: the seed's `RunContext` (no I/O; time is passed in).

Reading and writing are those of a mapping of values. Every value is frozen when it comes in, so no two contexts can
share what one of them could change. What was written since is collected for `take_changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from holdfast.documents import (
    ContextChange,
    ContextVariable,
    DataSensitivity,
    ExportDeclaration,
    FreeValue,
    StepRecord,
    StepStatus,
    VariableSource,
    freeze,
)
from holdfast.documents.frozen import EMPTY_DICT, seal_dict
from holdfast.keys import ID_BYTES_MAX, check_text
from holdfast.run_context.changes import EMPTY_STATE, ContextState
from holdfast.run_context.conflicts import ConflictStrategy, Resolution, VariableConflict
from holdfast.run_context.declaring import Declarations
from holdfast.run_context.exports import Terms
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.run_context.inheriting import copies
from holdfast.run_context.intermediate import Intermediate
from holdfast.run_context.limits import RunLimits, check_run_id
from holdfast.run_context.secrets import moved
from holdfast.run_context.tracked import TrackedState
from holdfast.run_context.variables import Variables
from holdfast.sensitivity.known_keys import KnownKeys

_DEFAULT_LIMITS = RunLimits()
_DEFAULT_TERMS = Terms()


class RunContext(MutableMapping[str, FreeValue]):
    """What a run knows: inputs, variables, intermediate results, exports and steps.

    As a mapping it is name to value of its variables.

    Attributes:
        run_id, routine_id: of the run.
        parent_run_id: of the run above; None: it is the uppermost, of `depth` 0.
        status: a `RunStatus`; told by the run's row, not by changes.
        children: how many runs were begun below it.
        intermediate: results that no later run needs, name to value; a mapping to write to.
    """

    def __init__(
        self,
        run_id: str,
        routine_id: str,
        clock: HybridClock,
        *,
        state: ContextState = EMPTY_STATE,
        parent_run_id: str | None = None,
        depth: int = 0,
        children: int = 0,
        limits: RunLimits = _DEFAULT_LIMITS,
        keys: KnownKeys | None = None,
        terms: Terms = _DEFAULT_TERMS,
    ) -> None:
        """Go on with a state; also with one that is over a limit: then it cannot grow.

        Args:
            keys: that secret variables are sealed and opened with; None: it can have none.
            terms: on which anything leaves it.

        Raises:
            InvalidKey: the id.
        """
        self.run_id = check_run_id(run_id)
        self.routine_id = routine_id
        self.parent_run_id = parent_run_id
        self.depth = depth
        self.children = children
        self.status = state.status
        self._clock = clock
        self._limits = limits
        self._keys = KnownKeys() if keys is None else keys
        self._terms = terms
        self._tracked = TrackedState(run_id, state, limits)
        self._draft = self._tracked.draft
        self._variables = Variables(run_id, self._tracked, clock, self._keys)
        self._declarations = Declarations(run_id, self._tracked, clock, terms)
        self.intermediate: MutableMapping[str, FreeValue] = Intermediate(self._tracked, clock)

    @classmethod
    def begin(
        cls,
        run_id: str,
        routine_id: str,
        clock: HybridClock,
        inputs: Mapping[str, FreeValue],
        *,
        variables: Mapping[str, ContextVariable] = EMPTY_DICT,
        parent_run_id: str | None = None,
        depth: int = 0,
        limits: RunLimits = _DEFAULT_LIMITS,
        keys: KnownKeys | None = None,
        terms: Terms = _DEFAULT_TERMS,
    ) -> RunContext:
        """The context of a new run; what it begins with counts as no change.

        Raises:
            InvalidKey: the id, or the routine's.
            InvalidDocument: an input cannot be stored.
            LimitExceeded: it lies too deep, or begins with too much.
        """
        check_text("routine id", routine_id, ID_BYTES_MAX)
        limits.check(run_id, "depth", depth)
        state = ContextState(
            inputs=freeze(dict(inputs)), variables=seal_dict(dict(variables)), at=clock.now().as_datetime()
        )
        begun = cls(
            run_id,
            routine_id,
            clock,
            state=state,
            parent_run_id=parent_run_id,
            depth=depth,
            limits=limits,
            keys=keys,
            terms=terms,
        )
        begun._tracked.check()
        return begun

    @property
    def inputs(self) -> Mapping[str, FreeValue]:
        """What the run was started with; cannot change."""
        return self._draft.inputs

    @property
    def variables(self) -> Mapping[str, ContextVariable]:
        """Name to variable, as they are now; to be read."""
        return MappingProxyType(self._draft.variables)

    @property
    def exports(self) -> Mapping[str, Sequence[ExportDeclaration]]:
        """Name to declarations, one for each destination, as they are now; to be read."""
        return MappingProxyType(self._draft.exports)

    @property
    def strategies(self) -> Mapping[str, str]:
        """Name to the `ConflictStrategy` that was declared, as they are now; to be read."""
        return MappingProxyType(self._draft.strategies)

    @property
    def merged(self) -> int:
        """The birth of the last child whose exports are in here; 0: none."""
        return self._draft.merged

    @property
    def steps(self) -> Mapping[str, StepRecord]:
        """Id to record, in the order the steps were first entered; to be read."""
        return MappingProxyType(self._draft.steps)

    @property
    def current_step(self) -> str | None:
        """Id of the step that was entered last."""
        return self._draft.current_step

    @property
    def state(self) -> ContextState:
        """All of it at this moment, to be shared; made anew after a change, at the cost of what the context holds."""
        return self._tracked.state(self.status)

    def __getitem__(self, key: str) -> FreeValue:
        return self._variables.value(key)

    def __setitem__(self, key: str, value: FreeValue) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        self._variables.check_writable(key, self._draft.variables[key])
        exported = [key] if key in self._draft.exports else []
        self._write(removed_variables=[key], removed_exports=exported)

    def __iter__(self) -> Iterator[str]:
        return iter(self._draft.variables)

    def __len__(self) -> int:
        return len(self._draft.variables)

    def __contains__(self, key: object) -> bool:
        return key in self._draft.variables

    def __repr__(self) -> str:
        # Values may be secret.
        return f"{type(self).__name__}({self.run_id!r}, {len(self)} variables, {self.status})"

    def variable(self, key: str) -> ContextVariable:
        """The variable of this name, with all that is known of it; its value is `Sealed` if it is secret.

        Raises:
            KeyError: there is none.
        """
        return self._draft.variables[key]

    def set(
        self,
        key: str,
        value: FreeValue,
        *,
        source: str = VariableSource.STEP,
        sensitivity: str | None = None,
        mutable: bool = True,
    ) -> None:
        """Write a variable; one that was inherited becomes this run's own.

        Args:
            source: a `VariableSource`; `parent` is for what is inherited.
            sensitivity: a `DataSensitivity`; None: as before, of a new one `internal`.
            mutable: False: it can be neither written nor deleted any more.

        Raises:
            ReadOnlyVariable: it was set with ``mutable=False``.
            InvalidDocument: the value cannot be stored.
            LimitExceeded: too many variables, or bytes.
            KeyMissing: it is `secret` or `pii`, and there is no key to seal it with.
        """
        if VariableSource(source) is VariableSource.PARENT:
            raise ValueError(f"{key}: what has the source parent is inherited; choose step, user or system")
        before = self._draft.variables.get(key)
        self._variables.check_writable(key, before)
        level = None if sensitivity is None else DataSensitivity(sensitivity).value
        variable = self._variables.written(key, value, VariableSource(source).value, level, mutable=mutable)
        self._tracked.write(ContextChange(at=variable.timestamp, variables={key: variable}))

    def create_child(
        self, inputs: Mapping[str, FreeValue], *, routine_id: str | None = None, run_id: str | None = None
    ) -> RunContext:
        """A context for a run below this one, with read-only copies of this one's variables.

        Args:
            routine_id: that it runs; None: this run's.
            run_id: None: this run's id, a dot and the number of the child.

        Raises:
            InvalidDocument: an input cannot be stored.
            LimitExceeded: this run has too many children or lies too deep, or the child would begin with too much.
            KeyMissing, SealBroken: a secret variable cannot be opened, to be sealed for the child.
        """
        number = self.children + 1
        child_id = f"{self.run_id}.{number}" if run_id is None else run_id
        self._limits.check(self.run_id, "children", number)
        child = RunContext.begin(
            child_id,
            self.routine_id if routine_id is None else routine_id,
            self._clock,
            inputs,
            variables={
                key: moved(each, self.run_id, child_id, self._keys) for key, each in copies(self.variables).items()
            },
            parent_run_id=self.run_id,
            depth=self.depth + 1,
            limits=self._limits,
            keys=self._keys,
            terms=self._terms,
        )
        self.children = number
        return child

    def inherit_from_parent(self, parent: RunContext) -> None:
        """Take over the parent's variables as they are now, as read-only copies; this run's own stay as they are.

        Raises:
            LimitExceeded: there would be too many variables, or bytes; nothing was inherited.
            KeyMissing, SealBroken: as `create_child`.
        """
        if new := copies(parent.variables, self._draft.variables):
            self._write(variables={key: self.adopt(each, parent.run_id) for key, each in new.items()})

    def adopt(self, variable: ContextVariable, from_run_id: str) -> ContextVariable:
        """Another run's variable as this one may hold it; nothing is written here.

        Its value, if it is sealed, is sealed for this run, and for the clock that it has.

        Raises:
            KeyMissing, SealBroken: it cannot be opened.
        """
        return moved(variable, from_run_id, self.run_id, self._keys)

    def masked(self, text: str) -> str:
        """A text with ``***`` in the place of secrets that were sealed or opened in this process."""
        return self._keys.masked(text)

    def mark_for_export(
        self, key: str, destination: str, *, transformation: str | None = None, exporter: str | None = None
    ) -> None:
        """Declare that a variable leaves the run when it completes; it may have several destinations.

        Args:
            destination: an `ExportDestination`.
            transformation: what happens to the value on the way: a name given to ``connect(transformations=...)``.
            exporter: who brings it to an external system, and only there: a name of any server's
                ``connect(exporters=...)``; that this one has none of that name is logged.

        Raises:
            KeyError, SettingsError: there is no such variable, no such transformation, or an exporter too few or many.
        """
        self._declarations.mark(self.variable(key), destination, transformation=transformation, exporter=exporter)

    def unmark_export(self, key: str, destination: str | None = None) -> None:
        """Take back that a variable leaves the run for a destination, None: for any; none may be declared.

        Raises ValueError if it is no `ExportDestination`.
        """
        self._declarations.unmark(key, destination)

    def declare_strategy(self, key: str, strategy: ConflictStrategy | str) -> None:
        """Say how conflicts of a variable are resolved, now or when there is one; raises ValueError if it is none."""
        self._write(strategies={key: ConflictStrategy(strategy).value})

    def merge(self, birth: int, variables: Mapping[str, ContextVariable], removed: Sequence[str] = ()) -> None:
        """Take over what stands of a child's exports, and that it was merged: one change, so neither is kept alone.

        Raises `LimitExceeded` if it does not fit; nothing was taken over then.

        Args:
            birth: of the child, later than those of all before; `removed`: names of variables that do not stand.
        """
        self._variables.take_over(birth, variables, removed)

    def resolve_variable_conflicts(self, conflicts: Iterable[VariableConflict]) -> list[Resolution]:
        """Decide each conflict, and write here the values that stand and are not here yet.

        Values that are sealed for this run, as `adopt` gives them, each with the clock of its side, are decided by what
        they hold; what stands of them is secret here too, and sealed in the resolution.

        Returns:
            What became of each, in order.

        Raises:
            ReadOnlyVariable: one would write a variable that was set with ``mutable=False``; nothing was written.
        """
        return self._variables.resolve(conflicts)

    def begin_step(self, step_id: str) -> None:
        """Enter a step; entering it again begins its record anew.

        Raises:
            LimitExceeded: there is no room for it and for how it ends.
        """
        time = self._clock.now().as_datetime()
        record = StepRecord(step_id=step_id, status=StepStatus.RUNNING.value, started_at=time)
        self._tracked.write(ContextChange(at=time, steps=[record], current_step=step_id))

    def end_step(
        self,
        step_id: str,
        status: str = StepStatus.COMPLETED,
        *,
        result: FreeValue = None,
        error: str | None = None,
    ) -> None:
        """Record what became of a step that was entered.

        Args:
            status: a `StepStatus`.
            error: why it failed, in words.

        Raises:
            KeyError: it was not entered.
            LimitExceeded: the result or a long error does not fit. Without them any step that was entered can be ended.
        """
        time = self._clock.now().as_datetime()
        record = msgspec.structs.replace(
            self._draft.steps[step_id],
            status=StepStatus(status).value,
            ended_at=time,
            result=result,
            error=None if error is None else self.masked(error),
        )
        self._tracked.write(ContextChange(at=time, steps=[record]))

    def take_changes(self, *, snapshot: bool = False) -> ContextChange | None:
        """What was written since the last time, to be stored; None: nothing.

        Args:
            snapshot: it is to become a snapshot with all before it; then there is a change in any case.
        """
        return self._tracked.take(snapshot=snapshot)

    def put_back(self, change: ContextChange) -> None:
        """Give back a change that was taken and could not be stored; the next that is taken does what it does first."""
        self._tracked.put_back(change)

    def _write(self, **change: Any) -> None:
        self._tracked.write(ContextChange(at=self._clock.now().as_datetime(), **change))
