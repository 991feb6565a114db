"""Fences on their way to L2: sent, kept, repeated, bounded. And the generations that void entries without one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fix_loop import settle
from holdfast.invalidation.fences import BATCH_MAX, RETRY_SECONDS, FenceSender
from holdfast.keys import Key
from holdfast.protocols import Coherence
from holdfast.testing import ManualClock, MemoryCache

A, B, C = Key("bot", "a"), Key("bot", "b"), Key("team", "c")


class Line(MemoryCache):
    """L2 in memory, some of whose nodes do not answer.

    Attributes:
        away_kinds: keys of these kinds cannot be told.
        faults: raised by the next calls, one each.
        sent: each call's fences and coherence.
        held_up: while set, calls stop before they are answered.
    """

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.away_kinds: set[str] = set()
        self.faults: list[Exception] = []
        self.sent: list[tuple[dict[Key, int], Coherence]] = []
        self.held_up: asyncio.Event | None = None

    async def fence(self, versions: Mapping[Key, int], coherence: Coherence) -> Sequence[Key]:
        """Tell the nodes that are here."""
        self.sent.append((dict(versions), coherence))
        if self.held_up is not None:
            await self.held_up.wait()
        if self.faults:
            raise self.faults.pop(0)
        told = {key: version for key, version in versions.items() if key.kind not in self.away_kinds}
        await super().fence(told, coherence)
        return [key for key in versions if key not in told]

    def fences(self) -> list[dict[Key, int]]:
        """What each call carried."""
        return [versions for versions, _ in self.sent]


class Rounds:
    """The pauses between repetitions, ended by hand.

    Attributes:
        asked: the seconds of each pause.
    """

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._pause = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Pause until `go`."""
        self.asked.append(seconds)
        self._pause.clear()
        await self._pause.wait()

    async def go(self) -> None:
        """Let one repetition run."""
        await settle()
        self._pause.set()
        await settle()


class Bench:
    """A sender with what it needs."""

    def __init__(self, **options: Any) -> None:
        self.l2 = Line()
        self.rounds = Rounds()
        self.coherence = Coherence(UUID(int=1), {"all": 1})
        self.sender = FenceSender(self.l2, lambda: self.coherence, sleep=self.rounds.sleep, **options)


@pytest.fixture
def bench() -> Bench:
    """A sender to an L2 whose nodes all answer."""
    return Bench()


def tasks() -> int:
    """How many tasks run beside the test."""
    return len(asyncio.all_tasks()) - 1


async def test_what_was_told_is_forgotten(bench: Bench) -> None:
    """With every node told nothing is pending, and no loop runs."""
    await bench.sender.send({A: 5, B: 6})
    assert bench.l2.fences() == [{A: 5, B: 6}]
    assert bench.sender.pending == {}
    assert (tasks(), bench.rounds.asked) == (0, [])


async def test_a_fence_is_pending_before_it_is_sent(bench: Bench) -> None:
    """A reader between the commit and the fence's arrival already sees that L2 is not to be believed."""
    bench.l2.held_up = asyncio.Event()
    sending = asyncio.get_running_loop().create_task(bench.sender.send({A: 5}))
    await settle()
    assert bench.sender.pending == {A: 5}
    bench.l2.held_up.set()
    await sending
    assert bench.sender.pending == {}


async def test_what_could_not_be_told_is_repeated_until_it_is(bench: Bench) -> None:
    """The call returns, its untold keys stay pending, and a loop repeats them alone and then ends."""
    bench.l2.away_kinds = {"bot"}
    await bench.sender.send({A: 5, C: 7})
    assert bench.sender.pending == {A: 5}
    await bench.rounds.go()
    assert bench.sender.pending == {A: 5}
    bench.l2.away_kinds = set()
    await bench.rounds.go()
    assert bench.sender.pending == {}
    assert bench.l2.fences() == [{A: 5, C: 7}, {A: 5}, {A: 5}]
    assert (tasks(), bench.rounds.asked) == (0, [RETRY_SECONDS] * 2)


