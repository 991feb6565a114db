"""A server in a process of its own, to be killed: it says when it begins and ceases to lead, until its input ends.

Settings come from the environment. With the argument `mark-first` it is a mutant, which moves a node's watermark first
and sends the fences then.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

import holdfast
from fix_tiers import flows_of
from holdfast.invalidation.relay import Relay
from holdfast.keys import Key
from holdfast.protocols import Watermark
from holdfast.tiers.l2_fences import FENCES_MAX, RedisFences
from holdfast.tiers.l2_topology import Node
from holdfast.tiers.l2_watermarks import encode

LOOK_SECONDS = 0.01


async def mark_first(
    sink: RedisFences, target: Node, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
) -> bool:
    """Mutant of `RedisFences.advance`."""
    served = await sink._served(target, versions)
    fences, name = sink._fences(served, after), sink._key(target)
    moved = encode(name, after)
    if not await sink._compare_and_set(target, sink._expected(name, before), moved, []):
        return False
    for start in range(0, len(fences), FENCES_MAX):
        await sink._compare_and_set(target, moved, moved, fences[start : start + FENCES_MAX])
    return True


async def tell(relay: Relay) -> None:
    led = None
    while True:  # a relay tells nobody
        if relay.leading is not led:
            led = relay.leading
            sys.stdout.write("leads\n" if led else "stands by\n")
            sys.stdout.flush()
        await asyncio.sleep(LOOK_SECONDS)


async def main() -> None:
    async with holdfast.connect() as state:
        relay = flows_of(state).relay
        assert relay is not None
        telling = asyncio.ensure_future(tell(relay))
        await asyncio.to_thread(sys.stdin.read)
        telling.cancel()


if __name__ == "__main__":
    if sys.argv[1:] == ["mark-first"]:
        RedisFences.advance = mark_first  # type: ignore[assignment, method-assign]
    asyncio.run(main())
