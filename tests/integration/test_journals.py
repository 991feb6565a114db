"""Journals on real nodes that are full, evict, or were tampered with, and a connection that is lost between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from fix_cluster import HALF, Cluster
from fix_journals import journals
from fix_races import mutate, until
from fix_secured import has_another_connection, number_of
from fix_single import Single
from holdfast import OutcomeUnknown, Overloaded, Settings
from holdfast.protocols import JournalBehind
from holdfast.tiers import l2_journal, l2_secured
from holdfast.tiers.l2_journal import RedisJournals
from holdfast.tiers.l2_journal_entries import names_of
from holdfast.tiers.l2_securing import connection_of
from holdfast.tiers.l2_topology import slot_of

JOURNAL = "s1"
ENTRY_BYTES = 100_000


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opened."""
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def pair(cluster: Cluster, stack: AsyncExitStack) -> RedisJournals:
    """Journals on two nodes of this test's own."""
    return journals(Settings(postgres_url="postgresql://unused", redis_urls=cluster.urls), stack)


@pytest.fixture
def streams(settings: Settings, stack: AsyncExitStack) -> RedisJournals:
    """Journals on the session's cluster."""
    return journals(settings, stack)


async def append(streams: RedisJournals, *seqs: int, expected: int, keep_from: int = 0, size: int = 1) -> int:
    """Append entries; the last number."""
    entries = [(seq, b"x" * size) for seq in seqs]
    return (await streams.append(JOURNAL, entries, expected=expected, keep_from=keep_from)).last


async def command(streams: RedisJournals, *words: str | bytes) -> Any:
    """Send a command to the node that serves its first key."""
    client = await streams._clients._connection.client()
    return await client.custom_command(list(words))


async def test_what_need_not_be_kept_makes_room(cluster: Cluster, pair: RedisJournals) -> None:
    """A full node refuses an append, unless what may be dropped is enough; what only drops, it takes."""
    await append(pair, *range(1, 21), expected=0, size=ENTRY_BYTES)
    fill_up(cluster)
    with pytest.raises(Overloaded):
        await append(pair, 21, expected=20)
    assert await pair.last(JOURNAL) == 20
    assert await append(pair, 21, expected=20, keep_from=11) == 21
    fill_up(cluster)
    assert await append(pair, expected=21, keep_from=21) == 21
    assert await pair.seal(JOURNAL) == 21
    await pair.drop(JOURNAL)


async def test_a_full_node_that_may_not_be_trimmed_stays_full(cluster: Cluster, pair: RedisJournals) -> None:
    """Mutant: without leave to run where memory is out, nothing is ever dropped there."""
    await append(pair, *range(1, 21), expected=0, size=ENTRY_BYTES)
    mutate(pair._trim, "#!lua flags=allow-oom\n", "")
    fill_up(cluster)
    with pytest.raises(Overloaded):
        await append(pair, 21, expected=20, keep_from=11)


def fill_up(cluster: Cluster) -> None:
    """Leave no node any memory: each has a few entries too many."""
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "maxmemory", node.ask("INFO", "memory")["used_memory"] - 3 * ENTRY_BYTES)


