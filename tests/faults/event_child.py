"""A subscriber in a process of its own, to be killed: it appends a line for each event to a file, before it is done.

Settings come from the environment; arguments: the file, the group.
"""

from __future__ import annotations

import asyncio
import os
import sys

import holdfast
from holdfast import Event


async def main(path: str, group: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def note(event: Event) -> None:
        how = event.metadata
        os.write(file, f"{how.key} {event.data} {int(how.duplicate)}\n".encode())

    async with holdfast.connect() as state:
        subscription = state.subscribe("work/*", note, group=group)
        await subscription.ready()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
