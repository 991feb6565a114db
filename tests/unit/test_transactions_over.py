"""A transaction whose block has ended refuses everything: its connection may be another's by now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from holdfast import Bot
from holdfast.errors import Closed
from holdfast.flows import Flows
from holdfast.testing.door import connect_flows
from holdfast.transactions import Transaction

ADA, EVE = Bot(name="Ada"), Bot(name="Eve")
CALLS: dict[str, Callable[[Transaction], Awaitable[object]]] = {
    "get": lambda tx: tx.bots.get("b1"),
    "get and lock": lambda tx: tx.bots.get("b1", lock=True),
    "get_many": lambda tx: tx.bots.get_many([]),
    "put": lambda tx: tx.bots.put("b1", EVE),
    "put_many": lambda tx: tx.bots.put_many({"b1": EVE}),
    "put_many of nothing": lambda tx: tx.bots.put_many({}),
    "update": lambda tx: tx.bots.update("b1", lambda _: EVE, default=EVE),
    "delete": lambda tx: tx.bots.delete("b1"),
    "connection": lambda tx: tx.connection.delete("b1"),
}


@pytest.fixture
async def flows() -> AsyncIterator[Flows]:
    async with connect_flows() as opened:
        await opened.store.bots.put("b1", ADA)
        yield opened


async def ended(flows: Flows, how: str) -> Transaction:
    """A transaction that is over."""
    begun: list[Transaction] = []
    with contextlib.nullcontext() if how == "committed" else pytest.raises(ZeroDivisionError):
        async with flows.store.transaction() as tx:
            begun.append(tx)
            assert await tx.bots.get("b1") == ADA
            assert how == "committed" or 1 / 0
    return begun[0]


@pytest.mark.parametrize("how", ["committed", "rolled back"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_each_call_is_refused(flows: Flows, how: str, call: Callable[[Transaction], Awaitable[object]]) -> None:
    """With the next step in words, and without effect."""
    tx = await ended(flows, how)
    with pytest.raises(Closed, match=r"over, as its block is: begin another one with state\.transaction\(\)"):
        await call(tx)
    assert await flows.store.bots.get("b1") == ADA


async def test_an_update_that_the_end_overtook_writes_nothing(flows: Flows) -> None:
    """It had read inside the block, and would write after it."""
    async with flows.store.transaction() as tx:
        late = asyncio.ensure_future(tx.bots.update("b1", lambda _: EVE))
        load, loaded, go_on = tx.storage.load, asyncio.Event(), asyncio.Event()

        async def slow(*arguments: Any, **options: Any) -> Any:
            rows = await load(*arguments, **options)
            loaded.set()
            await go_on.wait()
            return rows

        tx.storage = Slow(tx.storage, slow)  # type: ignore[assignment]
        await loaded.wait()
    go_on.set()
    with pytest.raises(Closed):
        await late
    assert await flows.store.bots.get("b1") == ADA


class Slow:
    """A transaction of L3 whose `load` is another one."""

    def __init__(self, inner: object, load: Callable[..., Awaitable[object]]) -> None:
        self.load = load
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)
