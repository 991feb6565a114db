"""Servers of Holdfast over servers that are about to break: who reads, who writes, and what is left behind at rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import msgspec

import holdfast
from faults.records import Records
from fix_races import until, until_l2_is_trusted
from fix_tiers import flows_of
from holdfast import Bot, Settings, TierError
from holdfast.documents import Limits, encode
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.node import OpenStore
from holdfast.protocols import Cached

IDS = tuple(f"bot-{number:02}" for number in range(40))
KEYS = tuple(Key("bot", identifier) for identifier in IDS)
BUSY_IDS, QUIET_IDS = IDS[::2], IDS[1::2]
"""Read all the time, which also mends what L2 holds of them; and read only when a test asks."""
BOUND_SECONDS = 0.25
PASS_SECONDS = 0.005
"""Between two passes of a reader over all keys."""

UPSERT = """
INSERT INTO holdfast."User" (id, document) SELECT * FROM unnest($1::text[], $2::text[]::json[])
ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document"""
ROWS = """SELECT id, (document ->> 'name')::int FROM holdfast."User" WHERE id = ANY ($1)"""

Mutation = Callable[[Flows], None]


def healthy(_flows: Flows) -> None:
    """Not a mutant."""


def document(number: int) -> str:
    """A document of that number, as JSON."""
    return encode(Bot(name=str(number)), Limits(1_000_000, 64)).decode()


async def upsert(connection: asyncpg.Connection[Any], numbers: Mapping[str, int]) -> None:
    """Write documents with raw SQL, in one statement."""
    await connection.execute(UPSERT, list(numbers), [document(number) for number in numbers.values()])


class Stage:
    """Two servers that read half of the keys all the time, and raw connections that write.

    Args:
        url: of L3 itself, for raw connections.
        settings: of the servers, which may reach L2 and L3 through proxies.

    Attributes:
        servers: by name.
        faults: of the servers below, injected so far.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.records = Records(BOUND_SECONDS)
        self.servers: dict[str, OpenStore] = {}
        self.faults = 0
        self._reading: list[asyncio.Task[None]] = []

    @property
    def flows(self) -> list[Flows]:
        """The servers' insides."""
        return [flows_of(store) for store in self.servers.values()]

    async def begin(self, names: Iterable[str] = "ab", mutation: Mutation = healthy) -> None:
        """Start the servers on an empty L3, write each key once, and read from then on."""
        async with self.sql() as connection:
            await connection.execute("DROP SCHEMA IF EXISTS holdfast CASCADE")
        for name in names:
            # Rules would void by kind, and the verifier repair, what these tests want to find.
            self.servers[name] = await holdfast.connect(
                msgspec.structs.replace(self.settings, verify_share=0.0), rules=()
            )
            mutation(flows_of(self.servers[name]))
        numbers = {identifier: self.records.next_number() for identifier in IDS}
        async with self.sql() as connection:
            await upsert(connection, numbers)
        self.records.begin_life(numbers)
        self._reading = [asyncio.ensure_future(self._read_on(name)) for name in self.servers]

    async def end(self) -> None:
        """Stop reading and judge what was read; shut the servers."""
        await self.stop_reading()
        for store in self.servers.values():
            await store.close()

    async def stop_reading(self) -> None:
        """Stop reading; a reader's own fault is raised here."""
        reading, self._reading = self._reading, []
        for task in reading:
            task.cancel()
        for outcome in await asyncio.gather(*reading, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError) and isinstance(outcome, BaseException):
                raise outcome

    @asynccontextmanager
    async def sql(self, **settings: str) -> AsyncIterator[asyncpg.Connection[Any]]:
        """A connection beside Holdfast's, with these settings of the server."""
        connection = await asyncpg.connect(self.url, server_settings=settings)
        try:
            yield connection
        finally:
            connection.terminate()  # the server may be gone

    async def rows(self) -> dict[str, int]:
        """The numbers of the documents in L3."""
        async with self.sql() as connection:
            return dict(await connection.fetch(ROWS, list(IDS)))

    async def until_served(self) -> None:
        """Wait until every server answers, and follows the feed."""

        async def served() -> bool:
            return await self.is_answered() and all(flows.feed.fault is None for flows in self.flows)

        await until(served)

    async def is_answered(self) -> bool:
        """Whether every server answers."""
        try:
            for store in self.servers.values():
                await store.bots.get_many(BUSY_IDS)
        except TierError:
            return False
        return True

    async def until_cached(
        self, numbers: Mapping[str, int], *, in_memory: bool = True, seconds: float = 3.0
    ) -> tuple[int, int]:
        """Read until L1 of every server and L2 hold these documents, not for ever; how many L1 and L2 do hold.

        Args:
            in_memory: L1 too is waited for.
        """
        deadline, stores = time.monotonic() + seconds, self.servers.values()
        while True:
            for store in stores:
                await store.bots.get_many(numbers)
            in_l1 = sum(peek(store, each) == number for store in stores for each, number in numbers.items())
            told = await l2_answers(self.flows[0])
            in_l2 = sum(told[identifier] == number for identifier, number in numbers.items())
            missing = len(numbers) - in_l2 + (in_memory and len(stores) * len(numbers) - in_l1)
            if not missing or time.monotonic() > deadline:
                return in_l1, in_l2
            await asyncio.sleep(PASS_SECONDS)

    async def stale_at_rest(self) -> list[str]:
        """With nobody writing: answers that are not L3's rows, of the servers, and of L2 to one that comes new."""
        await self.until_served()
        rows, stale = await self.rows(), []
        async with holdfast.connect(self.settings) as fresh:
            await until_l2_is_trusted(flows_of(fresh))
            told = await l2_answers(flows_of(fresh))
            answers = {"L2": {each: number for each, number in told.items() if number is not None}}
        for name, store in self.servers.items():
            assert await flows_of(store).feed.refresh(), f"{name} does not follow the feed"
            answers[name] = {each: number_of(bot) for each, bot in (await store.bots.get_many(IDS)).items()}
        for name, numbers in answers.items():
            stale += [
                f"{name} answers {identifier} with {number}, L3 has {rows.get(identifier)}"
                for identifier, number in numbers.items()
                if rows.get(identifier) != number
            ]
        self.records.stale += stale
        return stale

    async def read(self, name: str, identifiers: Iterable[str]) -> None:
        """Read documents at a server, for the record, until one is refused."""
        bots = self.servers[name].bots
        for identifier in identifiers:
            life, began = self.records.life, time.monotonic()
            try:
                bot = await bots.get(identifier)
            except TierError:
                self.records.errors += 1
                return
            self.records.read(name, life, identifier, None if bot is None else number_of(bot), began)

    async def _read_on(self, name: str) -> None:
        while True:
            await self.read(name, BUSY_IDS)
            await asyncio.sleep(PASS_SECONDS)


def peek(store: OpenStore, identifier: str) -> int | None:
    """The number of the document that a server's memory answers with."""
    held = store.bots.peek(identifier)
    return None if held is None else number_of(held)


def number_of(bot: Bot) -> int:
    """The number of a document."""
    return int(bot.name or 0)


async def l2_answers(flows: Flows) -> dict[str, int | None]:
    """The number that L2 answers with for each key, as this server believes it; None: it answers nothing."""
    answers = await flows.resolver._l2.read(KEYS, flows.view, lease=False)
    return {
        key.id: int(msgspec.json.decode(answer.row.body)["name"]) if isinstance(answer, Cached) else None
        for key, answer in answers.items()
    }


@asynccontextmanager
async def on_stage(
    url: str, settings: Settings, *, names: str = "ab", mutation: Mutation = healthy
) -> AsyncIterator[Stage]:
    """A stage with its servers."""
    async with AsyncExitStack() as stack:
        stage = Stage(url, settings)
        stack.push_async_callback(stage.end)
        await stage.begin(names, mutation)
        yield stage
