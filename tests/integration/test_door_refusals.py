"""What the door refuses: bad addresses, wrong arguments, another event loop, too many calls at once, a closed store."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import holdfast
from fix_bots import ADA
from fix_races import KEY
from holdfast import Bot, Consistency, InvalidDocument, InvalidKey, SettingsError, WrongEventLoop
from holdfast.adapters import connection_pool
from holdfast.errors import Overloaded
from holdfast.settings import Settings
from holdfast.tiers.l3_postgres import PostgresStorage


async def test_another_event_loop_is_refused(settings: Settings) -> None:
    """A store used from another loop says so, and has written nothing."""
    async with holdfast.connect(settings) as state:
        await state.bots.put("b1", ADA)
        for work in (state.bots.put("b1", Bot(name="Eve")), state.bots.get("b2"), state.bots.delete("b1")):
            with pytest.raises(WrongEventLoop):
                await asyncio.to_thread(asyncio.run, work)
        assert await state.bots.get("b1", consistency=Consistency.STRONG) == ADA


@pytest.mark.parametrize(
    "url", ["postgresql://u:se/cret@h/x", "postgresql://h:badport/x", "postgresql://[::1", "mysql://h"]
)
async def test_a_bad_address_of_l3_is_told_without_its_password(settings: Settings, url: str) -> None:
    """A URL that cannot be read is one sentence, which holds no part of a password."""
    with pytest.raises(SettingsError, match="percent-encode") as refused:
        async with holdfast.connect(msgspec.structs.replace(settings, postgres_url=url)):
            pass
    assert "cret" not in str(refused.value)
    assert "'se'" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://app:se/cret@h:6379", "redis://app:se#cret@h", "redis://[::1", "http://h"])
async def test_a_bad_address_of_l2_is_told_without_its_password(settings: Settings, url: str) -> None:
    """The same for L2."""
    with pytest.raises(SettingsError, match="percent-encode") as refused:
        async with holdfast.connect(msgspec.structs.replace(settings, redis_urls=(url,))):
            pass
    assert "cret" not in str(refused.value)


async def test_wrong_arguments_are_told_before_anything_is_sent(settings: Settings) -> None:
    """Versions, consistencies, durabilities, ids and classes that cannot be meant are refused."""

    class Sub(Bot):
        more: int = 1

    async with holdfast.connect(settings) as state:
        bots: Any = state.bots
        version = (await bots.put("b1", ADA)).version
        for wrong in (version + 0.5, str(version), True, -1, 2**63):
            with pytest.raises(InvalidDocument, match="is no version"):
                await bots.put("b1", ADA, expected_version=wrong)
            with pytest.raises(InvalidDocument, match="is no version"):
                await bots.delete("b1", expected_version=wrong)
        with pytest.raises(InvalidDocument, match="a Bot is wanted, not a Sub"):
            await bots.put("b1", Sub(name="x"))
        ids: list[Any] = [[], {}, 5, None, ""]
        for identifier in ids:
            with pytest.raises(InvalidKey):
                await bots.get(identifier)
            with pytest.raises(InvalidKey):
                await bots.entry(identifier)
            with pytest.raises(InvalidKey):
                await bots.get_many([identifier])
        with pytest.raises(InvalidKey):
            [pair async for pair in bots.scan(after="\0")]
        with pytest.raises(ValueError, match="later"):
            await bots.get("b9", consistency="later")
        with pytest.raises(ValueError, match="perhaps"):
            await bots.put("b1", ADA, durability="perhaps")
        other = await bots.entry("b1", consistency="strong")
        assert (other.version, other.tier) == (version, holdfast.Tier.L3)


async def test_too_many_waiting_calls_are_refused(settings: Settings) -> None:
    """A full queue for connections refuses at once; what was let in is done."""
    small = msgspec.structs.replace(settings, l3_connections_max=2, l3_queue_max=3)
    storage = PostgresStorage(connection_pool(small), {**holdfast.kinds.register([])})
    outcomes = await asyncio.gather(*(storage.load([KEY]) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 5
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 5
    await storage.close()


async def test_closing_twice_and_using_it_afterwards(settings: Settings) -> None:
    """`close` may come twice; a closed store says that it is closed, also for what it held in memory."""
    state = await holdfast.connect(settings)
    await state.bots.put("b1", ADA)
    await state.close()
    await state.close()
    with pytest.raises(holdfast.Closed):
        await state.bots.get("b1")
