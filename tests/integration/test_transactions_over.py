"""On real servers, a transaction that is over writes nothing into that of whoever has its connection now."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

import holdfast
from fix_transactions import NEW, OLD
from holdfast.errors import Closed
from holdfast.node import OpenStore
from holdfast.settings import Settings


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[OpenStore]:
    """A server with one connection, so that the next transaction has that of the one before."""
    async with holdfast.connect(msgspec.structs.replace(settings, l3_connections_max=1)) as store:
        await store.bots.put("b1", OLD)
        yield store


async def test_nothing_of_it_gets_into_the_next_transaction(narrow: OpenStore) -> None:
    """Neither a document nor SQL."""
    async with narrow.transaction() as over:
        await over.bots.get("b1")
    async with narrow.transaction() as tx:
        with pytest.raises(Closed):
            await over.bots.put("b1", NEW)
        with pytest.raises(Closed):
            await over.bots.delete("b1")
        with pytest.raises(Closed):
            await over.connection.execute('DELETE FROM holdfast."User"')
        await tx.bots.put("b2", NEW)
    assert await narrow.bots.get_many(["b1", "b2"]) == {"b1": OLD, "b2": NEW}
