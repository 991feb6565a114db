"""L2 away, or unfit, while writes are accepted: JOURNALED becomes COMMITTED, and nothing is done twice (W1 to W3)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from fix_journals import RedisServers as JournalServers
from fix_races import until
from fix_single import Single
from fix_tiers import flows_of
from fix_write_behind import die, names_in, noted, patient, stored, until_drained
from holdfast import Durability, Receipt, Settings, Swarm, TierError
from holdfast.kinds import register
from holdfast.node import OpenStore
from holdfast.testing.fault_proxy import FaultProxy, StartProxy
from holdfast.tiers import l2_journal, l2_secured
from holdfast.tiers.l2_journal import RedisJournals
from holdfast.write_behind.entries import encode_entry
from holdfast.write_behind.journal import JournalWriter

JOURNALED, COMMITTED, ACCEPTED = Durability.JOURNALED, Durability.COMMITTED, Durability.ACCEPTED
PERSISTENT = ("--appendonly", "yes")
KEY = "s1"


@pytest.fixture
def options() -> tuple[str, ...]:
    """Of the single server."""
    return PERSISTENT


@pytest.fixture
def keeping(tmp_path: Path, options: tuple[str, ...]) -> Iterator[Single]:
    """A single server that has an append-only file, unless a test says otherwise."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Single(tmp_path, port, options)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def single_settings(settings: Settings, keeping: Single) -> Settings:
    """Settings with it as L2; its user may use one prefix alone."""
    return patient(
        settings,
        redis_urls=keeping.urls,
        key_prefix="vrooli:",
        l2_request_timeout_seconds=0.5,
        write_behind_takeover_seconds=5.0,
    )


async def written(state: OpenStore, name: str, durability: Durability) -> Receipt:
    return await state.swarms.patch(KEY, *noted(name), default=Swarm(), durability=durability)


async def until_journaled(state: OpenStore, name: str) -> None:
    """Write until L2 takes it again."""

    async def journaled() -> bool:
        return (await written(state, f"{name}{next(numbers)}", JOURNALED)).durability is JOURNALED

    numbers = iter(range(10_000))
    await until(journaled)


async def test_l2_goes_away_and_comes_back(single_settings: Settings, keeping: Single) -> None:
    """W3: without L2 a write is committed where it would be journaled; ACCEPTED ones go on; and then as before."""
    async with holdfast.connect(single_settings) as state:
        assert (await written(state, "1", JOURNALED)).durability is JOURNALED
        keeping.kill()
        assert (await written(state, "2", JOURNALED)).durability is COMMITTED
        assert (await written(state, "3", ACCEPTED)).durability is ACCEPTED
        keeping.start()
        await until_journaled(state, "again")
        assert await state.flush() == []
        names = names_in((await stored(state, KEY))[KEY])
        assert names[:3] == ["1", "2", "3"]


async def test_l2_is_away_at_the_beginning(single_settings: Settings, keeping: Single) -> None:
    """W3: the first write of a server finds no L2."""
    keeping.kill()
    async with holdfast.connect(single_settings) as state:
        receipt = await written(state, "1", ACCEPTED)
        assert (await written(state, "2", JOURNALED)).durability is COMMITTED
        assert receipt.durability is COMMITTED
        keeping.start()
        await until_journaled(state, "again")


