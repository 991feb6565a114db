"""`holdfast recovery`: what was done about faults of state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Final

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.adapters import connection_pool, prepare
from holdfast.cli.showing import show
from holdfast.kinds import BUILT_IN
from holdfast.node import with_servers
from holdfast.protocols import RecoveryLine, RecoveryLogRows
from holdfast.protocols.recovery import LINES_LISTED_MAX
from holdfast.settings import load_settings
from holdfast.tiers.l3_recovery import PostgresRecoveryLog

COLUMNS = ("at", "subject", "type", "step", "outcome", "ms", "server", "detail")
FOLLOW_SECONDS: Final = 1.0
recovery = cyclopts.App(name="recovery", help="What was done about faults of state, by all servers.")


@recovery.command
async def log(
    *,
    after: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=LINES_LISTED_MAX))] = 50,
    follow: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show the recovery log: each step about each fault, and what came of it; by default the newest lines.

    On a terminal it is a table, otherwise one JSON object a line. Lines of a server that could not reach L3 come when
    it can, with the time at which it made them.

    Parameters
    ----------
    after
        Show those behind the line of this number.
    limit
        How many to show.
    follow
        Go on with what is new, until you press Ctrl-C.
    """
    async with _opened() as rows:
        found = await rows.list(after=after, limit=limit)
        show([each.line for each in found], COLUMNS, _cells, "nothing had to be recovered")
        last = found[-1].number if found else after or 0
        while follow:
            await asyncio.sleep(FOLLOW_SECONDS)
            if found := await rows.list(after=last, limit=LINES_LISTED_MAX):
                show([each.line for each in found], COLUMNS, _cells, "")
                last = found[-1].number


@asynccontextmanager
async def _opened() -> AsyncIterator[RecoveryLogRows]:
    """The recovery log of L3."""
    settings = await with_servers(load_settings(environment=os.environ), Console(stderr=True).print)
    pool = connection_pool(settings, size_max=1)
    try:
        await prepare(pool, BUILT_IN, migrate=False, progress=lambda _: None)
        yield PostgresRecoveryLog(pool)
    finally:
        await pool.close()


def _cells(each: RecoveryLine) -> Sequence[str]:
    at = each.at.isoformat(" ", "milliseconds")
    return at, each.subject, each.error_type, each.step, each.outcome, str(each.millis), each.server, each.detail
