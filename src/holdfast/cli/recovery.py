"""`holdfast recovery`: what was done about faults of state."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.cli.serving import opened_pool
from holdfast.cli.showing import Place, line
from holdfast.errors import TierError
from holdfast.protocols import LineFilter, LoggedLine, RecoveryLine
from holdfast.protocols.recovery import LINES_LISTED_MAX
from holdfast.recovery.log_reading import RecoveryLog, lines_of
from holdfast.tiers.l3_recovery import PostgresRecoveryLog

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
    before: Place | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=LINES_LISTED_MAX))] = 50,
    follow: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show the recovery log: each step about each fault, and what came of it. The newest lines, the last one last.

    On a terminal the lines of a recovery are below its name, otherwise each is a JSON object. Lines of a server that
    could not reach L3 come when it can, with the time at which it made them.

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
        printer = _Printer()
        printer.print(_line(each) for each in reversed(found))
        if not found:
            printer.nothing()
        if follow:
            await _follow(held, which, printer, found[0].number if found else 0)


async def _follow(held: RecoveryLog, which: LineFilter, printer: _Printer, last: int) -> None:
    """Print what is new behind a number, for ever; while L3 is away it is said, once, that there is nothing to see."""
    is_away = False
    while True:
        try:
            new = await held.follow(last, limit=LINES_LISTED_MAX)
        except TierError as fault:
            if not is_away:
                line(Console(stderr=True), f"waiting for L3: {fault}")
            new, is_away = [], True
        else:
            is_away = False
        printer.print(_line(each) for each in new if which.takes(each.line))
        if new:
            last = new[-1].number
        else:
            await asyncio.sleep(FOLLOW_SECONDS)


class _Printer:
    """Prints lines: on a terminal those of one recovery that follow one another are below its name."""

    def __init__(self) -> None:
        self._console = Console()
        self._below: str | None = None

    def print(self, lines: Iterable[LogLine]) -> None:
        for each in lines:
            for text in self._words(each) if self._console.is_terminal else (msgspec.json.encode(each).decode(),):
                line(self._console, text)

    def nothing(self) -> None:
        """There are no lines."""
        if self._console.is_terminal:
            line(self._console, "nothing had to be recovered")

    def _words(self, each: LogLine) -> Iterator[str]:
        if each.recovery_id != self._below:
            self._below = each.recovery_id
            yield f"{each.subject}: {each.error_type}, {each.severity}; recovery {each.recovery_id}, {each.server}"
        at = each.at.isoformat(" ", "milliseconds")
        detail = f": {each.detail}" if each.detail else ""
        yield f"  {each.number}  {at}  {each.step} {each.outcome}, {each.millis} ms{detail}"


@asynccontextmanager
async def _opened() -> AsyncIterator[RecoveryLog]:
    """The recovery log of L3."""
    async with opened_pool() as (_, pool):
        yield RecoveryLog(PostgresRecoveryLog(pool))


def _line(each: LoggedLine) -> LogLine:
    return LogLine(**msgspec.structs.asdict(each.line), number=each.number)
