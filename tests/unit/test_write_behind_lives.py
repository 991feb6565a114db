"""A server's journals: begun with its first write, begun anew when it was replaced, and ended with it; and takeover."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from holdfast import Append, Bot, Delete, Increment, Set, Settings
from holdfast.entry import Durability
from holdfast.errors import Closed, TierUnavailable
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import JournalRecord, JournalState
from holdfast.testing import JournalHub, MemoryJournalBase, MemoryJournals, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.simulation import World, simulate

ACCEPTED, JOURNALED, COMMITTED = Durability
B1 = Key("bot", "b1")
TAKEOVER_SECONDS = 10.0
SETTINGS = Settings(verify_share=0.0, write_behind_close_seconds=3.0, write_behind_takeover_seconds=TAKEOVER_SECONDS)


class Stage:
    """Servers over one L3 and one L2 in memory."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self.world = world
        self.stack = stack
        self.l3 = MemoryStorage()
        self.hub = JournalHub()
        self.base = MemoryJournalBase(self.l3, world)

    async def server(self) -> Flows:
        """One more."""
        return await self.stack.enter_async_context(
            connect_flows(l3=self.l3, streams=MemoryJournals(self.hub), clock=self.world, settings=SETTINGS)
        )

    async def record(self, journal: str | None) -> JournalRecord | None:
        """What L3 knows of a journal."""
        return next((each for each in await self.base.records() if each.journal == journal), None)

    async def left_behind(self, *writes: int) -> str:
        """The journal of a server that has died, with writes that each add so much."""
        flows = await self.server()
        for by in writes:
            patch = (Increment("max_tokens", by=by), Append("capabilities", str(by)))
            await flows.store.bots.patch("b1", *patch, default=Bot(max_tokens=0), durability=JOURNALED)
        life = flows.write_behind.lives.current
        assert life is not None
        await life.stop()
        flows.write_behind.lives.current = None
        return life.name


def staged(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def run(world: World) -> None:
        async with AsyncExitStack() as stack:
            await scenario(Stage(world, stack))

    simulate(1, run)


async def bot(stage: Stage) -> Bot | None:
    """What L3 holds."""
    flows = await stage.server()
    return await flows.store.bots.get("b1")


def test_a_server_that_writes_nothing_keeps_no_journal_and_one_that_ends_well_leaves_none() -> None:
    """Its name stays sealed in L2."""

    async def scenario(stage: Stage) -> None:
        flows = await stage.server()
        assert (await stage.base.records(), flows.store.backlog().journal) == ([], None)
        await flows.store.bots.patch("b1", Set("name", "x"), default=Bot(), durability=ACCEPTED)
        journal = flows.write_behind.lives.journal
        assert (await stage.record(journal)) is not None
        await flows.stop()
        await flows.stop()
        assert await stage.base.records() == []
        assert journal is not None
        assert await MemoryJournals(stage.hub).last(journal) == 0

    staged(scenario)


def test_a_journal_that_cannot_be_begun_accepts_nothing() -> None:
    """Every caller is told, and the next one tries again."""

    async def scenario(stage: Stage) -> None:
        flows = await stage.server()
        await flows.store.bots.put("b1", Bot())
        stage.l3.away = True
        calls = [flows.store.bots.patch("b1", Set("name", "x"), durability=ACCEPTED) for _ in range(2)]
        faults = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(fault) for fault in faults] == [TierUnavailable] * 2
        assert flows.store.backlog().writes == 0
        stage.l3.away = False
        await flows.store.bots.patch("b1", Set("name", "x"), durability=COMMITTED)

    staged(scenario)


def test_a_server_that_ends_while_l3_is_away_leaves_its_writes_to_others() -> None:
    """They are in its journal; whoever waits for their commit here is told so."""

    async def scenario(stage: Stage) -> None:
        flows = await stage.server()
        receipt = await flows.store.bots.patch("b1", Set("name", "x"), default=Bot(), durability=JOURNALED)
        stage.l3.away = True
        await flows.stop()
        with pytest.raises(Closed):
            await receipt.reached(COMMITTED)
        stage.l3.away = False
        await stage.server()
        await asyncio.sleep(1.5 * TAKEOVER_SECONDS)
        assert await bot(stage) == Bot(name="x")

    staged(scenario)


def test_a_released_journal_is_not_waited_for() -> None:
    """L3 takes no rows, but is there: the next server begins at once."""

    async def scenario(stage: Stage) -> None:
        journal = await stage.left_behind(1)
        assert await stage.base.enter_state(journal, 1, JournalState.RELEASED)
        await stage.server()
        await asyncio.sleep(0.1)
        assert await bot(stage) == Bot(max_tokens=1, capabilities=["1"])

    staged(scenario)


