"""Real tiers that die, stand still or are cut off: nobody waits for them, the mode shows, and all is well again.

L3 is given five minutes for each call here: whoever ends within half of one has not waited for it. How long that takes
is measured by the fault matrix.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from fix_bots import ADA
from fix_cluster import Cluster
from fix_commands import name_servers, run_command
from fix_feed import connected
from fix_races import until_l2_is_trusted
from fix_single import Single
from fix_tiers import Behind, flows_of
from holdfast import (
    Bot,
    Consistency,
    Durability,
    Event,
    Increment,
    Overloaded,
    Settings,
    Swarm,
    TierError,
    TierUnavailable,
)
from holdfast.node import OpenStore
from holdfast.protocols.guards import TierState
from holdfast.recovery.modes import Mode
from holdfast.testing.server_controls import ServerControls
from holdfast.tiers.l2_guards import RULES
from holdfast.tiers.l3_guard import PostgresGuard

LONG_SECONDS = 30.0
HANGS_SECONDS = 300.0
"""So long calls of L3 may take: a test that waits for one fails."""
MANY = [f"b{number}" for number in range(40)]
ONE = Increment("stats", "total_tool_calls")


class Watcher:
    """Looks at a server's mode, and calls it all the time.

    Attributes:
        faults: what calls raised.
        modes: those that were told.
    """

    def __init__(self, state: OpenStore) -> None:
        self.state = state
        self.faults: list[BaseException] = []
        self.modes: list[str] = []

    async def hear(self, event: Event) -> None:
        self.modes.append(event.data["mode"])

    async def made(self, call: Awaitable[Any]) -> Any:
        """Make a call that may fail for a tier that is away, and must not hang."""
        try:
            async with asyncio.timeout(LONG_SECONDS):
                return await call
        except TierError as fault:  # of a write that was sent the outcome is unknown
            self.faults.append(fault)
            return None

    async def reading(self) -> None:
        """Read what no cache of this server holds, for ever."""
        while True:
            flows_of(self.state).caches["bot"].flush()
            await self.made(self.state.bots.get_many(MANY))
            await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it is so, at most half a minute."""
        async with asyncio.timeout(LONG_SECONDS):
            while not condition():  # noqa: ASYNC110 - there is no event for all of them
                await asyncio.sleep(0.01)

    def mode(self) -> Mode:
        return self.state.health().mode


async def watched(state: OpenStore) -> Watcher:
    """A watcher that is told of modes, of a server that has all documents."""
    watcher = Watcher(state)
    await state.subscribe("state/mode/changed", watcher.hear).ready()
    await state.bots.put_many(dict.fromkeys(MANY, ADA))
    await until_l2_is_trusted(flows_of(state))
    await watcher.until(lambda: watcher.mode() is Mode.NORMAL)
    watcher.modes.clear()  # L2 may have been long in coming
    return watcher


async def beside(reading: Awaitable[None], work: Awaitable[None]) -> None:
    """Do work beside reads."""
    task = asyncio.ensure_future(reading)
    try:
        await work
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


def patient(settings: Settings, **changes: Any) -> Settings:
    """Settings with the usual time for a request of L2, and far more than usual for one of L3."""
    return msgspec.structs.replace(
        settings,
        l2_request_timeout_seconds=0.5,
        l3_connect_timeout_seconds=HANGS_SECONDS,
        l3_statement_timeout_seconds=HANGS_SECONDS,
        verify_share=0.0,
        **changes,
    )


def probed_again(state: OpenStore) -> bool:
    """Whether a node of L2 that is cut off was asked, and did not answer."""
    suspects = flows_of(state)._given.l2_guard._connection._guards._suspects  # type: ignore[attr-defined]
    return any(breaker._pause > RULES.pause_seconds for breaker in suspects.values())


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_node_of_l2_that_is_gone_costs_its_own_keys(settings: Settings, cluster: Cluster, how: str) -> None:
    """Reads of its keys go to L3; L2 counts as degraded, and is there again when the node goes on."""
    own = patient(settings, redis_urls=cluster.urls)
    async with holdfast.connect(own) as state:
        watcher, process = await watched(state), cluster.nodes[0]._process

        async def story() -> None:
            process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            await watcher.until(lambda: state.health().l2.state is TierState.DEGRADED)
            assert watcher.mode() is Mode.NORMAL
            assert "Error" in str(state.health().l2.fault)
            await watcher.until(lambda: probed_again(state))  # reads go on meanwhile
            if how == "stopped":
                process.send_signal(signal.SIGCONT)
                await watcher.until(lambda: state.health().l2.state is TierState.THERE)

        await beside(watcher.reading(), story())
        assert watcher.faults == []