async def test_one_loop_repeats_for_all_and_starts_anew_when_needed(bench: Bench) -> None:
    """Several undelivered fences share one loop; after it ended the next undelivered one starts another."""
    for _ in range(2):
        bench.l2.away_kinds = {"bot"}
        await bench.sender.send({A: 5})
        await bench.sender.send({B: 6})
        assert tasks() == 1
        bench.l2.away_kinds = set()
        await bench.rounds.go()
        assert bench.l2.fences()[-1] == {A: 5, B: 6}
        assert tasks() == 0


async def test_a_fence_raised_while_it_is_sent_stays_pending(bench: Bench) -> None:
    """The answer to the lower one does not settle the higher one, which is repeated."""
    arrives = bench.l2.held_up = asyncio.Event()
    lower = asyncio.get_running_loop().create_task(bench.sender.send({A: 5}))
    await settle()
    bench.l2.held_up, bench.l2.away_kinds = None, {"bot"}
    await bench.sender.send({A: 6})
    bench.l2.away_kinds = set()
    arrives.set()
    await lower
    assert bench.sender.pending == {A: 6}
    await bench.rounds.go()
    assert bench.l2.fences() == [{A: 5}, {A: 6}, {A: 6}]
    assert bench.sender.pending == {}


async def test_a_lower_fence_never_replaces_a_pending_higher_one(bench: Bench) -> None:
    """Writers may report in another order than they committed: the highest version is what L2 is told."""
    bench.l2.away_kinds = {"bot"}
    await bench.sender.send({A: 9})
    await bench.sender.send({A: 4})
    assert bench.sender.pending == {A: 9}
    assert bench.l2.fences() == [{A: 9}, {A: 9}]
    await bench.sender.stop()


async def test_each_attempt_asks_what_is_known_of_l3(bench: Bench) -> None:
    """A repetition after a failover carries the new incarnation."""
    bench.l2.away_kinds = {"bot"}
    await bench.sender.send({A: 5})
    before, bench.coherence = bench.coherence, Coherence(UUID(int=2), {"all": 9})
    await bench.rounds.go()
    assert [coherence for _, coherence in bench.l2.sent] == [before, bench.coherence]
    await bench.sender.stop()


async def test_pending_fences_are_bounded_and_the_oldest_given_up() -> None:
    """Above `pending_max` the keys noted longest ago go, and are counted; a key noted again is young."""
    bench = Bench(pending_max=2)
    bench.l2.away_kinds = {"bot", "team"}
    for key in (A, B, A, C):
        await bench.sender.send({key: 5})
    assert bench.sender.pending == {A: 5, C: 5}
    assert bench.sender.given_up == 1
    await bench.sender.send({Key("bot", f"b{number}"): 1 for number in range(10)})
    assert len(bench.sender.pending) == 2
    assert bench.sender.given_up == 11
    await bench.sender.stop()


async def test_the_loop_outlives_a_fault_and_shows_it(bench: Bench) -> None:
    """A tier that breaks its contract stops nothing: the fault reaches the loop's exception handler, the fence L2."""
    shown: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
    bench.l2.away_kinds = {"bot"}
    await bench.sender.send({A: 5})
    fault = RuntimeError("a bug")
    bench.l2.faults, bench.l2.away_kinds = [fault], set()
    await bench.rounds.go()
    assert [context["exception"] for context in shown] == [fault]
    assert bench.sender.pending == {A: 5}
    await bench.rounds.go()
    assert bench.sender.pending == {}


async def test_a_fence_whose_first_attempt_raised_is_repeated(bench: Bench) -> None:
    """It is pending, so the loop must run: otherwise the older value would stand in L2 until somebody writes again."""
    bench.l2.faults = [RuntimeError("a bug")]
    with pytest.raises(RuntimeError, match="a bug"):
        await bench.sender.send({A: 5})
    await bench.rounds.go()
    assert bench.l2.fences() == [{A: 5}, {A: 5}]
    assert bench.sender.pending == {}


