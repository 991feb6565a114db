"""Documents that live shortly, each with tags nobody had before: what is kept for the sake of tags stays bounded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from glide import ClusterScanCursor

import holdfast
from fix_feed import connected
from fix_races import until_l2_is_trusted
from fix_tiers import flows_of
from holdfast import Caching, Kind, Settings
from holdfast.documents import Document
from holdfast.node import OpenStore
from holdfast.tiers.l2_client import RedisConnection

BATCH: Final = 1000
KNOWN_MAX: Final = 10_000
"""Tags whose generations L3 keeps."""
SHORT, LONG = 20_000, 1_000_000
Sql = Any  # asyncpg.Connection cannot be subscripted at run time


class Ping(Document, frozen=True, kw_only=True):
    """What a swarm keeps for a moment."""

    tags: Sequence[str] = ()


PING = Kind("ping", Ping, caching=Caching(l1_entries_max=500, l2_ttl_seconds=2.0), tags=lambda ping: ping.tags)


class Kept(NamedTuple):
    """What there is for the sake of tags.

    Attributes:
        in_l3: tags that L3 knows, rows of generations, records.
        in_servers: tags that each server knows.
    """

    in_l3: tuple[int, int, int]
    in_servers: tuple[int, ...]


async def kept(sql: Sql, servers: Sequence[OpenStore]) -> Kept:
    """Look."""
    counts = await sql.fetchrow("""SELECT (SELECT count(*) FROM holdfast.tag_generations),
        (SELECT count(*) FROM holdfast.generations), (SELECT count(*) FROM holdfast.invalidations)""")
    return Kept(tuple(counts), tuple(flows_of(state).view.tags_known for state in servers))


async def batch(sql: Sql, servers: Sequence[OpenStore], number: int) -> None:
    """Write documents with tags of their own; read some through L2; void each by a tag of its own; delete them.

    Most tags are raised by SQL, many in one transaction; some through the door.
    """
    one, two = servers
    ids = [f"p{number}-{each}" for each in range(BATCH)]
    pings = one.collection(PING)
    await pings.put_many({name: Ping(tags=[f"own:{name}", f"batch:{number}"]) for name in ids})
    assert len(await two.collection(PING).get_many(ids[:50])) == 50
    await two.invalidate(tag=f"own:{ids[0]}", reason="a test")
    await sql.fetchval(
        "SELECT count(holdfast.invalidate(NULL, NULL, 'own:' || id, 'a test', 'a test')) FROM unnest($1::text[]) id",
        ids,
    )
    await one.invalidate(tag=f"batch:{number}", reason="a test")
    assert one.collection(PING).peek(ids[-1]) is None
    await sql.execute("DELETE FROM holdfast.ping WHERE id = ANY ($1)", ids)


async def names_in_l2(connection: RedisConnection, prefix: str) -> list[str]:
    """The names of all keys that L2 holds for this test."""
    await connection.topology()
    client, cursor, names = connection._client, ClusterScanCursor(), []  # type: ignore[no-untyped-call]
    assert client is not None
    while not cursor.is_finished():
        cursor, found = await client.scan(cursor, match=f"{prefix}*", count=1000)  # type: ignore[assignment]
        names += [name.decode().removeprefix(prefix) for name in found]  # type: ignore[union-attr]
    return names


async def run(settings: Settings, connection: RedisConnection, documents: int) -> list[Kept]:
    """Write so many documents, batch after batch; what was kept now and then."""
    settings = msgspec.structs.replace(settings, l2_fence_lifetime_seconds=1.0)
    seen: list[Kept] = []
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(holdfast.connect(settings, kinds=[PING])) for _ in range(2)]
        await until_l2_is_trusted(*map(flows_of, servers))
        sql = await stack.enter_async_context(connected(settings.postgres_url))
        for number in range(documents // BATCH):
            await batch(sql, servers, number)
            if number % 5 == 4:
                seen.append(await kept(sql, servers))
        assert [await flows_of(state).feed.refresh() for state in servers] == [True, True]
        seen.append(await kept(sql, servers))
        names = await names_in_l2(connection, settings.key_prefix)
        size = await sql.fetchval("SELECT pg_total_relation_size('holdfast.tag_generations')")
    own = [name for name in names if not name.startswith("ping:")]
    told = (
        f"{documents} documents, as many tags void: L3 knows {seen[-1].in_l3[0]} of them ({size} bytes), the servers "
    )
    told += f"{seen[-1].in_servers}; L2 has {len(own)} keys that are no entries; {seen[-1].in_l3[2]} records\n"
    sys.stdout.write(told)
    assert sorted(name.partition("}:")[2] for name in own) == ["watermark"] * 3
    return seen


def check(seen: Sequence[Kept]) -> None:
    """All that was kept, at any time."""
    assert max(each.in_l3[0] for each in seen) <= KNOWN_MAX
    assert max(each.in_l3[1] for each in seen) <= 6, "generations that every load tells"
    assert max(each.in_l3[2] for each in seen) <= 10_000
    # What a server was told since L3 forgot some is at most what one batch raises.
    assert max(count for each in seen for count in each.in_servers) <= KNOWN_MAX + 2 * BATCH
    assert seen[-1].in_l3[0] >= KNOWN_MAX // 2 - 1, "nothing was forgotten for want of room"


async def test_tags_that_are_ever_new_leave_little_behind(settings: Settings, l2_connection: RedisConnection) -> None:
    """The short form: more than twice as many tags as L3 keeps."""
    check(await run(settings, l2_connection, SHORT))


@pytest.mark.prove
@pytest.mark.timeout(1200)
async def test_prove_tags(settings: Settings, l2_connection: RedisConnection) -> None:
    """The long form: a million documents, a million tags of their own and all of them made void."""
    check(await run(settings, l2_connection, LONG))
