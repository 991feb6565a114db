"""A scope's token shows another server what is accepted and not committed (rule W7)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

import holdfast
from fix_races import until
from holdfast import Durability, Increment, Set, Swarm
from holdfast.node import OpenStore
from holdfast.settings import Settings

CALM = 3600.0
"""Nothing is flushed before its time."""


@pytest.fixture(name="pair")
async def two_servers(settings: Settings) -> AsyncIterator[tuple[OpenStore, OpenStore]]:
    """Two servers whose writes stay in the journal until they are told."""
    calm = msgspec.structs.replace(
        settings, write_behind_quiet_seconds=CALM, write_behind_age_seconds=CALM, journal_replicas=0
    )
    async with holdfast.connect(calm) as one, holdfast.connect(calm) as two:
        yield one, two


@pytest.mark.parametrize("durability", [Durability.ACCEPTED, Durability.JOURNALED])
async def test_a_token_shows_undecided_writes(pair: tuple[OpenStore, OpenStore], durability: Durability) -> None:
    """Without a token the other server answers with what is committed; with it, with what the scope has written."""
    one, two = pair
    await one.swarms.put("s1", Swarm(goal="old"))
    async with one.scope() as scope:
        await scope.swarms.patch(
            "s1", Set("goal", "new"), Increment("stats", "total_tool_calls"), durability=durability
        )
        token = scope.token
        assert len(token) <= 400
    assert await goal_of(two) == "old"
    async with two.scope(token) as there:
        entry = await there.swarms.entry("s1")
        assert entry is not None
        assert (entry.value.goal, entry.value.stats.total_tool_calls, entry.pending) == ("new", 1, True)
        assert there.swarms.peek("s1") is None
        assert await one.flush() == []
        entry = await there.swarms.entry("s1")
        assert entry is not None
        assert (entry.value.goal, entry.value.stats.total_tool_calls, entry.pending) == ("new", 1, False)


async def test_a_read_alone_carries_what_was_shown(pair: tuple[OpenStore, OpenStore]) -> None:
    """A scope that only read an undecided write takes it along, also over a third scope; one of other keys does not."""
    one, two = pair
    await one.swarms.put("s1", Swarm(goal="old"))
    await one.swarms.patch("s1", Set("goal", "new"))
    async with one.scope() as scope:
        assert await scope.swarms.get("s2") is None
        unconcerned = scope.token
        shown = await scope.swarms.get("s1")
        assert shown is not None
        token = scope.token
    async with two.scope(token) as there:
        again = there.token
    async with one.scope(again) as home, two.scope(again) as there, two.scope(unconcerned) as other:
        assert [await goal_of(each) for each in (home, there, other)] == ["new", "new", "old"]


async def test_a_decided_write_is_no_burden(pair: tuple[OpenStore, OpenStore]) -> None:
    """Once it is committed the token names no journal, and covers the commit."""
    one, two = pair
    await one.swarms.put("s1", Swarm(goal="old"))
    assert await goal_of(two) == "old"
    async with one.scope() as scope:
        await scope.swarms.patch("s1", Set("goal", "new"))
        long = len(scope.token)
        assert await one.flush() == []
        token = scope.token
        assert len(token) < long
    async with two.scope(token) as there:
        assert await goal_of(there) == "new"


async def test_a_write_that_was_decided_on_the_way(pair: tuple[OpenStore, OpenStore]) -> None:
    """The token still names the journal; what is there no longer is in the row."""
    one, two = pair
    await one.swarms.put("s1", Swarm(goal="old"))
    assert await goal_of(two) == "old"
    async with one.scope() as scope:
        await scope.swarms.patch("s1", Set("goal", "new"))
        token = scope.token
    assert await one.flush() == []
    await one.close()
    async with two.scope(token) as there:
        assert await goal_of(there) == "new"


async def test_a_row_that_is_to_begin(pair: tuple[OpenStore, OpenStore]) -> None:
    """An accepted write with a default shows a row that L3 does not have yet."""
    one, two = pair
    async with one.scope() as scope:
        await scope.swarms.patch("s1", Set("goal", "new"), default=Swarm(goal="begun"))
        token = scope.token
    async with two.scope(token) as there:
        assert await goal_of(there) == "new"
        assert set(await there.swarms.get_many(["s1", "s2"])) == {"s1"}

    async def is_there() -> bool:
        return await two.swarms.get("s1") is not None

    assert not await is_there()
    assert await one.flush() == []
    await until(is_there)


async def goal_of(state: OpenStore | holdfast.Scope) -> str | None:
    """Of s1."""
    swarm = await state.swarms.get("s1")
    assert swarm is not None
    return swarm.goal
