"""`holdfast pending`: what was accepted and is not committed yet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from rich.console import Console

from holdfast.adapters import journal_base, journal_streams
from holdfast.cli.serving import opened_pool
from holdfast.cli.showing import age, line, show
from holdfast.clock import SystemClock
from holdfast.documents import Limits
from holdfast.kinds import register
from holdfast.write_behind.pending_journals import PendingJournal, pending_journals

COLUMNS = ("journal", "server", "state", "epoch", "pending", "bytes", "oldest", "last sign", "decided", "refused")


async def pending() -> None:
    """Show the journals of write-behind: which writes were accepted by which server and are not decided yet.

    A server that writes keeps a journal in Redis of what it has accepted, and brings it to PostgreSQL as a rule within
    a few seconds. States: live (its server gives signs), released (its server has ended and left entries), taken
    (another server decides what is left), drained (nothing is left). What stays pending in a live journal says that
    PostgreSQL does not answer; a journal that is released, or without a sign, for long, that no server runs which could
    take it over, or none that knows its kinds. While Redis is away only what PostgreSQL knows is shown.

    On a terminal it is a table, otherwise one JSON object a line. The exit status is 0 whatever is pending.
    """
    complain = Console(stderr=True)
    kinds, clock = register([]), SystemClock()
    async with opened_pool() as (settings, _), AsyncExitStack() as stack:
        journals = await pending_journals(
            journal_base(settings, kinds, stack),
            journal_streams(settings, clock, stack),
            limits=Limits(settings.document_bytes_max, settings.document_depth_max),
            wall=clock.wall,
        )
    show(journals, COLUMNS, _cells, "no server keeps a journal: all that was accepted is committed")
    for unread in dict.fromkeys(each.unread for each in journals if each.unread is not None):
        line(complain, f"what is pending cannot be told: {unread}")


def _cells(journal: PendingJournal) -> Sequence[str]:
    server = journal.server if journal.taker is None else f"{journal.server}, taken by {journal.taker}"
    unknown = "?" if journal.unread is not None else ""
    return (
        journal.journal,
        server,
        journal.state,
        str(journal.epoch),
        unknown or str(journal.entries),
        unknown or str(journal.bytes),
        unknown or age(journal.oldest_seconds),
        age(journal.seconds),
        str(journal.decided),
        str(journal.refused),
    )
