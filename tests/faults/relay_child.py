"""A server in a process of its own, to be killed: it says when it begins and ceases to lead, until its input ends.

Settings come from the environment.
"""

from __future__ import annotations

import asyncio
import sys

import holdfast
from fix_tiers import flows_of
from holdfast.invalidation.relay import Relay

LOOK_SECONDS = 0.01


async def tell(relay: Relay) -> None:
    led = None
    while True:  # a relay tells nobody
        if relay.leading is not led:
            led = relay.leading
            print("leads" if led else "stands by", flush=True)
        await asyncio.sleep(LOOK_SECONDS)


async def main() -> None:
    async with holdfast.connect() as state:
        relay = flows_of(state).relay
        assert relay is not None
        telling = asyncio.ensure_future(tell(relay))
        await asyncio.to_thread(sys.stdin.read)
        telling.cancel()


if __name__ == "__main__":
    asyncio.run(main())
