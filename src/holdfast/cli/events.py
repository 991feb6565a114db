"""`holdfast events dead-letters`: reliable events that were given up."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Final

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.adapters import connection_pool, event_transport
from holdfast.audit.log import AuditLog
from holdfast.cli.showing import line
from holdfast.clock import SystemClock
from holdfast.invalidation.bus import bus_rules
from holdfast.invalidation.dead_letters import BY_HAND, DeadLetters
from holdfast.node import process_name, with_servers
from holdfast.protocols import Replayed
from holdfast.settings import load_settings
from holdfast.tiers.l3_audit import PostgresAudit

LIMIT_MAX: Final = 10_000
"""So many are kept of each partition."""
events = cyclopts.App(name="events", help="Events between servers.")
dead_letters = cyclopts.App(name="dead-letters", help="Reliable events that were given up.")
events.command(dead_letters)


@dead_letters.command(name="list")
async def list_(*, limit: Annotated[int, Parameter(validator=Number(gte=1, lte=LIMIT_MAX))] = 100) -> None:
    """Show the dead letters, one JSON object a line.

    Parameters
    ----------
    limit
        Of each of the 16 partitions, how many to show; the oldest first.
    """
    async with _letters() as letters:
        for letter in await letters.list(limit=limit):
            line(Console(), msgspec.json.encode(letter).decode())


@dead_letters.command
async def replay(ids: list[str], /, *, reason: str = BY_HAND, by: str | None = None) -> int:
    """Publish events again, each for the group that gave it up; the exit status is 1 if one could not be.

    Parameters
    ----------
    ids
        As `list` shows them.
    reason
        Why, for the audit log.
    by
        Who does it, for the audit log; by default user@host:pid.
    """
    async with _letters(by) as letters:
        return _report([(each, await letters.replay(each, reason=reason)) for each in ids])


@dead_letters.command
async def discard(ids: list[str], /, *, reason: str = BY_HAND, by: str | None = None) -> int:
    """Remove dead letters; the exit status is 1 if one is not there any more.

    Parameters
    ----------
    ids
        As `list` shows them.
    reason
        Why, for the audit log.
    by
        Who does it, for the audit log; by default user@host:pid.
    """
    async with _letters(by) as letters:
        return _report([(each, await letters.discard(each, reason=reason)) for each in ids])


@asynccontextmanager
async def _letters(by: str | None = None) -> AsyncIterator[DeadLetters]:
    settings = await with_servers(load_settings(environment=os.environ), lambda _: None)
    async with AsyncExitStack() as stack:
        transport = event_transport(settings, SystemClock(), stack)
        stack.push_async_callback(transport.close)
        pool = connection_pool(settings, size_max=1)
        stack.push_async_callback(pool.close)
        audit = AuditLog(PostgresAudit(pool), server=by or process_name())
        yield DeadLetters(transport, bus_rules(settings).limits, audit)


def _report(outcomes: list[tuple[str, Replayed | bool]]) -> int:
    for identifier, outcome in outcomes:
        words = outcome.value if isinstance(outcome, Replayed) else "discarded" if outcome else "not there"
        line(Console(), f"{identifier}: {words}")
    return 0 if all(outcome for _, outcome in outcomes) else 1
