"""PostgreSQL crashes and forgets, or is put back to an older copy: what was lost is answered by no cache afterwards.

Half of the commits are asynchronous, and the last of them are in every server's memory and in L2, but not on disk,
when PostgreSQL is killed. The sequences stand then where their next numbers are lost too, so that versions are drawn
again for other documents; and in every other round the servers are kept away until L3 has drawn the numbers of
transactions again that they have seen.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest

from faults.stage import IDS, Mutation, Stage, healthy, number_of, on_stage, upsert
from fix_races import until, until_l2_is_trusted, watermarks
from holdfast import Bot, OutcomeUnknown, Settings, TierError
from holdfast.adapters import open_tiers
from holdfast.clock import SystemClock
from holdfast.embedded.privileges import DATA, data_area
from holdfast.embedded.servers import ignore
from holdfast.flows import Flows
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.fence_map import FenceMap
from holdfast.kinds import register
from holdfast.protocols import Coherence, Snapshot, Watermark
from holdfast.testing.door import connect_flows
from holdfast.testing.fault_proxy import FaultProxy, StartProxy
from holdfast.testing.server_controls import ServerControls

pytestmark = [pytest.mark.xdist_group("faults_l3"), pytest.mark.timeout(180)]

LOST = 4
"""Documents that are written last in a round, all of them asynchronously."""
FEW = 80
"""Writes after a loss at most, until L3 has drawn again as many transactions as it had."""
ONLY_COMMITS_FLUSH = ("wal_writer_delay = '10s'", "autovacuum = off", "checkpoint_timeout = '1h'")
DRAW_TO_THE_LAST = """
DO $$ BEGIN
    WHILE (SELECT log_cnt FROM {0}) > 0 LOOP PERFORM nextval('{0}'); END LOOP;