async def test_a_fence_whose_sender_was_cancelled_is_repeated(bench: Bench) -> None:
    """The write is committed whatever becomes of the task that reports it."""
    bench.l2.held_up = asyncio.Event()
    sending = asyncio.get_running_loop().create_task(bench.sender.send({A: 5}))
    await settle()
    sending.cancel()
    await settle()
    assert sending.cancelled()
    bench.l2.held_up.set()
    await bench.rounds.go()
    assert bench.l2.fences() == [{A: 5}, {A: 5}]
    assert bench.sender.pending == {}


async def test_a_node_that_stays_away_does_not_hold_up_the_fences_of_others(bench: Bench) -> None:
    """However many keys of a dead node are pending, those of a node that came back are delivered."""
    bench.l2.away_kinds = {"bot", "team"}
    await bench.sender.send({Key("bot", f"b{number}"): 1 for number in range(BATCH_MAX + 1)})
    await bench.sender.send({C: 7})
    bench.l2.away_kinds = {"bot"}
    await bench.rounds.go()
    assert C not in bench.sender.pending
    assert len(bench.sender.pending) == BATCH_MAX + 1
    await bench.sender.stop()


async def test_no_call_carries_more_than_a_script_may_hold_a_node_up_for(bench: Bench) -> None:
    """Sent or repeated, fences go in calls of at most `BATCH_MAX`, and one round delivers all that can be."""
    bench.l2.away_kinds = {"bot"}
    await bench.sender.send({Key("bot", f"b{number}"): 1 for number in range(2 * BATCH_MAX + 1)})
    bench.l2.away_kinds = set()
    await bench.rounds.go()
    assert [len(versions) for versions in bench.l2.fences()] == [BATCH_MAX, BATCH_MAX, 1] * 2
    assert bench.sender.pending == {}


async def test_stopping_ends_the_repetition(bench: Bench) -> None:
    """Nothing runs afterwards and what is pending stays so; stopping twice, or what never ran, is harmless."""
    await bench.sender.stop()
    bench.l2.away_kinds = {"bot"}
    await bench.sender.send({A: 5})
    await settle()
    await bench.sender.stop()
    assert tasks() == 0
    await bench.rounds.go()
    assert bench.l2.fences() == [{A: 5}]
    assert bench.sender.pending == {A: 5}
    await bench.sender.stop()


async def test_stopping_in_the_middle_of_a_repetition_ends_it(bench: Bench) -> None:
    """A node that does not answer cannot hold up the end of a server."""
    bench.l2.away_kinds = {"bot"}
    await bench.sender.send({A: 5})
    bench.l2.held_up = asyncio.Event()
    await bench.rounds.go()
    assert len(bench.l2.sent) == 2
    async with asyncio.timeout(10):
        await bench.sender.stop()
    assert tasks() == 0
    assert bench.sender.pending == {A: 5}


def test_a_sender_is_made_without_a_loop() -> None:
    """The constructor starts nothing."""
    sender = FenceSender(MemoryCache(ManualClock()), lambda: Coherence(UUID(int=1)), sleep=asyncio.sleep)
    assert sender.pending == {}


GENERATIONS = {"all": 10, "kind:bot": 20, "kind:team": 5}


@pytest.mark.parametrize(("kind", "floor"), [("bot", 20), ("team", 10), ("swarm", 10)])
def test_the_floor_of_a_kind_is_its_own_generation_or_everyones(kind: str, floor: int) -> None:
    """The higher of the two counts, and another kind's generation voids nothing."""
    assert Coherence(UUID(int=1), GENERATIONS).floor(kind) == floor


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["all", "kind:bot", "kind:team"]), st.integers(0, 2**62)))
def test_a_fill_of_now_counts_for_every_kind(generations: dict[str, int]) -> None:
    """The highest generation known, which a fill carries, is at least the floor of each kind, and is one of them."""
    coherence = Coherence(UUID(int=1), generations)
    assert all(coherence.highest >= coherence.floor(kind) for kind in ("bot", "team", "swarm"))
    assert coherence.highest in {0, *generations.values()}
