"""Rows of L3 are damaged by plain SQL, met by readers, and repaired in the same way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import asyncpg

from faults.damage import quarantined
from faults.matrix import BOUND_SECONDS, L3, Ground, working
from fix_races import until
from holdfast import Bot, CorruptDocument
from holdfast.documents import Limits, encode
from holdfast.node import OpenStore
from holdfast.protocols import Source

DAMAGED: Final = "damaged-"
"""How ids of documents begin that nobody else uses."""
SHAPES: Final = ("[1]", '"a bot"', '{"name": 5}', '{"capabilities": {"a": "b"}}')
"""JSON, and no bot."""
SOUND: Final = Bot(name="sound")
READ_PAUSE_SECONDS = 0.05
REPLACE: Final = 'UPDATE holdfast."User" SET document = $2::json WHERE id = $1'
_NUMBERS = count()


@asynccontextmanager
async def l3_rows_damaged(ground: Ground) -> AsyncIterator[None]:
    """Some documents are none any more: who reads them is told so, they are put aside, and a person is asked."""
    shapes = {f"{DAMAGED}{next(_NUMBERS)}": shape.encode() for shape in SHAPES}
    store = next(iter(ground.servers.values()))
    await store.bots.put_many(dict.fromkeys(shapes, SOUND))
    await replace(ground, shapes)
    ground.began = time.monotonic()
    async with working(meet(ground, shapes)):
        yield

        async def known() -> bool:
            aside = {each.id for each in await quarantined(ground) if each.tier == Source.L3}
            return set(shapes) <= aside & set(await escalated(store))

        await until(known)
    await replace(ground, dict.fromkeys(shapes, encode(SOUND, Limits(1000, 8))))
    await asyncio.gather(*(until_sound(each, shapes) for each in ground.servers.values()))
    for identifiers in (await escalated(store)).values():
        for identifier in identifiers:
            await store.escalations.resolve(identifier, decision="repaired", by="ada", reason="by SQL")


async def replace(ground: Ground, documents: Mapping[str, bytes]) -> None:
    """Put other JSON into rows, past Holdfast."""
    connection = await asyncpg.connect(ground.controls.url(L3))
    try:
        await connection.executemany(REPLACE, [(each, body.decode()) for each, body in documents.items()])
    finally:
        await connection.close()


async def meet(ground: Ground, identifiers: Iterable[str]) -> None:
    """Read them all the time: once the bound is over, nothing but that they are corrupt may be said."""
    while True:
        for name, store in ground.servers.items():
            for identifier in identifiers:
                is_over = time.monotonic() > ground.began + BOUND_SECONDS
                try:
                    found = await store.bots.get(identifier)
                except CorruptDocument:
                    continue
                assert found == SOUND, f"{name} answers {identifier} with {found}"
                assert not is_over, f"{name} does not know that {identifier} was changed"
        await asyncio.sleep(READ_PAUSE_SECONDS)


async def escalated(store: OpenStore) -> Mapping[str, list[str]]:
    """By document, the open escalations about it."""
    about: dict[str, list[str]] = {}
    for each in await store.escalations.list(limit=1000):
        kind, _, identifier = each.document.subject.partition(":")
        if kind == "bot" and identifier.startswith(DAMAGED):
            about.setdefault(identifier, []).append(each.id)
    return about


async def until_sound(store: OpenStore, identifiers: Iterable[str]) -> None:
    """Wait until a server answers with all of them again."""

    async def sound() -> bool:
        try:
            found = await store.bots.get_many(identifiers)
        except CorruptDocument:
            return False
        return all(found[each] == SOUND for each in identifiers)

    await until(sound)
