"""Scopes over tiers in memory: how they begin and end, and what they do when nobody knows what happened.

Two servers share L2 and L3, and each hears of changes by a feed of its own, which a test can hold.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from fix_races import until
from fix_scopes import NEW, OLD, Pair
from holdfast import Bot, Closed, Consistency, IncarnationChanged, InvalidToken, Kind, Scope, TierUnavailable
from holdfast.errors import OutcomeUnknown, SettingsError, StaleUnavailable
from holdfast.protocols import StorageTransaction
from holdfast.scopes.tokens import UNSURE_MAX, Token, encode
from holdfast.token_text import TOKEN_CHARACTERS_MAX


async def test_another_l3_ends_the_scope_and_its_token(pair: Pair) -> None:
    """What was seen may be lost: a typed error, on every way in."""
    async with pair.a.store.scope() as scope:
        await scope.bots.put("b1", NEW)
        token = scope.token
        pair.l3.crash(lose=1)
        await until(pair.a.feed.refresh)
        for call in (scope.bots.get("b1"), scope.bots.put("b1", NEW), scope.bots.delete("b1")):
            with pytest.raises(IncarnationChanged, match="begin a new scope"):
                await call
        with pytest.raises(IncarnationChanged):
            scope.bots.peek("b1")
        with pytest.raises(IncarnationChanged):
            _ = scope.token
        with pytest.raises(IncarnationChanged):
            async with scope.transaction():
                pass
    await until(pair.b.feed.refresh)
    with pytest.raises(IncarnationChanged):
        async with pair.b.store.scope(token):
            pass


async def test_a_token_newer_than_what_is_known_here_makes_the_server_look(pair: Pair) -> None:
    """The other server heard of the new L3 first."""
    pair.hearing[1].fail = True
    pair.l3.crash()
    await pair.a.feed.refresh()
    async with pair.a.store.scope() as scope:
        token = scope.token
    with pytest.raises(TierUnavailable, match="cannot be asked"):
        async with pair.b.store.scope(token):
            pass
    pair.hearing[1].fail = False
    polls = pair.b.feed.polls

    async def has_polled() -> bool:
        return pair.b.feed.polls > polls

    await until(has_polled)
    async with pair.b.store.scope(token) as scope:
        assert await scope.bots.get("b1") == OLD


async def test_a_scope_that_is_over_refuses_everything(pair: Pair) -> None:
    """Its block has ended, and so its promises."""
    async with pair.a.store.scope() as scope:
        token = scope.token
    for call in (scope.bots.get("b1"), scope.bots.put("b1", NEW), scope.bots.update("b1", lambda bot: bot)):
        with pytest.raises(Closed):
            await call
    with pytest.raises(Closed):
        _ = scope.token
    with pytest.raises(Closed):
        scope.bots.peek("b1")
    with pytest.raises(InvalidToken):
        async with pair.a.store.scope(token + "x"):
            pass
    with pytest.raises(SettingsError, match="not known here"):
        scope.collection(Kind("other", Bot))


class Late:
    """A transaction whose COMMIT is lost on its way, and arrives when the test says so."""

    def __init__(self, inner: StorageTransaction) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def commit(self) -> None:
        """Nobody knows."""
        raise OutcomeUnknown("the connection was lost")

    async def rollback(self) -> int | None:
        """There is no connection any more."""
        return None


async def test_an_unknown_outcome_is_waited_for_on_every_server(pair: Pair) -> None:
    """The transaction commits later: until a feed has seen its end, each read asks L3 (rule S1)."""
    async with pair.a.store.scope() as scope:
        late = await lose_commit(scope)
        token = scope.token
    async with pair.b.store.scope(token) as scope:
        assert await scope.bots.get("b1") == OLD
        assert await pair.b.store.bots.get("b1") == OLD
        await pair.hold(1)
        await late.inner.commit()
        assert await pair.b.store.bots.get("b1") == OLD
        assert await scope.bots.get("b1") == NEW
        assert scope.token != token
        pair.hearing[1].release()
        await pair.b.feed.refresh()
        loads = len(pair.l3.loads)
        assert [await scope.bots.get("b1") for _ in range(3)] == [NEW] * 3
        assert len(pair.l3.loads) <= loads + 1


async def lose_commit(scope: Scope) -> Late:
    """Change b1 in a transaction of unknown outcome."""
    late: list[Late] = []

    async def change() -> None:
        async with scope.transaction() as tx:
            await tx.bots.put("b1", NEW)
            late.append(Late(tx.storage))
            tx.storage = late[0]  # type: ignore[assignment]

    with pytest.raises(OutcomeUnknown):
        await change()
    return late[0]


async def test_a_scope_has_a_bound_of_unknown_outcomes(pair: Pair) -> None:
    """A token could not tell of more; the scope says so and ends."""
    async with pair.a.store.scope() as scope:
        for number in range(UNSURE_MAX):
            scope._session.see_all(0.0, [10**9 + number])
        assert len(scope.token) <= TOKEN_CHARACTERS_MAX
        scope._session.see_all(0.0, [10**9 + UNSURE_MAX])
        with pytest.raises(TierUnavailable, match="over 16 transactions of unknown outcome"):
            await scope.bots.get("b1")


async def test_a_forged_transaction_is_refused(pair: Pair) -> None:
    """One that L3 cannot have begun would be waited for for ever."""
    incarnation = pair.a.view.coherence.incarnation.bytes
    async with AsyncExitStack() as stack:
        with pytest.raises(InvalidToken, match="cannot have begun"):
            await stack.enter_async_context(pair.b.store.scope(encode(Token(incarnation, unsure=(2**63 - 1,)))))


async def test_a_scope_answers_between_its_entry_and_its_end(pair: Pair) -> None:
    """Once: not before, so that no token is passed over, and not again, so that nothing is forgotten."""
    scope = pair.a.store.scope("no token")
    with pytest.raises(Closed, match="enter the scope"):
        await scope.bots.get("b1")
    with pytest.raises(Closed):
        _ = scope.token
    with pytest.raises(InvalidToken):
        await scope.__aenter__()
    async with pair.a.store.scope() as scope:
        await scope.bots.put("b1", NEW)
        with pytest.raises(Closed, match="entered before"):
            await scope.__aenter__()
        assert await scope.bots.get("b1") == NEW
    with pytest.raises(Closed):
        await scope.__aenter__()


class Asked:
    """A transaction that never says what it has changed.

    Attributes:
        asked: somebody wants to know.
    """

    def __init__(self, inner: StorageTransaction) -> None:
        self.inner = inner
        self.asked = asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def affected(self) -> None:
        """Nothing comes back."""
        self.asked.set()
        await asyncio.get_running_loop().create_future()


async def test_a_transaction_cancelled_before_its_commit_changes_nothing(pair: Pair) -> None:
    """While it is asked what it changed: nobody could wait for its end, so it must have none."""
    async with pair.a.store.scope() as scope:
        storages: asyncio.Queue[Asked] = asyncio.Queue()

        async def change() -> None:
            async with scope.transaction() as tx:
                await tx.bots.put("b1", NEW)
                storages.put_nowait(storage := Asked(tx.storage))
                tx.storage = storage  # type: ignore[assignment]

        changing = asyncio.ensure_future(change())
        await (await storages.get()).asked.wait()
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
        assert await scope.bots.get("b1", consistency=Consistency.STRONG) == OLD


async def test_without_l3_a_scope_fails_rather_than_go_back(pair: Pair) -> None:
    """What the caller allows to be stale may be older, but not older than what the scope saw."""
    await pair.hold(1)
    async with pair.a.store.scope() as scope:
        await scope.bots.put("b1", NEW)
        token = scope.token
        await pair.hold(0)
        pair.l3.away = True
        assert await scope.bots.get("b1", max_stale=60.0) == NEW
    async with pair.b.store.scope(token) as scope:
        for max_stale in (None, 60.0):
            with pytest.raises(TierUnavailable) as caught:
                await scope.bots.get("b1", max_stale=max_stale)
            assert not isinstance(caught.value, StaleUnavailable)
    assert await pair.b.store.bots.get("b1") == OLD
