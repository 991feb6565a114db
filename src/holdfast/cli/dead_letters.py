"""`holdfast dead-letters`: accepted writes that were given up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Final

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.adapters import journal_base
from holdfast.cli.migrate import import_kinds
from holdfast.cli.serving import opened_pool
from holdfast.cli.showing import Place, age, line, show
from holdfast.documents import Limits
from holdfast.errors import HoldfastError, UnknownKind
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.node import process_name
from holdfast.row_decoding import RowDecoder
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.write_behind.dead_writes import BY_HAND, DeadWrites, GivenUpWrite

LIMIT_MAX: Final = 100_000
"""So many are kept."""
COLUMNS = ("id", "key", "operations", "reason", "age")
dead_letters = cyclopts.App(
    name="dead-letters", help="Accepted writes that were given up. Those of events: `holdfast events dead-letters`."
)


@dead_letters.command(name="list")
async def list_(*, limit: Annotated[int, Parameter(validator=Number(gte=1, lte=LIMIT_MAX))] = 100) -> None:
    """Show the writes that were given up: which row, what was to be done to it, why it was not, and how long ago.

    On a terminal it is a table, otherwise one JSON object a line. Values are cut short.

    Parameters
    ----------
    limit
        How many to show; the oldest first.
    """
    async with _letters() as letters:
        show(await letters.list(limit=limit), COLUMNS, _cells, "no write was given up")


@dead_letters.command
async def replay(
    ids: list[Place], /, *, kinds: list[str] | None = None, reason: str = BY_HAND, by: str | None = None
) -> int:
    """Apply writes to their rows as they are now; the exit status is 1 if one could not be.

    Each is a new write: what was committed since is no conflict. A letter that cannot be applied is kept, with the
    reason. If this ends before the letter of an applied write was removed, the letter stays: look at the row before
    you replay it again.

    Parameters
    ----------
    ids
        As `list` shows them; they are replayed in this order.
    kinds
        Own kinds of these rows, as MODULE:NAME, where NAME is a Kind or a list of them. May be given several times.
    reason
        Why, for the audit log.
    by
        Who does it, for the audit log; by default user@host:pid.
    """

    async def outcome(letters: DeadWrites, identifier: int) -> str | None:
        receipt = await letters.replay(identifier, reason=reason)
        return None if receipt is None else f"applied, version {receipt.version}"

    return await _each(ids, outcome, kinds or [], by)


@dead_letters.command
async def discard(ids: list[Place], /, *, reason: str = BY_HAND, by: str | None = None) -> int:
    """Remove writes for good; the exit status is 1 if one is not there any more.

    Parameters
    ----------
    ids
        As `list` shows them.
    reason
        Why, for the audit log.
    by
        Who does it, for the audit log; by default user@host:pid.
    """

    async def outcome(letters: DeadWrites, identifier: int) -> str | None:
        return "discarded" if await letters.discard(identifier, reason=reason) else None

    return await _each(ids, outcome, [], by)


async def _each(
    ids: Iterable[int],
    outcome: Callable[[DeadWrites, int], Awaitable[str | None]],
    kinds: Sequence[str],
    by: str | None,
) -> int:
    """Do something with each, and say what came of it; None: it is not there."""
    console, status = Console(), 0
    async with _letters(kinds, by) as letters:
        for identifier in ids:
            try:
                words = await outcome(letters, identifier)
            except UnknownKind:
                words, status = "kept: its kind is not known here; --kinds MODULE:NAME tells it", 1
            except HoldfastError as fault:
                words, status = f"kept: {fault}", 1
            status = status if words is not None else 1
            line(console, f"{identifier}: {words or 'not there'}")
    return status


@asynccontextmanager
async def _letters(names: Sequence[str] = (), by: str | None = None) -> AsyncIterator[DeadWrites]:
    """The letters of L3. Nothing here has caches: the servers are told of what is written by their feeds."""
    kinds = register([kind for name in names for kind in import_kinds(name)])
    async with opened_pool(kinds.values(), size_max=2) as (settings, pool), AsyncExitStack() as stack:
        yield DeadWrites(
            journal_base(settings, kinds, stack),
            PostgresStorage(pool, kinds),
            kinds,
            Limits(settings.document_bytes_max, settings.document_depth_max),
            stored=RowDecoder(kinds).stored,
            settle=_nothing_accepted,
            tell=lambda _: None,
            doubt=lambda _: None,
            actor=by or process_name(),
        )


async def _nothing_accepted(_: Iterable[Key]) -> None:
    """A command has accepted no writes that would have to come first."""


def _cells(letter: GivenUpWrite) -> Sequence[str]:
    operations = "; ".join(letter.operations) or "(cannot be read)"
    return str(letter.id), str(letter.key), operations, letter.reason, age(letter.seconds)