async def test_an_l2_that_dies_is_bypassed(settings: Settings, single: Single) -> None:
    """Reads and writes go to L3; when it is back and has stayed, the mode is normal again. Nobody reads meanwhile."""
    own = patient(settings, redis_urls=single.urls, key_prefix="vrooli:")
    async with holdfast.connect(own) as state:
        watcher = await watched(state)
        single.kill()
        await watcher.until(lambda: watcher.mode() is Mode.L2_BYPASSED)
        flows_of(state).caches["bot"].flush()
        assert len(await watcher.made(state.bots.get_many(MANY))) == len(MANY)
        await watcher.made(state.bots.put("b1", Bot(name="Eve")))
        single.start()
        await watcher.until(lambda: watcher.mode() is Mode.NORMAL)
        await watcher.until(lambda: watcher.modes == ["l2_bypassed", "normal"])
        await until_l2_is_trusted(flows_of(state))
        assert watcher.faults == []


async def outage_of_l3(
    watcher: Watcher, begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]
) -> None:
    """L3 goes away and comes back; what callers see meanwhile."""
    state = watcher.state
    await state.swarms.put("s1", Swarm(goal="x"))
    await state.bots.put("held", ADA)
    await state.swarms.patch("s1", ONE)
    await begin()
    calls = [
        watcher.made(state.bots.get("held", consistency=Consistency.STRONG)),
        watcher.made(state.bots.put("held", Bot(name="Eve"))),
        watcher.made(state.bots.get("unknown")),
    ]
    first = asyncio.gather(*calls, return_exceptions=True)
    await watcher.until(lambda: watcher.mode() is Mode.WRITE_BUFFERING)
    await first
    with pytest.raises(TierUnavailable, match="mode write_buffering"):
        await state.bots.put("b1", Bot(name="Eve"))
    await watcher.until(lambda: state.health().staleness_seconds > 0.5)  # past the bound
    entry = await watcher.made(state.bots.entry("b1", max_stale=60.0))
    assert (entry.value, entry.stale) == (ADA, True)
    await watcher.made(state.swarms.patch("s1", ONE, durability=Durability.JOURNALED))
    health = state.health()
    assert health.l3.state is TierState.AWAY
    assert health.backlog.writes >= 1
    await end()
    await watcher.until(lambda: watcher.mode() is Mode.NORMAL)
    assert watcher.modes[0] == "write_buffering"
    assert await state.flush() == []
    swarm = await state.swarms.get("s1", consistency=Consistency.STRONG)
    assert swarm is not None
    assert swarm.stats.total_tool_calls == 2
    await state.bots.put("b1", Bot(name="Eve"))


async def test_an_l3_whose_bytes_are_held(behind_proxy: Behind, settings: Settings) -> None:
    """Connections stay open and nothing passes, either way."""
    proxy, url = behind_proxy
    own = patient(settings, postgres_url=url, journal_replicas=0)
    async with holdfast.connect(own) as state:
        watcher = await watched(state)
        holds: list[Any] = []

        async def begin() -> None:
            holds.append(proxy.hold())

        async def end() -> None:
            holds[0].end()

        await outage_of_l3(watcher, begin, end)


@pytest.fixture
async def controls(tmp_path: Path) -> AsyncIterator[tuple[ServerControls, Settings]]:
    """Servers of the test's own, and the settings that name them."""
    async with ServerControls(tmp_path / "servers") as servers:
        running = await servers.start()
        settings = Settings(
            postgres_url=running.postgres_url, redis_urls=running.redis_urls, master_keys=running.master_keys
        )
        yield servers, settings


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_an_l3_that_dies_or_stands_still(controls: tuple[ServerControls, Settings], how: str) -> None:
    """All processes of PostgreSQL, which is started again or goes on."""
    servers, settings = controls
    async with holdfast.connect(patient(settings, journal_replicas=0)) as state:
        watcher = await watched(state)

        async def begin() -> None:
            await (servers.kill if how == "killed" else servers.stop)("postgres")

        async def end() -> None:
            await (servers.restart if how == "killed" else servers.cont)("postgres")

        await outage_of_l3(watcher, begin, end)


async def _slow_is_away(guard: PostgresGuard) -> None:
    """Mutant: whoever is slow counts as gone."""
    if guard.in_doubt:
        raise TierUnavailable("L3: it is slow")


