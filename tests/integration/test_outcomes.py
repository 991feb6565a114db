"""A write that fails or is cancelled on its way leaves no old value in a cache; a cancelled reader harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
import pytest

import holdfast
from fix_bots import ADA
from fix_feed import connected
from fix_races import KEY, until, until_l2_is_trusted, until_l2_was_told
from fix_tiers import flows_of, flows_over, make_deaf
from holdfast import Bot, OutcomeUnknown
from holdfast.keys import Key
from holdfast.protocols import Cached, Write
from holdfast.settings import Settings
from holdfast.testing import MemoryStorage, PausingStorage
from holdfast.testing.door import connect_flows
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_postgres import PostgresStorage


async def test_a_lost_reply_is_an_unknown_outcome(settings: Settings) -> None:
    """A write whose connection dies is neither success nor failure, and its key is asked from L3 afterwards."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        await state.bots.put("b1", ADA)
        async with connection.transaction():
            await connection.execute("""SELECT FROM holdfast."User" WHERE id = 'b1' FOR UPDATE""")
            writing = asyncio.ensure_future(state.bots.put("b1", Bot(name="Eve")))
            blocked = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

            async def waiting() -> bool:
                return bool(await connection.fetch(blocked))

            await until(waiting)
            await connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({blocked}) AS b")  # noqa: S608
            with pytest.raises(OutcomeUnknown):
                await writing
            assert state.bots.peek("b1") is None  # at once: its recovery reads the row again
        assert await state.bots.get("b1") == ADA
        flows = flows_of(state)
        await flows.resolver.drain()
        await until_l2_is_trusted(flows)
        answer = (await flows.resolver._l2.read([KEY], flows.view))[KEY]
        assert not isinstance(answer, Cached), "L2 may not answer here while the outcome is unknown"


async def test_a_cancelled_put_still_tells_the_caches(
    settings: Settings, l3: PostgresStorage, l2: RedisCache, l2_fences: RedisFences
) -> None:
    """A caller cancelled between commit and fence leaves neither tier with the old document."""
    storage, slow = PausingStorage(l3), msgspec.structs.replace(settings, staleness_bound_seconds=60.0)
    async with flows_over(slow, l2, storage, fences=l2_fences) as flows:
        bots = flows.store.bots
        await until_l2_is_trusted(flows)
        make_deaf(flows)  # so it is the writer from whom L1 learns of this commit
        await bots.put("b1", ADA)
        assert await flows.feed.refresh()
        pause = storage.pause_next_save()
        writing = asyncio.ensure_future(bots.put("b1", Bot(name="Eve")))
        await pause.reached.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert bots.peek("b1") == ADA
        pause.release()
        await flows.writer.drain()
        assert bots.peek("b1") == Bot(name="Eve")
        assert not isinstance((await l2.read([KEY], flows.view))[KEY], Cached)
        entry = await bots.entry("b1")
        assert entry is not None
        await until_l2_was_told(l2, entry.version)


async def test_a_cancelled_reader_leaves_the_flight_to_the_others(
    settings: Settings, l3: PostgresStorage, l2: RedisCache
) -> None:
    """R4: of two callers in one flight, one is cancelled and the other is answered."""
    storage = PausingStorage(l3)
    async with flows_over(settings, l2, storage) as flows:
        await flows.store.bots.put("b1", ADA)
        flows.caches["bot"].flush()
        pause = storage.pause_next_load()
        first, second = (asyncio.ensure_future(flows.store.bots.get("b1")) for _ in range(2))
        await pause.reached.wait()
        first.cancel()
        pause.release()
        assert await second == ADA
        with pytest.raises(asyncio.CancelledError):
            await first


class Breaking(MemoryStorage):
    """Commits, and then fails in a way that nobody foresaw."""

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all, and raise."""
        await super().save(writes)
        if self.breaks:
            raise ZeroDivisionError
        return {}

    breaks = False


async def test_an_unforeseen_fault_of_a_write_counts_as_unknown() -> None:
    """After it, no cache answers with what the write may have replaced."""
    l3 = MemoryStorage()
    async with connect_flows(l3=l3) as flows:
        await flows.store.bots.put("b1", ADA)
        l3.__class__ = Breaking
        l3.breaks = True  # type: ignore[attr-defined]
        with pytest.raises(ZeroDivisionError):
            await flows.store.bots.put("b1", Bot(name="Eve"))
        assert await flows.store.bots.get("b1") == Bot(name="Eve")
