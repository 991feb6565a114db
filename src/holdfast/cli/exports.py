"""`holdfast exports`: what is on its way from completed runs to external systems, and what was given up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.cli.serving import opened_pool
from holdfast.cli.showing import age, line, show
from holdfast.node import process_name
from holdfast.protocols.deliveries import LISTED_MAX
from holdfast.run_context.deliveries import Deliveries, ListedDelivery
from holdfast.tiers.l3_deliveries import PostgresDeliveries
from holdfast.write_behind.dead_writes import BY_HAND

COLUMNS = ("id", "exporter", "attempts", "state", "error")
Limit = Annotated[int, Parameter(validator=Number(gte=1, lte=LISTED_MAX))]
exports = cyclopts.App(
    name="exports", help="Values of completed runs, and notices of escalations, on their way to external systems."
)


@exports.command(name="list")
async def list_(*, dead: bool = False, limit: Limit = 100, after: str | None = None) -> None:
    """Show deliveries that were not brought out yet, the dead included: which, by whom, how often it was tried.

    On a terminal it is a table, otherwise one JSON object a line. No value is shown. What has been due for long and was
    never tried waits for an exporter that no server has.

    Parameters
    ----------
    dead
        Only those that were given up.
    limit
        How many to show, in order of their ids.
    after
        The id of the last one known: show those behind it.
    """
    async with _deliveries() as deliveries:
        found = await deliveries.list(dead=True if dead else None, limit=limit, after=after)
    show(found, COLUMNS, _cells, "none was given up" if dead else "nothing is to be brought out")


@exports.command
async def retry(ids: list[str], /, *, reason: str = BY_HAND, by: str | None = None) -> int:
    """Have deliveries tried anew, at once, by a server that has the exporter; the exit status is 1 if one is not there.

    Parameters
    ----------
    ids
        As `list` shows them.
    reason
        Why, for the audit log.
    by
        Who does it, for the audit log; by default user@host:pid.
    """
    return await _each(ids, lambda deliveries, each: deliveries.retry(each, reason=reason), "begun anew with", by)


@exports.command
async def discard(ids: list[str], /, *, reason: str = BY_HAND, by: str | None = None) -> int:
    """Remove deliveries for good; the exit status is 1 if one is not there any more.

    Parameters
    ----------
    ids
        As `list` shows them.
    reason
        Why, for the audit log.
    by
        Who does it, for the audit log; by default user@host:pid.
    """
    return await _each(ids, lambda deliveries, each: deliveries.discard(each, reason=reason), "discarded", by)


async def _each(
    ids: Iterable[str], act: Callable[[Deliveries, str], Awaitable[bool]], done: str, by: str | None
) -> int:
    """Do something with each, and say what came of it; `by`: who does."""
    console, status = Console(), 0
    async with _deliveries(by) as deliveries:
        for identifier in ids:
            is_there = await act(deliveries, identifier)
            status = status if is_there else 1
            line(console, f"{identifier}: {done if is_there else 'not there'}")
    return status


@asynccontextmanager
async def _deliveries(by: str | None = None) -> AsyncIterator[Deliveries]:
    """The deliveries of L3, for somebody; None: whoever runs this."""
    async with opened_pool() as (_, pool):
        yield Deliveries(PostgresDeliveries(pool), actor=by or process_name())


def _cells(delivery: ListedDelivery) -> Sequence[str]:
    return delivery.id, delivery.exporter, str(delivery.attempts), _state(delivery), delivery.error or ""


def _state(delivery: ListedDelivery) -> str:
    if delivery.dead:
        return "dead"
    if delivery.wait_seconds > 0:
        return f"in {delivery.wait_seconds:.0f} s"
    due = f"due for {age(-delivery.wait_seconds)}"
    return due if delivery.attempts else f"{due}, never tried"
