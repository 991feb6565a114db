"""What L2 holds is damaged under its readers, who put it into quarantine."""

from __future__ import annotations

import asyncio
import pickle
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import valkey

from faults.matrix import NODES, Ground, Harm, working
from fix_races import until
from fix_tiers import flows_of
from holdfast.keys import Key, redis_key
from holdfast.protocols import Evidence, Source
from holdfast.protocols.recovery import LINES_LISTED_MAX

DAMAGE_PAUSE_SECONDS = 0.05
KINDS: Final = {"bots": "bot", "teams": "team"}

Damage = Callable[[Any, bytes, bytes, random.Random], object]
"""Changes what a key of the cluster holds: by a client, its name, what it holds, and a source of randomness."""


def flipped(client: Any, name: bytes, held: bytes, source: random.Random) -> None:
    """One bit is another."""
    bits = bytearray(held)
    bits[source.randrange(len(bits))] ^= 1 << source.randrange(8)
    client.set(name, bytes(bits), keepttl=True)


def truncated(client: Any, name: bytes, held: bytes, source: random.Random) -> None:
    """The end is missing, or all of it."""
    client.set(name, held[: source.randrange(len(held))], keepttl=True)


def foreign(client: Any, name: bytes, _held: bytes, source: random.Random) -> None:
    """Another program has put there what it likes, also of another type."""
    others = (
        b"",
        b"{}",
        pickle.dumps({"name": "1"}),
        b'{"name":"1"}',
        source.randbytes(200),
        b"H\x01" + bytes(66),
        None,
    )
    other = source.choice(others)
    if other is None:
        client.delete(name)
        client.lpush(name, b"x")
    else:
        client.set(name, other)


def damaged(damage: Damage) -> Harm:
    """What L2 holds of what is read is damaged as fast as it is put there, and met; L1 holds nothing."""

    async def damage_on(ground: Ground) -> None:
        source, prefix = random.Random(1), ground.settings.key_prefix.encode()
        while True:
            names = [redis_key(prefix, Key(KINDS[sort], each)) for sort, each in set(ground.workload.documents())]
            await asyncio.to_thread(damage_all, ground.controls.url(NODES[0]), names, damage, source)
            for store in ground.servers.values():
                for kind in KINDS.values():
                    flows_of(store).caches[kind].flush()
            await asyncio.sleep(DAMAGE_PAUSE_SECONDS)

    @asynccontextmanager
    async def harm(ground: Ground) -> AsyncIterator[None]:
        began = time.time()

        async def is_put_aside() -> bool:
            return any(each.tier == Source.L2 and each.at.timestamp() > began for each in await quarantined(ground))

        async with working(damage_on(ground)):
            yield
            await until(is_put_aside)

    return harm


def damage_all(url: str, names: list[bytes], damage: Damage, source: random.Random) -> None:
    """Damage what these keys hold; blocks."""
    with valkey.ValkeyCluster.from_url(url) as client:  # type: ignore[no-untyped-call]
        for name in names:
            with suppress(valkey.ResponseError):  # it holds no string any more
                if held := client.get(name):
                    damage(client, name, held, source)


async def quarantined(ground: Ground) -> list[Evidence]:
    """What was put into quarantine so far, without its bytes; `at` is when it was met last."""
    flows = flows_of(next(iter(ground.servers.values())))
    return [each.found for each in await flows._given.quarantine.list(limit=LINES_LISTED_MAX)]
