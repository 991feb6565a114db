"""Reliable events while subscribers and primaries of L2 are killed: nothing lost, repetitions flagged, order kept."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import holdfast
from faults.test_failovers import first_pair, follows, is_level, serves
from fix_races import until
from fix_secured import has_another_connection, is_connected, number_of
from fix_tiers import flows_of
from holdfast import Delivery, Event, Settings, TierError, TierUnavailable
from holdfast.events import partition_of
from holdfast.node import OpenStore
from holdfast.settings import PREFIX
from holdfast.testing.fault_proxy import StartProxy
from holdfast.testing.server_controls import ServerControls
from holdfast.tiers import l2_secured
from holdfast.tiers.l2_events import PARTITIONS, RedisEvents, tag_of_partition
from holdfast.tiers.l2_secured import SecuredCalls
from holdfast.tiers.l2_securing import connection_of
from holdfast.tiers.l2_topology import slot_of

pytestmark = [pytest.mark.xdist_group("faults_events"), pytest.mark.timeout(240)]

KEYS = 200
LEASE_SECONDS = 2.0
HONEST = connection_of
GROUP = "workers"
PROGRAM = Path(__file__).with_name("event_child.py")


@dataclass
class Line:
    """What a subscriber noted of one event."""

    key: str
    number: int
    duplicate: bool


@dataclass
class Account:
    """What was published.

    Attributes:
        taken: by key, the numbers that were acknowledged, in their order.
        unsure: numbers that were not.
    """

    taken: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    unsure: int = 0

    @property
    def total(self) -> int:
        """How many were acknowledged."""
        return sum(map(len, self.taken.values()))


class Subscriber:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, settings: Settings, file: Path) -> Subscriber:
        """Start it, and wait until it has its place."""
        given = {
            "POSTGRES_URL": settings.postgres_url,
            "REDIS_URLS": ",".join(settings.redis_urls),
            "KEY_PREFIX": settings.key_prefix,
            "EVENT_LEASE_SECONDS": str(settings.event_lease_seconds),
        }
        environment = {PREFIX + name: value for name, value in given.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            str(file),
            GROUP,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        return cls(process)

    async def freeze(self, seconds: float) -> None:
        """Let it stand still for so long."""
        self.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kill -9."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def subscribers(settings: Settings, file: Path, count: int) -> AsyncIterator[list[Subscriber]]:
    """So many servers of one group; killed at the end."""
    running: list[Subscriber] = []
    try:
        running += [await Subscriber.start(settings, file) for _ in range(count)]
        yield running
    finally:
        for each in running:
            await each.kill()


def lines_of(file: Path) -> list[Line]:
    """What was noted so far, in its order."""
    words = [line.split() for line in file.read_text().splitlines()]
    return [Line(key, int(number), duplicate == "1") for key, number, duplicate in words]


async def publish_all(state: OpenStore, account: Account, total: int) -> None:
    """Publish so many events, those of a key one after the other."""

    async def publish_key(key: str, numbers: range) -> None:
        for number in numbers:
            try:
                await state.publish("work/done", number, delivery=Delivery.RELIABLE, key=key)
            except TierError:
                account.unsure += 1
            else:
                account.taken[key].append(number)

    await asyncio.gather(*(publish_key(f"k{key}", range(total // KEYS)) for key in range(KEYS)))


def check(account: Account, lines: Sequence[Line]) -> None:
    """Nothing that was acknowledged is lost, what was handed out again is flagged, and a key's events kept their order.

    One who stood still with an event, and got it first, may come late with it: it is the one copy without a flag.
    """
    seen: set[tuple[str, int]] = set()
    unflagged: set[tuple[str, int]] = set()
    first: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        event = (line.key, line.number)
        if event not in seen:
            first[line.key].append(line.number)
        seen.add(event)
        if not line.duplicate:
            assert event not in unflagged, f"{line} came again and was not flagged"
            unflagged.add(event)
    lost = [(key, number) for key, numbers in account.taken.items() for number in numbers if (key, number) not in seen]
    assert lost == []
    for key, numbers in first.items():
        assert numbers == sorted(numbers), f"the events of {key} came out of order"


async def run_killing(
    controls: ServerControls, prefix: str, file: Path, toll: dict[str, int], *, total: int, seed: int
) -> Account:
    """Publish while subscribers, and primaries of L2, are killed and started again, or stand still.

    Args:
        toll: how often, of each.
    """
    source, account = random.Random(seed), Account()
    running = await controls.start()
    settings = Settings(
        postgres_url=running.postgres_url,
        redis_urls=running.redis_urls,
        key_prefix=prefix,
        event_lease_seconds=LEASE_SECONDS,
        event_publish_timeout_seconds=60.0,
    )
    async with holdfast.connect(settings) as state, subscribers(settings, file, 2) as servers:
        publishing = asyncio.ensure_future(publish_all(state, account, total))
        schedule = [what for what, times in toll.items() for _ in range(times)]
        source.shuffle(schedule)
        for number, what in enumerate(schedule, start=1):
            await until_published(account, total * number // (len(schedule) + 1), publishing)
            if what == "subscriber":
                await servers.pop(source.randrange(len(servers))).kill()
                servers.append(await Subscriber.start(settings, file))
            elif what == "frozen":
                await source.choice(servers).freeze(LEASE_SECONDS * 1.5)
            else:
                await kill_a_primary(controls, source)
        await publishing

        async def complete() -> bool:
            return len({(line.key, line.number) for line in lines_of(file)}) >= account.total

        async with asyncio.timeout(120):
            while not await complete():  # noqa: ASYNC110 - there is no event: the lines are in a file
                await asyncio.sleep(0.2)
    return account


async def until_published(account: Account, count: int, publishing: asyncio.Future[None]) -> None:
    """Wait until so many events were acknowledged."""
    while account.total < count and not publishing.done():  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)


async def kill_a_primary(controls: ServerControls, source: random.Random) -> None:
    """Kill a node with kill -9; without replicas it is started again at once, else its replica takes over first."""
    has_replicas = len(controls.names) > 4
    if has_replicas:
        primary, replica, slots = await first_pair(controls)
        await controls.kill(primary.name)
        await until(partial(serves, controls, replica, slots[0]))
        await controls.restart(primary.name)
        await until(partial(follows, primary, replica.port))
        await controls.wait_up(primary.name)
        return
    name = source.choice([each for each in controls.names if each != "postgres"])
    await controls.kill(name)
    await controls.restart(name)
    await controls.wait_up(name)


async def test_nothing_is_lost_by_kills(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """Subscribers and nodes without replicas are killed under 4,000 events: none is lost, repeated unseen, or late."""
    toll = {"subscriber": 2, "frozen": 1, "primary": 2}
    account = await run_killing(controls, prefix, tmp_path / "lines", toll, total=4000, seed=1)
    check(account, lines_of(tmp_path / "lines"))
    assert account.unsure == 0


async def test_l2_may_be_away_when_all_begins(controls: ServerControls, prefix: str) -> None:
    """A subscription waits for it; a reliable event is refused after its time, and accepted later."""
    running = await controls.start()
    nodes = [name for name in controls.names if name != "postgres"]
    for name in nodes:
        await controls.kill(name)
    got = asyncio.Queue[Event]()
    async with holdfast.connect(
        postgres_url=running.postgres_url,
        redis_urls=running.redis_urls,
        key_prefix=prefix,
        event_publish_timeout_seconds=1.0,
    ) as state:
        subscription = state.subscribe("**", got.put, group=GROUP)
        await state.publish("work/lost", 1)
        with pytest.raises(TierUnavailable):
            await state.publish("work/refused", 2, delivery=Delivery.RELIABLE)
        for name in nodes:
            await controls.restart(name)
        for name in nodes:
            await controls.wait_up(name)
        await subscription.ready()
        await state.publish("work/done", 3, delivery=Delivery.RELIABLE)
        assert (await got.get()).data == 3


Mutation = Callable[[OpenStore], None]


def healthy(_: OpenStore) -> None:
    """No mutant."""


def secures_nothing(store: OpenStore) -> None:
    """Mutant: what the primary took counts as safe."""

    async def secured(*_: object) -> int:
        return 1

    secured_calls(store)._secured = secured  # type: ignore[assignment, method-assign]


def secured_calls(store: OpenStore) -> SecuredCalls:
    """The inside of a server's transport."""
    transport = flows_of(store).bus._transport
    assert isinstance(transport, RedisEvents)
    return transport._secured


