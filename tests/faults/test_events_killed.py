"""Reliable events while subscribers and primaries of L2 are killed: nothing lost, repetitions flagged, order kept."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

import holdfast
from faults.test_failovers import first_pair, follows, serves
from fix_races import until
from holdfast import Delivery, Settings, TierError
from holdfast.node import OpenStore
from holdfast.settings import PREFIX
from holdfast.testing.server_controls import ServerControls

pytestmark = [pytest.mark.xdist_group("faults_events"), pytest.mark.timeout(240)]

KEYS = 200
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
    """Nothing that was acknowledged is lost, what comes again is flagged, and a key's events came in their order."""
    seen: set[tuple[str, int]] = set()
    first: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        if (line.key, line.number) in seen:
            assert line.duplicate, f"{line} came again and was not flagged"
        else:
            seen.add((line.key, line.number))
            first[line.key].append(line.number)
    lost = [(key, number) for key, numbers in account.taken.items() for number in numbers if (key, number) not in seen]
    assert lost == []
    for key, numbers in first.items():
        assert numbers == sorted(numbers), f"the events of {key} came out of order"


async def run_killing(
    controls: ServerControls, prefix: str, file: Path, *, total: int, kills: int, primaries: int, seed: int
) -> tuple[Account, Counter[str]]:
    """Publish while subscribers, and primaries of L2, are killed and started again."""
    source, toll, account = random.Random(seed), Counter[str](), Account()
    running = await controls.start()
    settings = Settings(
        postgres_url=running.postgres_url,
        redis_urls=running.redis_urls,
        key_prefix=prefix,
        event_lease_seconds=2.0,
        event_publish_timeout_seconds=60.0,
    )
    async with holdfast.connect(settings) as state, subscribers(settings, file, 2) as servers:
        publishing = asyncio.ensure_future(publish_all(state, account, total))
        schedule = ["subscriber"] * kills + ["primary"] * primaries
        source.shuffle(schedule)
        for number, what in enumerate(schedule, start=1):
            await until_published(account, total * number // (len(schedule) + 1), publishing)
            if what == "subscriber":
                await servers.pop(source.randrange(len(servers))).kill()
                servers.append(await Subscriber.start(settings, file))
            else:
                await kill_a_primary(controls, source)
            toll[what] += 1
        await publishing

        async def complete() -> bool:
            return len({(line.key, line.number) for line in lines_of(file)}) >= account.total

        async with asyncio.timeout(120):
            while not await complete():  # noqa: ASYNC110 - there is no event: the lines are in a file
                await asyncio.sleep(0.2)
    return account, toll


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
    account, toll = await run_killing(controls, prefix, tmp_path / "lines", total=4000, kills=2, primaries=2, seed=1)
    check(account, lines_of(tmp_path / "lines"))
    assert (account.unsure, toll) == (0, {"subscriber": 2, "primary": 2})


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_events_over_restarts(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The same with 100,000 events, 8 kills of subscribers and 8 of nodes."""
    account, toll = await run_killing(controls, prefix, tmp_path / "lines", total=100_000, kills=8, primaries=8, seed=2)
    lines = lines_of(tmp_path / "lines")
    check(account, lines)
    assert account.total == 100_000
    sys.stdout.write(f"{toll}, {len(lines) - account.total} repeated\n")


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_prove_events_over_failovers(server_controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The same where each node has a replica, which takes over."""
    account, toll = await run_killing(
        server_controls, prefix, tmp_path / "lines", total=100_000, kills=8, primaries=5, seed=3
    )
    lines = lines_of(tmp_path / "lines")
    check(account, lines)
    assert account.total == 100_000
    sys.stdout.write(f"{toll}, {len(lines) - account.total} repeated\n")
