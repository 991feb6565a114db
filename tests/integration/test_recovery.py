"""Recovery against real servers: what L2 holds is damaged, a row of L3 is, and what was done is in L3 afterwards."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest

import holdfast
from fix_bots import ADA
from fix_feed import connected
from fix_races import KEY, until, until_l2_is_trusted
from fix_recovery import PostgresRecords
from fix_tiers import Behind, behind, flows_of, proxy_of
from holdfast import Tier, TierUnavailable
from holdfast.errors import CorruptDocument, RowRefused, TierError
from holdfast.flows import Flows
from holdfast.keys import redis_key
from holdfast.node import OpenStore
from holdfast.settings import Settings
from holdfast.testing.conformance.recovery_rows import FOUND, line
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_recovery import APPEND, IN_ORDER

DAMAGES: dict[str, Any] = {
    "a flipped bit of the version": lambda held: held[:32] + bytes([held[32] ^ 0x40]) + held[33:],
    "a flipped bit at the end": lambda held: held[:-1] + bytes([held[-1] ^ 1]),
    "truncated": lambda held: held[: len(held) // 2],
    "nothing": lambda _: b"",
    "no entry": lambda _: b"GET / HTTP/1.1\r\n" + b"\xff" * 100,
    "a pickle": lambda _: pickle.dumps({"name": "Eve"}),
}

WAITS = """
SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)) AND datname = current_database()"""


class Served(NamedTuple):
    """A server whose L2 is trusted."""

    state: OpenStore
    flows: Flows
    database: asyncpg.Connection[Any]

    @property
    def cache(self) -> RedisCache:
        """Its L2."""
        cache = self.flows._given.l2
        assert isinstance(cache, RedisCache)
        return cache

    async def command(self, *words: Any) -> Any:
        """Send a command about the key of `ADA` to L2."""
        name = redis_key(self.cache._prefix, KEY)
        await self.cache._connection.topology()
        return await self.cache._connection.command([words[0], name, *words[1:]])

    async def tier(self) -> Tier:
        """Which tier answers for `ADA`, without L1."""
        self.flows.caches["bot"].flush()
        entry = await self.state.bots.entry(KEY.id)
        assert entry is not None
        assert entry.value == ADA
        return entry.tier

    async def until_in_l2(self) -> None:
        """Until L2 answers for `ADA`."""

        async def held() -> bool:
            return await self.tier() is Tier.L2

        await until(held)

    async def lines(self, subject: str, last: str = "completed") -> list[tuple[str, str]]:
        """Steps and outcomes of the recoveries of a subject in L3, once there is the last step."""

        async def found() -> list[tuple[str, str]]:
            records = await self.database.fetch(
                "SELECT step, outcome FROM holdfast.recovery_log WHERE subject = $1 ORDER BY number", subject
            )
            return [(record["step"], record["outcome"]) for record in records]

        async def written() -> bool:
            return any(step == last for step, _ in await found()) and not self.flows.recovery_log.waiting

        await until(written)
        return await found()


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Served]:
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as database:
        flows = flows_of(state)
        await until_l2_is_trusted(flows)
        await state.bots.put(KEY.id, ADA)
        yield Served(state, flows, database)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_l2_holds_is_damaged(damage: str, settings: Settings) -> None:
    """C5: never served; kept as evidence; and L2 serves the same version again, at once."""
    async with served(settings) as at:
        await at.until_in_l2()
        bad = DAMAGES[damage](await at.command("GET"))
        await at.command("SET", bad)
        assert await at.tier() is Tier.L3
        await at.until_in_l2()
        assert await at.lines("bot:b1") == [
            ("detected", "done"),
            ("retry_operation", "mended"),
            ("completed", "recovered"),
        ]
        (kept,) = await at.database.fetch("SELECT * FROM holdfast.quarantine")
        assert (kept["tier"], kept["kind"], kept["id"]) == ("l2", "bot", "b1")
        assert (kept["evidence"], kept["size"]) == (bad, len(bad))


async def test_a_bad_row_of_l3(settings: Settings) -> None:
    """E1: its readers are told, the others go on; it is kept as evidence, and stays as it is for a person to mend."""
    async with served(settings) as at:
        await at.database.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('b2', '[1, 2]')""")
        for _ in range(20):
            with pytest.raises(CorruptDocument, match="bot:b2"):
                await at.state.bots.get("b2")
        assert await at.state.bots.get(KEY.id) == ADA
        steps = await at.lines("bot:b2")
        assert steps[:3] == [
            ("detected", "done"),
            ("force_reload_from_l3", "failed"),
            ("invalidate_related_cache", "done"),
        ]
        assert len([step for step, _ in steps if step == "detected"]) == 1
        (kept,) = await at.database.fetch("SELECT * FROM holdfast.quarantine")
        assert (kept["tier"], kept["id"], kept["evidence"]) == ("l3", "b2", b"[1, 2]")
        # Mended by hand: the feed tells, and readers are served.
        await at.database.execute("""UPDATE holdfast."User" SET document = '{"name": "Eve"}' WHERE id = 'b2'""")

        async def mended() -> bool:
            try:
                return await at.state.bots.get("b2") is not None
            except CorruptDocument:
                return False

        await until(mended)


