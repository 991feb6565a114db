"""Transactions that were ended inside their block, over tiers in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from holdfast import Bot, OutcomeUnknown, SerializationFailure
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.testing.door import connect_flows

ADA, EVE = Bot(name="Ada"), Bot(name="Eve")


@pytest.fixture
async def flows() -> AsyncIterator[Flows]:
    async with connect_flows() as opened:
        await opened.store.bots.put_many({"b1": ADA, "b2": ADA})
        yield opened


async def change_and_end(flows: Flows, how: str) -> None:
    """A transaction that changes two bots, one of them by SQL of its own, and is ended before its block."""
    async with flows.store.transaction() as tx:
        await tx.bots.put("b1", EVE)
        await tx.connection.put(Key("bot", "b2"), b'{"name":"Eve"}')
        await getattr(tx.connection, how)()


@pytest.mark.parametrize(("how", "found"), [("commit", EVE), ("rollback", ADA)])
async def test_an_end_inside_the_block_is_an_unknown_outcome(flows: Flows, how: str, found: Bot) -> None:
    """Nothing older is answered afterwards (S1)."""
    assert await flows.store.bots.get_many(["b1", "b2"]) == {"b1": ADA, "b2": ADA}
    with pytest.raises(OutcomeUnknown, match="ended its transaction"):
        await change_and_end(flows, how)
    assert await flows.store.bots.get_many(["b1", "b2"]) == {"b1": found, "b2": found}
    assert flows.store.bots.peek("b1") == found, "caches do not count again"


async def test_without_a_feed_no_cache_answers(flows: Flows) -> None:
    """Until it can be read, and has come past what was committed."""
    flows.feed._source.fail = True  # type: ignore[attr-defined]
    with pytest.raises(OutcomeUnknown):
        await change_and_end(flows, "commit")
    assert flows.store.bots.peek("b2") is None
    assert await flows.store.bots.get_many(["b1", "b2"]) == {"b1": EVE, "b2": EVE}


@pytest.mark.parametrize("feed_fails", [False, True])
async def test_a_block_that_raises_after_an_end_is_doubted_too(flows: Flows, *, feed_fails: bool) -> None:
    """Its error comes out, and what had been committed is known, or no cache answers."""
    assert await flows.store.bots.get("b2") == ADA
    flows.feed._source.fail = feed_fails  # type: ignore[attr-defined]
    with pytest.raises(SerializationFailure):  # noqa: PT012 - the end of the block is part of it
        async with flows.store.transaction() as tx:
            await tx.bots.put("b1", EVE)
            await tx.connection.put(Key("bot", "b2"), b'{"name":"Eve"}')
            await tx.connection.commit()
            raise SerializationFailure("of the user's")
    assert await flows.store.bots.get_many(["b1", "b2"]) == {"b1": EVE, "b2": EVE}
