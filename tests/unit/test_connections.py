"""The pool's rule: who gets a connection when, and what becomes of broken ones.

The connections are stand-ins with the four calls that the pool makes; the pool on real servers is tested elsewhere.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fix_loop import settle
from fix_pool import Caller, Server, callers, pool_of
from holdfast.errors import Closed, Overloaded, TierUnavailable


def test_a_pool_is_made_without_a_loop_and_opens_nothing() -> None:
    """Connections are opened when first needed."""
    server = Server()
    pool_of(server)
    assert server.opened == []


async def test_a_returned_connection_is_lent_again() -> None:
    """One after the other, callers use one connection, as it is."""
    server = Server()
    pool = pool_of(server)
    for _ in range(3):
        async with pool.connection() as connection:
            assert connection is server.opened[0]
    assert [connection.ended for connection in server.opened] == [None]


async def test_no_more_connections_than_the_limit() -> None:
    """The third caller waits, and gets the connection that is returned first."""
    server = Server()
    (first, second, third), granted = await callers(pool_of(server, size_max=2), 3)
    assert granted == [first, second]
    await second.release()
    assert granted == [first, second, third]
    assert third.connection is second.connection
    assert len(server.opened) == 2


async def test_callers_are_served_in_the_order_of_asking() -> None:
    """A newcomer never overtakes one that waits, even when a connection has just been returned."""
    server = Server()
    pool = pool_of(server, size_max=1)
    (first, second, third), granted = await callers(pool, 3)
    first.release_now()
    newcomer = Caller(pool, granted)
    await settle()
    for caller in (second, third):
        await caller.release()
    assert granted == [first, second, third, newcomer]


async def test_one_caller_too_many_is_refused_at_once() -> None:
    """Above `queue_max` the call fails with the limits in words, and those in line are not disturbed."""
    server = Server()
    pool = pool_of(server, size_max=1, queue_max=2)
    (first, second, third), granted = await callers(pool, 3)
    with pytest.raises(Overloaded, match="L3: 2 calls wait for 1 connections already"):
        async with pool.connection():
            raise AssertionError("the queue was full")
    await first.release()
    await second.release()
    assert granted == [first, second, third]


async def test_waiting_ends_with_the_timeout() -> None:
    """A caller that got nothing in time is told so, leaves the line, and takes no place with it."""
    server = Server()
    pool = pool_of(server, size_max=1, timeout_seconds=0.01)
    (first,), granted = await callers(pool, 1)
    with pytest.raises(Overloaded, match=r"L3: no connection within 0.01 s \(1 of 1 open\)"):
        async with pool.connection():
            raise AssertionError("the only connection was lent")
    await first.release()
    async with pool.connection() as connection:
        assert connection is first.connection
    assert granted == [first]


async def test_an_opening_that_hangs_ends_with_the_timeout() -> None:
    """Opening counts as waiting, and its place is free afterwards."""
    server = Server(by_hand=True)
    pool = pool_of(server, size_max=1, timeout_seconds=0.01)
    with pytest.raises(TierUnavailable, match=r"no connection within 0.01 s"):
        async with pool.connection():
            raise AssertionError("nothing was opened")
    server.by_hand = False
    async with pool.connection() as connection:
        assert connection is server.opened[0]


async def test_who_waits_behind_openings_that_hang_is_not_told_of_a_crowd() -> None:
    """Nobody has a connection: it is the server that gives none."""
    pool = pool_of(Server(by_hand=True), size_max=1, timeout_seconds=0.01)

    async def call() -> None:
        async with pool.connection():
            raise AssertionError("nothing was opened")

    faults = await asyncio.gather(call(), call(), return_exceptions=True)
    assert [type(fault) for fault in faults] == [TierUnavailable, TierUnavailable]


async def test_the_timeout_is_for_the_wait_alone() -> None:
    """A caller may keep its connection longer than it could have waited for it."""
    pool = pool_of(Server(), timeout_seconds=0.01)
    async with pool.connection() as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.get_running_loop().create_future()
        assert not connection.is_closed()


async def test_an_opening_that_fails_leaves_its_place_to_the_next() -> None:
    """The error reaches the caller that opened; the first in line opens in its stead."""
    server = Server(by_hand=True)
    (first, second), granted = await callers(pool_of(server, size_max=1), 2)
    fault = TierUnavailable("L3: connecting: refused")
    server.opening[0].set_exception(fault)
    await settle()
    assert first.task.exception() is fault
    server.opening[0].set_result(None)
    await settle()
    assert granted == [second]
    await second.release()


@pytest.mark.parametrize("fate", ["in_transaction", "closed"])
async def test_what_is_not_fit_to_lend_again_is_thrown_away(fate: str) -> None:
    """A connection left inside a transaction, or dead, is ended, and the next in line gets a new one."""
    server = Server()
    (first, second), granted = await callers(pool_of(server, size_max=1), 2)
    connection = server.opened[0]
    if fate == "closed":
        connection.ended = "by the server"
    else:
        connection.in_transaction = True
    await first.release()
    assert connection.is_closed()
    assert granted == [first, second]
    assert second.connection is server.opened[1]


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
async def test_a_connection_whose_caller_gave_up_is_thrown_away(how: str) -> None:
    """The statement given up may still begin a transaction: lent again, it would swallow the next caller's writes."""
    server = Server()
    pool = pool_of(server, size_max=1)
    (caller,), _ = await callers(pool, 1)
    if how == "cancelled":
        caller.task.cancel()
        await settle()
        assert caller.task.cancelled()
    else:
        await caller.release(TimeoutError())
        assert isinstance(caller.task.exception(), TimeoutError)
    assert server.opened[0].is_closed()
    async with pool.connection() as connection:
        assert connection is server.opened[1]


