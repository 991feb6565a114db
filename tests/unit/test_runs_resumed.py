"""What a server finds, and makes good, when it resumes a run; tiers in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fix_races import until
from holdfast import Consistency, Durability, Increment, Settings, StateStore, Swarm
from holdfast.keys import Key
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.ending import Ending
from holdfast.run_context.snapshots import base_number
from holdfast.testing import JournalHub, MemoryStorage, connect
from holdfast.write_behind.handing_over import HandingOver
from holdfast.write_behind.overlay import Overlay

SETTINGS = Settings(run_deltas_per_base=2)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[StateStore, StateStore]]:
    """Two servers over the same tiers."""
    l3, hub = MemoryStorage(), JournalHub()
    async with (
        connect(l3=l3, journals=hub, settings=SETTINGS) as one,
        connect(l3=l3, journals=hub, settings=SETTINGS) as two,
    ):
        yield one, two


async def tool_calls_after_resuming(one: StateStore, two: StateStore) -> int:
    """What the second server sees of a write that the run of the first had made to its swarm, and journaled."""
    await one.swarms.put("s1", Swarm())
    await one.runs.begin("research", run_id="r1", swarm_id="s1")
    await one.swarms.patch("s1", Increment("stats", "total_tool_calls"), durability=Durability.JOURNALED)
    await two.runs.resume("r1", force=True)
    swarm = await two.swarms.get("s1", consistency=Consistency.STRONG)
    assert swarm is not None
    return swarm.stats.total_tool_calls


async def test_who_resumes_a_run_sees_what_it_did_to_its_swarm(pair: tuple[StateStore, StateStore]) -> None:
    """It was acknowledged, though not committed; it takes effect once, whatever the owner before does."""
    one, two = pair
    assert await tool_calls_after_resuming(one, two) == 1
    await one.flush()
    swarm = await two.swarms.get("s1", consistency=Consistency.STRONG)
    assert swarm is not None
    assert swarm.stats.total_tool_calls == 1


async def seen_by_the_owner_before(one: StateStore, two: StateStore) -> list[int]:
    """What the first server sees of its swarm, which it writes to still, when a second one has resumed its run."""
    await tool_calls_after_resuming(one, two)
    seen = []
    for consistency in (Consistency.STRONG, Consistency.BOUNDED):
        swarm = await one.swarms.get("s1", consistency=consistency)
        assert swarm is not None
        seen.append(swarm.stats.total_tool_calls)
    await one.swarms.patch("s1", Increment("stats", "total_tool_calls"), durability=Durability.ACCEPTED)
    held = one.swarms.peek("s1") or await one.swarms.get("s1")
    assert held is not None
    return [*seen, held.stats.total_tool_calls]


async def test_the_owner_before_shows_its_writes_once(pair: tuple[StateStore, StateStore]) -> None:
    """W7: it lives, and has not heard that they were decided."""
    assert await seen_by_the_owner_before(*pair) == [1, 1, 2]


async def test_mutant_it_does_not_ask_what_a_row_holds(
    pair: tuple[StateStore, StateStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it lays them over the row that has them."""
    monkeypatch.setattr(Overlay, "knows", lambda *_: True)
    assert await seen_by_the_owner_before(*pair) != [1, 1, 2]


async def test_mutant_without_the_swarm(pair: tuple[StateStore, StateStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the run's own entries are decided, its swarm is as it was before them."""
    decide_for = HandingOver.decide_for

    async def of_runs_only(self: HandingOver, key: Key, server: str) -> int:
        return 0 if key.kind == "swarm" else await decide_for(self, key, server)

    monkeypatch.setattr(HandingOver, "decide_for", of_runs_only)
    assert await tool_calls_after_resuming(*pair) == 0


async def gone_to_and_fro(one: StateStore, two: StateStore) -> ActiveRun:
    """A run of which each owner makes one short step, in the hands of one more."""
    await (await one.runs.begin("research", run_id="r1")).pause()
    for number in range(6):
        run = await (one, two)[number % 2].runs.resume("r1")
        run.context["notes"] = f"{number}" * 500
        await run.pause()
    return await one.runs.resume("r1")


async def bases(state: StateStore) -> list[int]:
    """Numbers of the run's bases."""
    return [number for each in await state.runs.history("r1") if (number := base_number(each.id)) is not None]


async def test_a_run_of_short_owners_gets_its_bases(pair: tuple[StateStore, StateStore]) -> None:
    """None of them owned it for long enough to write one behind its own snapshot; the next writes it first."""
    one, two = pair
    await gone_to_and_fro(one, two)

    async def has_another() -> bool:
        return len(await bases(two)) > 1

    await until(has_another)


async def test_mutant_that_leaves_bases_to_owners(
    pair: tuple[StateStore, StateStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it is restored from the first one, however long it has become."""
    one, two = pair
    monkeypatch.setattr(ActiveRun, "note_restored", lambda *_: None)
    run = await gone_to_and_fro(one, two)
    await run.complete()  # what was under way in the background has ended
    assert await bases(two) == [0]


async def tool_calls_after(one: StateStore, two: StateStore, end: str) -> int:
    """What the second server sees of a journaled write to the swarm of a run that the first one then ends."""
    await one.swarms.put("s1", Swarm())
    run = await one.runs.begin("research", run_id="r1", swarm_id="s1")
    await one.swarms.patch("s1", Increment("stats", "total_tool_calls"), durability=Durability.JOURNALED)
    await getattr(run, end)()
    swarm = await two.swarms.get("s1", consistency=Consistency.STRONG)
    assert swarm is not None
    return swarm.stats.total_tool_calls


@pytest.mark.parametrize("end", ["pause", "release", "complete", "cancel"])
async def test_who_goes_on_behind_an_end_sees_the_swarm(pair: tuple[StateStore, StateStore], end: str) -> None:
    """A run that has no owner has nobody whose writes could be decided: they are in L3 before."""
    assert await tool_calls_after(*pair, end) == 1


async def test_mutant_the_swarm_waits_for_its_flush(
    pair: tuple[StateStore, StateStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then whoever goes on begins with a swarm of before."""

    async def settle_before(_: Ending) -> None:
        pass

    monkeypatch.setattr(Ending, "settle_before", settle_before)
    assert await tool_calls_after(*pair, "pause") == 0
