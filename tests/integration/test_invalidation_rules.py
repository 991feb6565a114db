"""The seed's triggers on two servers: what each of them drops, from both memories and from L2, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import until, until_l2_is_trusted, watermarks
from fix_tiers import flows_of
from holdfast import RULES, Bot, Document, Routine, RunContextSnapshot, Swarm, Team
from holdfast.documents.routine import RoutineStep
from holdfast.documents.swarm import BotParticipant, SwarmExecution, SwarmLimits, SwarmPolicy
from holdfast.documents.team import TeamMember, TeamObjective, TeamStructure
from holdfast.keys import Key
from holdfast.node import OpenStore
from holdfast.protocols import Cached
from holdfast.settings import Settings

DOCUMENTS: Mapping[str, Document] = {
    "bot:b1": Bot(name="one"),
    "bot:b2": Bot(name="two"),
    "bot:b3": Bot(name="three"),
    "team:t1": Team(name="first", members=[TeamMember(id="b1")]),
    "team:t2": Team(name="second", members=[TeamMember(id="b2")]),
    "swarm:s1": Swarm(team_id="t1", participants=[BotParticipant(id="b1")]),
    "swarm:s2": Swarm(participants=[BotParticipant(id="b2")]),
    "routine:r1": Routine(name="first"),
    "routine:r2": Routine(name="second"),
    "run_snapshot:x1": RunContextSnapshot(run_id="x", routine_id="r1", sequence=1),
    "run_snapshot:x2": RunContextSnapshot(run_id="y", routine_id="r2", sequence=1),
}
BOT_AND_ITS_SWARMS = {"bot:b1", "swarm:s1"}
TEAM_AND_ITS_SWARMS = {"team:t1", "swarm:s1"}
ROUTINE_AND_ITS_RUNS = {"routine:r1", "run_snapshot:x1"}
Case = tuple[str, str, dict[str, Any], set[str]]
CASES: tuple[Case, ...] = (
    ("user updates: bot settings", "bot:b1", {"model": "m2"}, BOT_AND_ITS_SWARMS),
    ("user updates: bot settings", "bot:b1", {"capabilities": ["search"]}, BOT_AND_ITS_SWARMS),
    (
        "user updates: team membership",
        "team:t1",
        {"members": [TeamMember(id="b1", role="lead")]},
        {*TEAM_AND_ITS_SWARMS, "bot:b1"},
    ),
    ("user updates: preferences", "bot:b1", {"metadata": {"language": "de"}}, {"bot:b1"}),
    (
        "team changes: member additions",
        "team:t1",
        {"members": [TeamMember(id="b1"), TeamMember(id="b3")]},
        {*TEAM_AND_ITS_SWARMS, "bot:b1", "bot:b3"},
    ),
    (
        "team changes: goal updates",
        "team:t1",
        {"objectives": [TeamObjective(id="o1", description="more")]},
        TEAM_AND_ITS_SWARMS,
    ),
    (
        "team changes: structure",
        "team:t1",
        {"structure": TeamStructure(content="structure Other")},
        {*TEAM_AND_ITS_SWARMS, "bot:b1"},
    ),
    ("swarm configuration: resource limits", "swarm:s1", {"limits": SwarmLimits(max_tool_calls=3)}, {"swarm:s1"}),
    ("swarm configuration: tool permissions", "swarm:s1", {"policy": SwarmPolicy(acl=["b1"])}, {"swarm:s1"}),
    (
        "swarm configuration: performance settings",
        "swarm:s1",
        {"preferred_model": "fast", "execution": SwarmExecution(status="running")},
        {"swarm:s1"},
    ),
    ("routine changes: step modifications", "routine:r1", {"steps": [RoutineStep(step_id="a")]}, ROUTINE_AND_ITS_RUNS),
    ("routine changes: version updates", "routine:r1", {"version": "2.0.0"}, ROUTINE_AND_ITS_RUNS),
    ("routine changes: strategy changes", "routine:r1", {"default_strategy": "reasoning"}, ROUTINE_AND_ITS_RUNS),
)


def key_of(name: str) -> Key:
    """A key by its name in these tables."""
    return Key(*name.split(":"))


class Servers:
    """Two servers, of which one fences L2; all documents are held in both memories and in L2.

    Attributes:
        stores: both.
    """

    def __init__(self, stores: list[OpenStore]) -> None:
        self.stores = stores
        self._sink = next(flows.relay._sink for store in stores if (flows := flows_of(store)).relay is not None)

    async def prepare(self) -> None:
        """Write all documents, let the rules act on that, and hold everything everywhere."""
        # The members of a team that is new are fenced, and L2 does not take what was written before that for a while.
        for first in (True, False):
            for name, document in DOCUMENTS.items():
                if name.startswith("team:") is first:
                    await self.stores[0].collections[key_of(name).kind].put(key_of(name).id, document)
            await self.settle()

        async def is_held() -> bool:
            if await self.in_l2() != set(DOCUMENTS):
                for cache in flows_of(self.stores[1]).caches.values():
                    cache.flush()  # what memory answers, nobody fills L2 with
            for store in self.stores:
                for key in map(key_of, DOCUMENTS):
                    assert await store.collections[key.kind].get(key.id) is not None
                await flows_of(store).resolver.drain()
            return await self.in_l2() == set(DOCUMENTS) and all(None not in held.values() for held in self.held())

        await until(is_held)

    async def settle(self) -> None:
        """Wait until L2's nodes were told of all that is committed now, and so the rules have acted, and both know."""
        flows = flows_of(self.stores[0])
        await until(flows.feed.refresh)
        cursor = flows.feed.cursor
        assert cursor is not None

        async def told() -> bool:
            return all(
                mark is not None and mark.snapshot.covers(cursor.snapshot) for mark in await watermarks(self._sink)
            )

        await until(told)
        for store in self.stores:
            await until(flows_of(store).feed.refresh)

    def held(self) -> list[dict[str, object]]:
        """What each server's memory holds, entry by entry."""
        return [
            {
                name: flows_of(store).caches[key_of(name).kind].shelf(key_of(name).kind).entries.get(key_of(name).id)
                for name in DOCUMENTS
            }
            for store in self.stores
        ]

    async def in_l2(self) -> set[str]:
        """What L2 would answer the second server with."""
        flows = flows_of(self.stores[1])
        names = {key_of(name): name for name in DOCUMENTS}
        answers = await flows.resolver._l2.read(list(names), flows.view, lease=False)
        return {names[key] for key, answer in answers.items() if isinstance(answer, Cached)}

    async def dropped_by(self, change: Callable[[], Any]) -> list[set[str]]:
        """What each server's memory, and then L2, has dropped once a change is known everywhere."""
        before = self.held()
        await change()
        await self.settle()
        dropped = [
            {name for name, entry in held.items() if entry is not former[name]}
            for held, former in zip(self.held(), before, strict=True)
        ]
        return [*dropped, set(DOCUMENTS) - await self.in_l2()]


