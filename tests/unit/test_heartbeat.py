"""The sign of life of a journal's server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fix_loop import settle
from holdfast.errors import TierUnavailable
from holdfast.testing import ManualClock, MemoryJournalBase, MemoryStorage
from holdfast.write_behind.heartbeat import Heartbeat


class Failing(MemoryJournalBase):
    """Its first beat fails."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(MemoryStorage(), ManualClock())
        self.faults = [fault]

    async def beat(self, journal: str, epoch: int) -> bool:
        if self.faults:
            raise self.faults.pop()
        return await super().beat(journal, epoch)


@pytest.mark.parametrize("fault", [TierUnavailable("L3: away"), RuntimeError("a fault of this package")], ids=str)
async def test_it_goes_on_after_any_fault(fault: Exception) -> None:
    """A server whose heart stopped would be taken for dead; what is no outage is shown."""
    base, replaced, told = Failing(fault), list[bool](), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    await base.register("j", "server")
    heart = Heartbeat(
        base,
        "j",
        1,
        takeover_seconds=10.0,
        clock=ManualClock(),
        sleep=lambda _: asyncio.sleep(0),
        on_replaced=lambda: replaced.append(True),
    )
    heart.start()
    await settle()
    (record,) = await base.records()
    assert record.beat > 0
    assert [context["exception"] for context in told] == ([fault] if isinstance(fault, RuntimeError) else [])
    assert await base.take("j", 1, "other")
    await settle()
    assert replaced == [True]
    await heart.stop()
    await heart.stop()
