"""What a run begins with (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.documents import DataSensitivity, Run, VariableSource
from holdfast.errors import InvalidDocument
from holdfast.keys import ID_BYTES_MAX, check_text
from holdfast.run_context.context import RunContext


def beginning_of(run: Run) -> tuple[object, ...]:
    """What tells a run from others that were begun under its id."""
    return run.epoch, run.owner, run.journal, run.started_at, run.newest


def set_secrets(context: RunContext, secrets: Mapping[str, Any]) -> None:
    """Give a run that is about to begin its secrets: they are in its first base, and no change."""
    for name, value in secrets.items():
        context.set(name, value, source=VariableSource.USER, sensitivity=DataSensitivity.SECRET)
    context.take_changes()


def check_begun_with(routine_id: object, inputs: object, secrets: object, swarm_id: object) -> None:
    """Refuse what no run can begin with.

    Raises:
        InvalidKey, InvalidDocument: which of it.
    """
    check_text("routine_id", routine_id, ID_BYTES_MAX)
    if swarm_id is not None:
        check_text("swarm_id", swarm_id, ID_BYTES_MAX)
    for name, given in (("inputs", inputs), ("secrets", secrets)):
        if not isinstance(given, Mapping):
            raise InvalidDocument(name, f"are a mapping of names to values, not {type(given).__name__}")