@pytest.mark.parametrize(
    "options",
    [(*PERSISTENT, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), ("--appendonly", "no")],
    ids=["allkeys-lru", "memory-only"],
)
async def test_an_l2_that_may_forget_keeps_no_journal(
    single_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """W3: one that may evict a journal, or ends with its process, is not asked to keep one; the log says why."""
    async with holdfast.connect(single_settings) as state:
        assert (await written(state, "1", JOURNALED)).durability is COMMITTED
        assert (await written(state, "2", ACCEPTED)).durability is ACCEPTED
        assert await state.flush() == []
    assert "cannot keep a journal" in caplog.text


@pytest.mark.parametrize(
    "options", [(*PERSISTENT, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")], ids=["allkeys-lru"]
)
async def test_a_journal_that_may_be_evicted_is_believed_without_the_check(
    single_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant of W3: the policy is not asked for."""

    async def unfit(_: RedisJournals) -> None:
        return None

    monkeypatch.setattr(RedisJournals, "unfit", unfit)
    async with holdfast.connect(single_settings) as state:
        assert (await written(state, "1", JOURNALED)).durability is JOURNALED


async def test_without_a_replica_that_is_asked_for_it_is_committed(single_settings: Settings) -> None:
    """W2: fewer replicas than `journal_replicas`: the write is committed at once."""
    async with holdfast.connect(msgspec.structs.replace(single_settings, journal_replicas=1)) as state:
        receipt = await written(state, "1", JOURNALED)
        assert (receipt.durability, receipt.replicas) == (COMMITTED, 0)


async def lost(settings: Settings, single: Single) -> list[str]:
    """L2 forgets the end of a journal, as by a failover, and its server dies one write later; what is in effect."""
    short = msgspec.structs.replace(settings, write_behind_takeover_seconds=0.6)
    async with AsyncExitStack() as stack:
        dying = await stack.enter_async_context(holdfast.connect(short))
        taker = await stack.enter_async_context(holdfast.connect(short))
        for name in ("1", "2", "3"):
            await written(dying, name, JOURNALED)
        journal = flows_of(dying).write_behind.lives.journal
        assert journal is not None
        await JournalServers(settings, stack).lose(journal, back_to=1)
        assert (await written(dying, "4", JOURNALED)).durability is JOURNALED
        await until_drained(flows_of(taker), await die(flows_of(dying)))
        return [record.id for record in (await stored(taker, KEY))[KEY].records]


async def test_a_journal_that_lost_its_end_is_made_whole(single_settings: Settings, keeping: Single) -> None:
    """W9: before anything else is acknowledged, what the stream had and lost is appended again."""
    assert await lost(single_settings, keeping) == ["1", "2", "3", "4"]


async def test_a_hole_in_a_journal_is_found(
    single_settings: Settings, keeping: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant of W9: what was acknowledged once is not appended again."""
    monkeypatch.setattr(JournalWriter, "_is_behind", lambda _: False)
    assert await lost(single_settings, keeping) == ["1", "4"]


async def retried(
    settings: Settings, single: Single, fault_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The connection is cut when L2 has an entry and its answer is under way; the server dies; what is in effect."""
    proxy: FaultProxy = await fault_proxy("127.0.0.1", single.port)
    through = single.urls[0].replace(f":{single.port}", f":{proxy.port}")
    short = {"write_behind_takeover_seconds": 0.6}
    async with (
        holdfast.connect(msgspec.structs.replace(settings, redis_urls=(through,), **short)) as dying,
        holdfast.connect(msgspec.structs.replace(settings, **short)) as taker,
    ):
        await written(dying, "1", JOURNALED)
        journal = flows_of(dying).write_behind.lives.journal
        assert journal is not None

        async def appended() -> bool:
            return await flows_of(taker)._given.streams.last(journal) == 2

        async def cut(*call: Any) -> Any:
            monkeypatch.setattr(l2_secured, "made", made)
            with proxy.hold("to_client"):
                sending = asyncio.ensure_future(made(*call))
                await until(appended)
                proxy.reset()
            return await sending

        made = l2_secured.made
        monkeypatch.setattr(l2_secured, "made", cut)
        await written(dying, "2", JOURNALED)
        await written(dying, "3", JOURNALED)
        await until_drained(flows_of(taker), await die(flows_of(dying)))
        return [record.id for record in (await stored(taker, KEY))[KEY].records]


async def test_a_repeated_append_is_one(
    single_settings: Settings, keeping: Single, fault_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W1: what L2 had taken before the connection was lost is not appended again under another number."""
    assert await retried(single_settings, keeping, fault_proxy, monkeypatch) == ["1", "2", "3"]


async def test_an_append_that_is_repeated_under_another_number_doubles(
    single_settings: Settings, keeping: Single, fault_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant of W1: what is tried again gets the next numbers, as if the first attempt had not been."""
    fail = JournalWriter._fail

    def renumber(writer: JournalWriter, fault: TierError) -> None:
        for write in writer._waiting:
            entry = msgspec.structs.replace(write.entry, seq=writer.number)
            writer._next += 1
            write.enter_again(entry, encode_entry(entry, register([])))
        fail(writer, fault)

    monkeypatch.setattr(l2_journal, "ATTEMPTS", 1)
    monkeypatch.setattr(JournalWriter, "_fail", renumber)
    assert sorted(await retried(single_settings, keeping, fault_proxy, monkeypatch)) == ["1", "2", "2", "3"]
