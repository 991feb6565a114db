"""What a journal's server is told when attempts fail one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fix_l2 import connection_to
from holdfast import OutcomeUnknown, Overloaded, TierUnavailable
from holdfast.tiers.l2_journal import ATTEMPTS, RedisJournals
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_secured import LANES_MAX, Secured, SecuredCalls

MADE = Secured([b"n1", b"appended", b"1"], 1, "n1")
ELSEWHERE = Secured([b"n2", b"appended", b"1"], 1, "n1")
UNKNOWN, AWAY, FULL = OutcomeUnknown("?"), TierUnavailable("away"), Overloaded("full")


class Scripted(SecuredCalls):
    """Calls that end as it is written, without any server."""

    def __init__(self, ends: Sequence[Secured | Exception]) -> None:
        super().__init__(connection_to("redis://127.0.0.1:1"), sleep=no_pause)
        self.ends = list(ends)

    async def run_counted(self, *_: Any) -> Secured:
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


async def no_pause(_: float) -> None:
    """A pause that takes no time."""


async def append(*ends: Secured | Exception) -> tuple[int | type[Exception], int]:
    """What an append of one entry comes to, and how many ends are left."""
    calls = Scripted(ends)
    streams = RedisJournals(connection_to("redis://127.0.0.1:1"), calls, prefix=b"p:", sleep=no_pause)
    try:
        return (await streams.append("s1", [(1, b"x")], expected=0, keep_from=0)).last, len(calls.ends)
    except (OutcomeUnknown, TierUnavailable, Overloaded) as fault:
        return type(fault), len(calls.ends)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([MADE], (1, 0)),
        ([UNKNOWN, MADE], (1, 0)),
        ([ELSEWHERE, MADE], (1, 0)),
        ([*[ELSEWHERE] * ATTEMPTS, MADE], (OutcomeUnknown, 1)),
        ([UNKNOWN, AWAY, MADE], (1, 0)),
        ([AWAY, MADE], (TierUnavailable, 1)),
        ([UNKNOWN, *[AWAY] * (ATTEMPTS - 1), MADE], (OutcomeUnknown, 1)),
        ([UNKNOWN, *[FULL] * (ATTEMPTS - 1), MADE], (OutcomeUnknown, 1)),
        ([*[UNKNOWN] * ATTEMPTS, MADE], (OutcomeUnknown, 1)),
        ([FULL, MADE, MADE], (1, 0)),
        ([FULL, FULL, MADE], (Overloaded, 1)),
        ([FULL, MADE, FULL, MADE], (Overloaded, 1)),
    ],
)
async def test_what_nobody_knows_is_never_called_not_done(
    ends: list[Secured | Exception], expected: tuple[int | type[Exception], int]
) -> None:
    """Repeated while it is unknown, a few times; refused at once if nothing was tried; a full L2 is trimmed once."""
    assert await append(*ends) == expected


async def test_names_that_nobody_waits_on_are_forgotten() -> None:
    """However many journals a server takes over."""
    calls = SecuredCalls(connection_to("redis://127.0.0.1:1"), sleep=no_pause)
    for number in range(LANES_MAX + 10):
        with pytest.raises(TierUnavailable):
            await calls.run([b"{s%d}" % number], Script("journal_seal"), [])
    assert len(calls._lanes) <= LANES_MAX
    await calls.close()
