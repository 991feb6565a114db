"""A node of L2 goes back in time: a replica that was far behind is promoted, or a node starts on an older dump.

Values, fences and watermark go back together. The servers hold few documents in memory here, so that L2 is asked all
the time, and one of them remembers changes for a second only, so that it depends on the watermark.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import valkey

from faults.stage import IDS, KEYS, Mutation, Stage, healthy, on_stage, upsert
from fix_races import mutate, until, until_l2_is_trusted
from fix_tiers import flows_of
from holdfast import Bot, Settings
from holdfast.flows import Flows
from holdfast.keys import Key, redis_key
from holdfast.protocols import FenceTarget, Watermark
from holdfast.testing.fault_proxy import StartProxy
from holdfast.testing.server_controls import ServerControls
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_topology import slot_of

pytestmark = [pytest.mark.xdist_group("faults_l2"), pytest.mark.timeout(240)]

IN_MEMORY = 8
MEMORY_SECONDS = 1.0
"""For how long the second server remembers a change."""
COMPARE = "if (mark or '') ~= ARGV[1] then return 0 end"


@dataclass
class Toll:
    """What the rounds did.

    Attributes:
        filled: documents that L2 held before a round.
        behind: those of them that the node which took over held in an older state.
    """

    filled: int = 0
    behind: int = 0


class Node:
    """A node of the cluster, as an administrator sees it."""

    def __init__(self, controls: ServerControls, name: str) -> None:
        self.name = name
        self.port = controls.address(name)[1]
        self._url = controls.url(name)

    async def ask(self, *commands: tuple[str | bytes, ...]) -> list[Any]:
        """The answers to commands; it need not be a primary."""
        return await asyncio.to_thread(self._ask, commands)

    async def replication(self) -> dict[str, str]:
        """What it says of its replication."""
        (said,) = await self.ask(("INFO", "replication"))
        return {name: str(value) for name, value in said.items()}

    async def values(self, names: Sequence[bytes]) -> list[bytes | None]:
        """What it holds."""
        return (await self.ask(("READONLY",), *(("GET", name) for name in names)))[1:]

    def _ask(self, commands: Sequence[tuple[str | bytes, ...]]) -> list[Any]:
        with valkey.Valkey.from_url(self._url, socket_timeout=10.0) as client:
            return [client.execute_command(*words) for words in commands]


def nodes_of(controls: ServerControls) -> list[Node]:
    """The nodes that run."""
    return [Node(controls, name) for name in controls.names if name != "postgres" and controls.pids(name)]


async def first_pair(controls: ServerControls) -> tuple[Node, Node, range]:
    """The primary of the lowest slots, its replica, and the slots, once the nodes tell of both."""
    nodes = nodes_of(controls)
    by_port = {node.port: node for node in nodes}
    found: list[tuple[list[Node], range]] = []

    async def told() -> bool:
        (rows,) = await nodes[0].ask(("CLUSTER", "SLOTS"))
        first, last, *both = min(rows, key=lambda row: int(row[0]))
        pair = [by_port[int(port)] for _, port, *_ in both if int(port) in by_port]
        found[:] = [(pair, range(int(first), int(last) + 1))]
        return len(pair) == 2

    await until(told)
    (((primary, replica), slots),) = found
    return primary, replica, slots


async def follows(replica: Node, port: int | None) -> bool:
    """Whether a node is a replica of the one at that port, and connected."""
    said = await replica.replication()
    wanted = ("slave", str(port), "up")
    return (said["role"], said.get("master_port"), said.get("master_link_status")) == wanted


async def is_level(primary: Node, replica: Node) -> bool:
    """Whether a replica has all that its primary has."""
    return (await primary.replication())["master_repl_offset"] == (await replica.replication())["slave_repl_offset"]


async def serves(controls: ServerControls, node: Node, slot: int) -> bool:
    """Whether all nodes that run take this one for the owner of a slot."""
    answers = [(await each.ask(("CLUSTER", "SLOTS")))[0] for each in nodes_of(controls)]
    return {int(row[2][1]) for rows in answers for row in rows if row[0] <= slot <= row[1]} == {node.port}


@asynccontextmanager
async def acted(controls: ServerControls, prefix: str, mutation: Mutation = healthy) -> AsyncIterator[Stage]:
    """A stage whose servers ask L2 all the time."""
    running = await controls.start()
    settings = Settings(
        postgres_url=running.postgres_url,
        redis_urls=running.redis_urls,
        key_prefix=prefix,
        l1_config_entries_max=IN_MEMORY,
    )
    async with on_stage(running.postgres_url, settings, mutation=mutation) as stage:
        flows_of(stage.servers["b"]).view._window_seconds = MEMORY_SECONDS
        await until_l2_is_trusted(*stage.flows)
        yield stage


async def write_most(stage: Stage, source: random.Random) -> None:
    """Write most of the documents, in two ways, until L2 holds them and the second server has forgotten that."""
    async with stage.sql() as connection:
        for position, identifier in enumerate(source.sample(IDS, len(IDS) * 3 // 4)):
            with stage.records.write([identifier]) as numbers:
                if position % 2:
                    await upsert(connection, numbers)
                else:
                    await stage.servers["a"].bots.put(identifier, Bot(name=str(numbers[identifier])))
    await stage.until_cached(await stage.rows(), in_memory=False)
    view = flows_of(stage.servers["b"]).view

    async def forgotten() -> bool:
        return len(view) == 0

    await until(forgotten)


async def fail_over(
    stage: Stage, controls: ServerControls, fault_proxy: StartProxy, source: random.Random, toll: Toll
) -> None:
    """One round: the replication of a primary stands still, all goes on, it is killed, and its replica is promoted."""
    primary, replica, slots = await first_pair(controls)
    proxy = await fault_proxy(*controls.address(primary.name))
    await controls.announce(primary.name, proxy)
    await until(partial(follows, replica, proxy.port))
    toll.filled += (await stage.until_cached(await stage.rows(), in_memory=False))[1]
    await until(partial(is_level, primary, replica))
    link = proxy.hold("to_client", where=lambda connection: b"REPLCONF" in connection.first_bytes)
    await write_most(stage, source)
    names = [name for name in names_in_l2(stage) if slot_of(name) in slots]
    here, there = await primary.values(names), await replica.values(names)
    toll.behind += sum(new != old for new, old in zip(here, there, strict=True))
    await controls.kill(primary.name)
    await replica.ask(("CLUSTER", "FAILOVER", "TAKEOVER"))
    stage.faults += 2
    await until(partial(serves, controls, replica, slots[0]))
    link.end()
    await stage.stale_at_rest()
    await controls.restart(primary.name)
    await until(partial(follows, primary, replica.port))
    await controls.wait_up(primary.name)
    await stage.stale_at_rest()


async def go_back(
    stage: Stage,
    controls: ServerControls,
    folder: Path,
    source: random.Random,
    toll: Toll,
    *,
    relayed: bool = True,
) -> None:
    """One round: the files of a node are copied, all goes on, it is killed, and starts on the copy.

    Args:
        relayed: there is a relay; else the servers are alone with what the node says, until another server comes.
    """
    files = source.choice(controls._layout.nodes(replicas=0))
    node, data, copied = Node(controls, files.name), files.folder / "appendonlydir", folder / "dump"
    toll.filled += (await stage.until_cached(await stage.rows(), in_memory=False))[1]
    names = [name for name in names_in_l2(stage) if await serves(controls, node, slot_of(name))]
    old = await node.values(names)
    await asyncio.to_thread(copy, data, copied)
    await write_most(stage, source)
    toll.behind += sum(new != then for new, then in zip(await node.values(names), old, strict=True))
    for flows in stage.flows if not relayed else ():
        assert flows.relay is not None
        await flows.relay.stop()
    await controls.kill(node.name)
    await asyncio.to_thread(copy, copied, data)
    await controls.restart(node.name)
    stage.faults += 1
    await controls.wait_up(node.name)
    if not relayed:
        await stage.read("b", IDS)
    await stage.stale_at_rest()


def names_in_l2(stage: Stage) -> list[bytes]:
    """What the documents are called in L2."""
    return [redis_key(stage.settings.key_prefix.encode(), key) for key in KEYS]


def copy(source: Path, target: Path) -> None:
    """Put a copy of a folder in place of another."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


