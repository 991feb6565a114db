"""Scopes that go on where a write was seen which another server has accepted and not committed (rule W7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import msgspec
import pytest

from fix_virtual import ACCEPTED, CALM, JOURNALED, ONE, GatedJournals, Servers, begin, calls, goal
from holdfast import Consistency, Set, Swarm
from holdfast.keys import Key
from holdfast.scopes import tokens
from holdfast.scopes.elsewhere import Elsewhere
from holdfast.scopes.scope import Scope
from holdfast.scopes.session import Session
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.entries import Entry

STRONG = Consistency.STRONG
SEEDS = range(3)
HOPS = 7
Write = Callable[[Scope], Awaitable[object]]


async def one_more(swarms: Scope) -> object:
    """Another write of the document, by what the scope sees."""
    return await swarms.swarms.update("x", lambda swarm: msgspec.structs.replace(swarm, name="updated"))


async def written_over(world: World, accept: Write, write: Write) -> tuple[Swarm | None, int]:
    """A row after one server accepted a write, and a scope that saw it wrote on another, in virtual time.

    Returns the row, and how many writes were refused.
    """
    servers = Servers(world)
    async with servers.server() as a, servers.server() as b:
        await begin(a.store, "x")
        await b.store.swarms.get("x")
        async with a.store.scope() as scope:
            await accept(scope)
            token = scope.token
        async with b.store.scope(token) as scope:
            await write(scope)
        unwritten = [*await a.store.flush(), *await b.store.flush()]
        return await a.store.swarms.get("x", consistency=STRONG), len(unwritten)


async def increment(scope: Scope) -> object:
    """Accepted, and in the journal."""
    return await scope.swarms.patch("x", ONE, durability=JOURNALED)


def set_goal(name: str) -> Write:
    """A `Set`, which tells what it replaces."""

    async def write(scope: Scope) -> object:
        return await scope.swarms.patch("x", Set("goal", name), durability=JOURNALED)

    return write


def unsettled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a scope writes over what it saw elsewhere before that is decided."""

    async def at_once(session: Session, keys: Sequence[Key]) -> None:
        pass

    monkeypatch.setattr(Session, "settle_elsewhere", at_once)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_update_counts_what_it_saw_once(seed: int) -> None:
    """It waits until the increment that it saw is in the row."""
    row, refused = simulate(seed, lambda world: written_over(world, increment, one_more))
    assert row is not None
    assert (row.stats.total_tool_calls, row.name, refused) == (1, "updated", 0)


def test_mutant_an_update_writes_what_it_saw_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the increment comes to the row that holds it already."""
    unsettled(monkeypatch)
    row, _ = simulate(0, lambda world: written_over(world, increment, one_more))
    assert row is not None
    assert row.stats.total_tool_calls == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_set_may_replace_one_that_was_seen(seed: int) -> None:
    """The later one stands."""
    row, refused = simulate(seed, lambda world: written_over(world, set_goal("first"), set_goal("second")))
    assert row is not None
    assert (row.goal, refused) == ("second", 0)


def test_mutant_a_set_replaces_what_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two is refused, for another document is there than it was told to replace."""
    unsettled(monkeypatch)
    _, refused = simulate(0, lambda world: written_over(world, set_goal("first"), set_goal("second")))
    assert refused == 1


async def begun_elsewhere(world: World) -> tuple[int | None, int]:
    """How often an increment is in effect on a document that a scope saw, which another server has yet to begin.

    Returns it with the number of writes that were refused.
    """
    servers = Servers(world)
    async with servers.server() as a, servers.server() as b:
        async with a.store.scope() as scope:
            await scope.swarms.put("x", Swarm(goal="begun"), durability=JOURNALED)
            token = scope.token
        async with b.store.scope(token) as scope:
            assert await goal(scope, "x") == "begun"
            await scope.swarms.patch("x", ONE, durability=ACCEPTED)
        unwritten = [*await b.store.flush(), *await a.store.flush()]
        assert await goal(a.store, "x", STRONG) == "begun"
        return await calls(a.store, "x", STRONG), len(unwritten)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_document_may_be_patched_that_is_begun_elsewhere(seed: int) -> None:
    """It is begun first."""
    assert simulate(seed, begun_elsewhere) == (1, 0)


