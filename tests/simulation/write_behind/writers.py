"""Who writes and reads in a world: the tasks of servers."""

from __future__ import annotations

from holdfast import Append, Consistency, Delete, Durability, HoldfastError, Increment, Merge, Set
from holdfast.errors import Undecided
from holdfast.keys import Key
from holdfast.transactions import Transaction
from holdfast.write_behind.operations import Operation
from holdfast.write_behind.receipts import PendingWrite
from simulation.write_behind.ledger import KEYS, LEDGER, Ledger, with_token
from simulation.write_behind.scene import Scene, Server

STEPS = 12


class Writer:
    """A task of one server: writes and reads at random, one call after the other."""

    def __init__(self, scene: Scene, server: Server) -> None:
        self._scene = scene
        self._server = server
        self._random = scene.world.random

    async def run(self) -> None:
        """Take all steps; what fails as it may is counted."""
        steps = [self._patch, self._get, self._many, self._update, self._settle]
        weights = [10, 6, 1, 1, 1]
        if self._scene.theme.cutting:
            steps += [self._replace, self._remove, self._put, self._delete, self._transaction]
            weights += [1, 1, 1, 1, 1]
        for _ in range(STEPS):
            await self._scene.world.pause(self._scene.theme.pace_seconds)
            (step,) = self._random.choices(steps, weights)
            try:
                await step(self._random.choice(KEYS))
            except HoldfastError:
                self._scene.records.errors += 1

    async def _patch(self, key: Key) -> None:
        """A token, and something beside it."""
        token = self._scene.token()
        beside: tuple[Operation, ...] = self._random.choice(
            ((), (), (Set("note", token),), (Merge("facts", {token: 1}),), (Delete("note"),))
        )
        default = self._scene.document() if self._random.random() < 0.9 else None
        await self._write(key, *beside, Increment("count"), Append("tokens", token), default=default)

    async def _remove(self, key: Key) -> None:
        await self._write(key, Delete(), default=None)

    async def _replace(self, key: Key) -> None:
        durability = self._random.choice((Durability.ACCEPTED, Durability.JOURNALED))
        await self._server.ledgers.put(key.id, self._scene.document(), durability=durability)

    async def _write(self, key: Key, *operations: Operation, default: Ledger | None) -> None:
        durability = self._random.choice(list(Durability))
        try:
            receipt = await self._server.ledgers.patch(key.id, *operations, default=default, durability=durability)
        except Undecided as late:
            if self._random.random() < 0.5:
                raise
            receipt = await late.receipt.reached(Durability.COMMITTED, 1.0)
        assert receipt.durability.covers(durability)
        if receipt.durability is Durability.COMMITTED:
            assert isinstance(receipt, PendingWrite)
            self._scene.records.told_committed(receipt)

    async def _get(self, key: Key) -> None:
        records = self._scene.records
        own = records.own(self._server.name, key)
        document = await self._server.ledgers.get(key.id, consistency=self._random.choice(list(Consistency)))
        records.read(self._server.name, key, document, own)

    async def _many(self, _: Key) -> None:
        records = self._scene.records
        own = {key: records.own(self._server.name, key) for key in KEYS}
        documents = await self._server.ledgers.get_many([key.id for key in KEYS])
        for key in KEYS:
            records.read(self._server.name, key, documents.get(key.id), own[key])

    async def _settle(self, _: Key) -> None:
        await self._server.flows.store.flush(1.0)

    async def _put(self, key: Key) -> None:
        document = self._scene.document()
        self._scene.judge.puts[document.author] = document
        await self._server.ledgers.put(key.id, document)

    async def _delete(self, key: Key) -> None:
        self._scene.judge.deletes += 1
        await self._server.ledgers.delete(key.id)

    async def _update(self, key: Key) -> None:
        await self._server.ledgers.update(key.id, self._with_a_token)

    async def _transaction(self, _: Key) -> None:
        """Two keys at once."""
        put, updated = self._random.sample(KEYS, 2)

        async def work(tx: Transaction) -> None:
            document = self._scene.document()
            self._scene.judge.puts[document.author] = document
            ledgers = tx.collection(LEDGER)
            await ledgers.put(put.id, document)
            await ledgers.update(updated.id, self._with_a_token)

        async with self._server.flows.store.transaction() as tx:
            await work(tx)

    def _with_a_token(self, document: Ledger) -> Ledger:
        token = self._scene.token()
        self._scene.judge.updates.add(token)
        return with_token(document, token)