async def fail_over_behind(
    controls: ServerControls, fault_proxy: StartProxy, prefix: str, mutation: Mutation
) -> tuple[bool, list[Any]]:
    """Publish to a primary whose replica is connected and hears nothing, then let that replica take over.

    Returns:
        Whether the event was acknowledged before that, and what a group is delivered in the end.
    """
    running, got = await controls.start(), list[Any]()
    settings = Settings(postgres_url=running.postgres_url, redis_urls=running.redis_urls, key_prefix=prefix)

    async def note(event: Event) -> None:
        got.append(event.data)

    async with holdfast.connect(settings) as state:
        await state.subscribe("**", note, group=GROUP).ready()
    primary, replica, slots = await first_pair(controls)
    proxy = await fault_proxy(*controls.address(primary.name))
    await controls.announce(primary.name, proxy)
    await until(partial(follows, replica, proxy.port))
    await until(partial(is_level, primary, replica))
    key = key_in(slots)
    async with holdfast.connect(settings) as state:
        await until(partial(is_connected, secured_calls(state)))
        mutation(state)
        link = proxy.hold("to_client", where=lambda connection: b"REPLCONF" in connection.first_bytes)
        publishing = asyncio.ensure_future(state.publish("work/x", "held", delivery=Delivery.RELIABLE, key=key))
        acknowledged, _ = await asyncio.wait([publishing], timeout=1.0)
        await controls.kill(primary.name)
        await replica.ask(("CLUSTER", "FAILOVER", "TAKEOVER"))
        await until(partial(serves, controls, replica, slots[0]))
        link.end()
        await publishing
        state.subscribe("**", note, group=GROUP)
        await state.publish("work/x", "after", delivery=Delivery.RELIABLE, key=key)

        async def arrived() -> bool:
            return "after" in got

        await until(arrived)
    return bool(acknowledged), got