async def test_the_log_of_an_outage_of_l3_is_merged(settings: Settings) -> None:
    """What was done while L3 could not be reached is there afterwards, with its time, and that of the return."""
    proxy = proxy_of(settings)
    async with proxy, connected(settings.postgres_url) as database:
        through: Behind = behind(proxy, settings.postgres_url)
        away = holdfast.Settings(
            postgres_url=through.url,
            redis_urls=settings.redis_urls,
            key_prefix=settings.key_prefix,
            l3_connect_timeout_seconds=0.5,
        )
        async with holdfast.connect(away) as state:
            flows = flows_of(state)
            proxy.refuse()
            proxy.reset()
            with pytest.raises(TierUnavailable):
                await state.bots.get("asked")

            async def completed() -> bool:
                return any((line.subject, line.step) == ("tier:l3", "completed") for line in flows.recovery_log._lines)

            await until(completed)
            back_at = await database.fetchval("SELECT clock_timestamp()")
            proxy.heal()
            lines = await Served(state, flows, database).lines("tier:l3", "returned")
            assert ("completed", "degraded") in lines
            early = await database.fetchval(
                "SELECT count(*) FROM holdfast.recovery_log WHERE subject = 'tier:l3' AND at < $1", back_at
            )
            assert early >= 3


async def test_who_follows_the_log_misses_no_line_that_commits_late(settings: Settings) -> None:
    """Numbers become visible in their order: a server in the middle of its lines has the others wait."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as slow:
        log = flows_of(state)._given.recovery_log
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(IN_ORDER)
        await slow.execute(APPEND, *[[value] for value in msgspec.structs.astuple(line("slow"))])
        other = asyncio.ensure_future(log.append([line("other")], rows_max=1000))

        async def waits() -> bool:
            return other.done() or bool(await slow.fetchval(WAITS, slow.get_server_pid()))

        await until(waits)
        seen = list(await state.recovery_log.follow(0))
        await transaction.commit()
        await other
        seen += await state.recovery_log.follow(seen[-1].number if seen else 0)
        assert [each.line.id for each in seen] == ["slow", "other"]


REFUSING = """
ALTER TABLE holdfast.recovery_log ADD CHECK (id <> 'poison');
ALTER TABLE holdfast.quarantine ADD CHECK (kind <> 'poison')"""
READ_ONLY = """DO $$BEGIN
    EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
END$$"""


@pytest.mark.parametrize("rule", [REFUSING, READ_ONLY], ids=["a row", "read-only"])
async def test_what_l3_says_of_a_record_is_told_from_what_it_says_of_itself(
    rule: str, settings: Settings, postgres_records: PostgresRecords
) -> None:
    """A record that it refuses is left out; while nothing may be written, records wait."""
    async with connected(settings.postgres_url) as database:
        await database.execute(rule)
    records, faults = postgres_records, list[type[TierError]]()
    for work in (
        records.log().append([line("poison")], rows_max=1000),
        records.quarantine().keep([msgspec.structs.replace(FOUND, kind="poison")], rows_max=1000),
    ):
        with pytest.raises(TierError) as met:
            await work
        faults.append(met.type)
    assert faults == [RowRefused if rule is REFUSING else TierError] * 2
