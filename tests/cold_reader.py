"""A server in a process of its own, for tests of what several do at once.

It says "ready" when it believes L2. For each line of JSON on its input, the number of readers and an id, it has so many
readers read that bot at once, and says what they got, how many keys it asked of L3, and how long that took.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

import holdfast
from fix_races import until_l2_is_trusted
from fix_tiers import flows_of
from holdfast.settings import Settings


class Order(msgspec.Struct):
    """What to read."""

    readers: int
    id: str


class Result(msgspec.Struct):
    """What came of it."""

    names: list[str | None]
    l3_keys: int
    seconds: float


def say(line: bytes) -> None:
    """Write a line to whoever started this."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


async def serve(settings: Settings) -> None:
    """Follow orders until the input ends."""
    async with holdfast.connect(settings) as store:
        flows = flows_of(store)
        await until_l2_is_trusted(flows)
        say(b"ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = msgspec.json.decode(line, type=Order)
            before, began = flows.counters.l3.keys, time.monotonic()
            bots = await asyncio.gather(*(store.bots.get(order.id) for _ in range(order.readers)))
            names = [bot.name if bot is not None else None for bot in bots]
            result = Result(names, flows.counters.l3.keys - before, time.monotonic() - began)
            say(msgspec.json.encode(result))


if __name__ == "__main__":
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=Settings)))
