"""Runs below another one of which L3 did not say whether it took them in (pure)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

Settle: TypeAlias = Callable[[], Awaitable[bool]]


class InDoubt:
    """Of one run: what was begun below it in vain, and may be in L3 all the same.

    Nobody was given such a child, so nobody would ever end it, and it would hold back those behind it.
    """

    def __init__(self) -> None:
        self._doubts: set[Settle] = set()

    def note(self, settle: Settle) -> None:
        """There is one more.

        Args:
            settle: ends that child if it is there; whether nothing more can come of it.
        """
        self._doubts.add(settle)

    async def settle(self) -> None:
        """Look for those that are in doubt still; raises what they raise."""
        for settle in tuple(self._doubts):
            if await settle():
                self._doubts.discard(settle)
