"""Who reads and writes in a world: the tasks of servers, and other tools on L3."""

from __future__ import annotations

import asyncio

from holdfast import Bot, Consistency, HoldfastError
from holdfast.errors import TierError
from holdfast.keys import Key
from holdfast.protocols import Isolation
from holdfast.transactions import Transaction
from simulation.scene import BOUNDS, KEYS, Scene, Server

STEPS = 14
OPEN_SECONDS = 2.0
READ_SECONDS = 3.0
"""No read takes longer, whatever becomes of the tiers: a poll of the feed that is given up after a second comes first,
and then a query on the slowest way."""


class Rollback(Exception):
    """A user's own error inside a transaction."""


class Agent:
    """A task of one server: reads and writes at random, one call after the other."""

    def __init__(self, scene: Scene, server: Server) -> None:
        self._scene = scene
        self._server = server
        self._random = scene.world.random
        self._records = scene.records

    async def run(self) -> None:
        """Take all steps; what fails as it may is counted."""
        steps = [self._get, self._put, self._strong, self._many, self._entry, self._transaction, self._update]
        steps += [self._delete, self._put_many]
        weights = (8, 4, 2, 2, 2, 2, 1, 1, 1)
        reads = (self._get, self._strong, self._many, self._entry)
        for _ in range(STEPS):
            await self._scene.world.pause(self._scene.theme.pace_seconds)
            (step,) = self._random.choices(steps, weights)
            began = self._scene.world.monotonic()
            try:
                await step(self._random.choice(KEYS))
            except (HoldfastError, Rollback):
                self._records.errors += 1
            took = self._scene.world.monotonic() - began
            if step in reads and took > READ_SECONDS:
                self._records.faults.append(f"a read of {self._server.name} took {took} s")

    async def _get(self, key: Key) -> None:
        began = self._scene.world.monotonic()
        bot = await self._server.collection(key.kind).get(key.id)
        self._read(key, bot, began)

    async def _strong(self, key: Key) -> None:
        began = self._scene.world.monotonic()
        bot = await self._server.collection(key.kind).get(key.id, consistency=Consistency.STRONG)
        self._read(key, bot, began, bound=0.0)

    async def _many(self, key: Key) -> None:
        began, ids = self._scene.world.monotonic(), [each.id for each in KEYS if each.kind == key.kind]
        consistency = self._random.choice(list(Consistency))
        bots = await self._server.collection(key.kind).get_many(ids, consistency=consistency)
        for identifier in ids:
            each = Key(key.kind, identifier)
            bound = 0.0 if consistency is Consistency.STRONG else None
            self._read(each, bots.get(identifier), began, bound=bound)

    async def _entry(self, key: Key) -> None:
        began = self._scene.world.monotonic()
        entry = await self._server.collection(key.kind).entry(key.id)
        self._read(
            key,
            entry.value if entry is not None else None,
            began,
            version=entry.version if entry is not None else None,
        )

    async def _put(self, key: Key) -> None:
        number, bot = self._scene.next_document()
        receipt = await self._server.collection(key.kind).put(key.id, bot)
        self._records.wrote(self._server.name, key, number, receipt.version)

    async def _put_many(self, key: Key) -> None:
        """More keys than one statement tells apart."""
        documents = {each.id: self._scene.next_document() for each in KEYS if each.kind == key.kind}
        receipts = await self._server.collection(key.kind).put_many({name: bot for name, (_, bot) in documents.items()})
        for name, (number, _) in documents.items():
            self._records.wrote(self._server.name, Key(key.kind, name), number, receipts[name].version)

    async def _update(self, key: Key) -> None:
        number = 0

        def change(_: Bot) -> Bot:
            nonlocal number
            number, bot = self._scene.next_document()
            return bot

        await self._server.collection(key.kind).update(key.id, change, default=Bot())
        self._records.wrote(self._server.name, key, number)

    async def _delete(self, key: Key) -> None:
        receipt = await self._server.collection(key.kind).delete(key.id)
        if receipt.existed:
            self._records.deleted(self._server.name, key, receipt.version)

    async def _transaction(self, _: Key) -> None:
        """Two keys through their collections, and a third by SQL of one's own."""
        numbers: dict[Key, int] = {}
        fails = self._random.random() < 0.2

        async def work(tx: Transaction) -> None:
            numbers.clear()  # it may run again
            first, second, third = self._random.sample(KEYS, 3)
            numbers[third] = self._scene.next_number()
            await tx.connection.put(third, body_of(numbers[third]))
            for key in (first, second):
                numbers[key], bot = self._scene.next_document()
                kind = self._server.collection(key.kind).kind
                await tx.collection(kind).put(key.id, bot)
            if fails:
                raise Rollback

        isolation = self._random.choice(list(Isolation))
        if isolation is Isolation.SERIALIZABLE:
            await self._server.flows.store.transact(work)
        else:
            async with self._server.flows.store.transaction(isolation) as tx:
                await work(tx)
        for key, number in numbers.items():
            self._records.wrote(self._server.name, key, number)

    def _read(
        self, key: Key, bot: Bot | None, began: float, *, bound: float | None = None, version: int | None = None
    ) -> None:
        number = None if bot is None else int(bot.name or 0)
        bound = BOUNDS[key.kind] if bound is None else bound
        self._records.read(self._server.name, key, number, began, bound, version)


def body_of(number: int) -> bytes:
    """A document as another tool writes it."""
    return b'{"name": "%d"}' % number


class Tools:
    """Everybody else who writes to L3."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._random = scene.world.random

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await self._scene.world.pause(self._scene.theme.pace_seconds * 2)
            if self._scene.l3.away:
                continue
            steps = (self._put, self._delete, self._truncate, self._open, self._rebirth)
            (step,) = self._random.choices(steps, (4, 2, 1, 2, 1))
            try:
                await step(self._random.choice(KEYS))
            except (TierError, Rollback):
                self._scene.records.errors += 1

    async def _put(self, key: Key) -> None:
        await self._scene.l3.raw_put(key, body_of(self._scene.next_number()))

    async def _delete(self, key: Key) -> None:
        await self._scene.l3.raw_delete(key)

    async def _truncate(self, key: Key) -> None:
        await self._scene.l3.truncate(key.kind)

    async def _open(self, key: Key) -> None:
        """A transaction that stays open while others go on."""
        async with self._scene.l3.begin() as transaction:
            await transaction.put(key, body_of(self._scene.next_number()))
            await self._scene.world.pause(OPEN_SECONDS)
            if self._random.random() < 0.2:
                raise Rollback

    async def _rebirth(self, key: Key) -> None:
        """A row's last value has a higher number than the row that follows its deletion (rule V1)."""
        async with asyncio.TaskGroup() as tasks, self._scene.l3.begin() as first:
            await first.put(key, body_of(self._scene.next_number()))
            tasks.create_task(self._delete_slowly(key))
            await asyncio.sleep(0.001)
            tasks.create_task(self._put(key))  # draws its number now
            await asyncio.sleep(0.001)
            await first.put(key, body_of(self._scene.next_number()))

    async def _delete_slowly(self, key: Key) -> None:
        async with self._scene.l3.begin() as second:
            await second.delete(key)
            await self._scene.world.pause(0.3)