@pytest.fixture
async def pair(settings: Settings) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(holdfast.connect(settings)) for _ in range(2)]
        await until_l2_is_trusted(*map(flows_of, stores))
        found = Servers(stores)
        await found.prepare()
        yield found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {next(iter(case[2]))}")
async def test_a_trigger_drops_what_depends_on_it_and_nothing_else(pair: Servers, case: Case) -> None:
    """On the server that wrote, on the other one, and in L2."""
    _, name, attributes, expected = case
    key = key_of(name)

    async def change() -> None:
        await (
            pair.stores[1]
            .collections[key.kind]
            .update(key.id, lambda document: msgspec.structs.replace(document, **attributes))
        )

    assert await pair.dropped_by(change) == [expected] * 3


async def test_other_tools_trigger_them_too(pair: Servers, settings: Settings) -> None:
    """SQL that deletes a bot; the reason is on record, and the actor."""

    async def change() -> None:
        async with connected(settings.postgres_url) as sql:
            await sql.execute("""DELETE FROM holdfast."User" WHERE id = 'b1'""")

    assert await pair.dropped_by(change) == [BOT_AND_ITS_SWARMS] * 3
    async with connected(settings.postgres_url) as sql:
        record = await sql.fetchrow(
            "SELECT scope, reason, actor FROM holdfast.invalidations ORDER BY number DESC LIMIT 1"
        )
    assert record is not None
    assert tuple(record) == ("tag:bot:b1", "user updates: bot settings of bot:b1", "holdfast rules")


async def test_a_whole_kind_takes_the_dependent_kinds_along(pair: Servers, settings: Settings) -> None:
    """A statement that changes any number of teams: their swarms, and the bots that may be members."""

    async def change() -> None:
        async with connected(settings.postgres_url) as sql:
            await sql.execute("""TRUNCATE holdfast."Teams" """)

    expected = {name for name in DOCUMENTS if key_of(name).kind in {"team", "swarm", "bot"}}
    assert await pair.dropped_by(change) == [expected] * 3


def test_no_rule_is_left_out() -> None:
    """Each of the seed's triggers has a case."""
    assert {case[0] for case in CASES} == {rule.trigger for rule in RULES}
