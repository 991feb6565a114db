"""Turns on keys: one holder at a time, in the order of asking, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fix_loop import settle
from holdfast.key_locks import KeyLocks
from holdfast.keys import Key

A, B = Key("bot", "a"), Key("bot", "b")


class Visitor:
    """A task that takes a turn and keeps it until it is let go."""

    def __init__(self, locks: KeyLocks, key: Key, order: list[Visitor]) -> None:
        self.key = key
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._visit(locks, order))

    def leave(self) -> None:
        """End the turn, or the next one if it has not begun."""
        self._leave.set()

    async def _visit(self, locks: KeyLocks, order: list[Visitor]) -> None:
        async with locks.turn(self.key):
            order.append(self)
            self.inside = True
            try:
                await self._leave.wait()
            finally:
                self.inside = False


async def visits(locks: KeyLocks, *keys: Key) -> tuple[list[Visitor], list[Visitor]]:
    """Visitors asking in this order, and the list of those whose turn began."""
    order: list[Visitor] = []
    visitors = [Visitor(locks, key, order) for key in keys]
    await settle()
    return visitors, order


async def test_turns_on_one_key_follow_the_order_of_asking() -> None:
    """Each waits for all who asked before, and nobody overtakes."""
    locks = KeyLocks()
    visitors, order = await visits(locks, A, A, A)
    for number, visitor in enumerate(visitors, start=1):
        assert order == visitors[:number]
        visitor.leave()
        await settle()


async def test_turns_on_different_keys_do_not_wait_for_each_other() -> None:
    """A key that is held holds up no other key, and equal ids of two kinds are two keys."""
    locks = KeyLocks()
    visitors, order = await visits(locks, A, B, Key("team", "a"))
    assert order == visitors
    assert len(locks) == 3
    for visitor in visitors:
        visitor.leave()


async def test_a_lock_exists_only_while_somebody_uses_it() -> None:
    """Millions of keys may be visited over a server's life; after the last visitor nothing is kept."""
    locks = KeyLocks()
    visitors, _ = await visits(locks, A, A, B)
    assert len(locks) == 2
    for visitor in visitors:
        visitor.leave()
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert len(locks) == 0


async def test_a_waiter_that_gives_up_is_passed_over() -> None:
    """Its place in line is free, and the ones behind it still get their turns."""
    locks = KeyLocks()
    (first, second, third), order = await visits(locks, A, A, A)
    second.task.cancel()
    await settle()
    assert order == [first]
    first.leave()
    await settle()
    assert order == [first, third]
    third.leave()
    await third.task
    assert len(locks) == 0


async def test_a_holder_that_fails_or_is_cancelled_gives_its_turn_on() -> None:
    """An error goes to whoever held the turn, and the next one in line holds it then."""
    locks = KeyLocks()
    with pytest.raises(ZeroDivisionError):
        async with locks.turn(A):
            _ = 1 / 0
    assert len(locks) == 0
    (first, second), order = await visits(locks, A, A)
    first.task.cancel()
    await settle()
    assert order == [first, second]
    second.leave()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["visit", "leave", "cancel"]), st.integers(0, 7)), max_size=30))
def test_no_sequence_lets_two_in_or_leaves_a_lock_behind(steps: list[tuple[str, int]]) -> None:
    """In any mixture of visits, leavings and cancellations a key has one holder, in order, and all ends empty."""

    async def run() -> None:
        locks, order, visitors = KeyLocks(), list[Visitor](), list[Visitor]()
        for what, number in steps:
            if what == "visit":
                visitors.append(Visitor(locks, A if number % 2 else B, order))
            elif visitors:
                visitor = visitors[number % len(visitors)]
                visitor.leave() if what == "leave" else visitor.task.cancel()
            await settle()
            holders = Counter(visitor.key for visitor in visitors if visitor.inside)
            waiting = {visitor.key for visitor in visitors if not visitor.task.done()}
            assert holders == dict.fromkeys(waiting, 1)
            assert len(locks) == len(waiting)
        for key in (A, B):
            begun = [visitors.index(visitor) for visitor in order if visitor.key == key]
            assert begun == sorted(begun)
        for visitor in visitors:
            visitor.leave()
        await asyncio.gather(*(visitor.task for visitor in visitors), return_exceptions=True)
        assert len(locks) == 0

    asyncio.run(run())