async def test_an_error_of_the_caller_alone_costs_no_connection() -> None:
    """A refused statement leaves a connection that is fit to use."""
    server = Server()
    (caller,), _ = await callers(pool := pool_of(server), 1)
    await caller.release(ZeroDivisionError())
    assert isinstance(caller.task.exception(), ZeroDivisionError)
    async with pool.connection() as connection:
        assert connection is server.opened[0]


async def test_connections_that_died_while_idle_are_passed_over() -> None:
    """After a restart of the server the next caller gets a live connection, and no place was lost."""
    server = Server()
    pool = pool_of(server, size_max=2)
    (first, second), _ = await callers(pool, 2)
    await first.release()
    await second.release()
    for connection in server.opened:
        connection.ended = "by the server"
    found, granted = await callers(pool, 2)
    assert granted == found
    assert len(server.opened) == 4


async def test_a_cancelled_waiter_is_passed_over() -> None:
    """Its turn goes to the one behind it."""
    server = Server()
    (first, second, third), granted = await callers(pool_of(server, size_max=1), 3)
    second.task.cancel()
    await first.release()
    assert granted == [first, third]


async def test_those_who_gave_up_leave_room_in_the_line() -> None:
    """`queue_max` counts callers that wait, not those that were cancelled."""
    pool = pool_of(Server(), size_max=1, queue_max=1)
    (first, second), granted = await callers(pool, 2)
    second.task.cancel()
    await settle()
    third = Caller(pool, granted)
    await settle()
    await first.release()
    assert granted == [first, third]


async def test_a_connection_given_to_a_waiter_that_is_cancelled_in_the_same_tick_goes_on() -> None:
    """Handed over and cancelled at once: the next in line gets it, nothing leaks."""
    server = Server()
    (first, second, third), granted = await callers(pool_of(server, size_max=1), 3)
    first.release_now()
    asyncio.get_running_loop().call_soon(second.task.cancel)  # runs between the hand-over and its arrival
    await settle()
    assert second.task.cancelled()
    assert granted == [first, third]
    assert third.connection is first.connection


async def test_a_place_given_to_a_waiter_that_is_cancelled_in_the_same_tick_goes_on() -> None:
    """The right to open a connection is passed on like a connection."""
    server = Server()
    (first, second, third), granted = await callers(pool_of(server, size_max=1), 3)
    server.opened[0].ended = "by the server"
    first.release_now()
    asyncio.get_running_loop().call_soon(second.task.cancel)  # runs between the hand-over and its arrival
    await settle()
    assert second.task.cancelled()
    assert granted == [first, third]
    assert third.connection is server.opened[1]


async def test_closing_ends_what_is_idle_and_later_what_is_lent() -> None:
    """Idle connections are closed politely at once, lent ones end when they come back; twice is as good as once."""
    server = Server()
    pool = pool_of(server)
    (first, second), _ = await callers(pool, 2)
    await second.release()
    await pool.close()
    assert [connection.ended for connection in server.opened] == [None, "closed"]
    await first.release()
    assert [connection.ended for connection in server.opened] == ["terminated", "closed"]
    await pool.close()


async def test_a_closed_pool_lends_nothing() -> None:
    """Those in line and those who come later are told that it is closed."""
    pool = pool_of(Server(), size_max=1)
    (first, second), granted = await callers(pool, 2)
    await pool.close()
    await settle()
    assert isinstance(second.task.exception(), Closed)
    with pytest.raises(Closed, match="L3: the pool is closed"):
        async with pool.connection():
            raise AssertionError("the pool was closed")
    await first.release()
    assert granted == [first]


