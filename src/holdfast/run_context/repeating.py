"""Doing again what a change did that was accepted and then refused, without undoing what was kept since (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from holdfast.documents import ContextChange
from holdfast.documents.frozen import seal_dict, seal_list
from holdfast.run_context.context import RunContext

Value = TypeVar("Value")


def repeated(change: ContextChange, context: RunContext) -> ContextChange:
    """A change that brings all that the other one touched to what the context has there now."""
    removed_variables, variables = _section(change.removed_variables, change.variables, context.variables)
    removed_intermediate, intermediate = _section(
        change.removed_intermediate, change.intermediate, context.intermediate
    )
    removed_exports, exports = _section(change.removed_exports, change.exports, context.exports)
    return ContextChange(
        at=context.state.at,
        variables=variables,
        intermediate=intermediate,
        exports=exports,
        removed_variables=removed_variables,
        removed_intermediate=removed_intermediate,
        removed_exports=removed_exports,
        steps=seal_list([context.steps[record.step_id] for record in change.steps]),
        current_step=None if change.current_step is None else context.current_step,
        strategies=seal_dict({key: context.strategies[key] for key in change.strategies}),
        merged=context.merged if change.merged else None,
    )


def _section(
    removed: Sequence[str], values: Mapping[str, Value], now: Mapping[str, Value]
) -> tuple[list[str], dict[str, Value]]:
    """What is to be removed, and what to be set then; a key that was removed and set again still is both."""
    touched = dict.fromkeys((*removed, *values))
    gone = [key for key in touched if key not in now]
    return (
        seal_list([*dict.fromkeys((*removed, *gone))]),
        seal_dict({key: now[key] for key in touched if key in now}),
    )