def test_a_dead_servers_journal_is_drained_when_its_beat_has_stood_still() -> None:
    """Not before; then all of it is in effect once, in order, and the stream takes nothing more."""

    async def scenario(stage: Stage) -> None:
        journal = await stage.left_behind(1, 2, 3)
        await stage.server()
        await asyncio.sleep(TAKEOVER_SECONDS * 0.9)
        record = await stage.record(journal)
        assert record is not None
        assert record.state is JournalState.LIVE
        assert B1 not in (await stage.l3.load([B1])).rows
        await asyncio.sleep(TAKEOVER_SECONDS * 0.7)
        record = await stage.record(journal)
        assert record is not None
        assert (record.state, record.epoch, record.decided.through) == (JournalState.DRAINED, 2, 3)
        assert await bot(stage) == Bot(max_tokens=6, capabilities=["1", "2", "3"])

    staged(scenario)


def test_who_could_not_reach_l3_judges_nobody_dead() -> None:
    """A beat is judged by one who heard it all the time: after L3 was away the time begins anew."""

    async def scenario(stage: Stage) -> None:
        journal = await stage.left_behind(1)
        await stage.server()
        await asyncio.sleep(TAKEOVER_SECONDS * 0.7)
        stage.l3.away = True
        await asyncio.sleep(TAKEOVER_SECONDS * 0.6)
        stage.l3.away = False
        await asyncio.sleep(TAKEOVER_SECONDS * 0.7)
        record = await stage.record(journal)
        assert record is not None
        assert record.state is JournalState.LIVE

    staged(scenario)


def test_a_living_server_is_not_taken_over() -> None:
    """It beats, however little it writes; nor does it take its own journal."""

    async def scenario(stage: Stage) -> None:
        flows, _ = await stage.server(), await stage.server()
        await flows.store.bots.patch("b1", Set("name", "x"), default=Bot(), durability=COMMITTED)
        journal = flows.write_behind.lives.journal
        await asyncio.sleep(5 * TAKEOVER_SECONDS)
        record = await stage.record(journal)
        assert record is not None
        assert (record.epoch, record.state) == (1, JournalState.LIVE)
        assert record.beat > 10

    staged(scenario)


def test_a_replaced_server_goes_on_in_a_new_journal() -> None:
    """What was in the old one is decided there and told; what was not is entered again, and is in effect once."""

    async def scenario(stage: Stage) -> None:
        flows, other = await stage.server(), await stage.server()
        bots, lives = flows.store.bots, flows.write_behind.lives
        first = await bots.patch("b1", Append("capabilities", "1"), default=Bot(), durability=JOURNALED)
        stage.hub.away = True
        second = await bots.patch("b1", Append("capabilities", "2"), default=Bot(), durability=ACCEPTED)
        old = lives.journal
        assert old is not None
        assert await stage.base.take(old, 1, "another server")
        stage.hub.away = False
        assert await MemoryJournals(stage.hub).seal(old) == 1
        await other.takeover.look()
        await asyncio.sleep(3 * TAKEOVER_SECONDS)
        for receipt in (first, second):
            assert (await receipt.reached(COMMITTED, 1.0)).durability is COMMITTED
        assert lives.journal not in {None, old}
        assert await bots.get("b1") == Bot(capabilities=["1", "2"])

    staged(scenario)


def test_a_server_that_ends_while_it_is_being_renewed_lets_go_of_its_callers() -> None:
    """Its old journal is another server's; nothing hangs."""

    async def scenario(stage: Stage) -> None:
        flows = await stage.server()
        receipt = await flows.store.bots.patch("b1", Set("name", "x"), default=Bot(), durability=JOURNALED)
        lives = flows.write_behind.lives
        old = lives.journal
        assert old is not None
        assert await stage.base.take(old, 1, "another server")
        await asyncio.sleep(TAKEOVER_SECONDS / 2)
        assert flows.store.backlog().journal is None
        await flows.stop()
        with pytest.raises(Closed):
            await receipt.reached(COMMITTED)

    staged(scenario)


def test_what_is_written_on_a_deleted_document_is_for_the_row_that_will_come() -> None:
    """The deletion is undecided as well: reads show what was written, and it is in effect (rule V3)."""

    async def scenario(stage: Stage) -> None:
        bots = (await stage.server()).store.bots
        await bots.put("b1", Bot(name="old"))
        await bots.patch("b1", Delete(), durability=ACCEPTED)
        assert (await bots.get("b1"), bots.peek("b1")) == (None, None)
        await bots.put("b1", Bot(name="new"), durability=ACCEPTED)
        last = await bots.patch("b1", Append("capabilities", "x"), durability=ACCEPTED)
        assert await bots.get("b1") == Bot(name="new", capabilities=["x"])
        await last.reached(COMMITTED)
        assert await bot(stage) == Bot(name="new", capabilities=["x"])

    staged(scenario)
