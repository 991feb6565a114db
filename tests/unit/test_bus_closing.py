"""The end of a subscription and of the bus: what is left running, and what becomes of what waited."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from fix_events import Notes, Stage
from fix_loop import settle
from holdfast.events import Delivery, Event

RELIABLE = Delivery.RELIABLE


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_handler_may_close_its_own_subscription(group: str | None) -> None:
    """Nobody waits for somebody who waits for him; what it was handling comes again, to a group's next member."""
    stage, seen, closed = Stage(), list[Any](), asyncio.Event()

    async def handler(event: Event) -> None:
        seen.append(event.data)
        await subscription.close()
        closed.set()

    async with stage.server() as bus:
        subscription = bus.subscribe("**", handler, group=group)
        await subscription.ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        async with asyncio.timeout(2):
            await closed.wait()
        assert bus.subscriptions == []
        await bus.publish("x", 2, delivery=RELIABLE)
        await settle()
        assert seen == [1]


async def test_nothing_is_left_running() -> None:
    """After closing a subscription, and the bus, each twice."""
    stage, notes = Stage(), Notes()
    before = len(asyncio.all_tasks())
    async with stage.server() as bus:
        subscription = bus.subscribe("**", notes)
        await subscription.ready()
        await subscription.close()
        await subscription.close()
        bus.subscribe("**", notes, group="g")
        await bus.publish("x", 1, delivery=RELIABLE)
    await bus.stop()
    await settle()
    gc.collect()
    assert len(asyncio.all_tasks()) == before
    assert [name for partition in stage.hub.contents for name in partition.readers] == ["g:**"] * 4
