"""The contract of who decides what no strategy may: conflicts that a person is to look at."""

from __future__ import annotations

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
