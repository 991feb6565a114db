"""Scopes on real servers: what one has seen by whatever tool, the next does not go back behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest

import holdfast
from fix_races import until
from fix_tiers import flows_of, make_deaf
from fix_transactions import AFTER, BEFORE, NOTES, change_all, held, prepare
from holdfast import Bot, Consistency, IncarnationChanged, Scope, TierUnavailable
from holdfast.node import OpenStore
from holdfast.settings import Settings
from holdfast.token_text import TOKEN_CHARACTERS_MAX
from integration.test_incarnation import become_another, until_all_learnt

BOUND_SECONDS = 30.0
"""So long that a server which hears no hints surely answers from memory for as long as a test takes."""


@pytest.fixture
async def state(settings: Settings) -> AsyncIterator[OpenStore]:
    async with holdfast.connect(settings, kinds=[NOTES]) as store:
        await prepare(store, settings)
        yield store


@pytest.fixture
def patient(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, staleness_bound_seconds=BOUND_SECONDS)


@pytest.fixture
async def other(patient: Settings, state: OpenStore) -> AsyncIterator[OpenStore]:
    """A server that holds all rows, and hears of changes every few seconds only."""
    async with holdfast.connect(patient, kinds=[NOTES]) as store:
        make_deaf(flows_of(store))
        assert await held_strongly(store) == BEFORE
        assert await flows_of(store).feed.refresh()
        assert await held(store) == BEFORE
        yield store


async def held_strongly(store: OpenStore) -> list[object]:
    """What L3 answers a server, which holds it from then on."""
    bots, notes = store.bots, store.collection(NOTES)
    found = await bots.get_many(["b1", "b2", "b3"], consistency=Consistency.STRONG)
    return [*(found.get(each) for each in ("b1", "b2", "b3")), await notes.get("b3", consistency=Consistency.STRONG)]


async def seen_by(scope: Scope) -> list[object]:
    """What a scope is answered for them."""
    notes = scope.collection(NOTES)
    return [*[await scope.bots.get(each) for each in ("b1", "b2", "b3")], await notes.get("b3")]


async def changed(store: OpenStore) -> str:
    """Change all rows through the door, by SQL and by a cascade, in a scope; its token."""
    async with store.scope() as scope:
        async with scope.transaction() as tx:
            await change_all(tx)
        assert await seen_by(scope) == AFTER
        return scope.token


async def test_a_token_takes_sql_and_cascades_along(state: OpenStore, other: OpenStore) -> None:
    """At once, on a server whose own readers are still answered from memory."""
    token = await changed(state)
    assert await held(other) == BEFORE
    async with other.scope(token) as scope:
        assert await seen_by(scope) == AFTER
        assert len(scope.token) <= TOKEN_CHARACTERS_MAX
    assert await held(other) == AFTER, "its poll has told the server too"


async def test_a_token_outlives_the_servers(state: OpenStore, patient: Settings) -> None:
    """Both: the one that issued it is closed, and the one it goes to was started anew."""
    async with AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(holdfast.connect(patient, kinds=[NOTES]))
        async with issuer.scope() as scope:
            await scope.bots.put("b1", Bot(name="from the issuer"))
            await scope.collection(NOTES).delete("b3")
            token = scope.token
    for _ in range(2):
        async with holdfast.connect(patient, kinds=[NOTES]) as started, started.scope(token) as scope:
            assert await scope.bots.get("b1") == Bot(name="from the issuer")
            assert await scope.collection(NOTES).get("b3") is None
            token = scope.token


async def test_a_token_of_another_l3_is_refused(state: OpenStore, settings: Settings) -> None:
    """What it has seen may be lost; a scope that is open learns it too."""
    incarnation = flows_of(state).view.coherence.incarnation
    async with state.scope() as scope:
        await scope.bots.get("b1")
        token = scope.token
        await become_another(settings)
        await until_all_learnt(incarnation, state)
        with pytest.raises(IncarnationChanged, match="begin a new scope"):
            await scope.bots.get("b1")

    async def is_refused() -> bool:
        """An answer that comes late may bring the former identity back, until the feed is asked next.

        And on a busy machine the feed may not answer in time, which is told as such.
        """
        try:
            async with state.scope(token):
                return False
        except TierUnavailable:
            return False
        except IncarnationChanged:
            return True

    await until(is_refused)
    async with state.scope() as scope:
        assert await scope.bots.get("b1") == BEFORE[0]
