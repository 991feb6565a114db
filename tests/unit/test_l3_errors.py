"""What errors of PostgreSQL mean for the caller."""

from __future__ import annotations

import asyncpg
import pytest

from holdfast.errors import Overloaded, RowRefused, StorageFull, TierError, TierUnavailable
from holdfast.tiers.l3_errors import mapped, meaning


@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [("53300", TierUnavailable), ("53100", StorageFull), ("53200", Overloaded), ("57014", TierUnavailable)],
)
@pytest.mark.parametrize("rows", [False, True])
def test_what_is_short_on_the_server(sqlstate: str, error: type[TierError], rows: bool) -> None:  # noqa: FBT001
    """Each resource has its own error, of no row: nothing took effect, whatever was asked."""
    fault = asyncpg.PostgresError.new({"C": sqlstate, "M": "there is none left"})
    found = meaning(fault, "writing", writes=True, rows=rows)
    assert type(found) is error
    assert not isinstance(found, RowRefused)
    assert "L3: writing: " in str(found)
    assert "there is none left" in str(found)


def test_the_cause_is_chained() -> None:
    """The guard looks at it."""
    fault = asyncpg.TooManyConnectionsError("sorry")
    with pytest.raises(TierUnavailable) as raised, mapped("connecting"):
        raise fault
    assert raised.value.__cause__ is fault
