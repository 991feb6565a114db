"""`holdfast events dead-letters`: reliable events that were given up."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import cyclopts
import msgspec
from rich.console import Console

from holdfast.clock import SystemClock
from holdfast.flows import bus_rules
from holdfast.invalidation.dead_letters import DeadLetters
from holdfast.node import event_transport, with_servers
from holdfast.settings import load_settings

events = cyclopts.App(name="events", help="Events between servers.")
dead_letters = cyclopts.App(name="dead-letters", help="Reliable events that were given up.")
events.command(dead_letters)


@dead_letters.command(name="list")
async def list_(*, limit: int = 100) -> None:
    """Show the dead letters, one JSON object a line.

    Parameters
    ----------
    limit
        Of each of the 16 partitions, how many to show; the oldest first.
    """
    async with _letters() as letters:
        for letter in await letters.list(limit=limit):
            _line(msgspec.json.encode(letter).decode())


@dead_letters.command
async def replay(ids: list[str], /) -> int:
    """Publish events again, each for the group that gave it up; the exit status is 1 if one is not there any more.

    Parameters
    ----------
    ids
        As `list` shows them.
    """
    async with _letters() as letters:
        return _report([(each, await letters.replay(each)) for each in ids], "replayed")


@dead_letters.command
async def discard(ids: list[str], /) -> int:
    """Remove dead letters; the exit status is 1 if one is not there any more.

    Parameters
    ----------
    ids
        As `list` shows them.
    """
    async with _letters() as letters:
        return _report([(each, await letters.discard(each)) for each in ids], "discarded")


@asynccontextmanager
async def _letters() -> AsyncIterator[DeadLetters]:
    settings = await with_servers(load_settings(environment=os.environ), lambda _: None)
    async with AsyncExitStack() as stack:
        transport = event_transport(settings, SystemClock(), stack)
        stack.push_async_callback(transport.close)
        yield DeadLetters(transport, bus_rules(settings).limits)


def _report(outcomes: list[tuple[str, bool]], done: str) -> int:
    for identifier, was_done in outcomes:
        _line(f"{identifier}: {done if was_done else 'not there, or there is no room'}")
    return 0 if all(was_done for _, was_done in outcomes) else 1


def _line(text: str) -> None:
    """Print a line as it is, however wide the terminal."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
