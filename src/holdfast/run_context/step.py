"""A step of a run, as the code that makes it sees it (pure)."""

from __future__ import annotations

import logging

from holdfast.documents import FreeValue, StepStatus
from holdfast.errors import HoldfastError
from holdfast.run_context.context import RunContext

logger = logging.getLogger("holdfast")


class Step:
    """A step under way.

    Attributes:
        result: what it gives; kept in its record.
    """

    def __init__(self, step_id: str) -> None:
        self.step_id = step_id
        self.result: FreeValue = None


def end_cancelled(context: RunContext, step_id: str) -> None:
    """Have a step end whose caller was cancelled."""
    try:
        context.end_step(step_id, StepStatus.CANCELLED)
    except HoldfastError as fault:  # the cancellation is what the caller must see
        logger.warning("run %s: that step %s was cancelled could not be kept: %s", context.run_id, step_id, fault)
