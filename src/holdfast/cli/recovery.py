"""`holdfast recovery`: what was done about faults of state."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Final

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.adapters import connection_pool, prepare
from holdfast.cli.showing import show
from holdfast.kinds import BUILT_IN
from holdfast.node import with_servers
from holdfast.protocols import LoggedLine, RecoveryLine
from holdfast.protocols.recovery import LINES_LISTED_MAX
from holdfast.recovery.log_reading import RecoveryLog, lines_of
from holdfast.settings import load_settings
from holdfast.tiers.l3_recovery import PostgresRecoveryLog

COLUMNS = ("number", "at", "subject", "type", "step", "outcome", "ms", "server", "detail")
FOLLOW_SECONDS: Final = 1.0
recovery = cyclopts.App(name="recovery", help="What was done about faults of state, by all servers.")


class LogLine(RecoveryLine, frozen=True, kw_only=True):
    """A line as it is shown; `number`: for `log --before`."""

    number: int


@recovery.command
async def log(
    *,
    recovery: str | None = None,
    subject: str | None = None,
    since: dt.datetime | None = None,
    before: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=LINES_LISTED_MAX))] = 50,
    follow: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show the recovery log: each step about each fault, and what came of it. The newest lines, the last one last.

    On a terminal it is a table, otherwise one JSON object a line. Lines of a server that could not reach L3 come when
    it can, with the time at which it made them.

    Parameters
    ----------
    recovery
        Id of the recovery that they are of.
    subject
        What was affected: bot:b1, run:r1, tier:l2.
    since
        Those of then and later; without a zone in that of this machine.
    before
        The number of the first one shown: those before it.
    limit
        How many to show.
    follow
        Go on with what is new, until you press Ctrl-C.
    """
    which = lines_of(recovery, subject, since and since.astimezone())
    async with _opened() as held:
        found = await held.list(
            recovery_id=which.recovery_id, subject=which.subject, since=which.since, before=before, limit=limit
        )
        show([_line(each) for each in reversed(found)], COLUMNS, _cells, "nothing had to be recovered")
        last = found[0].number if found else 0
        while follow:
            new = await held.follow(last, limit=LINES_LISTED_MAX)
            if wanted := [_line(each) for each in new if which.takes(each.line)]:
                show(wanted, COLUMNS, _cells, "")
            if new:
                last = new[-1].number
            else:
                await asyncio.sleep(FOLLOW_SECONDS)


@asynccontextmanager
async def _opened() -> AsyncIterator[RecoveryLog]:
    """The recovery log of L3."""
    settings = await with_servers(load_settings(environment=os.environ), Console(stderr=True).print)
    pool = connection_pool(settings, size_max=1)
    try:
        await prepare(pool, BUILT_IN, migrate=False, progress=lambda _: None)
        yield RecoveryLog(PostgresRecoveryLog(pool))
    finally:
        await pool.close()


def _line(each: LoggedLine) -> LogLine:
    return LogLine(**msgspec.structs.asdict(each.line), number=each.number)


def _cells(each: LogLine) -> Sequence[str]:
    at = each.at.isoformat(" ", "milliseconds")
    what = each.subject, each.error_type, each.step, each.outcome
    return str(each.number), at, *what, str(each.millis), each.server, each.detail
