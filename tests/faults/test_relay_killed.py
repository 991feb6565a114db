"""The relay is killed, or stands still, in the middle of a batch: the stand-by goes on, and nothing stale is left.

Relays are processes of their own here; the servers that read never lead. A batch changes thousands of keys, with the
keys that are read among them, and goes to each node in parts, through proxies that count its bytes: the relay is hit
when so many have passed.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import valkey

from faults.stage import IDS, Stage, on_stage, upsert
from fix_races import until
from fix_tiers import flows_of
from holdfast import Settings
from holdfast.settings import PREFIX
from holdfast.testing.fault_proxy import FaultProxy, StartProxy
from holdfast.testing.server_controls import ServerControls
from holdfast.tiers.l2_fences import RedisFences

pytestmark = [pytest.mark.xdist_group("faults_l2"), pytest.mark.timeout(180)]

NODES = ("valkey-1", "valkey-2", "valkey-3")
STEP = 3000
"""Keys of one statement; of more than 5000 the outbox would tell as of the whole kind."""
STEPS = 4
BATCH_BYTES = STEP * STEPS * 90
"""About what the fences of a batch take."""
DELAY_SECONDS = 0.02
LOOK_SECONDS = 0.001

BULK = """
INSERT INTO holdfast."User" (id, document)
SELECT 'bulk-' || number, '{"name": "0"}' FROM generate_series($1::int, $2::int - 1) AS number
ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document"""
END_THE_LEADER = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted
AND (classid::int8 << 32 | objid::int8) = hashtextextended('holdfast.leader', 0)"""


@dataclass
class Toll:
    """What the rounds did.

    Attributes:
        torn: rounds that left a batch half told: a node between two of its parts, or nodes that were told of it beside
            nodes that were not.
        in_l2: documents that L2 held when a batch changed them, over all rounds.
        takeover_seconds: the longest time until the stand-by led.
    """

    rounds: int = 0
    in_l2: int = 0
    torn: int = 0
    takeover_seconds: float = 0.0


class Child:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def begin(cls, settings: Settings, *mutation: str) -> Child:
        """Start it, and wait until it stands by."""
        given = {
            "POSTGRES_URL": settings.postgres_url,
            "REDIS_URLS": ",".join(settings.redis_urls),
            "KEY_PREFIX": settings.key_prefix,
        }
        child = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(__file__).with_name("relay_child.py")),
                *mutation,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={
                    "PYTHONPATH": ":".join(filter(None, sys.path)),
                    **{PREFIX + name: value for name, value in given.items()},
                },
            )
        )
        await child.told("stands by")  # as every relay does at first
        return child

    async def told(self, what: str) -> None:
        """Wait until it says so."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while line := await self.process.stdout.readline():
                if line.decode().strip() == what:
                    return
        raise AssertionError(f"the child ended before it said: {what}")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def end(self) -> None:
        """Kill it, if that was not done yet."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


class Relays:
    """One child that leads and one that stands by, in front of a stage.

    Attributes:
        leader, standby: the two.
        proxies: of the nodes.
    """

    def __init__(self, stage: Stage, proxies: list[FaultProxy], leader: Child, standby: Child) -> None:
        self.stage = stage
        self.proxies = proxies
        self.leader = leader
        self.standby = standby
        self.toll = Toll()

    @property
    def passed(self) -> int:
        """Bytes that nodes were sent."""
        return sum(proxy.to_server.received for proxy in self.proxies)

    async def hit(self, number: signal.Signals, source: random.Random) -> None:
        """Commit a batch, and send the leader a signal when a part of it has passed."""
        _, in_l2 = await self.stage.until_cached(await self.stage.rows())
        self.toll.in_l2 += in_l2
        with self.stage.records.write(IDS) as numbers:
            async with self.stage.sql() as connection, connection.transaction():
                shares = [dict(list(numbers.items())[step::STEPS]) for step in range(STEPS)]
                for step, share in enumerate(shares):
                    await connection.execute(BULK, step * STEP, (step + 1) * STEP)
                    await upsert(connection, share)
                xid = int(await connection.fetchval("SELECT pg_current_xact_id()::text"))
        wanted = self.passed + source.uniform(0.05, 0.95) * BATCH_BYTES
        while self.passed < wanted:  # noqa: ASYNC110 - there is no event: the counters change as bytes move
            await asyncio.sleep(LOOK_SECONDS)
        self.leader.send(number)
        self.stage.faults += 1
        await asyncio.sleep(3 * DELAY_SECONDS)  # what is on its way still arrives
        self.toll.rounds += 1
        self.toll.torn += await is_torn(self.stage, xid)

    async def take_over(self) -> Child:
        """Wait until the stand-by leads; returns the old leader."""
        began = asyncio.get_running_loop().time()
        await self.standby.told("leads")
        self.toll.takeover_seconds = max(self.toll.takeover_seconds, asyncio.get_running_loop().time() - began)
        former, self.leader = self.leader, self.standby
        return former

    async def kill(self, source: random.Random) -> None:
        """One round: the leader is killed, and a new stand-by begins."""
        await self.hit(signal.SIGKILL, source)
        await (await self.take_over()).end()
        self.standby = await Child.begin(self.stage.settings)
        await self.stage.stale_at_rest()

    async def freeze(self, source: random.Random, *, cut: bool) -> None:
        """One round: the leader is stopped and wakes when another leads; then it is the stand-by.

        Args:
            cut: end its sessions at once, instead of when they have been idle for long enough.
        """
        await self.hit(signal.SIGSTOP, source)
        if cut:
            async with self.stage.sql() as connection:
                await connection.execute(END_THE_LEADER)
        former = await self.take_over()
        await self.stage.stale_at_rest()
        async with self.stage.sql() as connection:
            with self.stage.records.write(IDS[::2]) as numbers:
                await upsert(connection, numbers)
        await self.stage.until_cached(await self.stage.rows())
        former.send(signal.SIGCONT)
        await former.told("stands by")
        self.standby = former
        await self.stage.stale_at_rest()

    async def end(self) -> None:
        """Kill both."""
        for child in (self.leader, self.standby):
            await child.end()


