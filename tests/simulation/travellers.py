"""Scopes that travel from server to server, with nothing but their tokens."""

from __future__ import annotations

from holdfast import Bot, Consistency, HoldfastError, IncarnationChanged, Scope
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import Isolation
from simulation.actors import Rollback, body_of
from simulation.scene import BOUNDS, KEYS, Scene

STOPS = 6
CALLS_MAX = 8


class Traveller:
    """One caller whose work goes on on other servers: a scope on each, begun with the token of the one before.

    Attributes:
        takes_token: False leaves it behind, and the scopes know nothing of each other.
    """

    takes_token = True

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene = scene
        self._name = name
        self._random = scene.world.random
        self._records = scene.records
        self._token: str | None = None
        self._lives = 0

    async def run(self) -> None:
        """Make all stops; what fails as it may is counted."""
        for _ in range(STOPS):
            await self._scene.world.pause(self._scene.theme.pace_seconds)
            server = self._random.choice(self._scene.servers)
            try:
                async with server.flows.store.scope(self._token if self.takes_token else None) as scope:
                    await self._work(scope)
                    self._token = scope.token
            except IncarnationChanged:
                self._token = None
                self._lives += 1  # what comes is another story
            except HoldfastError:
                self._records.errors += 1

    @property
    def _session(self) -> str:
        return f"{self._name}/{self._lives}"

    async def _work(self, scope: Scope) -> None:
        steps = [self._get, self._peek, self._strong, self._many, self._entry, self._put, self._update, self._delete]
        steps += [self._transaction, self._scan]
        for _ in range(self._random.randint(1, CALLS_MAX)):
            if self._scene.world.chance(0.3):
                await self._scene.world.pause(self._scene.theme.pace_seconds)
            (step,) = self._random.choices(steps, (8, 3, 1, 2, 2, 3, 1, 1, 2, 0.3))
            try:
                await step(scope, self._random.choice(KEYS))
            except IncarnationChanged:
                raise
            except (HoldfastError, Rollback):
                self._records.errors += 1
            self._token = scope.token

    async def _get(self, scope: Scope, key: Key) -> None:
        began = self._now()
        self._read(key, await scope.collection(self._kind(key)).get(key.id), began)

    async def _peek(self, scope: Scope, key: Key) -> None:
        began = self._now()
        bot = scope.collection(self._kind(key)).peek(key.id)
        if bot is not None:
            self._read(key, bot, began)

    async def _strong(self, scope: Scope, key: Key) -> None:
        began = self._now()
        bot = await scope.collection(self._kind(key)).get(key.id, consistency=Consistency.STRONG)
        self._read(key, bot, began, bound=0.0)

    async def _many(self, scope: Scope, key: Key) -> None:
        began, ids = self._now(), [each.id for each in KEYS if each.kind == key.kind]
        bots = await scope.collection(self._kind(key)).get_many(ids)
        for identifier in ids:
            self._read(Key(key.kind, identifier), bots.get(identifier), began)

    async def _entry(self, scope: Scope, key: Key) -> None:
        began = self._now()
        entry = await scope.collection(self._kind(key)).entry(key.id)
        self._read(key, None if entry is None else entry.value, began)

    async def _scan(self, scope: Scope, key: Key) -> None:
        began = self._now()
        found = {name: bot async for name, bot in scope.collection(self._kind(key)).scan()}
        for each in KEYS:
            if each.kind == key.kind:
                self._read(each, found.get(each.id), began, bound=0.0)

    async def _put(self, scope: Scope, key: Key) -> None:
        number, bot = self._scene.next_document()
        receipt = await scope.collection(self._kind(key)).put(key.id, bot)
        self._records.wrote(self._session, key, number, receipt.version, scoped=True)

    async def _update(self, scope: Scope, key: Key) -> None:
        changed = await scope.collection(self._kind(key)).update(
            key.id, lambda _: self._scene.next_document()[1], default=Bot()
        )
        self._records.wrote(self._session, key, int(changed.name), scoped=True)

    async def _delete(self, scope: Scope, key: Key) -> None:
        receipt = await scope.collection(self._kind(key)).delete(key.id)
        if receipt.existed:
            self._records.deleted(self._session, key, receipt.version, scoped=True)

    async def _transaction(self, scope: Scope, key: Key) -> None:
        """A key through its collection, and another by SQL of one's own."""
        first = key
        second = self._random.choice([each for each in KEYS if each != key])
        number, bot = self._scene.next_document()
        other = self._scene.next_number()
        async with scope.transaction(self._random.choice(list(Isolation))) as tx:
            await tx.connection.put(second, body_of(other))
            await tx.collection(self._kind(first)).put(first.id, bot)
            if self._random.random() < 0.2:
                raise Rollback
        self._records.wrote(self._session, first, number, scoped=True)
        self._records.wrote(self._session, second, other, scoped=True)

    def _kind(self, key: Key) -> Kind[Bot]:
        return self._scene.servers[0].collection(key.kind).kind

    def _now(self) -> float:
        return self._scene.world.monotonic()

    def _read(self, key: Key, bot: Bot | None, began: float, *, bound: float | None = None) -> None:
        number = None if bot is None else int(bot.name or 0)
        self._records.read(self._session, key, number, began, BOUNDS[key.kind] if bound is None else bound, scoped=True)
