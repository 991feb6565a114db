"""Time for tests."""

from __future__ import annotations

from holdfast.testing import ManualClock


class Ticking(ManualClock):
    """Time that goes on a little whenever it is asked, so that of two moments one is the later."""

    def monotonic(self) -> float:
        """A millionth of a second later than before."""
        self.advance(1e-6)
        return super().monotonic()
