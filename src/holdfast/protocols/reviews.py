"""The contract of who decides what no strategy may: conflicts that a person is to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from holdfast.documents import ContextVariable


class Settled(NamedTuple):
    """What a conflict came to.

    Attributes:
        variable: the one that stands, either side's or another; None: none, so the parent has no such variable.
        reason: in words; it names no value.
    """

    variable: ContextVariable | None
    reason: str


class LateDecision(NamedTuple):
    """A decision that came after the run had gone on with its own value.

    Attributes:
        id: of the review.
        key: of the variable.
        variable: the one that takes the place of the run's, as it is in the child; None: what the run has stays,
            whatever it has written since.
        reason: in words; it names no value.
    """

    id: str
    child_run_id: str
    key: str
    variable: ContextVariable | None
    reason: str


class LateReviews(Protocol):
    """Knows the decisions that runs which went on without them have still to take over."""

    async def unapplied(self, run_id: str) -> Sequence[LateDecision]:
        """Those of a run, the oldest review first.

        Raises:
            TierError: it cannot be asked.
        """
        ...

    async def note_applied(self, identifier: str) -> None:
        """Note that the run has taken the decision on a review over: `unapplied` names it no more."""
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
            TierError: it can neither be asked nor be opened.
        """
        ...

    async def changed(self) -> None:
        """Return once something may have been decided since `settle` last answered None here."""
        ...