END $$"""
VERSIONS = 'SELECT id, version FROM holdfast."User" WHERE id = ANY ($1)'


@dataclass
class Toll:
    """What the rounds did.

    Attributes:
        lost: documents that a crash or a copy took back.
        in_l1: those of them that servers held in memory then, counted for each.
        in_l2: those of them that L2 answered with.
        drawn_again: versions of lost documents that other documents got.
        overtaken: rounds in which the servers came back to an L3 that had drawn again all transactions they had seen.
    """

    lost: int = 0
    in_l1: int = 0
    in_l2: int = 0
    drawn_again: int = 0
    overtaken: int = 0


@asynccontextmanager
async def acted(
    controls: ServerControls, fault_proxy: StartProxy, prefix: str, mutation: Mutation = healthy
) -> AsyncIterator[tuple[Stage, FaultProxy]]:
    """A stage whose servers reach PostgreSQL through a proxy, and a PostgreSQL that writes nothing out by itself."""
    running = await controls.start()
    proxy = await fault_proxy(*controls.address("postgres"))
    settings = Settings(
        postgres_url=controls.url("postgres", through=proxy),
        redis_urls=running.redis_urls,
        key_prefix=prefix,
        l2_request_timeout_seconds=5.0,
        l3_connect_timeout_seconds=5.0,
    )
    async with on_stage(controls.url("postgres"), settings, mutation=mutation) as stage:
        await configure(stage, [f"SET {setting}" for setting in ONLY_COMMITS_FLUSH])
        await stage.until_served()
        yield stage, proxy
        await configure(stage, ["RESET ALL"])


async def configure(stage: Stage, changes: Sequence[str]) -> None:
    async with stage.sql() as connection:
        for change in changes:
            await connection.execute(f"ALTER SYSTEM {change}")
        await connection.execute("SELECT pg_reload_conf()")


async def write_what_is_lost(stage: Stage, source: random.Random, toll: Toll) -> tuple[dict[str, int], set[int]]:
    """Write, half of it asynchronously; the documents that are on no disk yet, and their versions."""
    ids = source.sample(IDS, 3 * LOST)
    async with stage.sql() as steady, stage.sql(synchronous_commit="off") as hasty:
        for position, identifier in enumerate(ids[: 2 * LOST]):
            with stage.records.write([identifier]) as numbers:
                if position % 4 == 1:
                    await stage.servers["a"].bots.put(identifier, Bot(name=str(numbers[identifier])))
                else:
                    await upsert(hasty if position % 4 == 3 else steady, numbers)
        for sequence in ("holdfast.version_seq", "holdfast.outbox_seq"):
            await steady.execute(DRAW_TO_THE_LAST.format(sequence))
        last: dict[str, int] = {}
        for identifier in ids[2 * LOST :]:
            with stage.records.write([identifier]) as numbers:
                await upsert(hasty, numbers)
            last |= numbers
        in_l1, in_l2 = await stage.until_cached(last)
        versions = {version for _, version in await hasty.fetch(VERSIONS, list(last))}
    toll.in_l1 += in_l1
    toll.in_l2 += in_l2
    return last, versions


async def write_few(stage: Stage, ids: Sequence[str], *, past: int = 0) -> bool:
    """Write documents one by one, more of them until so many transactions were drawn; whether they were."""
    async with stage.sql() as connection:
        for identifier in ids:
            with stage.records.write([identifier]) as numbers:
                await upsert(connection, numbers)
        for _ in range(FEW):
            xmax = Snapshot.parse(await connection.fetchval("SELECT pg_current_snapshot()::text")).xmax
            if xmax >= past:
                return True
            with stage.records.write(ids[-1:]) as numbers:
                await upsert(connection, numbers)
    return False


async def put_on(stage: Stage, source: random.Random) -> None:
    """Put without a pause until L3 is away."""
    with suppress(OutcomeUnknown, TierError):
        while True:
            identifier = source.choice(IDS)
            with stage.records.write([identifier]) as numbers:
                await stage.servers["b"].bots.put(identifier, Bot(name=str(numbers[identifier])))


async def crash(stage: Stage, controls: ServerControls, proxy: FaultProxy, source: random.Random, toll: Toll) -> None:
    """One round. In every third a server puts all the time, which leaves little to lose."""
    last, versions = await write_what_is_lost(stage, source, toll)
    busy = asyncio.ensure_future(put_on(stage, source)) if stage.faults % 3 == 2 else None
    seen = max(flows.feed._cursor.snapshot.xmax for flows in stage.flows if flows.feed._cursor is not None)
    stage.records.end_life()
    gate = proxy.refuse() if stage.faults % 2 else None
    await controls.kill("postgres")
    stage.faults += 1
    if busy is not None:
        await busy
    await controls.restart("postgres")
    rows = await stage.rows()
    stage.records.begin_life(rows)
    toll.lost += sum(rows[identifier] != number for identifier, number in last.items())
    others = [identifier for identifier in IDS if identifier not in last]
    overtaken = await write_few(stage, [*list(last)[: LOST // 2], *source.sample(others, 3)], past=seen)
    if gate is not None:
        toll.overtaken += overtaken
        gate.end()
    async with stage.sql() as connection:
        drawn = {version for _, version in await connection.fetch(VERSIONS, list(IDS))}
    toll.drawn_again += len(versions & drawn)
    await stage.stale_at_rest()


async def crashes(
    controls: ServerControls,
    fault_proxy: StartProxy,
    prefix: str,
    *,
    rounds: int,
    seed: int,
    mutation: Mutation = healthy,
) -> tuple[Stage, Toll]:
    toll, source = Toll(), random.Random(seed)
    async with acted(controls, fault_proxy, prefix, mutation) as (stage, proxy):
        for _ in range(rounds):
            await crash(stage, controls, proxy, source, toll)
        stage.records.end_life()
    return stage, toll


def keeps_its_memory(flows: Flows) -> None:
    """Mutant: a new incarnation is taken over, and what was read under the old one stays."""
    applier = flows.applier

    def begin_anew(coherence: Coherence) -> None:
        applier._view.reset(coherence)

    applier._begin_anew = begin_anew  # type: ignore[method-assign]


async def test_crashes_leave_nothing_stale(controls: ServerControls, fault_proxy: StartProxy, prefix: str) -> None:
    """F1: three crashes, each with commits lost that all caches held, and no answer is of what was lost."""
    stage, toll = await crashes(controls, fault_proxy, prefix, rounds=3, seed=1)
    assert stage.records.stale == []
    assert toll.lost > 0
    assert toll.in_l1 > 0
    assert toll.in_l2 > 0
    assert toll.drawn_again > 0
    assert toll.overtaken == 1


async def test_a_memory_that_is_kept_is_found(controls: ServerControls, fault_proxy: StartProxy, prefix: str) -> None:
    """The same rounds find a server that does not forget what it read under another incarnation."""
    stage, _ = await crashes(controls, fault_proxy, prefix, rounds=3, seed=1, mutation=keeps_its_memory)
    assert stage.records.stale


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_crashes(controls: ServerControls, fault_proxy: StartProxy, prefix: str) -> None:
    """F1: thirty crashes leave nothing stale."""
    stage, toll = await crashes(controls, fault_proxy, prefix, rounds=30, seed=2)
    assert stage.records.stale == []
    assert toll.lost > 30
    assert toll.overtaken == 15
    assert toll.drawn_again > 30


def copy(source: Path, target: Path) -> None:
    """Put a copy of a folder, with owners and modes, in place of another."""
    subprocess.run(["rm", "-rf", str(target)], check=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


async def told_of_a_row(stage: Stage) -> bool:
    """Whether servers and nodes were all told of a row of the outbox: without one a restart proves nothing."""
    sinks = [flows.relay._sink for flows in stage.flows if flows.relay is not None and flows.relay.leading]
    if len(sinks) != 1:  # who led last may not know yet that another one does
        return False
    places = [*(flows.feed._cursor for flows in stage.flows), *await watermarks(sinks[0])]
    return all(place is not None and len(place.anchor) > 1 for place in places)


@dataclass
class Copied:
    """A copy that was put back.

    Attributes:
        resets: cursors of servers that were not continued after the clean restart from which the copy was made.
        newcomer: answers that are not L3's, to a server that came new while all others were still away.
    """

    stage: Stage
    resets: int
    newcomer: list[str]


async def cold_copy(
    controls: ServerControls,
    fault_proxy: StartProxy,
    prefix: str,
    folder: Path,
    *,
    writes: int,
    generations: bool = False,
) -> Copied:
    """Copy a stopped L3, let all go on for a while, and put the copy back.

    Args:
        writes: so many are lost one by one, besides one of all documents.
        generations: one is raised after the copy, above all numbers that the copy will draw soon.
    """
    async with acted(controls, fault_proxy, prefix) as (stage, proxy):
        await stage.until_cached(await stage.rows())
        await until(partial(told_of_a_row, stage))
        data, copied = data_area(controls._layout) / DATA, folder / "copy"
        await replace(stage, controls, partial(copy, data, copied))
        await stage.until_served()
        resets = sum(flows.feed.resets for flows in stage.flows)
        await write_after_the_copy(stage, writes, generations=generations)
        gate = proxy.refuse()
        await replace(stage, controls, partial(copy, copied, data))
        stage.faults += 1
        seen = max(flows.feed._cursor.snapshot.xmax for flows in stage.flows if flows.feed._cursor is not None)
        newcomer = await stale_for_a_newcomer(stage)
        assert await write_few(stage, IDS[5:12], past=seen)
        gate.end()
        await stage.stale_at_rest()
        stage.records.end_life()
    return Copied(stage, resets, newcomer)


async def replace(stage: Stage, controls: ServerControls, act: Callable[[], None]) -> None:
    """Do something to the files of L3 while it is stopped cleanly."""
    stage.records.end_life()
    server = controls._servers["postgres"]
    process = await asyncio.to_thread(server.find)
    assert process is not None
    await asyncio.to_thread(server.halt, process)
    await asyncio.to_thread(act)
    await controls.restart("postgres")
    stage.records.begin_life(await stage.rows())


async def write_after_the_copy(stage: Stage, writes: int, *, generations: bool) -> None:
    """Write what the copy will not have, until all caches hold it."""
    await until_l2_is_trusted(*stage.flows)  # the nodes begin anew with each start of L3's server
    async with stage.sql() as connection:
        with stage.records.write(IDS) as numbers:
            await upsert(connection, numbers)  # many versions, and one transaction
        if generations:
            await connection.execute('TRUNCATE holdfast."Teams"')
            await until(partial(is_known, stage, "l2:team"))
        for identifier in (IDS[number % 6] for number in range(writes)):
            with stage.records.write([identifier]) as numbers:
                await upsert(connection, numbers)
    _, in_l2 = await stage.until_cached(await stage.rows())
    assert in_l2 > len(IDS) // 2


async def read_ahead(controls: ServerControls, fault_proxy: StartProxy, prefix: str, folder: Path) -> Stage:
    """As `cold_copy`, but the feed stands still after the copy: what is lost was read, and never delivered."""
    async with acted(controls, fault_proxy, prefix) as (stage, proxy):
        await until(partial(told_of_a_row, stage))
        data, copied = data_area(controls._layout) / DATA, folder / "copy"
        # Before the copy is made: the relay raises a generation after each start, which would give the copy away.
        silence = proxy.hold(where=lambda connection: b"holdfast feed" in connection.first_bytes)
        await replace(stage, controls, partial(copy, data, copied))
        await until(stage.is_answered)
        async with stage.sql() as connection:
            with stage.records.write(IDS) as numbers:
                await upsert(connection, numbers)
        await until(partial(are_held, stage, numbers))
        gate = proxy.refuse()
        await replace(stage, controls, partial(copy, copied, data))
        stage.faults += 2
        gate.end()
        silence.end()
        await stage.stale_at_rest()
        assert [flows.feed.resets for flows in stage.flows] == [0, 0], "no cursor gave the copy away"
        stage.records.end_life()
    return stage


async def are_held(stage: Stage, numbers: Mapping[str, int]) -> bool:
    """Read; whether every server has these documents in memory, though it may not answer with them."""
    for store in stage.servers.values():
        await store.bots.get_many(numbers)
    shelves = [flows.caches["bot"].shelf("bot") for flows in stage.flows]
    held = [[shelf.entry(identifier) for identifier in numbers] for shelf in shelves]
    return all([each and number_of(each.value) for each in entries] == list(numbers.values()) for entries in held)


async def is_known(stage: Stage, scope: str) -> bool:
    """Whether every server knows that the generation of a scope was raised."""
    return all(scope in flows.view.coherence.generations for flows in stage.flows)


async def stale_for_a_newcomer(stage: Stage) -> list[str]:
    """Answers that are not L3's, to a server that is not elected."""
    settings = msgspec.structs.replace(stage.settings, postgres_url=stage.url)
    rows = await stage.rows()
    async with AsyncExitStack() as stack:
        tiers = await open_tiers(settings, register([]), SystemClock(), stack, ignore)
        alone = connect_flows(l2=tiers.l2, l3=tiers.l3, feed=tiers.feed, clock=SystemClock(), settings=settings)
        flows = await stack.enter_async_context(alone)
        bots = await flows.store.bots.get_many(IDS)
    return [f"{identifier}: {number_of(bot)}" for identifier, bot in bots.items() if number_of(bot) != rows[identifier]]


