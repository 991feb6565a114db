"""The client of a connection, lent to several calls at a time: one that is given up is closed when the last is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_connect import Client


class LentClients:
    """Lends the client of a connection, and replaces it."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._users = Counter[Client]()
        self._given_up: set[Client] = set()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Client]:
        """The client there is now.

        Raises:
            TierUnavailable: there is none.
        """
        client = await self._connection.client()
        self._users[client] += 1
        try:
            yield client
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client]
                await self._close_if_given_up(client)

    def give_up(self, client: Client) -> bool:
        """Let later calls get a new one; False: they do already, or did so just now."""
        if not self._connection.give_up(client):
            return False
        self._given_up.add(client)
        return True

    async def close(self) -> None:
        """Close those that were given up; the connection closes its own."""
        for client in list(self._given_up):
            await self._close_if_given_up(client)

    async def _close_if_given_up(self, client: Client) -> None:
        if client in self._given_up:
            self._given_up.discard(client)
            await client.close()
