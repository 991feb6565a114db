"""Journals while primaries of L2 are killed, with replicas that are behind: what was acknowledged is not lost."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import pytest
from glide import ClusterBatch, ClusterBatchOptions, SlotKeyRoute, SlotType

from faults.test_failovers import Node, first_pair, follows, is_level, nodes_of, serves
from fix_journals import journals
from fix_races import mutate, until
from fix_secured import is_connected
from holdfast import Settings, TierError
from holdfast.protocols import Appended, JournalBehind
from holdfast.testing.fault_proxy import FaultProxy, StartProxy
from holdfast.testing.server_controls import ServerControls
from holdfast.tiers import l2_secured
from holdfast.tiers.l2_journal import RedisJournals
from holdfast.tiers.l2_journal_entries import names_of
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_topology import slot_of

pytestmark = [pytest.mark.xdist_group("faults_journals"), pytest.mark.timeout(240)]

ASK, MADE = l2_secured._ask, l2_secured.made
HELD_SECONDS = 1.0
"""For how long an append whose replica hears nothing is looked at."""
PATIENT_SECONDS = 10.0
"""Of a client that connects while a node is down."""
Way = Callable[[pytest.MonkeyPatch, RedisJournals], None]


def honest(_patch: pytest.MonkeyPatch, _streams: RedisJournals) -> None:
    """No mutant."""


def trusts_the_primary(_patch: pytest.MonkeyPatch, streams: RedisJournals) -> None:
    """Mutant: what the primary took counts as safe."""

    async def secured(*_: object) -> int:
        return 1

    streams._secured._secured = secured  # type: ignore[assignment, method-assign]


def waits_by_a_fresh_connection(patch: pytest.MonkeyPatch, streams: RedisJournals) -> None:
    """Mutant: the WAIT is sent by a client of its own, which wrote nothing."""

    async def ask(client: Any, commands: Sequence[Sequence[str]], route: Any) -> Sequence[Any]:
        if commands[0][0] != "WAIT":
            return await ASK(client, commands, route)
        fresh = await streams._secured._connection._connector.open()
        try:
            return [*await ASK(fresh, commands[:1], route), *await ASK(client, commands[1:], route)]
        finally:
            await fresh.close()

    patch.setattr(l2_secured, "_ask", ask)


def waits_without_a_route(patch: pytest.MonkeyPatch, _streams: RedisJournals) -> None:
    """Mutant: the WAIT goes to another node than the append."""

    async def ask(client: Any, commands: Sequence[Sequence[str]], route: Any) -> Sequence[Any]:
        if commands[0][0] != "WAIT":
            return await ASK(client, commands, route)
        other = SlotKeyRoute(SlotType.PRIMARY, named_in(range(14_000, 16_384)))
        return [*await ASK(client, commands[:1], other), *await ASK(client, commands[1:], route)]

    patch.setattr(l2_secured, "_ask", ask)


def waits_in_a_transaction(patch: pytest.MonkeyPatch, _streams: RedisJournals) -> None:
    """Mutant: append and WAIT are one transaction, in which nothing waits."""
    waited: list[int] = []

    async def made(client: Any, script: Script, names: Sequence[bytes], arguments: Sequence[str | bytes]) -> Any:
        batch = ClusterBatch(is_atomic=True)
        batch.custom_command(["EVAL", script.source, str(len(names)), *names, *arguments])
        batch.custom_command(["WAIT", "1", "200"])
        route = SlotKeyRoute(SlotType.PRIMARY, names[0].decode())
        answer, replicas = await client.exec(batch, raise_on_error=True, options=ClusterBatchOptions(route=route))
        waited.append(replicas)
        return answer

    async def ask(client: Any, commands: Sequence[Sequence[str]], route: Any) -> Sequence[Any]:
        if commands[0][0] != "WAIT":
            return await ASK(client, commands, route)
        return [waited[-1], *await ASK(client, commands[1:], route)]

    patch.setattr(l2_secured, "made", made)
    patch.setattr(l2_secured, "_ask", ask)


def writes_nothing_when_repeated(_patch: pytest.MonkeyPatch, streams: RedisJournals) -> None:
    """Mutant: a script that finds its entries there already leaves it at that."""
    mutate(streams._append, "redis.call('HINCRBY', KEYS[1], 'calls', 1)", "")
    mutate(streams._append, "redis.call('HSET'", "if last ~= held[1] then redis.call('HSET'")
    mutate(streams._append, "'kept', kept)", "'kept', kept) end")


MUTANTS: list[Way] = [
    trusts_the_primary,
    waits_by_a_fresh_connection,
    waits_without_a_route,
    waits_in_a_transaction,
    writes_nothing_when_repeated,
]


async def append(streams: RedisJournals, journal: str, seq: int) -> Appended:
    """Append one entry behind the one before."""
    return await streams.append(journal, [(seq, b"%d" % seq)], expected=seq - 1, keep_from=0)


async def numbers(streams: RedisJournals, journal: str) -> list[int]:
    """Of all entries."""
    found: list[int] = []
    while page := await streams.read(journal, after=found[-1] if found else 0, limit=1000):
        found += [seq for seq, _ in page]
    return found


def named_in(slots: range, start: str = "j") -> str:
    """A journal whose keys are in one of these slots."""
    return next(name for number in range(100_000) if slot_of((name := f"{start}{number}").encode()) in slots)


async def through_a_proxy(controls: ServerControls, fault_proxy: StartProxy) -> tuple[Node, Node, range, FaultProxy]:
    """The first primary, which its replica and its clients reach by a proxy; the replica, and their slots."""
    primary, replica, slots = await first_pair(controls)
    proxy = await fault_proxy(*controls.address(primary.name))
    await controls.announce(primary.name, proxy)
    await until(partial(follows, replica, proxy.port))
    await until(partial(is_level, primary, replica))
    return primary, replica, slots, proxy


async def take_over(controls: ServerControls, primary: Node, replica: Node, slots: range) -> None:
    """Kill a primary, and let its replica take over as it is."""
    await controls.kill(primary.name)
    await replica.ask(("CLUSTER", "FAILOVER", "TAKEOVER"))
    await until(partial(serves, controls, replica, slots[0]))


async def come_back(controls: ServerControls, primary: Node, replica: Node) -> None:
    """Start a killed primary again, as a replica of the one that took over."""
    await controls.restart(primary.name)
    await until(partial(follows, primary, replica.port))
    await controls.wait_up(primary.name)


@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_what_no_replica_has_is_not_acknowledged(
    server_controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """W2: a replica hears nothing and takes over. Each mutant acknowledges an entry before that, and it is lost."""
    running = await server_controls.start()
    settings = Settings(postgres_url=running.postgres_url, redis_urls=running.redis_urls, key_prefix=prefix)
    primary, replica, slots, proxy = await through_a_proxy(server_controls, fault_proxy)
    async with AsyncExitStack() as stack:
        streams = journals(settings, stack)
        await until(partial(is_connected, streams._secured))
        named = {way: named_in(slots, way.__name__) for way in (*MUTANTS, honest)}
        assert [(await append(streams, name, 1)).replicas for name in named.values()] == [1] * len(named)
        for wished in (0, 2):  # there is one, and one has to have it
            others = journals(settings, stack, replicas=wished)
            await until(partial(is_connected, others._secured))
            assert (await append(others, named[honest], 1)).replicas == 1
        link = proxy.hold("to_client", where=lambda connection: b"REPLCONF" in connection.first_bytes)
        acknowledged = {}
        for way in MUTANTS:
            with pytest.MonkeyPatch.context() as patch:
                acknowledged[way] = await is_acknowledged(settings, way, named[way], patch)
        owner = Owner(streams, named[honest], last=1, seq=2)
        pending = asyncio.ensure_future(owner.write())
        done, _ = await asyncio.wait([pending], timeout=HELD_SECONDS)
        await take_over(server_controls, primary, replica, slots)
        link.end()
        await pending
        assert not done
        await come_back(server_controls, primary, replica)
        reader = journals(msgspec.structs.replace(settings, l2_request_timeout_seconds=PATIENT_SECONDS), stack)
        assert await numbers(reader, named[honest]) == [1, 2]
        lost = {way: await numbers(reader, named[way]) == [1] for way in MUTANTS}
        for way in MUTANTS:
            with pytest.raises(JournalBehind):
                await append(reader, named[way], 3)
    assert acknowledged == dict.fromkeys(MUTANTS, True)
    assert lost == dict.fromkeys(MUTANTS, True)


async def is_acknowledged(settings: Settings, way: Way, journal: str, patch: pytest.MonkeyPatch) -> bool:
    """Whether a second entry is, in that way; the way that is about repetition repeats it."""
    async with AsyncExitStack() as stack:
        if way is writes_nothing_when_repeated:
            first = asyncio.ensure_future(append(journals(settings, stack), journal, 2))
            await asyncio.wait([first], timeout=HELD_SECONDS)
            first.cancel()
        streams = journals(settings, stack)
        way(patch, streams)
        pending = asyncio.ensure_future(append(streams, journal, 2))
        done, _ = await asyncio.wait([pending], timeout=HELD_SECONDS)
        pending.cancel()
        return bool(done)


@dataclass
class Owner:
    """The live server of a journal, which keeps what it appended and appends again what was lost.

    Attributes:
        acknowledged: by number, how many replicas had it.
        lost: numbers that were acknowledged by a replica, and the stream has lost.
        errors: appends of unknown outcome, or that were not made.
    """

    streams: RedisJournals
    journal: str
    acknowledged: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    errors: int = 0
    last: int = 0
    seq: int = 0

    async def write_on(self) -> None:
        """Append, for ever: each time what is new and what nobody has acknowledged."""
        while True:
            self.seq += 3
            await self.write()

    async def write(self) -> None:
        """Append until all is acknowledged."""
        while self.last < self.seq:
            entries = [(seq, b"%d" % seq) for seq in range(self.last + 1, self.seq + 1)]
            try:
                appended = await self.streams.append(self.journal, entries, expected=self.last, keep_from=0)
            except JournalBehind as behind:
                self.lost |= {seq for seq, replicas in self.acknowledged.items() if seq > behind.last and replicas}
                self.last = behind.last
            except TierError:
                self.errors += 1
                await asyncio.sleep(0.05)
            else:
                self.acknowledged |= {seq: appended.replicas for seq, _ in entries}
                self.last = appended.last


async def is_at(owner: Owner, last: int) -> bool:
    """Whether so much was acknowledged."""
    return owner.last >= last


async def fail_over(
    controls: ServerControls, fault_proxy: StartProxy, owner: Owner, source: random.Random, *, behind: bool
) -> None:
    """One round: the journal's server goes on, and its primary is killed, its replica perhaps behind."""
    primary, replica, slots, proxy = await through_a_proxy(controls, fault_proxy)
    writing = asyncio.ensure_future(owner.write_on())
    await until(partial(is_at, owner, owner.seq + 10))
    link = proxy.hold("to_client", where=lambda connection: b"REPLCONF" in connection.first_bytes)
    if not behind:
        link.end()
    await asyncio.sleep(source.uniform(0.0, 0.5))
    await take_over(controls, primary, replica, slots)
    link.end()
    await come_back(controls, primary, replica)
    await until(partial(is_at, owner, owner.seq + 10))
    writing.cancel()
    await asyncio.wait([writing])


