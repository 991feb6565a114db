"""The contract of who decides what no strategy may: conflicts that a person is to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from holdfast.documents import ContextVariable

OVERTAKEN: Final = "what the run wrote, or removed, after the review was opened stands"


class Settled(NamedTuple):
    """What a conflict came to.

    Attributes:
        variable: the one that stands, either side's or another; None: none, so the parent has no such variable.
        reason: in words; it names no value.
        overtaken: it was decided otherwise; what the parent has written since stands.
    """

    variable: ContextVariable | None
    reason: str
    overtaken: bool = False


class Basis(NamedTuple):
    """The writes of a run's variable whose place a decision may take, by their clocks.

    They are those that who decided knew of, and those that were decisions themselves: of several decisions on one
    variable the last that is taken over stands. Every other write is the run's own, of after the review was opened:
    nobody has decided on it, so no decision undoes it. Clocks count as equal or not, so a wrong one undoes nothing.

    Attributes:
        parent: of the variable that the run had when the review was opened; None: it had none.
        decided: of what decisions may have put there: the child's variable, and those of other reviews of the run.
        was_put: another decision has put a variable there since the review was opened.
    """

    parent: str | None
    decided: frozenset[str]
    was_put: bool = False

    def is_overtaken(self, held: ContextVariable | None) -> bool:
        """Whether what the run has now was written, or removed, by itself since."""
        if held is None and self.was_put:  # that there is none was so before, but somebody has removed one since
            return True
        clock = None if held is None else held.clock
        return clock != self.parent and clock not in self.decided


class LateDecision(NamedTuple):
    """A decision that came after the run had gone on with its own value.

    Attributes:
        id: of the review.
        key: of the variable.
        variable: the one that takes the place of the run's, as it is in the child; None: what the run has stays,
            whatever it has written since.
        reason: in words; it names no value.
        basis: the writes whose place it may take.
        overtaken: it was another, and what the run has written since stands.
        left_out: its seal is broken, which no time mends, so what the run has stands.
        fault: why it cannot be taken over so far: its key is not known here, this version too old, or there is no room.
            It stays to be taken over; `variable` is None until then.
    """

    id: str
    child_run_id: str
    key: str
    variable: ContextVariable | None
    reason: str
    basis: Basis
    overtaken: bool = False
    left_out: bool = False
    fault: str | None = None


class LateReviews(Protocol):
    """Knows the decisions that runs which went on without them have still to take over."""

    async def unapplied(self, run_id: str) -> Sequence[LateDecision]:
        """Those of a run, the oldest review first.

        Raises:
            TierError: it cannot be asked.
        """
        ...

    async def note_applied(self, decision: LateDecision, run_id: str, epoch: int) -> None:
        """Note what the run has made of a decision: `unapplied` names it no more.

        Args:
            epoch: under which who notes it owns the run.

        Raises:
            NotOwner: another server has taken the run over; nothing is noted.
            NotFound, RunOver: the review, or the run, was deleted.
            TierError: it may not be noted.
        """
        ...


class Reviewer(Protocol):
    """Has conflicts decided."""

    async def settle(
        self, run_id: str, child_run_id: str, parent: ContextVariable | None, child: ContextVariable
    ) -> Settled | None:
        """The decision on a conflict; None: it is not made yet, and the merge waits for it.

        It is asked again for the same conflict, and answers the same once it is decided; also on other servers.

        Args:
            run_id: of the parent.
            parent: the variable as it is there; None: it was removed.
            child: as the child exported it.

        Raises:
            NotOwner: it was to be opened for one who does not own the run any more.
            TierError: it can neither be asked nor be opened.
        """
        ...

    async def changed(self) -> None:
        """Return once something may have been decided since `settle` last answered None here."""
        ...
