"""What is to leave a run when it completes, as its owner declares it and takes it back (no I/O)."""

from __future__ import annotations

import logging
from typing import Any

from holdfast.documents import ContextChange, ContextVariable
from holdfast.run_context.exports import Terms, declaration_of, declared, undeclared
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.run_context.tracked import TrackedState

logger = logging.getLogger("holdfast")


class Declarations:
    """Writes declarations of exports."""

    __slots__ = ("_clock", "_run_id", "_terms", "_tracked")

    def __init__(self, run_id: str, tracked: TrackedState, clock: HybridClock, terms: Terms) -> None:
        self._run_id = run_id
        self._tracked = tracked
        self._clock = clock
        self._terms = terms

    def mark(
        self, variable: ContextVariable, destination: str, *, transformation: str | None, exporter: str | None
    ) -> None:
        """Declare that a variable leaves the run; see `RunContext.mark_for_export`."""
        declaration = declaration_of(variable, destination, transformation, exporter)
        before = self._tracked.draft.exports.get(variable.key, ())
        self._write(exports={variable.key: declared(before, declaration, self._terms.transformations)})
        if exporter is not None and not self._terms.may_have(exporter):
            logger.warning(
                "run %s exports %s by %s, which this server has not: it waits until another one has it",
                self._run_id,
                variable.key,
                exporter,
            )

    def unmark(self, key: str, destination: str | None) -> None:
        """Take back what was declared of a variable; see `RunContext.unmark_export`."""
        before = self._tracked.draft.exports.get(key, ())
        left = undeclared(before, destination)
        if left and len(left) < len(before):
            self._write(exports={key: left})
        elif before and not left:
            self._write(removed_exports=[key])

    def _write(self, **change: Any) -> None:
        self._tracked.write(ContextChange(at=self._clock.now().as_datetime(), **change))