def test_mutant_it_is_patched_before_it_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no row to apply it to, and it is refused."""
    unsettled(monkeypatch)
    assert simulate(0, begun_elsewhere) == (0, 1)


async def seen_in_a_transaction(world: World) -> str | None:
    """What a transaction in a scope reads of a row on which the scope saw a write of another server."""
    servers = Servers(world)
    async with servers.server() as a, servers.server() as b:
        await begin(a.store, "x")
        async with a.store.scope() as scope:
            await set_goal("new")(scope)
            token = scope.token
        async with b.store.scope(token) as scope, scope.transaction() as tx:
            swarm = await tx.swarms.get("x")
            return None if swarm is None else swarm.goal


@pytest.mark.parametrize("seed", SEEDS)
def test_a_transaction_in_the_scope_sees_it(seed: int) -> None:
    """It waits for it, too."""
    assert simulate(seed, seen_in_a_transaction) == "new"


def test_mutant_a_transaction_reads_the_row_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scope goes back."""
    unsettled(monkeypatch)
    assert simulate(0, seen_in_a_transaction) == "old"


async def seen_before_a_hole(world: World) -> int | None:
    """What a token shows of a row, when the last write that it names was decided before its turn in the journal."""
    servers = Servers(world)
    streams = GatedJournals(servers.hub)
    async with servers.server(streams=streams, **CALM) as a, servers.server(**CALM) as b:
        await begin(a.store, "x", "y", "z")
        await calls(b.store, "x")
        async with a.store.scope() as scope:
            await scope.swarms.patch("x", ONE, durability=JOURNALED)
            streams.gate.clear()
            await a.store.swarms.patch("z", ONE, durability=ACCEPTED)
            await asyncio.sleep(0.1)  # virtual: its append is under way
            await scope.swarms.patch("y", ONE, durability=ACCEPTED)
            token = scope.token
        await a.store.swarms.update("y", lambda swarm: swarm)  # settles the last of the three
        streams.gate.set()
        await asyncio.sleep(0.1)  # virtual: what waits for its turn comes to the journal
        async with b.store.scope(token) as scope:
            return await calls(scope, "x")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_token_shows_what_is_before_one_that_never_comes(seed: int) -> None:
    """The first write is undecided, though the journal ends before the number that the token tells."""
    assert simulate(seed, seen_before_a_hole) == 1


def test_mutant_where_the_last_is_decided_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scope goes back."""
    entries = Elsewhere._entries

    async def all_or_nothing(elsewhere: Elsewhere, journal: str, through: int) -> list[Entry]:
        _, marks = await elsewhere._base.rows_and_marks([], [journal])
        return [] if through in marks[journal] else await entries(elsewhere, journal, through)

    monkeypatch.setattr(Elsewhere, "_entries", all_or_nothing)
    assert simulate(0, seen_before_a_hole) == 0


async def journals_named(world: World, *, is_flushed_first: bool) -> list[int]:
    """How many journals the tokens of a scope name that goes from server to server, each of which writes.

    Args:
        is_flushed_first: what each wrote is decided before its token is made, else before the next server has it.
    """
    servers, token, named = Servers(world), None, []
    async with AsyncExitStack() as stack:
        for number in range(HOPS):
            flows = await stack.enter_async_context(servers.server(**CALM))
            async with flows.store.scope(token) as scope:
                await scope.swarms.patch(f"x{number}", ONE, default=Swarm(), durability=JOURNALED)
                if is_flushed_first:
                    await flows.store.flush()
                token = scope.token
            named.append(len(tokens.decode(token).journals))
            await flows.store.flush()
    return named


@pytest.mark.parametrize(("is_flushed_first", "named"), [(True, 0), (False, 1)])
def test_a_scope_goes_over_many_servers(named: int, *, is_flushed_first: bool) -> None:
    """What is decided when its token is made, or taken, is no burden to the scope."""
    found = simulate(0, lambda world: journals_named(world, is_flushed_first=is_flushed_first))
    assert found == [named] * HOPS
