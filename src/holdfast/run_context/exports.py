"""What leaves a run when it completes: from its declarations to what each destination gets (pure).

A variable that is secret, or about a person, goes to the parent as it is, and nowhere else: there it is refused, or a
mask goes in its place. That is decided by its label alone; the value is not looked at, nor given to a transformation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.documents import (
    BlackboardItem,
    ContextVariable,
    Delivery,
    ExportDeclaration,
    ExportDestination,
    ExportedValue,
    FreeValue,
    Limits,
    RefusedExport,
    VariableSource,
    encode,
    freeze,
)
from holdfast.documents.frozen import EMPTY_DICT
from holdfast.errors import InvalidDocument, InvalidKey, SettingsError
from holdfast.keys import check_id, check_kind_name, joined_id
from holdfast.run_context.hybrid_clock import HybridTime
from holdfast.run_context.inheriting import ancestor_of, is_inherited
from holdfast.sensitivity.levels import is_secret

Transformation = Callable[[Any], Any]
Exporter = Callable[[Delivery, str], Awaitable[object]]
"""Brings a delivery out, and returns when the system outside has it; the text is its idempotency key."""

MASK: Final = "***"
"""What goes outside in the place of a guarded value, if it is not refused."""


class Origin(NamedTuple):
    """The run that something leaves."""

    run_id: str
    routine_id: str
    swarm_id: str | None
    parent_run_id: str | None


class Terms(NamedTuple):
    """On which anything leaves a run.

    Attributes:
        transformations: by name, as they were registered with `connect`.
        masks: what is guarded leaves as `MASK`; False: it is refused.
        limits: of a document.
        exporters: names of those that this server has; others may have more. None: it is not known which.
    """

    transformations: Mapping[str, Transformation] = EMPTY_DICT
    masks: bool = False
    limits: Limits = Limits()
    exporters: Collection[str] | None = None

    def may_have(self, exporter: str) -> bool:
        """Whether this server has an exporter of that name, for all that is known."""
        return self.exporters is None or exporter in self.exporters


class Leaving(msgspec.Struct, frozen=True):
    """What leaves a run.

    Attributes:
        exported: for the parent, by key.
        items: for the swarm's blackboard.
        values: for the persistent store, by id.
        deliveries: for external systems, by id.
        refused: what does not leave, or masked.
    """

    exported: dict[str, ContextVariable]
    items: list[BlackboardItem]
    values: dict[str, ExportedValue]
    deliveries: dict[str, Delivery]
    refused: list[RefusedExport]


class _RefusedError(Exception):
    """Why something does not leave, in words."""


def declaration_of(
    variable: ContextVariable, destination: str, transformation: str | None, exporter: str | None
) -> ExportDeclaration:
    """That a variable leaves its run for a destination; a ValueError says that this is none."""
    return ExportDeclaration(
        key=variable.key,
        destination=ExportDestination(destination).value,
        sensitivity=variable.sensitivity,
        transformation=transformation,
        exporter=exporter,
    )


def declared(
    before: Sequence[ExportDeclaration], declaration: ExportDeclaration, transformations: Mapping[str, Transformation]
) -> list[ExportDeclaration]:
    """The declarations of a variable with one more, or with another one for that destination.

    Raises:
        SettingsError: no such transformation is registered; or it says no exporter and its destination needs one, or
            the other way round.
        InvalidKey: no exporter can have that name.
    """
    name = declaration.transformation
    if name is not None and name not in transformations:
        raise SettingsError(
            f"{declaration.key}: no transformation {name!r} is registered: connect(transformations=...)"
        )
    if (declaration.exporter is not None) != (declaration.destination == ExportDestination.EXTERNAL_SYSTEM):
        raise SettingsError(f"{declaration.key}: an exporter is named for external_system, and for nothing else")
    if declaration.exporter is not None:
        check_kind_name(declaration.exporter)
    kept = [each for each in before if _place(each) != _place(declaration)]
    return [*kept, declaration]


def undeclared(before: Sequence[ExportDeclaration], destination: str | None) -> list[ExportDeclaration]:
    """Declarations without those for a destination, None: without any; a ValueError says that it is none."""
    gone = None if destination is None else ExportDestination(destination).value
    return [each for each in before if gone is not None and each.destination != gone]


def refusal(declaration: ExportDeclaration, reason: str, *, masked: bool = False) -> RefusedExport:
    """A declaration that is not carried out, or with a mask alone."""
    return RefusedExport(
        key=declaration.key,
        destination=declaration.destination,
        reason=reason,
        exporter=declaration.exporter,
        masked=masked,
    )


def leaving(
    origin: Origin,
    variables: Mapping[str, ContextVariable],
    exports: Mapping[str, Sequence[ExportDeclaration]],
    terms: Terms,
    at: HybridTime,
) -> Leaving:
    """What leaves a run that completes now; of what does not, why."""
    departure = _Departure(origin, terms, at)
    for key, declarations in exports.items():
        for declaration in declarations:
            try:
                departure.take(variables[key], declaration)
            except _RefusedError as refused:
                departure.found.refused.append(refusal(declaration, str(refused)))
    return departure.found


class _Departure:
    """Gathers what leaves one run."""

    def __init__(self, origin: Origin, terms: Terms, at: HybridTime) -> None:
        self.found = Leaving({}, [], {}, {}, [])
        self._origin = origin
        self._terms = terms
        self._at = at

    def take(self, variable: ContextVariable, declaration: ExportDeclaration) -> None:
        """Add what one declaration lets go."""
        match declaration.destination:
            case ExportDestination.PARENT_CONTEXT:
                self._to_parent(variable, declaration)
            case ExportDestination.BLACKBOARD:
                self._to_blackboard(variable, declaration)
            case ExportDestination.PERSISTENT_STORE:
                identifier = _checked_id(joined_id(self._origin.run_id, variable.key))
                self.found.values[identifier] = ExportedValue(**self._told(variable, declaration))
            case ExportDestination.EXTERNAL_SYSTEM:
                exporter = declaration.exporter or ""
                identifier = _checked_id(joined_id(self._origin.run_id, exporter, variable.key))
                self.found.deliveries[identifier] = Delivery(exporter=exporter, **self._told(variable, declaration))
            case _:
                raise _RefusedError("its destination is not known to this version of Holdfast")

    def _to_parent(self, variable: ContextVariable, declaration: ExportDeclaration) -> None:
        if self._origin.parent_run_id is None:
            raise _RefusedError("there is no run above this one")
        value = variable.value
        if declaration.transformation is not None:
            if is_secret(variable.sensitivity, declaration.sensitivity):
                raise _RefusedError("what is secret or pii is given to no transformation")
            value = _transformed(value, declaration.transformation, self._terms)
            variable = self._own(variable)
        self.found.exported[variable.key] = msgspec.structs.replace(variable, value=value)

    def _own(self, variable: ContextVariable) -> ContextVariable:
        """A variable that this run makes of one: what it had inherited is its own from here on."""
        if not is_inherited(variable):
            return variable
        return msgspec.structs.replace(
            variable,
            source=VariableSource.STEP.value,
            mutable=True,
            ancestor=ancestor_of(variable),
            clock=self._at.as_text(),
            timestamp=self._at.as_datetime(),
        )

    def _to_blackboard(self, variable: ContextVariable, declaration: ExportDeclaration) -> None:
        if self._origin.swarm_id is None:
            raise _RefusedError("the run works for no swarm")
        value = self._outward(variable, declaration)
        identifier = joined_id(self._origin.run_id, variable.key)
        self.found.items.append(BlackboardItem(id=identifier, value=value, created_at=self._at.as_datetime()))

    def _outward(self, variable: ContextVariable, declaration: ExportDeclaration) -> FreeValue:
        """What takes the value's place for anybody but the parent."""
        if is_secret(variable.sensitivity, declaration.sensitivity):
            if self._terms.masks:
                self.found.refused.append(refusal(declaration, f"what is secret or pii leaves as {MASK}", masked=True))
                return MASK
            raise _RefusedError("what is secret or pii leaves a run for its parent alone")
        if declaration.transformation is None:
            return variable.value
        return _transformed(variable.value, declaration.transformation, self._terms)

    def _told(self, variable: ContextVariable, declaration: ExportDeclaration) -> dict[str, Any]:
        return {
            "run_id": self._origin.run_id,
            "routine_id": self._origin.routine_id,
            "swarm_id": self._origin.swarm_id,
            "key": variable.key,
            "value": self._outward(variable, declaration),
            "sensitivity": variable.sensitivity,
            "transformation": declaration.transformation,
            "exported_at": self._at.as_datetime(),
        }


def _place(declaration: ExportDeclaration) -> tuple[str, str | None]:
    return declaration.destination, declaration.exporter


def _transformed(value: FreeValue, name: str, terms: Terms) -> FreeValue:
    transformation = terms.transformations.get(name)
    if transformation is None:
        raise _RefusedError(f"transformation {name} is not registered on this server")
    try:
        made = freeze(transformation(value))
        encode(ExportedValue(run_id="", routine_id="", key="", value=made), terms.limits)
    except InvalidDocument as fault:
        raise _RefusedError(f"transformation {name} gave what cannot be stored: {fault}") from fault
    except Exception as fault:  # a user's function; its text may hold the value
        raise _RefusedError(f"transformation {name} failed: {type(fault).__name__}") from fault
    return made


def _checked_id(identifier: str) -> str:
    try:
        return check_id(identifier)
    except InvalidKey as fault:
        raise _RefusedError(f"L3 has no place for its name: {fault}") from fault
