"""When a server is taken for dead (rule W9)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from holdfast import Settings
from holdfast.flows import Flows
from holdfast.protocols import JournalRecord
from holdfast.testing import ManualClock
from holdfast.testing.door import connect_flows

SETTINGS = Settings(write_behind_takeover_seconds=10.0)


class Looker:
    """A server that looks at journals when it is told to; there is one, whose server does not beat.

    Attributes:
        slow: seconds that L3 takes to tell of the journals.
    """

    def __init__(self, flows: Flows, clock: ManualClock) -> None:
        self.slow = 0.0
        self._flows = flows
        self._clock = clock
        base: Any = flows._given.journals
        records = base.records

        async def late() -> Sequence[JournalRecord]:
            found: Sequence[JournalRecord] = await records()
            clock.advance(self.slow)
            return found

        base.records = late

    async def look(self, after: float) -> int:
        """Look when some seconds have passed; how often it has taken over so far."""
        self._clock.advance(after)
        await self._flows.takeover.look()
        return self._flows.counters.write_behind.takeovers


@pytest.fixture
async def looker() -> AsyncIterator[Looker]:
    """One that has looked once."""
    clock = ManualClock()
    async with connect_flows(clock=clock, settings=SETTINGS) as flows:
        await flows.takeover.stop()
        await flows._given.journals.register("dead", "a server that is dead")
        looker = Looker(flows, clock)
        await looker.look(0.0)
        yield looker


async def test_a_beat_that_stands_still_is_of_a_dead_server(looker: Looker) -> None:
    """It is taken over when it has stood still for the takeover time, and not before."""
    assert await looker.look(9.9) == 0
    assert await looker.look(0.2) == 1


async def test_nobody_can_beat_while_l3_does_not_answer(looker: Looker) -> None:
    """An L3 that stood still may tell the old beats before it takes new ones: that time does not count."""
    looker.slow = 30.0
    assert await looker.look(5.0) == 0
    looker.slow = 0.0
    assert await looker.look(4.9) == 0
    assert await looker.look(0.2) == 1
