"""Who writes in a world of owners: the tasks of servers."""

from __future__ import annotations

from typing import cast

import msgspec

from holdfast import Append, Consistency, Durability
from holdfast.collection import Collection
from holdfast.errors import HoldfastError, Undecided
from holdfast.keys import Key
from holdfast.write_behind.receipts import PendingWrite
from simulation.owners.held import HELD, KEYS, Held
from simulation.owners.records import OwnerRecords, Taken
from simulation.write_behind.scene import Scene, Server

STEPS = 12


class Lost(HoldfastError):
    """Somebody else was faster."""


class Worker:
    """A task of one server: takes documents over, writes to them under its epoch, and reads.

    What it owns it believes until it is told otherwise, as a server that stood still does.
    """

    def __init__(self, scene: Scene, server: Server) -> None:
        self._scene = scene
        self._server = server
        self._random = scene.world.random
        self._records = cast("OwnerRecords", scene.records)
        self._owned: dict[Key, int] = {}

    @property
    def _documents(self) -> Collection[Held]:
        return self._server.flows.store.collection(HELD)

    async def run(self) -> None:
        """Take all steps; what fails as it may is counted."""
        steps = [self._write, self._write_for_nobody, self._take_over, self._read]
        for _ in range(STEPS):
            await self._scene.world.pause(self._scene.theme.pace_seconds)
            (step,) = self._random.choices(steps, [10, 2, 3, 6])
            try:
                await step(self._random.choice(KEYS))
            except HoldfastError:
                self._records.errors += 1

    async def _write(self, key: Key) -> None:
        if (epoch := self._owned.get(key)) is not None:
            await self._patch(key, epoch)

    async def _write_for_nobody(self, key: Key) -> None:
        await self._patch(key, 0)

    async def _patch(self, key: Key, owner: int) -> None:
        durability = self._random.choice(list(Durability))
        append = Append("items", self._scene.token())
        try:
            receipt = await self._documents.accept(key, (append,), None, durability, owner)
        except Undecided as late:
            receipt = await late.receipt.reached(Durability.COMMITTED, 1.0)
        if receipt.durability.covers(Durability.JOURNALED):
            self._records.acknowledged(cast("PendingWrite", receipt))

    async def _read(self, key: Key) -> None:
        own = self._records.of_server(self._server.name, key)
        held = await self._documents.get(key.id, consistency=self._random.choice(list(Consistency)))
        self._records.answered(self._server.name, key, held, own)

    async def _take_over(self, key: Key) -> None:
        entry = await self._documents.entry(key.id, consistency=Consistency.STRONG)
        if entry is None:
            await self._documents.put(key.id, Held(epoch=1, owner=self._server.name), expected_version=0)
            self._owned[key] = 1
            return
        before, began = entry.value, self._records.now()
        await self._server.flows.handing_over.decide_for(key, before.owner)

        def raised(held: Held) -> Held:
            if held.epoch != before.epoch:
                raise Lost(f"{key} is at {held.epoch}")
            # Still at that epoch when all is decided: what was acknowledged before is in it, whoever raises it then.
            self._records.taken.append(Taken(key, before.epoch, began))
            return msgspec.structs.replace(held, epoch=held.epoch + 1, owner=self._server.name)

        await self._documents.update(key.id, raised)
        self._owned[key] = before.epoch + 1
