"""Invalidation on demand over real servers: what is named is read anew by all, what is counted is what L3 has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import until, until_l2_is_trusted
from fix_tiers import flows_of
from fix_voids import NEW, OLD, forget_l1, swarm
from holdfast import Bot, Kind, Settings, SettingsError, Tier
from holdfast.adapters import connection_pool
from holdfast.documents import Document, Swarm, encode
from holdfast.flows import Flows
from holdfast.kinds import BUILT_IN, register
from holdfast.node import OpenStore
from holdfast.protocols import Target
from holdfast.tags import TAGS_MAX
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_postgres import PostgresStorage

Sql = Any  # asyncpg.Connection cannot be subscripted at run time
NO_TRIGGERS = """BEGIN; ALTER TABLE holdfast."Chat" DISABLE TRIGGER USER;
    UPDATE holdfast."Chat" SET document = '{}' WHERE id = 's1';
    SELECT holdfast.watch_relation('swarm', 'holdfast."Chat"'::regclass); COMMIT"""


class Two(NamedTuple):
    """Two servers that hold a swarm, which L3 by now holds anew, at the same version, and nobody was told."""

    one: OpenStore
    two: OpenStore

    @property
    def flows(self) -> list[Flows]:
        """Their insides."""
        return [flows_of(self.one), flows_of(self.two)]


@pytest.fixture
async def beside(settings: Settings) -> AsyncIterator[Sql]:
    """A connection to the database of the settings, as a person with psql has it."""
    async with connected(settings.postgres_url) as connection:
        yield connection


@pytest.fixture
async def pair(settings: Settings, beside: Sql) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        two = Two(*[await stack.enter_async_context(holdfast.connect(settings)) for _ in range(2)])
        await until_l2_is_trusted(*two.flows)
        await two.one.swarms.put("s1", swarm(OLD, "ada"))
        await two.one.swarms.put("s2", swarm(OLD, "eve"))
        await two.two.transact(nothing)
        for state, flows in zip(two, two.flows, strict=True):
            assert len(await state.swarms.get_many(["s1", "s2"])) == 2
            await flows.resolver.drain()

        async def shared() -> bool:
            await two.flows[1].feed.refresh()
            forget_l1(two.flows[1])
            entry = await two.two.swarms.entry("s1")
            await two.flows[1].resolver.drain()
            return entry is not None and entry.tier is Tier.L2

        await until(shared)
        body = encode(swarm(NEW, "ada")).decode()
        await beside.execute(NO_TRIGGERS.replace("'{}'", f"'{body}'"))
        yield two


async def nothing(_transaction: object) -> None:
    """An operation that does nothing."""


async def name_in(state: OpenStore, identifier: str = "s1") -> str | None:
    """The name in a swarm, as a server reads it."""
    found = await state.swarms.get(identifier)
    return None if found is None else found.name


@pytest.mark.parametrize(
    ("arguments", "scope"),
    [
        ({"tag": "bot:ada"}, "tag:bot:ada"),
        ({"kind": "swarm"}, "kind:swarm"),
        ({"all": True}, "all"),
        (None, "swarm:s1"),
    ],
    ids=["tag", "kind", "all", "key"],
)
async def test_what_is_void_is_read_anew_by_every_server(
    pair: Two, settings: Settings, arguments: dict[str, Any] | None, scope: str
) -> None:
    """By the one that did it at once, by the other within its bound, by a third that finds it in L2 only."""
    assert [await name_in(state) for state in pair] == [OLD, OLD]
    if arguments is None:
        done = await pair.one.swarms.invalidate("s1", reason="a test", actor="ada")
    else:
        done = await pair.one.invalidate(**arguments, reason="a test", actor="ada")
    assert (done.scope, done.reason, done.actor) == (scope, "a test", "ada")
    assert await name_in(pair.one) == NEW
    await pair.flows[1].feed.refresh()
    assert await name_in(pair.two) == NEW
    async with holdfast.connect(settings) as three:
        await until_l2_is_trusted(*pair.flows, flows_of(three))
        assert await name_in(three) == NEW


async def test_nobody_needs_to_be_told_by_the_server_that_did_it(pair: Two, settings: Settings) -> None:
    """By another process that is gone already, as the command is: all servers read anew within their bound."""
    storage = PostgresStorage(connection_pool(settings), register([]))
    await storage.invalidate(Target(tag="bot:ada"), reason="a test", actor="ada")
    await storage.close()

    async def anew() -> bool:
        return [await name_in(state) for state in pair] == [NEW, NEW]

    await until(anew)
    assert [await name_in(state, "s2") for state in pair] == [OLD, OLD]


async def test_l2_is_of_use_again_after_a_tag(pair: Two) -> None:
    """What is filled after it was raised counts, with the same tags."""
    await pair.one.invalidate(tag="bot:ada", reason="a test")

    async def from_l2() -> bool:
        await pair.flows[1].feed.refresh()
        forget_l1(pair.flows[1])
        entry = await pair.two.swarms.entry("s1")
        await pair.flows[1].resolver.drain()
        assert entry is not None
        assert entry.value.name == NEW
        return entry.tier is Tier.L2

    await until(from_l2)


async def test_rows_have_the_tags_of_their_documents(settings: Settings, beside: Sql) -> None:
    """However they are written; of a document of very many, all of them."""
    many = swarm("many", *(f"b{number}" for number in range(3 * TAGS_MAX)))
    async with holdfast.connect(settings) as state:
        await state.swarms.put("s1", swarm("one", "b1", 'b"2\\'))
        await state.swarms.put_many({"s2": many, "s3": Swarm(team_id="t1", event_subscriptions={"x": ["b1"]})})
        async with state.transaction() as tx:
            await tx.swarms.put("s4", Swarm(swarm_leader="b1", participants=many.participants[:1]))
        await state.swarms.update("s3", lambda found: msgspec.structs.replace(found, team_id="t2"))
        await state.bots.put("b1", Bot(name="x"))
    rows = dict(await beside.fetch('SELECT id, tags FROM holdfast."Chat"'))
    assert rows["s1"] == ["bot:b1", 'bot:b"2\\']
    assert rows["s2"] == [f"bot:b{number}" for number in range(3 * TAGS_MAX)]
    assert rows["s3"] == ["bot:b1", "team:t2"]
    assert rows["s4"] == ["bot:b0", "bot:b1"]
    assert await beside.fetchval('SELECT tags FROM holdfast."User"') == []


class Plan(Document, frozen=True, kw_only=True):
    """A document of a kind of one's own."""

    goals: Sequence[str] = ()