@pytest.mark.parametrize("mutant", [False, True])
async def test_a_wait_for_a_lock_cuts_nobody_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, *, mutant: bool
) -> None:
    """Writers may wait for long: L3 answers whoever asks it."""
    asked, ask = [], _slow_is_away if mutant else PostgresGuard._ask

    async def counted(guard: PostgresGuard) -> None:
        asked.append(guard)
        await ask(guard)

    monkeypatch.setattr(PostgresGuard, "_ask", counted)
    if mutant:
        monkeypatch.setattr(PostgresGuard, "heard", lambda _guard: None)
    seldom = msgspec.structs.replace(settings, staleness_bound_seconds=30.0)  # else the feed hears L3 all the time
    async with holdfast.connect(seldom) as state, connected(settings.postgres_url) as connection:
        watcher = Watcher(state)
        await state.bots.put("b1", ADA)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("""SELECT FROM holdfast."User" WHERE id = 'b1' FOR UPDATE""")
        write = asyncio.ensure_future(watcher.made(state.bots.put("b1", Bot(name="Eve"))))
        asked.clear()

        def is_away() -> bool:
            return state.health().l3.state is TierState.AWAY

        await watcher.until(lambda: is_away() if mutant else len(asked) > 3)  # the mutant is cut off by the first
        assert is_away() is mutant
        await transaction.rollback()
        await write
        if not mutant:
            assert watcher.faults == []
            assert state.health().mode is Mode.NORMAL


async def test_a_pool_that_is_lent_is_no_outage(settings: Settings) -> None:
    """Transactions that await something else keep each connection: calls are told that there is no room."""
    own = msgspec.structs.replace(settings, l3_connections_max=2, l3_connect_timeout_seconds=0.5)
    async with holdfast.connect(own) as state:
        watcher, done = Watcher(state), asyncio.Event()
        await state.subscribe("state/mode/changed", watcher.hear).ready()

        async def keep(name: str, kept: asyncio.Event) -> None:
            async with state.transaction() as transaction:
                await transaction.bots.put(name, ADA)
                kept.set()
                await done.wait()

        kept = [asyncio.Event(), asyncio.Event()]
        keepers = [asyncio.create_task(keep(f"kept{number}", each)) for number, each in enumerate(kept)]
        await asyncio.gather(*(each.wait() for each in kept))
        for name in ("one", "two"):
            with pytest.raises(Overloaded, match="no connection within"):
                await state.bots.get(name)
        done.set()
        await asyncio.gather(*keepers)
        recovery = flows_of(state).counters.recovery
        ended = ("recovered", "degraded", "escalated", "failed")
        await watcher.until(lambda: sum(getattr(recovery, each) for each in ended) >= min(1, recovery.reported))
        await state.bots.put("b1", ADA)
        assert (watcher.mode(), watcher.modes) == (Mode.NORMAL, [])


async def test_the_feed_alone_does_not_cut_l3_off(behind_proxy: Behind, settings: Settings) -> None:
    """Its connections are held; L3 answers all others, so reads and writes go on."""
    proxy, url = behind_proxy
    async with holdfast.connect(patient(settings)) as state:
        flows = flows_of(state)
        flows.feed._source._connector._url = url  # type: ignore[attr-defined]
        flows.feed._source._session.connection.terminate()  # type: ignore[attr-defined]
        watcher = Watcher(state)
        await watcher.until(lambda: flows.feed._source._session is not None)  # type: ignore[attr-defined]
        with_hold = proxy.hold()
        await watcher.until(lambda: flows.feed.fault is not None)
        await watcher.until(lambda: (state.health().feed_seconds or 0.0) > 1.5)
        health = state.health()
        assert (health.mode, health.l3.state) == (Mode.NORMAL, TierState.THERE)
        assert "the change feed was not heard" in health.why
        await state.bots.put("b1", ADA)
        assert await state.bots.get("b1", consistency=Consistency.STRONG) == ADA
        with_hold.end()


async def test_the_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It asks both tiers itself: status 0 if all answers, else 1, with the fault and without the password."""
    name_servers(settings, monkeypatch)
    assert await run_command("health") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["mode"], told["l2"]["state"], told["l3"]["state"]) == ("normal", "there", "there")
    assert set(told["l2"]["circuits"].values()) == {"closed"}
    name_servers(
        msgspec.structs.replace(settings, postgres_url="postgresql://app:s3cret@127.0.0.1:1/holdfast"), monkeypatch
    )
    assert await run_command("health", "--json") == 1
    out = capsys.readouterr().out
    told = json.loads(out)
    assert (told["mode"], told["l3"]["state"]) == ("write_buffering", "away")
    assert "connecting" not in told["l2"]
    assert "s3cret" not in out
    assert told["l3"]["fault"]


@pytest.mark.parametrize("stopped", [1, 2])
async def test_the_command_finds_a_node_that_says_nothing(
    settings: Settings,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stopped: int,
) -> None:
    """It takes connections, and that is all: whoever has only begun to connect has not found it well."""
    name_servers(msgspec.structs.replace(settings, redis_urls=cluster.urls), monkeypatch)
    processes = [node._process for node in cluster.nodes[:stopped]]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        assert await run_command("health", "--json") == 1
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
    told = json.loads(capsys.readouterr().out)
    assert told["l2"]["state"] in ("away", "degraded")
    assert told["l2"]["fault"]