@pytest.mark.parametrize(("writes", "generations"), [(6, True), (60, False)])
async def test_an_older_copy_leaves_nothing_stale(
    controls: ServerControls, fault_proxy: StartProxy, prefix: str, tmp_path: Path, writes: int, *, generations: bool
) -> None:
    """F1: L3 is put back to a cold copy of the same incarnation, and no answer is of what came after the copy."""
    copied = await cold_copy(controls, fault_proxy, prefix, tmp_path, writes=writes, generations=generations)
    assert copied.stage.records.stale == []
    assert copied.newcomer == []
    assert copied.resets == 0, "a clean restart is no crash"


async def test_what_was_read_before_the_feed_told_of_it_is_lost_too(
    controls: ServerControls, fault_proxy: StartProxy, prefix: str, tmp_path: Path
) -> None:
    """F1: every cursor is from before the copy and goes on, and what was read after it is answered no more."""
    stage = await read_ahead(controls, fault_proxy, prefix, tmp_path)
    assert stage.records.stale == []


async def test_what_was_read_before_the_feed_told_of_it_is_found(
    controls: ServerControls, fault_proxy: StartProxy, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same schedule finds servers that keep it."""
    monkeypatch.setattr(ChangeApplier, "_doubt_the_end_of_a_life", lambda _applier: None)
    stage = await read_ahead(controls, fault_proxy, prefix, tmp_path)
    assert stage.records.stale


def trusts_any_life(view: FenceMap, mark: Watermark) -> bool:
    """Mutant: as `FenceMap.trusts`, whichever start of L3's server the mark is of."""
    return view._start is not None and mark.snapshot.covers(view._start)