async def test_a_connection_opened_during_the_close_ends_when_it_comes_back() -> None:
    """Its caller may finish; the pool keeps nothing."""
    server = Server(by_hand=True)
    pool = pool_of(server)
    (caller,), granted = await callers(pool, 1)
    await pool.close()
    server.opening[0].set_result(None)
    await settle()
    assert granted == [caller]
    await caller.release()
    assert server.opened[0].ended == "terminated"


async def test_a_server_that_is_away_does_not_hold_up_the_close() -> None:
    """All idle connections are closed at once: one after the other they would each cost the whole timeout."""
    server = Server()
    pool = pool_of(server, size_max=3)
    found, _ = await callers(pool, 3)
    waiting = asyncio.Barrier(3)

    async def hang() -> None:
        await waiting.wait()
        raise TimeoutError

    for caller, connection in zip(found, server.opened, strict=True):
        connection.closing = hang
        await caller.release()
    async with asyncio.timeout(5):
        await pool.close()
    assert [connection.ended for connection in server.opened] == ["terminated"] * 3


@pytest.mark.parametrize("fault", [TimeoutError(), ConnectionResetError(), asyncpg.InterfaceError("closing")])
async def test_a_connection_that_cannot_be_closed_is_terminated(fault: Exception) -> None:
    """The end of the pool is the end of its connections, whatever the server says."""
    server = Server()
    pool = pool_of(server)
    (caller,), _ = await callers(pool, 1)

    async def fail() -> None:
        raise fault

    server.opened[0].closing = fail
    await caller.release()
    await pool.close()
    assert server.opened[0].ended == "terminated"


actions = st.sampled_from(
    ["ask", "ask", "release", "release", "cancel", "die", "leave open", "open", "open", "fail", "restart", "settle"]
)


class Play:
    """A pool, its server and its callers, driven step by step."""

    def __init__(self, size_max: int) -> None:
        self.server = Server(by_hand=True)
        self.pool = pool_of(self.server, size_max=size_max)
        self.granted: list[Caller] = []
        self.callers: list[Caller] = []

    async def step(self, what: str, number: int) -> None:
        """Do one thing; what it sets off runs at the next "settle", together with the rest of that moment."""
        pending = [caller for caller in self.callers if not caller.task.done()]
        lent = [caller for caller in pending if caller.connection is not None]
        opening = [answer for answer in self.server.opening if not answer.done()]
        if what == "ask":
            self.callers.append(Caller(self.pool, self.granted, self.server.turns))
        elif what == "settle":
            await settle()
        elif what == "restart":
            for connection in self.server.opened:
                connection.ended = connection.ended or "by the server"
        elif what in {"open", "fail"} and opening:
            answer = opening[number % len(opening)]
            answer.set_result(None) if what == "open" else answer.set_exception(TierUnavailable("L3: refused"))
        elif what == "cancel" and pending:
            pending[number % len(pending)].task.cancel()
        elif what in {"release", "die", "leave open"} and lent:
            self._end(lent[number % len(lent)], what)

    @staticmethod
    def _end(caller: Caller, how: str) -> None:
        assert caller.connection is not None
        if how == "die":
            caller.connection.ended = "by the server"
        caller.connection.in_transaction = how == "leave open"
        caller.release_now()

    async def finish(self) -> None:
        """Let all callers be served and go."""
        self.server.by_hand = False
        while not all(caller.task.done() for caller in self.callers):
            for answer in self.server.opening:
                if not answer.done():
                    answer.set_result(None)
            for caller in self.callers:
                if caller.connection is not None:
                    caller.release_now()
            await settle()
        await asyncio.gather(*(caller.task for caller in self.callers), return_exceptions=True)

    def turns(self) -> list[int]:
        """The callers in the order in which they were given a connection or the right to open one, by number."""
        numbers: dict[asyncio.Task[Any] | None, int] = {
            caller.task: number for number, caller in enumerate(self.callers)
        }
        return [numbers[task] for task in dict.fromkeys(self.server.turns)]


@settings(deadline=None, max_examples=200)
@given(size_max=st.integers(1, 3), steps=st.lists(st.tuples(actions, st.integers(0, 5)), max_size=60))
def test_no_sequence_exceeds_the_limit_loses_a_place_or_lets_anyone_overtake(
    size_max: int, steps: list[tuple[str, int]]
) -> None:
    """Asking, releasing, cancelling, dying and failing in any mixture and any tick keep the pool's three promises."""

    async def run() -> None:
        play = Play(size_max)
        for what, number in steps:
            await play.step(what, number)
            assert play.server.alive <= size_max
        await play.finish()
        await play.step("restart", 0)  # so that each place must be filled anew
        assert play.turns() == sorted(play.turns())
        found, granted = await callers(play.pool, size_max + 1)
        assert granted == found[:size_max], "every place is there again, and not one more"
        for caller in found:
            await caller.release()
        await play.pool.close()
        assert play.server.alive == 0

    asyncio.run(run())