@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_what_only_the_primary_has_is_not_acknowledged(
    server_controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """W2: its replica is behind and takes over; the event is published there, and not lost."""
    acknowledged, got = await fail_over_behind(server_controls, fault_proxy, prefix, healthy)
    assert (acknowledged, got) == (False, ["held", "after"])


@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_an_acknowledgement_of_the_primary_alone_is_found(
    server_controls: ServerControls, fault_proxy: StartProxy, prefix: str
) -> None:
    """The same failover finds a server that waits for no replica: the event is lost."""
    acknowledged, got = await fail_over_behind(server_controls, fault_proxy, prefix, secures_nothing)
    assert (acknowledged, got) == (True, ["after"])


async def lose_the_connection(controls: ServerControls, prefix: str, *, named: Any = HONEST) -> list[bool]:
    """Publish an event, while the connection is lost between its append and the WAIT; whether each copy is flagged."""
    running, got = await controls.start(), list[bool]()
    settings = Settings(postgres_url=running.postgres_url, redis_urls=running.redis_urls, key_prefix=prefix)

    async def note(event: Event) -> None:
        got.append(event.metadata.duplicate)

    async with holdfast.connect(settings) as reader, holdfast.connect(settings) as state:
        await reader.subscribe("**", note, group=GROUP).ready()
        secured = secured_calls(state)
        look, cuts = secured._look, [0]

        async def cut(client: Any, name: bytes, lane: Any, route: Any) -> tuple[str, int | None]:
            cuts[0] += 1
            if cuts[0] == 1:
                number = await number_of(client, route)
                other = await secured_calls(reader)._connection.client()
                await other.custom_command(["CLIENT", "KILL", "ID", str(number)], route)  # type: ignore[call-arg]
                await until(partial(has_another_connection, client, route, number))
            return await look(client, name, lane, route)

        secured._look = cut  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(l2_secured, "connection_of", named)
            await state.publish("work/x", 1, delivery=Delivery.RELIABLE, key="k")
        await state.publish("work/x", 2, delivery=Delivery.RELIABLE, key="k")

        async def arrived() -> bool:
            return len(got) >= 2 + (named is HONEST)

        await until(arrived)
        assert cuts[0] >= 2
    return got


async def test_a_wait_on_another_connection_does_not_count(controls: ServerControls, prefix: str) -> None:
    """W2: the client connects anew without a word; then all is repeated, and flagged."""
    assert await lose_the_connection(controls, prefix) == [False, True, False]


async def test_a_wait_on_another_connection_is_believed_without_its_number(
    controls: ServerControls, prefix: str
) -> None:
    """Mutant: all connections are taken for one."""
    assert len(await lose_the_connection(controls, prefix, named=lambda _: "one")) == 2


def key_in(slots: range) -> str:
    """An ordering key whose partition a node serves."""
    served = {number for number in range(PARTITIONS) if slot_of(tag_of_partition(number)) in slots}
    return next(f"k{number}" for number in range(1000) if partition_of(f"k{number}", PARTITIONS) in served)


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_events_over_restarts(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The same with 100,000 events, 8 kills of subscribers and 8 of nodes."""
    await prove(controls, prefix, tmp_path / "lines", {"subscriber": 8, "frozen": 3, "primary": 8}, seed=2)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_prove_events_over_failovers(server_controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The same where each node has a replica, which takes over."""
    await prove(server_controls, prefix, tmp_path / "lines", {"subscriber": 8, "frozen": 3, "primary": 5}, seed=3)


async def prove(controls: ServerControls, prefix: str, file: Path, toll: dict[str, int], *, seed: int) -> None:
    """100,000 events under kills."""
    account = await run_killing(controls, prefix, file, toll, total=100_000, seed=seed)
    lines = lines_of(file)
    check(account, lines)
    assert account.total == 100_000
    sys.stdout.write(f"{toll}: 0 lost of {account.total}, {len(lines) - account.total} repeated and flagged\n")