async def is_torn(stage: Stage, xid: int) -> bool:
    """Whether nodes were told of a transaction in part only."""
    sink = stage.flows[0].relay._sink  # type: ignore[union-attr]
    assert isinstance(sink, RedisFences)
    marks = [await sink.watermark(target) for target in await sink.targets()]
    told = [mark is not None and mark.snapshot.sees(xid) for mark in marks]
    return any(held[2:4] != b"\0\0" for held in sink._held.values()) or 0 < sum(told) < len(told)


async def announced(controls: ServerControls, port_of: dict[str, int]) -> bool:
    """Whether every node tells clients these ports of all nodes."""

    def ports(name: str) -> set[int]:
        with valkey.Valkey.from_url(controls.url(name)) as client:
            slots: Any = client.execute_command("CLUSTER", "SLOTS")
        return {int(primary[1]) for _, _, primary, *_ in slots}

    return all([await asyncio.to_thread(ports, name) == set(port_of.values()) for name in port_of])


@asynccontextmanager
async def relays(
    controls: ServerControls, fault_proxy: StartProxy, prefix: str, *mutation: str
) -> AsyncIterator[Relays]:
    """A stage whose servers never lead, and two children that do, with proxies in front of all nodes."""
    proxies = {name: await fault_proxy(*controls.address(name)) for name in NODES}
    settings = Settings(
        postgres_url=controls.url("postgres"),
        redis_urls=tuple(controls.url(name, through=proxy) for name, proxy in proxies.items()),
        key_prefix=prefix,
        l2_request_timeout_seconds=5.0,
    )
    async with AsyncExitStack() as stack:
        for name, proxy in proxies.items():
            stack.push_async_callback(controls.announce, name, None)
            await controls.announce(name, proxy)
        await until(partial(announced, controls, {name: proxy.port for name, proxy in proxies.items()}))
        stage = await stack.enter_async_context(on_stage(controls.url("postgres"), settings))
        for store in stage.servers.values():
            relay = flows_of(store).relay
            assert relay is not None
            await relay.stop()
        leader = await Child.begin(settings, *mutation)
        await leader.told("leads")
        both = Relays(stage, list(proxies.values()), leader, await Child.begin(settings))
        stack.push_async_callback(both.end)
        for proxy in proxies.values():
            proxy.delay(DELAY_SECONDS)
        yield both


async def test_a_relay_killed_in_a_batch_leaves_nothing_stale(
    controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """C3: one leader is killed in the middle of a batch, the next one stands still and wakes; the stand-by goes on."""
    source = random.Random(1)
    async with relays(controls, fault_proxy, prefix) as both:
        await both.kill(source)
        await both.freeze(source, cut=True)
        both.stage.records.end_life()
    assert both.stage.records.stale == []
    assert both.toll.torn > 0
    assert both.toll.in_l2 > both.toll.rounds * len(IDS) // 2


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_failovers_of_the_relay(controls: ServerControls, fault_proxy: StartProxy, prefix: str) -> None:
    """C3: twenty leaders are killed, and four stand still until their sessions have run out."""
    source = random.Random(2)
    async with relays(controls, fault_proxy, prefix) as both:
        for _ in range(4):
            for _ in range(5):
                await both.kill(source)
            await both.freeze(source, cut=False)
        both.stage.records.end_life()
    assert both.stage.records.stale == []
    assert both.toll.torn > both.toll.rounds // 2
