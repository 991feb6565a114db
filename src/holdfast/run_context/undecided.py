"""Changes of a run's context that were accepted, and that L3 has not decided yet."""

from __future__ import annotations

from collections import deque

from holdfast.documents import ContextChange
from holdfast.entry import Durability, Receipt
from holdfast.errors import Refused
from holdfast.run_context.context import RunContext
from holdfast.run_context.repeating import repeated
from holdfast.write_behind.deciding import RefusalReason


class UndecidedChanges:
    """Those of one run, in the order in which they were written."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._changes: deque[tuple[Receipt, ContextChange]] = deque()

    def __len__(self) -> int:
        return len(self._changes)

    def note(self, receipt: Receipt, change: ContextChange | None) -> None:
        """Something was accepted, with this change."""
        if change is not None and receipt.durability is not Durability.COMMITTED:
            self._changes.append((receipt, change))

    async def check(self) -> None:
        """Let go of what was decided; what was refused of it is in the context alone, to be written again.

        Raises:
            Refused: there was some; at once, if it is because another server owns the run.
        """
        first: Refused | None = None
        while self._changes:  # those of one row are decided in order
            receipt, change = self._changes[0]
            try:
                await receipt.reached(receipt.durability)  # does not wait: it tells how it ended
                if receipt.durability is not Durability.COMMITTED:
                    break
            except Refused as refused:
                if is_anothers(refused):
                    raise
                self._context.put_back(repeated(change, self._context))
                first = first or refused
            self._changes.popleft()
        if first is not None:
            raise first


def is_anothers(refused: Refused) -> bool:
    """Whether it was refused because another server owns the run."""
    return refused.reason == RefusalReason.NOT_OWNER.value