PLAN = Kind("plan", Plan, tags=lambda plan: plan.goals)


async def test_a_kind_of_ones_own_declares_tags(settings: Settings, beside: Sql) -> None:
    """A new table has the column; a tag that is none is refused before anything is written, naming kind and tag."""
    async with holdfast.connect(settings, kinds=[PLAN]) as state:
        plans = state.collection(PLAN)
        await plans.put("p1", Plan(goals=["a", "b", "a"]))
        with pytest.raises(holdfast.InvalidDocument, match="plan:p2: tags of kind plan: a tag must not be empty"):
            await plans.put_many({"p1": Plan(), "p2": Plan(goals=["a", ""])})
        async with state.transaction() as tx:
            with pytest.raises(holdfast.InvalidDocument, match=r"tags of kind plan: tag 'a.*b' holds a NUL"):
                await tx.collection(PLAN).put("p3", Plan(goals=["a\0b"]))
    assert await beside.fetch("SELECT id, tags FROM holdfast.plan") == [("p1", ["a", "b"])]


async def test_a_database_of_before_is_brought_along(
    settings: Settings, beside: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No table is written anew, and a role that could follow the feed still can."""
    role = "role_" + settings.key_prefix.removeprefix("test-").rstrip(":")
    await beside.execute("DROP SCHEMA holdfast CASCADE")
    with monkeypatch.context() as past:
        past.setattr(l3_migrations, "migrations", lambda: _MIGRATIONS[:4])
        await l3_migrations.migrate(beside, BUILT_IN)
    await beside.execute("""INSERT INTO holdfast."Chat" (id, document) VALUES ('s1', '{"name": "old"}')""")
    files = (
        "SELECT oid::regclass::text, relfilenode FROM pg_class WHERE relname IN ('Chat', 'User', 'Teams') ORDER BY 1"
    )
    before = await beside.fetch(files)
    await beside.execute(f"CREATE ROLE {role}; GRANT SELECT ON holdfast.generations TO {role}")
    try:
        assert await l3_migrations.migrate(beside, BUILT_IN) == [each.name for each in _MIGRATIONS[4:]]
        assert await beside.fetch(files) == before
        rights = "SELECT has_table_privilege($1, 'holdfast.tag_generations', $2)"
        assert [await beside.fetchval(rights, role, right) for right in ("SELECT", "INSERT")] == [True, False]
    finally:
        await beside.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    async with holdfast.connect(settings) as state:
        assert await name_in(state) == OLD
        await state.swarms.put("s1", swarm(NEW, "ada"))
    assert await beside.fetchval('SELECT tags FROM holdfast."Chat"') == ["bot:ada"]


_MIGRATIONS = l3_migrations.migrations()
RAISE = "SELECT max(holdfast.raise_tag('tag ' || number)) FROM generate_series($1::int, $2) number"
FLOOR = "INSERT INTO holdfast.generations VALUES ('tagged', highest)"


async def forgotten_are_below_the_floor(sql: Sql) -> bool:
    """After 12,000 tags: how many are known, and whether every other one lies below the floor of all that has tags."""
    first = await sql.fetchval(RAISE, 1, 1)
    for start in range(2, 12_000, 500):
        await sql.fetchval(RAISE, start, start + 499)
    known, lowest = await sql.fetchrow("SELECT count(*), min(generation) FROM holdfast.tag_generations")
    assert known == await sql.fetchval("SELECT tags FROM holdfast.tag_count")
    assert 5_000 <= known <= 10_000
    assert first < lowest
    floor = await sql.fetchval("SELECT generation FROM holdfast.generations WHERE scope = 'tagged'") or 0
    return bool(first <= floor < lowest)


async def test_the_older_half_of_the_tags_is_forgotten_below_a_floor(sql: Sql) -> None:
    """There are never more than 10,000, and what was raised and is forgotten is void with all that has tags."""
    assert await forgotten_are_below_the_floor(sql)


async def test_tags_forgotten_without_a_floor_are_found_out(sql: Sql) -> None:
    """The mutant of the test above: some tag is neither known nor below a floor."""
    function = "SELECT pg_get_functiondef('holdfast.forget_tags()'::regprocedure)"
    source = await sql.fetchval(function)
    assert FLOOR in source
    await sql.execute(source.replace(FLOOR, FLOOR.replace("highest", "0")))
    assert not await forgotten_are_below_the_floor(sql)


async def test_a_tag_raised_again_is_among_the_newest(sql: Sql) -> None:
    """What is forgotten is what was not raised for longest, not what was raised first."""
    for start in range(1, 10_000, 500):
        await sql.fetchval(RAISE, start, start + 499)
    again = await sql.fetchval(RAISE, 7, 7)
    await sql.fetchval(RAISE, 10_001, 10_001)
    kept = "SELECT generation FROM holdfast.tag_generations WHERE tag = 'tag ' || $1::int"
    assert [await sql.fetchval(kept, number) for number in (7, 8)] == [again, None]


async def test_records_are_bounded(sql: Sql) -> None:
    """The newest 10,000 are kept."""
    for _ in range(21):
        await sql.fetchval("""SELECT count(holdfast.invalidate('bot', 'b' || number, NULL, 'why', 'who'))
            FROM generate_series(1, 500) number""")
    assert await sql.fetchval("SELECT count(*) FROM holdfast.invalidations") == 10_000


async def test_a_role_that_writes_documents_cannot_invalidate(settings: Settings, beside: Sql) -> None:
    """It takes the rights on the outbox and the generations, which who only writes documents does not have."""
    role = "role_" + settings.key_prefix.removeprefix("test-").rstrip(":")
    await beside.execute(
        f"""CREATE ROLE {role}; GRANT USAGE ON SCHEMA holdfast TO {role}; GRANT USAGE ON SEQUENCE holdfast.version_seq
        TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON holdfast."User" TO {role};
        GRANT SELECT ON holdfast.kinds TO {role}; SET ROLE {role}"""
    )
    try:
        for arguments in ("'bot', 'b1', NULL", "'bot', NULL, NULL", "NULL, NULL, 'x'", "NULL, NULL, NULL"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await beside.execute(f"SELECT holdfast.invalidate({arguments}, 'why', 'who')")
    finally:
        await beside.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_l3_refuses_what_it_does_not_know(l3: PostgresStorage) -> None:
    """One sentence, naming the kinds that there are."""
    kinds = "bot, delivery, escalation, export, review, routine, run, run_snapshot, swarm, team"
    with pytest.raises(SettingsError, match=f"there is no kind bott: L3 has {kinds}"):
        await l3.count(Target("bott"))
