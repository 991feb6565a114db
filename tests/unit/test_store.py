"""The door over tiers in memory: what it refuses, what callers share, and who takes turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import msgspec
import pytest

from holdfast import Bot, Caching, Document, InvalidKey, Kind, SettingsError, StateStore, Swarm
from holdfast.flows import Flows
from holdfast.testing import MemoryStorage, PausingStorage, connect
from holdfast.testing.door import connect_flows
from holdfast.tiers.batching import WAITING_MAX

ADA, BOB = Bot(name="Ada"), Bot(name="Bob")


class Plan(Document, frozen=True, kw_only=True):
    """An own document."""

    title: str


PLANS = Kind("plan", Plan)


@pytest.fixture
async def state() -> AsyncIterator[StateStore]:
    """A server that knows an own kind."""
    async with connect(kinds=[PLANS]) as store:
        yield store


@pytest.fixture
def l3() -> MemoryStorage:
    """What is stored, and which loads there were."""
    return MemoryStorage()


@pytest.fixture
def pausing(l3: MemoryStorage) -> PausingStorage:
    """The way to it, which can be held up."""
    return PausingStorage(l3)


@pytest.fixture
async def cold(l3: MemoryStorage, pausing: PausingStorage) -> AsyncIterator[Flows]:
    """A server whose bots `b1` and `b2` are in L3 alone."""
    async with connect_flows(l3=pausing) as flows:
        await flows.store.bots.put_many({"b1": ADA, "b2": BOB})
        flows.caches["bot"].flush()
        l3.loads.clear()
        yield flows


async def test_one_text_is_not_a_list_of_ids(state: StateStore) -> None:
    """`get_many("b1")` is a mistake, not a wish for the documents b and 1."""
    with pytest.raises(InvalidKey, match=r"get_many takes several ids, not one text: get_many\(\['b1'\]\)"):
        await state.bots.get_many("b1")


@pytest.mark.parametrize("documents", ["b1", "", [("b1", ADA)], None])
async def test_put_many_takes_documents_by_their_ids(state: StateStore, documents: object) -> None:
    """Whatever is no mapping is refused with a sentence, also what is empty."""
    with pytest.raises(InvalidKey, match=r"put_many takes documents by their ids, not a (str|list|NoneType)"):
        await state.bots.put_many(documents)  # type: ignore[arg-type]


async def test_more_ids_than_may_wait_are_served(state: StateStore) -> None:
    """No `get_many` is so large that it is refused however often it is repeated."""
    await state.bots.put("b7", ADA)
    assert await state.bots.get_many(f"b{number}" for number in range(WAITING_MAX + 2)) == {"b7": ADA}


async def test_an_equal_kind_finds_the_collection(state: StateStore) -> None:
    """Two modules that declare the same kind mean the same collection."""
    assert state.collection(Kind("plan", Plan)) is state.collection(PLANS)


@pytest.mark.parametrize(
    ("given", "differing"),
    [
        (Kind("plan", Swarm), "document"),
        (replace(PLANS, table="Plans", append_only=True), "table, append_only"),
        (replace(PLANS, caching=Caching(l1_entries_max=5)), "caching"),
    ],
)
async def test_another_kind_of_the_same_name_is_refused(state: StateStore, given: Kind[Plan], differing: str) -> None:
    """It would be read as what it is not; the error says what differs from the kind that `connect` was given."""
    with pytest.raises(SettingsError, match=f"kind plan is not the one known here: they differ in {differing}$"):
        state.collection(given)


async def test_an_unknown_kind_is_refused(state: StateStore) -> None:
    """A kind that `connect` was not given has no collection, and neither has a name."""
    with pytest.raises(SettingsError, match=r"kind note is not known here: connect\(kinds=\[...\]\) takes own kinds"):
        state.collection(Kind("note", Plan))
    with pytest.raises(SettingsError, match="collection takes a Kind, not a str"):
        state.collection("plan")  # type: ignore[arg-type]


async def test_a_cancelled_get_many_leaves_its_flights_to_the_others(
    cold: Flows, l3: MemoryStorage, pausing: PausingStorage
) -> None:
    """R4: callers that joined the flights of one that is cancelled are answered, by the load under way."""
    bots, pause = cold.store.bots, pausing.pause_next_load()
    loop = asyncio.get_running_loop()
    leaving = loop.create_task(bots.get_many(["b1", "b2"]))
    many, one = loop.create_task(bots.get_many(["b1", "b2", "nobody"])), loop.create_task(bots.get("b1"))
    async with asyncio.timeout(10):
        await pause.reached.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        pause.release()
        assert await many == {"b1": ADA, "b2": BOB}
        assert await one == ADA
    assert [sorted(key.id for key in load) for load in l3.loads] == [["b1", "b2", "nobody"]]


def adding(number: int, runs: list[int]) -> Callable[[Swarm], Swarm]:
    """A change that appends its number to the document, and to the runs of all."""

    def change(swarm: Swarm) -> Swarm:
        runs.append(number)
        return msgspec.structs.replace(swarm, metadata={"numbers": [*swarm.metadata.get("numbers", ()), number]})

    return change


async def test_updates_of_one_key_take_turns(state: StateStore) -> None:
    """Tasks of one server never lose to each other: each change runs once, in the order of the calls."""
    runs: list[int] = []
    asked = list(range(30))
    await asyncio.gather(
        *(state.swarms.update("s1", adding(number, runs), default=Swarm(goal="count")) for number in asked)
    )
    assert runs == asked
    swarm = await state.swarms.get("s1")
    assert swarm is not None
    assert swarm.metadata["numbers"] == asked


async def test_an_update_that_fails_or_is_cancelled_gives_its_turn_on(state: StateStore) -> None:
    """Whatever becomes of one update, those behind it run, once each."""
    runs: list[int] = []
    await state.swarms.put("s1", Swarm(goal="count"))

    def refuse(_: Swarm) -> Swarm:
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    changes = (adding(0, runs), refuse, adding(2, runs), adding(3, runs))
    tasks = [loop.create_task(state.swarms.update("s1", change)) for change in changes]
    await asyncio.sleep(0)  # all of them wait for a turn, or hold it
    tasks[2].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Swarm, ZeroDivisionError, asyncio.CancelledError, Swarm]
    assert runs == [0, 3]


async def test_an_update_does_not_wait_for_those_of_other_keys(cold: Flows, pausing: PausingStorage) -> None:
    """A key whose update is held up by L3 holds up no other key."""
    bots, pause = cold.store.bots, pausing.pause_next_load()
    held = asyncio.get_running_loop().create_task(bots.update("b1", lambda bot: bot))
    async with asyncio.timeout(10):
        await pause.reached.wait()
        assert (await bots.update("b2", lambda _: ADA)) == ADA
        assert not held.done()
        pause.release()
        await held
