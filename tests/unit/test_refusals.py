"""Reads that are refused or taken back."""

from __future__ import annotations

import asyncio

import pytest

from fix_loop import settle
from holdfast import Bot, Consistency, Overloaded
from holdfast.settings import Settings
from holdfast.testing import MemoryStorage, PausingStorage
from holdfast.testing.door import connect_flows

ADA = Bot(name="Ada")


async def test_a_cancelled_strong_read_is_not_sent() -> None:
    """Strong reads whose callers gave up while L3 was busy cost it nothing: neither of one id nor of many."""
    stored = MemoryStorage()
    l3 = PausingStorage(stored)
    loop = asyncio.get_running_loop()
    async with connect_flows(l3=l3, settings=Settings(l3_connections_max=1)) as flows, asyncio.timeout(10):
        bots, strong = flows.store.bots, Consistency.STRONG
        await bots.put("b1", ADA)
        stored.loads.clear()
        pause = l3.pause_next_load()
        first = loop.create_task(bots.get("b1", consistency=strong))
        await pause.reached.wait()
        leaving = [
            loop.create_task(bots.get("b2", consistency=strong)),
            loop.create_task(bots.entry("b3", consistency=strong)),
            loop.create_task(bots.get_many(["b4", "b5"], consistency=strong)),
            loop.create_task(bots.update("b6", lambda bot: bot)),
        ]
        staying = loop.create_task(bots.get("b7", consistency=strong))
        await settle()
        for task in leaving:
            task.cancel()
        await settle()
        pause.release()
        assert await first == ADA
        assert await staying is None
        assert [[key.id for key in load] for load in stored.loads] == [["b1"], ["b7"]]


async def test_a_refused_read_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `Overloaded` the same key can be read: no flight that nobody flies is waited for."""
    async with connect_flows(l3=MemoryStorage()) as flows, asyncio.timeout(10):
        bots = flows.store.bots
        await bots.put("b1", ADA)
        flows.caches["bot"].flush()
        with monkeypatch.context() as patch:
            patch.setattr(flows.resolver._l2_batcher, "_waiting_max", 0)
            with pytest.raises(Overloaded):
                await bots.get("b1")
        assert await bots.get("b1") == ADA
        with monkeypatch.context() as patch:
            patch.setattr(flows.resolver._l3_batcher, "_waiting_max", 0)
            assert await bots.get_many(["b1"]) == {"b1": ADA}
            with pytest.raises(Overloaded):
                await bots.get_many(["b2", "b1"])
        assert await bots.get("b2") is None
