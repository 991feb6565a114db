"""Takes over decisions on conflicts that came after their run had gone on without them.

A decision is kept with the context first, in L3, and then noted at the review. Whoever dies in between sees it again:
what the run has is then what was decided, or what it has written since, which stands. So it takes effect once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from holdfast.protocols import LateDecision
from holdfast.protocols.reviews import OVERTAKEN
from holdfast.run_context.context import RunContext
from holdfast.run_context.ground import Ground
from holdfast.run_context.merging import taken_over
from holdfast.run_context.secrets import key_ids


class LateDecisions:
    """Takes them over for one run."""

    def __init__(self, ground: Ground, context: RunContext) -> None:
        self._ground = ground
        self._context = context

    async def take_over(self, keep: Callable[[], Awaitable[object]]) -> Sequence[LateDecision]:
        """Take over all that there are, the oldest first, keep them, and return them.

        Args:
            keep: brings the context to L3.
        """
        found = await self._ground.late_reviews.unapplied(self._context.run_id)
        if not found:
            return found
        await self._ground.keys.know(key_ids(each.variable for each in found if each.variable is not None))
        taken = [self._taken(each) for each in found]
        await keep()
        for each in taken:
            await self._ground.late_reviews.note_applied(each.id, overtaken=each.overtaken)
        return taken

    def _taken(self, decision: LateDecision) -> LateDecision:
        """Write what was decided, as one change, unless it is there or overtaken; what became of it."""
        variable, before = decision.variable, self._context.variables.get(decision.key)
        if variable is None:
            return decision
        if decision.basis.is_overtaken(before):
            return decision._replace(variable=None, reason=f"{decision.reason}; {OVERTAKEN}", overtaken=True)
        if before is None or before.clock != variable.clock:
            own = taken_over(self._context.adopt(variable, decision.child_run_id), before)
            self._context.merge(self._context.merged, {decision.key: own})
        return decision