async def failovers(
    controls: ServerControls,
    fault_proxy: StartProxy,
    prefix: str,
    *,
    rounds: int,
    seed: int,
    mutation: Mutation = healthy,
) -> tuple[Stage, Toll]:
    toll, source = Toll(), random.Random(seed)
    async with acted(controls, prefix, mutation) as stage:
        for _ in range(rounds):
            await fail_over(stage, controls, fault_proxy, source, toll)
        stage.records.end_life()
    return stage, toll


async def old_dumps(
    controls: ServerControls,
    prefix: str,
    folder: Path,
    *,
    relayed: Sequence[bool],
    seed: int,
    mutation: Mutation = healthy,
) -> tuple[Stage, Toll]:
    """Rounds with a relay, of which the last one may be without."""
    toll, source = Toll(), random.Random(seed)
    async with acted(controls, prefix, mutation) as stage:
        for each in relayed:
            await go_back(stage, controls, folder, source, toll, relayed=each)
        stage.records.end_life()
    return stage, toll


def believes_any_watermark(flows: Flows) -> None:
    """Mutant: a reader that does not look how far a node was told."""
    view = flows.view

    def trusts(_mark: Watermark) -> bool:
        return view._start is not None

    view.trusts = trusts  # type: ignore[method-assign, assignment]


