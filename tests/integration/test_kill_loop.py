"""kill -9 of real servers under a working store: what was acknowledged is there, and no cache answers with less.

The short form kills twice; `make prove PART=embedded` kills 25 times.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import holdfast
from fix_races import until
from fix_servers import stopped_after
from holdfast import Bot, Consistency, OutcomeUnknown, Settings, TierError
from holdfast.embedded import EmbeddedOptions, ensure_running, status
from holdfast.embedded.processes import find_process
from holdfast.node import OpenStore
from holdfast.protocols.guards import TierState

IDS = tuple(f"b{number}" for number in range(8))


class Ledger:
    """What each id holds at least: the number of its last acknowledged write; later ones may be in effect."""

    def __init__(self) -> None:
        self.acknowledged = dict.fromkeys(IDS, 0)
        self.number = 0
        self.unknown = 0

    def check(self, what: str, identifier: str, bot: Bot | None) -> None:
        """An answer is not older than the last acknowledged write."""
        found = int(bot.name or 0) if bot is not None else 0
        assert found >= self.acknowledged[identifier], f"{what} {identifier}: {found}"


async def write(state: OpenStore, ledger: Ledger, source: random.Random, stop: asyncio.Event) -> None:
    """Write until told to stop. An id has one writer, so its numbers rise."""
    while not stop.is_set():
        identifier = source.choice(IDS)
        ledger.number += 1
        number = ledger.number
        try:
            await state.bots.put(identifier, Bot(name=str(number)))
        except OutcomeUnknown:
            ledger.unknown += 1
        except TierError:
            await asyncio.sleep(0)  # the server is away; what was not acknowledged is owed to nobody
        else:
            ledger.acknowledged[identifier] = number
        if (held := state.bots.peek(identifier)) is not None:
            ledger.check("L1's", identifier, held)


@asynccontextmanager
async def writing(state: OpenStore, ledger: Ledger, source: random.Random) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.ensure_future(write(state, ledger, source, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def kill_some(options: EmbeddedOptions, source: random.Random) -> None:
    """Send SIGKILL to one to three servers."""
    servers = await status(options)
    for server in source.sample(servers, source.randint(1, 3)):
        process = find_process(server.pid)
        assert process is not None
        process.kill()
        await asyncio.to_thread(process.wait)


async def until_tried(ledger: Ledger, more: int) -> None:
    """Wait until the writer has tried so many more writes."""
    wanted = ledger.number + more
    while ledger.number < wanted:  # noqa: ASYNC110 - the writer is the event, at every turn of the loop
        await asyncio.sleep(0)


async def check_all(options: EmbeddedOptions, state: OpenStore, ledger: Ledger) -> None:
    """The store that lived through it, and one that comes new to L2 and L3, answer with no less than acknowledged."""

    async def l3_is_there() -> bool:  # its guard has it asked until it answers, and refuses calls meanwhile
        return state.health().l3.state is TierState.THERE

    await until(l3_is_there)
    for identifier in IDS:
        ledger.check("survivor's", identifier, await state.bots.get(identifier))
        ledger.check("L3's", identifier, await state.bots.get(identifier, consistency=Consistency.STRONG))
    running = await ensure_running(options)
    settings = Settings(postgres_url=running.postgres_url, redis_urls=running.redis_urls)
    async with holdfast.connect(settings) as fresh:
        for identifier in IDS:
            ledger.check("newcomer's", identifier, await fresh.bots.get(identifier))


async def kill_loop(options: EmbeddedOptions, rounds: int, seed: int) -> Ledger:
    source, ledger = random.Random(seed), Ledger()
    running = await ensure_running(options)
    settings = Settings(
        postgres_url=running.postgres_url, redis_urls=running.redis_urls, l2_request_timeout_seconds=0.2
    )
    async with holdfast.connect(settings) as state:
        for _ in range(rounds):
            async with writing(state, ledger, source):
                await until_tried(ledger, 200)
                await kill_some(options, source)
                await until_tried(ledger, 50)
                await ensure_running(options)
                await until_tried(ledger, 200)
            await check_all(options, state, ledger)
    return ledger


async def test_kill_loop(tmp_path: Path) -> None:
    """Two rounds of kills lose nothing that was acknowledged."""
    async with stopped_after(EmbeddedOptions(tmp_path / "home")) as options:
        ledger = await kill_loop(options, rounds=2, seed=1)
    assert all(ledger.acknowledged.values())


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_embedded(tmp_path: Path) -> None:
    """Twenty-five rounds of kills lose nothing that was acknowledged."""
    async with stopped_after(EmbeddedOptions(tmp_path / "home")) as options:
        ledger = await kill_loop(options, rounds=25, seed=2)
    assert all(ledger.acknowledged.values())
