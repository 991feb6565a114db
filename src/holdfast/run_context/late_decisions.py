"""Takes over decisions on conflicts that came after their run had gone on without them.

A decision is kept with the context first, in L3, and then noted at the review. Whoever dies in between sees it again:
what the run has is then what was decided, or what it has written since, which stands. So it takes effect once. One that
cannot be taken over holds up no other.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from holdfast.documents import Sealed
from holdfast.errors import KeyMissing, LimitExceeded, NotFound, SealBroken
from holdfast.protocols import LateDecision
from holdfast.protocols.reviews import OVERTAKEN
from holdfast.run_context.context import RunContext
from holdfast.run_context.ground import Ground
from holdfast.run_context.merging import taken_over
from holdfast.run_context.secrets import key_ids

logger = logging.getLogger("holdfast")


class LateDecisions:
    """Takes them over for one run.

    Args:
        epoch: under which this server owns the run.
    """

    def __init__(self, ground: Ground, context: RunContext, epoch: int) -> None:
        self._ground = ground
        self._context = context
        self._epoch = epoch
        self._unnoted: dict[str, LateDecision] = {}  # the context has them; a removal since tells nobody of itself

    async def take_over(self, keep: Callable[[], Awaitable[object]]) -> Sequence[LateDecision]:
        """Take over all that can be, the oldest first, keep them, and return what became of all that there are.

        Args:
            keep: brings the context to L3.
        """
        before = await self._noted(keep)  # first: of what others find removed they must know that it was put there
        found = await self._ground.late_reviews.unapplied(self._context.run_id)
        await self._ground.keys.know(key_ids(each.variable for each in found if each.variable is not None))
        told = [self._tried(each) for each in found]
        await self._noted(keep)
        return [*before, *told]

    async def _noted(self, keep: Callable[[], Awaitable[object]]) -> Sequence[LateDecision]:
        """Keep what the context has of decisions, and note that; returns them."""
        taken = list(self._unnoted.values())
        if taken:
            await keep()
        for each in taken:
            with contextlib.suppress(NotFound):  # the review was deleted, so it is named no more
                await self._ground.late_reviews.note_applied(each, self._context.run_id, self._epoch)
            del self._unnoted[each.id]
        return taken

    def _tried(self, decision: LateDecision) -> LateDecision:
        """Take a decision over, or say why it is left out, or waits."""
        try:
            told = self._taken(decision)
        except (KeyMissing, LimitExceeded, SealBroken) as fault:
            if not _is_for_good(decision, fault):
                logger.warning("run %s: review %s waits to be taken over: %s", self._context.run_id, decision.id, fault)
                return decision._replace(variable=None, fault=str(fault))
            logger.exception("run %s leaves out what was decided on %s", self._context.run_id, decision.id)
            reason = f"{decision.reason}; it is left out: {fault}"
            told = decision._replace(variable=None, reason=reason, left_out=True)
        self._unnoted[told.id] = told
        return told

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


def _is_for_good(decision: LateDecision, fault: Exception) -> bool:
    """Whether no time mends it: a broken seal, but not one that a later version opens."""
    value = None if decision.variable is None else decision.variable.value
    return isinstance(fault, SealBroken) and type(value) is Sealed and value.is_known