async def test_a_policy_that_evicts_any_key_is_unfit(cluster: Cluster, pair: RedisJournals) -> None:
    """On any node; one that only evicts keys with a lifetime is not, for a journal has none."""
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "appendonly", "yes")
        node.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    assert await pair.unfit() is None
    cluster.nodes[1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    reason = await pair.unfit()
    assert reason is not None
    assert "allkeys-lru" in reason
    assert str(cluster.nodes[1].port) in reason


async def test_what_only_memory_keeps_is_unfit(cluster: Cluster, pair: RedisJournals) -> None:
    """A node has neither a file nor a replica."""
    reason = await pair.unfit()
    assert reason is not None
    assert "append-only file" in reason


async def test_a_journal_whose_slot_moves_is_proven_where_it_is(
    cluster: Cluster, pair: RedisJournals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client follows without a word; a proof by the former node does not count, and the append is repeated."""
    proofs: list[str] = []

    def noted(reply: Any) -> str:
        proofs.append(connection_of(reply))
        return proofs[-1]

    monkeypatch.setattr(l2_secured, "connection_of", noted)
    await append(pair, 1, expected=0)
    slot = slot_of(JOURNAL.encode())
    source = int(slot >= HALF)
    cluster.move(slot, source, 1 - source)
    proofs.clear()
    assert await append(pair, 2, expected=1) == 2
    assert f":{cluster.nodes[source].port}" in proofs[0]
    assert f":{cluster.nodes[1 - source].port}" in proofs[-1]
    assert [seq for seq, _ in await pair.read(JOURNAL, after=0, limit=9)] == [1, 2]


@pytest.mark.parametrize("is_honest", [True, False])
async def test_a_journal_whose_slot_is_moving_is_not_vouched_for(
    cluster: Cluster, pair: RedisJournals, monkeypatch: pytest.MonkeyPatch, *, is_honest: bool
) -> None:
    """Its keys are at the next node already, and the former one would vouch for them; once it has moved, all is well.

    Mutant: whoever answers for the slot is believed.
    """
    if not is_honest:
        monkeypatch.setattr(l2_journal, "_of_one_node", lambda secured: secured)
    slot = slot_of(JOURNAL.encode())
    source = int(slot >= HALF)
    await append(pair, 1, expected=0)
    cluster.begin_move(slot, source, 1 - source)
    cluster.move_keys(slot, source, 1 - source)
    if is_honest:
        with pytest.raises(OutcomeUnknown, match="another one vouched"):
            await append(pair, 2, expected=1)
        cluster.move(slot, source, 1 - source)
    assert await append(pair, 2, expected=1) == 2


async def test_a_server_that_is_no_cluster_keeps_a_journal(single: Single, stack: AsyncExitStack) -> None:
    """With the rights of an application; this one has no file, which it says."""
    streams = journals(Settings(postgres_url="postgresql://unused", redis_urls=single.urls), stack)
    assert await append(streams, 1, 2, expected=0) == 2
    assert await append(streams, 1, 2, 3, expected=0) == 3
    assert await streams.seal(JOURNAL) == 3
    assert len(await streams.read(JOURNAL, after=1, limit=9, sealed=True)) == 2
    assert "append-only file" in str(await streams.unfit())


@pytest.mark.parametrize("removed", [0, 1])
async def test_a_journal_that_somebody_removed_is_lost(
    streams: RedisJournals, settings: Settings, removed: int
) -> None:
    """Its stream, or what is known of it: it is told, and all of it is appended anew."""
    await append(streams, 1, 2, expected=0)
    await command(streams, "DEL", names_of(settings.key_prefix.encode(), JOURNAL)[removed])
    with pytest.raises(JournalBehind) as told:
        await append(streams, 3, expected=2)
    assert told.value.last == 0
    assert await append(streams, 1, 2, 3, expected=0) == 3
    assert [seq for seq, _ in await streams.read(JOURNAL, after=0, limit=9)] == [1, 2, 3]


async def test_who_is_behind_nothing_leaves_nothing(streams: RedisJournals, settings: Settings) -> None:
    """No key is made for a journal that does not exist."""
    with pytest.raises(JournalBehind):
        await append(streams, 3, expected=2)
    assert await command(streams, "EXISTS", *names_of(settings.key_prefix.encode(), JOURNAL)) == 0


async def test_keys_of_a_journal_have_no_lifetime_until_it_is_dropped(
    streams: RedisJournals, settings: Settings
) -> None:
    """Else a policy of the sort volatile-* would evict them."""
    state, entries = names_of(settings.key_prefix.encode(), JOURNAL)
    await append(streams, 1, 2, expected=0)
    await streams.seal(JOURNAL)
    assert [await command(streams, "PTTL", name) for name in (state, entries)] == [-1, -1]
    await streams.drop(JOURNAL)
    assert await command(streams, "EXISTS", entries) == 0
    assert 0 < await command(streams, "PTTL", state) <= 86_400_000


async def test_an_entry_that_nobody_of_us_appended_is_read_as_empty(streams: RedisJournals, settings: Settings) -> None:
    """It holds up nothing: whoever reads it refuses it."""
    _, entries = names_of(settings.key_prefix.encode(), JOURNAL)
    await append(streams, 1, expected=0)
    await command(streams, "XADD", entries, "7-3", b"\xff", b"\xfe", "more", "x")
    assert await streams.read(JOURNAL, after=0, limit=9) == [(1, b"x"), (7, b"")]


async def lose_the_connection(streams: RedisJournals, other: RedisJournals) -> int:
    """Append an entry, while the connection is lost between the script and its proof; how often it was proven."""
    look, looks = streams._secured._look, [0]

    async def cut(client: Any, name: bytes, lane: Any, route: Any) -> tuple[str, int | None]:
        looks[0] += 1
        if looks[0] == 1:
            number = await number_of(client, route)
            killer: Any = await other._secured._connection.client()
            await killer.custom_command(["CLIENT", "KILL", "ID", str(number)], route)
            await until(partial(has_another_connection, client, route, number))
        return await look(client, name, lane, route)

    streams._secured._look = cut  # type: ignore[method-assign]
    assert await append(streams, 1, expected=0) == 1
    assert len(await streams.read(JOURNAL, after=0, limit=9)) == 1
    return looks[0]


async def test_an_append_is_repeated_after_its_connection_was_lost(
    streams: RedisJournals, settings: Settings, stack: AsyncExitStack
) -> None:
    """W2: the client connects anew without a word; the append is made again, and is there once."""
    assert await lose_the_connection(streams, journals(settings, stack)) == 2


async def test_a_proof_by_another_connection_is_believed_without_its_name(
    streams: RedisJournals, settings: Settings, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: all connections are taken for one."""
    monkeypatch.setattr(l2_secured, "connection_of", lambda _: "one")
    assert await lose_the_connection(streams, journals(settings, stack)) == 1