def goes_on_from_memory(flows: Flows) -> None:
    """Mutant: a relay that goes on where it was itself, whatever the node's watermark says, and does not compare."""
    assert flows.relay is not None
    sink = flows.relay._sink
    assert isinstance(sink, RedisFences)
    mutate(sink._advance, COMPARE, "")
    read, advance = sink.watermark, sink.advance
    newest: list[Watermark] = []

    async def remembered(target: FenceTarget) -> Watermark | None:
        mark = await read(target)
        return msgspec.structs.replace(newest[-1], slots=mark.slots) if mark is not None and newest else mark

    async def advanced(
        target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> bool:
        newest[:] = [after]
        return await advance(target, before, after, versions)

    sink.watermark, sink.advance = remembered, advanced  # type: ignore[method-assign]


def ignores_watermarks(flows: Flows) -> None:
    """Both mutants."""
    believes_any_watermark(flows)
    goes_on_from_memory(flows)


@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_a_replica_far_behind_leaves_nothing_stale(
    server_controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """C3: a primary dies and its replica, which missed all these changes, is promoted; no answer is of the past."""
    stage, toll = await failovers(server_controls, fault_proxy, prefix, rounds=1, seed=1)
    assert stage.records.stale == []
    assert toll.filled > len(IDS) // 2
    assert toll.behind > 0


@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_a_replica_far_behind_is_found_without_watermarks(
    server_controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """The same round finds readers and a relay that do not look at the node's watermark."""
    stage, _ = await failovers(server_controls, fault_proxy, prefix, rounds=1, seed=1, mutation=ignores_watermarks)
    assert stage.records.stale


async def test_an_old_dump_leaves_nothing_stale(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """C3: a node starts on files from before most of the writes, with a relay and without; no answer is of the past."""
    stage, toll = await old_dumps(controls, prefix, tmp_path, relayed=[True, False], seed=1)
    assert stage.records.stale == []
    assert toll.filled > len(IDS)
    assert toll.behind > 0


@pytest.mark.parametrize(("mutation", "relayed"), [(believes_any_watermark, False), (goes_on_from_memory, True)])
async def test_an_old_dump_is_found_without_watermarks(
    controls: ServerControls, prefix: str, tmp_path: Path, mutation: Mutation, *, relayed: bool
) -> None:
    """The same rounds find readers, or a relay, that do not look at the node's watermark."""
    stage, _ = await old_dumps(controls, prefix, tmp_path, relayed=[relayed], seed=1, mutation=mutation)
    assert stage.records.stale


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_prove_failovers_of_replicas(
    server_controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """C3: fifteen replicas that were far behind are promoted."""
    stage, toll = await failovers(server_controls, fault_proxy, prefix, rounds=15, seed=2)
    assert stage.records.stale == []
    assert toll.behind > 15


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_failovers_to_old_dumps(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """C3: nodes start on older files thirty times."""
    stage, toll = await old_dumps(controls, prefix, tmp_path, relayed=[True] * 29 + [False], seed=2)
    assert stage.records.stale == []
    assert toll.behind > 30
