"""Takes over decisions on conflicts that came after their run had gone on without them.

A decision is kept with the context first, in L3, and then noted at the review. Whoever dies in between sees it again,
and finds it by its clock: so it takes effect once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from holdfast.protocols import LateDecision
from holdfast.run_context.context import RunContext
from holdfast.run_context.ground import Ground
from holdfast.run_context.merging import is_fixed, taken_over
from holdfast.run_context.secrets import key_ids


class LateDecisions:
    """Takes them over for one run."""

    def __init__(self, ground: Ground, context: RunContext) -> None:
        self._ground = ground
        self._context = context
        self._taken: set[str] = set()
        """Reviews that the context has, and that could not be noted yet: what is written since is not undone."""

    async def take_over(self, keep: Callable[[], Awaitable[object]]) -> Sequence[LateDecision]:
        """Take over all that there are, the oldest first, keep them, and return them.

        Args:
            keep: brings the context to L3.
        """
        found = await self._ground.late_reviews.unapplied(self._context.run_id)
        if not found:
            return found
        await self._ground.keys.know(key_ids(each.variable for each in found if each.variable is not None))
        for each in found:
            self._take(each)
        await keep()
        for each in found:
            await self._ground.late_reviews.note_applied(each.id)
            self._taken.discard(each.id)
        return found

    def _take(self, decision: LateDecision) -> None:
        """Write what was decided, as one change, unless it is there or cannot be any more."""
        if decision.id in self._taken:
            return
        variable, before = decision.variable, self._context.variables.get(decision.key)
        if variable is not None and not is_fixed(before) and (before is None or before.clock != variable.clock):
            own = taken_over(self._context.adopt(variable, decision.child_run_id), before)
            self._context.merge(self._context.merged, {decision.key: own})
        self._taken.add(decision.id)
