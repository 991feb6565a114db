"""How `holdfast exports list` tells how far a delivery is."""

from __future__ import annotations

import pytest

from holdfast.cli.exports import _cells
from holdfast.run_context.deliveries import ListedDelivery


@pytest.mark.parametrize(
    ("attempts", "dead", "wait_seconds", "state"),
    [
        (0, False, -0.02, "due for 0.0 s, never tried"),
        (0, False, -720.0, "due for 12 min, never tried"),
        (2, False, -720.0, "due for 12 min"),
        (2, False, 41.6, "in 42 s"),
        (9, True, -720.0, "dead"),
    ],
)
def test_a_delivery_tells_how_long_it_waits(attempts: int, wait_seconds: float, state: str, *, dead: bool) -> None:
    """One that was never tried, though it has been due for long, has an exporter that no server knows."""
    listed = ListedDelivery("r1/crm/x", "r1", "x", "crm", attempts, dead, "no route", wait_seconds)
    assert _cells(listed) == ("r1/crm/x", "crm", str(attempts), state, "no route")