async def run_failovers(controls: ServerControls, fault_proxy: StartProxy, prefix: str, *, rounds: int) -> Owner:
    """A server appends all the time over so many failovers; at the end all that it ever appended is there once."""
    running, source = await controls.start(), random.Random(rounds)
    settings = Settings(postgres_url=running.postgres_url, redis_urls=running.redis_urls, key_prefix=prefix)
    _, _, slots = await first_pair(controls)
    patient = msgspec.structs.replace(settings, l2_request_timeout_seconds=PATIENT_SECONDS)
    async with AsyncExitStack() as stack:
        owner, reader = Owner(journals(settings, stack), named_in(slots)), journals(patient, stack)
        for number in range(rounds):
            await fail_over(controls, fault_proxy, owner, source, behind=number % 2 == 0)
            await owner.write()
            assert await numbers(reader, owner.journal) == list(range(1, owner.seq + 1))
    return owner


@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_what_a_replica_has_survives_a_failover(
    server_controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """W2: a primary is killed under a server that appends all the time; nothing that a replica had is lost."""
    owner = await run_failovers(server_controls, fault_proxy, prefix, rounds=1)
    assert owner.lost == set()
    assert 1 in owner.acknowledged.values()


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_prove_journals_over_failovers(
    server_controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """The same over 30 failovers."""
    owner = await run_failovers(server_controls, fault_proxy, prefix, rounds=30)
    assert owner.lost == set()
    replicated = sum(replicas > 0 for replicas in owner.acknowledged.values())
    sys.stdout.write(f"30 failovers: 0 lost of {replicated} that a replica had, of {len(owner.acknowledged)} in all\n")


async def test_a_stream_that_is_empty_knows_its_end_after_a_restart(controls: ServerControls, prefix: str) -> None:
    """Its file was rewritten meanwhile; without replicas, what was acknowledged is in the file."""
    running = await controls.start()
    settings = Settings(postgres_url=running.postgres_url, redis_urls=running.redis_urls, key_prefix=prefix)
    async with AsyncExitStack() as stack:
        streams = journals(settings, stack)
        assert (await append(streams, "s1", 1)).replicas == 0
        await streams.append("s1", [], expected=1, keep_from=2)
        (node,) = [each for each in nodes_of(controls) if await serves(controls, each, slot_of(b"s1"))]
        await node.ask(("BGREWRITEAOF",))
        await until(partial(is_rewritten, node))
        await controls.kill(node.name)
        await controls.restart(node.name)
        await controls.wait_up(node.name)
        reader = journals(settings, stack)
        assert await reader.last("s1") == 1
        (there,) = await node.ask(("EXISTS", names_of(prefix.encode(), "s1")[1]))
        assert there == 1
        assert (await append(reader, "s1", 2)).last == 2


async def is_rewritten(node: Node) -> bool:
    """Whether a node's file is."""
    (told,) = await node.ask(("INFO", "persistence"))
    return not told["aof_rewrite_in_progress"] and not told["aof_rewrite_scheduled"]
