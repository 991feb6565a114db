"""When L3 is cut off, and what becomes of the calls that wait for it. Time is virtual; connections are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import pytest
from asyncpg import ConnectionDoesNotExistError, InterfaceError, TooManyConnectionsError, UniqueViolationError

from holdfast.errors import RowRefused, TierUnavailable
from holdfast.protocols.guards import TierState
from holdfast.testing.simulation import World, simulate
from holdfast.tiers import l3_connections
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_guard import PostgresGuard

LOOK_SECONDS = 0.1


class Connection:
    """What pool and guard see of a connection; its statements end when the server answers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = asyncio.Event()
        self.is_forgotten = False  # by the network: nothing that is sent arrives
        self._is_asked = False

    def is_closed(self) -> bool:
        return self._ended.is_set()

    def is_in_transaction(self) -> bool:
        return False

    def terminate(self) -> None:
        self._ended.set()

    async def close(self, *, timeout: float) -> None:
        self.terminate()

    async def fetchval(self, _statement: str) -> int:
        if self._is_asked:
            raise InterfaceError("another operation is in progress")
        self._is_asked = True
        try:
            await self.statement(3600.0 if self.is_forgotten else 0.001)
        finally:
            self._is_asked = False
        return 1

    async def statement(self, seconds: float = 0.001) -> None:
        """Run one that takes so long."""
        answered = asyncio.ensure_future(self._server.work(seconds))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([answered, ended], return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise TierUnavailable("L3: the connection was closed in the middle of a statement")
        finally:
            answered.cancel()
            ended.cancel()


class Server:
    """L3: it answers, says nothing (`goes` is not set), or refuses connections."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.goes = asyncio.Event()
        self.goes.set()
        self.refuses: Exception | None = None
        self.opening_seconds = 0.001
        self.guard = PostgresGuard(self.open, monotonic=world.monotonic)
        self.pool = ConnectionPool(self.open, size_max=2, queue_max=10, timeout_seconds=30.0, guard=self.guard)

    async def work(self, seconds: float) -> None:
        await self.goes.wait()
        await asyncio.sleep(seconds)

    async def open(self) -> Any:
        if self.refuses is not None:
            raise self.refuses
        await self.work(self.opening_seconds)
        return Connection(self)

    async def call(self, seconds: float = 0.001) -> float:
        """How long a call took that runs one statement."""
        began = self.world.monotonic()
        async with self.pool.connection() as connection:
            await connection.statement(seconds)
        return self.world.monotonic() - began

    async def refused(self, seconds: float = 0.001) -> float:
        """After how long a call is told that L3 is away."""
        began = self.world.monotonic()
        with pytest.raises(TierUnavailable):
            await self.call(seconds)
        return self.world.monotonic() - began

    async def look(self) -> None:
        """What the health keeper does for ever."""
        while True:
            if self.guard.in_doubt:
                await self.guard.check()
            await asyncio.sleep(LOOK_SECONDS)


def guarded(scenario: Callable[[Server], Awaitable[None]]) -> None:
    """Run a scenario beside the looks at the guard."""

    async def run(world: World) -> None:
        server = Server(world)
        await server.guard.connect()
        looking = asyncio.ensure_future(server.look())
        try:
            await scenario(server)
        finally:
            looking.cancel()
            await asyncio.wait([looking])
            assert looking.cancelled(), "a check raised"
            await server.guard.close()
            await server.guard.close()
            await server.pool.close()

    simulate(1, run)


def answers(server: Server) -> bool:
    """Whether calls are let through."""
    return server.guard.answers


def in_doubt(server: Server) -> bool:
    """Whether it is to be asked."""
    return server.guard.in_doubt


async def cut_off(server: Server) -> None:
    """L3 says nothing, and that was found out."""
    server.goes.clear()
    await server.refused()
    assert not server.guard.answers


def test_an_l3_that_says_nothing_keeps_nobody_a_second() -> None:
    """Neither who has a connection, nor who opens one, nor who waits in line; later calls are refused at once."""

    async def scenario(server: Server) -> None:
        await server.call()
        server.goes.clear()
        waited = await asyncio.gather(*(server.refused() for _ in range(4)))
        assert max(waited) < 1.0
        assert server.guard.health().state is TierState.AWAY
        assert await server.refused() == 0.0

    guarded(scenario)


def test_without_a_guard_they_wait_for_as_long_as_they_may() -> None:
    """Mutant: nobody asks."""

    async def scenario(server: Server) -> None:
        server.pool = ConnectionPool(server.open, size_max=2, queue_max=10, timeout_seconds=30.0)
        server.goes.clear()
        assert await server.refused() == pytest.approx(30.0)

    guarded(scenario)


@pytest.mark.parametrize(("mutant", "answers"), [(False, True), (True, False)])
def test_a_long_statement_does_not_cut_l3_off(monkeypatch: pytest.MonkeyPatch, *, mutant: bool, answers: bool) -> None:
    """It may wait for a lock. Mutant: what is slow counts as away, and nobody asks."""

    async def gone(self: PostgresGuard) -> None:
        raise TierUnavailable("it is slow")

    if mutant:
        monkeypatch.setattr(PostgresGuard, "_ask", gone)

    async def scenario(server: Server) -> None:
        call = asyncio.ensure_future(server.call(60.0))
        await asyncio.sleep(10.0)
        assert server.guard.answers is answers
        call.cancel()
        await asyncio.wait([call])

    guarded(scenario)


def test_who_was_heard_is_not_cut_off() -> None:
    """The guard's own connection may be silent alone: then the feed, or others' calls, were answered meanwhile."""

    async def scenario(server: Server) -> None:
        server.guard.lost()
        server.goes.clear()
        checking = asyncio.ensure_future(server.guard.check())
        await asyncio.sleep(0.05)
        server.guard.heard()
        await checking
        assert server.guard.answers
        server.goes.set()

    guarded(scenario)


def test_one_lost_connection_is_no_outage() -> None:
    """L3 is asked, and answers."""

    async def scenario(server: Server) -> None:
        async def lose() -> None:
            async with server.pool.connection() as connection:
                connection.terminate()
                raise TierUnavailable("L3: the connection was lost")

        with pytest.raises(TierUnavailable):
            await lose()
        assert in_doubt(server)
        await asyncio.sleep(0.5)
        assert not in_doubt(server)
        assert answers(server)

    guarded(scenario)


def test_an_l3_that_refuses_connections_is_gone() -> None:
    """All that is open was lost, and a new connection is refused at once."""

    async def scenario(server: Server) -> None:
        server.refuses = TierUnavailable("L3: connecting: refused")
        server.guard._forget()
        assert await server.refused() == 0.0
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert not server.guard.answers
        assert "refused" in str(server.guard.health().fault)

    guarded(scenario)


def full() -> TierUnavailable:
    """L3 has no connection left."""
    fault = TierUnavailable("L3: connecting: too many clients already")
    fault.__cause__ = TooManyConnectionsError("too many clients already")
    return fault


def test_an_l3_that_has_no_connection_left_is_gone() -> None:
    """For a server that has none; what it is asked for fails at once, until there is one."""

    async def scenario(server: Server) -> None:
        server.refuses = full()
        server.guard._forget()
        assert await server.refused() == 0.0
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert not server.guard.answers
        assert "too many clients" in str(server.guard.health().fault)
        server.refuses = None
        await asyncio.sleep(2.0)
        assert await server.call() < 0.1

    guarded(scenario)


def test_an_l3_that_is_back_and_full_is_there_for_who_has_a_connection() -> None:
    """That it has none for the guard is an answer: those that calls have are used again."""

    async def scenario(server: Server) -> None:
        await asyncio.gather(server.call(), server.call())
        server.goes.clear()
        await server.refused()
        server.refuses = full()
        server.goes.set()
        await asyncio.sleep(6.0)
        assert server.guard.answers
        assert await server.call() < 0.1

    guarded(scenario)


def test_an_l3_that_has_no_further_connection_is_there() -> None:
    """The connections that its calls have are used, though the guard gets none."""

    async def scenario(server: Server) -> None:
        await server.call()
        server.refuses = full()
        server.guard._forget()
        server.guard.lost()
        await asyncio.sleep(1.0)
        assert server.guard.answers
        assert await server.call() < 0.1

    guarded(scenario)


def test_who_gets_over_a_lost_connection_has_heard_nothing() -> None:
    """A rollback on a connection that was ended is no answer of L3: nobody is let through for that."""

    async def scenario(server: Server) -> None:
        async def roll_back() -> None:
            async with server.pool.connection() as connection:
                with contextlib.suppress(TierUnavailable):
                    await connection.statement()

        await server.call()
        server.goes.clear()
        await roll_back()
        assert not server.guard.answers
        assert await server.refused() == 0.0

    guarded(scenario)


def test_who_is_heard_is_let_through_at_once() -> None:
    """The feed was answered before the guard has asked again: what it made void must be read, and nobody refused it."""

    async def scenario(server: Server) -> None:
        await cut_off(server)
        await asyncio.sleep(30.0)
        server.goes.set()
        server.guard.heard()
        assert await server.call() < 0.1
        await asyncio.sleep(2.0)
        assert answers(server)

    guarded(scenario)


def test_a_refusal_is_a_sign_of_life() -> None:
    """Whoever says that a row breaks a constraint is there."""

    async def scenario(server: Server) -> None:
        async def refused() -> None:
            async with server.pool.connection():
                await cut_off(server)
                server.goes.set()
                raise RowRefused("L3: writing") from UniqueViolationError("duplicate key")

        with pytest.raises(RowRefused):
            await refused()
        assert answers(server)

    guarded(scenario)


def test_what_the_driver_says_of_a_lost_connection_is_none() -> None:
    """It has the class of what servers say; others wait for this one."""

    async def scenario(server: Server) -> None:
        async def ended() -> None:
            async with server.pool.connection() as connection:
                await cut_off(server)
                connection.terminate()
                raise ConnectionDoesNotExistError("connection was closed in the middle of operation")

        with pytest.raises(ConnectionDoesNotExistError):
            await ended()
        assert not answers(server)

    guarded(scenario)


def test_it_comes_back_by_itself() -> None:
    """Within two seconds after L3 answers again, whoever calls or not."""

    async def scenario(server: Server) -> None:
        await cut_off(server)
        await asyncio.sleep(30.0)
        assert not answers(server)
        server.goes.set()
        await asyncio.sleep(2.0)
        assert answers(server)
        assert await server.call() < 0.1

    guarded(scenario)


def test_calls_that_were_sent_go_on_if_l3_answers_soon() -> None:
    """It is cut off before they are given up: a short silence costs those that come, not those that are under way."""

    async def scenario(server: Server) -> None:
        await server.call()
        server.goes.clear()
        call = asyncio.ensure_future(server.call())
        while server.guard.answers:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
        server.goes.set()
        assert await call < 1.0
        await asyncio.sleep(2.0)
        assert await server.call() < 0.1

    guarded(scenario)


def test_a_process_that_stood_still_knows_nothing_of_l3(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes to itself long after its time was up: not having heard L3 meanwhile says nothing."""

    async def scenario(server: Server) -> None:
        server.goes.clear()
        ahead = 0.0
        monkeypatch.setattr(server.guard, "monotonic", lambda: server.world.monotonic() + ahead)
        checking = asyncio.ensure_future(server.guard.check())
        await asyncio.sleep(0.01)
        ahead = 5.0
        await checking
        assert server.guard.answers
        assert server.guard.in_doubt  # it is asked once more
        server.goes.set()

    guarded(scenario)


@pytest.mark.parametrize("mutant", [False, True])
def test_a_forgotten_connection_of_the_guard_costs_no_transaction(
    monkeypatch: pytest.MonkeyPatch, *, mutant: bool
) -> None:
    """It is used seldom, and a firewall may forget it: L3 is asked by a new one. Mutant: only the held one is asked."""
    if mutant:
        monkeypatch.setattr(PostgresGuard, "_ask", lambda guard: guard._ask_within(None))

    async def scenario(server: Server) -> None:
        server.guard._connection.is_forgotten = True  # type: ignore[union-attr]
        async with server.pool.connection() as connection:
            await connection.statement()
            await asyncio.sleep(5.0)  # a model is asked
            assert server.guard.opened == mutant
            assert connection.is_closed() is mutant

    guarded(scenario)


@pytest.mark.parametrize("seconds", [0.6, 2.0])
def test_silence_is_counted_from_the_first_question(seconds: float) -> None:
    """That nothing was heard before, since nobody asked, ends no transaction: L3 has its time from then on."""

    async def scenario(server: Server) -> None:
        async with server.pool.connection() as connection:
            await asyncio.sleep(30.0)
            server.goes.clear()
            server.guard.lost()
            while answers(server):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
            assert not connection.is_closed()
            await asyncio.sleep(seconds - 0.5)
            assert connection.is_closed() is (seconds > 1.0)
            server.goes.set()

    guarded(scenario)


@pytest.mark.parametrize("mutant", [False, True])
def test_a_slow_link_is_let_through_again(*, mutant: bool) -> None:
    """Opening takes longer than calls may wait for a sign of life. Mutant: a probe has no more time than that."""

    async def scenario(server: Server) -> None:
        if mutant:
            server.guard._probe_seconds = server.guard._patience
        server.opening_seconds = 1.5
        server.guard._forget()
        server.guard.lost()
        await asyncio.sleep(1.0)
        assert not answers(server)
        await asyncio.sleep(5.0)
        assert answers(server) is not mutant

    guarded(scenario)


def test_who_was_let_through_is_watched_at_once() -> None:
    """The probe that was under way, and had long, ends when somebody else was heard: L3 may go away again."""

    async def scenario(server: Server) -> None:
        await cut_off(server)
        await asyncio.sleep(2.0)
        server.guard.heard()
        assert answers(server)
        assert await server.refused() < 1.0

    guarded(scenario)


def test_two_who_check_at_once_share_the_connection() -> None:
    """It answers one question at a time: nobody is told that it failed for that."""

    async def scenario(server: Server) -> None:
        held = server.guard._connection
        await asyncio.gather(server.guard.check(), server.guard.check())
        assert server.guard._connection is held

    guarded(scenario)


@pytest.mark.parametrize("mutant", [False, True])
def test_a_connection_that_was_idle_for_long_is_not_lent_again(
    monkeypatch: pytest.MonkeyPatch, *, mutant: bool
) -> None:
    """A firewall may have forgotten it: who gets it waits for an answer. The mutant lends whatever is open."""
    if mutant:
        monkeypatch.setattr(l3_connections, "IDLE_SECONDS", inf)

    async def scenario(server: Server) -> None:
        await asyncio.gather(server.call(), server.call())
        seldom, often = server.pool._idle
        for _ in range(3):  # one call at a time: there is always one that was used just now
            await asyncio.sleep(25.0)
            async with server.pool.connection() as connection:
                assert connection is often
        async with server.pool.connection() as first, server.pool.connection() as second:
            assert first is often
            assert (second is seldom) is mutant
            assert seldom.is_closed() is not mutant

    guarded(scenario)
