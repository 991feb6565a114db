"""The embedded servers as the rest of Holdfast sees them: PostgreSQL and a Valkey cluster for each home.

Several processes share one running set: it is started once, reused by the others, outlives them all, and runs
until `stop`. A server that died is started again by the next `ensure_running`.
"""

from __future__ import annotations

import asyncio

from holdfast.embedded import running_set
from holdfast.embedded.layout import default_home
from holdfast.embedded.options import EmbeddedOptions, Progress, Running, ServerStatus

__all__ = [
    "EmbeddedOptions",
    "Running",
    "ServerStatus",
    "default_home",
    "ensure_running",
    "ignore",
    "status",
    "stop",
]


def ignore(line: str) -> None:
    """Take a line of progress and do nothing with it."""


async def ensure_running(options: EmbeddedOptions, *, progress: Progress = ignore) -> Running:
    """Return the running set of a home, starting whatever of it does not run.

    Cancelling the call does not interrupt a start; it goes on in its thread.

    Args:
        options: what to run.
        progress: called in the event loop with a line for each thing that takes time.

    Raises:
        ServerStartError: a server did not start, or the home was made for something else.
    """
    return await asyncio.to_thread(running_set.ensure, options, _in_loop(progress))


async def status(options: EmbeddedOptions) -> tuple[ServerStatus, ...]:
    """What each server of a home does now; changes nothing.

    Raises:
        ServerStartError: the home cannot be read.
    """
    return await asyncio.to_thread(running_set.report, options)


async def stop(options: EmbeddedOptions, *, progress: Progress = ignore) -> tuple[str, ...]:
    """Stop the servers of a home, the last started first, and return the names of those that ran.

    Raises:
        ServerStartError: one cannot be stopped.
    """
    return await asyncio.to_thread(running_set.halt, options, _in_loop(progress))


def _in_loop(progress: Progress) -> Progress:
    loop = asyncio.get_running_loop()

    def say(line: str) -> None:
        loop.call_soon_threadsafe(progress, line)

    return say
