"""Closing a server: by several at once, by a handler of its events, and by callers that do not wait for the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import holdfast
from fix_events import until
from holdfast import Delivery, Event, Settings
from holdfast.node import OpenStore

Close = Callable[[OpenStore], Awaitable[object]]


async def in_a_task(state: OpenStore) -> None:
    """Close it in a task of its own."""
    await asyncio.gather(state.close())


async def impatiently(state: OpenStore) -> None:
    """Wait for the end only so long."""
    async with asyncio.timeout(1e-3):
        await state.close()


async def ends(before: set[asyncio.Task[object]]) -> None:
    """Wait until nothing runs but what ran before."""

    async def is_so() -> bool:
        return asyncio.all_tasks() <= before

    await until(is_so)


@pytest.mark.parametrize("close", [OpenStore.close, in_a_task, impatiently])
async def test_a_handler_may_close_the_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, close: Close
) -> None:
    """All of it ends, whatever becomes of the handler."""
    monkeypatch.setattr("holdfast.invalidation.subscription.DRAIN_SECONDS", 0.05)
    before, called = asyncio.all_tasks(), asyncio.Event()
    state = await holdfast.connect(settings)

    async def handler(_: Event) -> None:
        called.set()
        await close(state)

    await state.subscribe("x", handler).ready()
    await state.publish("x", delivery=Delivery.RELIABLE)
    await called.wait()
    await state.close()
    await ends(before)
    with pytest.raises(holdfast.Closed):
        await state.bots.get("b1")


async def test_a_caller_that_ceases_to_wait_does_not_end_the_closing(settings: Settings) -> None:
    """The next one waits for the same end."""
    before = asyncio.all_tasks()
    state = await holdfast.connect(settings)
    closing = asyncio.create_task(state.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await state.close()
    await ends(before)


async def test_all_that_close_at_once_wait_for_the_end(settings: Settings) -> None:
    """Not the first alone."""
    before = asyncio.all_tasks()
    state = await holdfast.connect(settings)
    first = asyncio.create_task(state.close())
    await asyncio.sleep(0)
    await state.close()
    assert asyncio.all_tasks() - before <= {first}
    await first
