"""`holdfast audit`: who did what, why and when, and whether that record is whole."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Final

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.audit.chain import AuditEntry, Link
from holdfast.audit.log import AuditLog
from holdfast.cli.serving import opened_pool
from holdfast.cli.showing import Place, line, show
from holdfast.errors import SettingsError
from holdfast.node import process_name
from holdfast.protocols.audit import AUDIT_LISTED_MAX
from holdfast.tiers.l3_audit import PostgresAudit

COLUMNS = ("number", "at", "action", "subject", "actor", "reason")
_ANCHOR: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})\Z")
audit = cyclopts.App(name="audit", help="Who resolved, revealed, rotated, invalidated, replayed or discarded.")


class AuditLine(msgspec.Struct, frozen=True):
    """An entry as it is shown."""

    number: int
    at: dt.datetime
    action: str
    subject: str
    actor: str
    reason: str
    detail: msgspec.Raw
    hash: str


@audit.command(name="list")
async def list_(
    *,
    after: Place | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=AUDIT_LISTED_MAX))] = 20,
) -> None:
    """Show entries in their order: by default the newest.

    On a terminal it is a table, otherwise one JSON object a line, with the detail and the hash of each.

    Parameters
    ----------
    after
        Show those behind the entry of this number.
    limit
        How many to show.
    """
    async with _log() as log:
        begin = max((await log.head()).number - limit, 0) if after is None else after
        entries = await log.list(after=begin, limit=limit)
        show([_line(entry) for entry in entries], COLUMNS, _cells, "nothing was recorded")


@audit.command
async def verify(*, anchor: str | None = None) -> int:
    """Follow the chain from the first entry to the newest; the exit status is 1 if it does not hold, and says where.

    Parameters
    ----------
    anchor
        NUMBER:HASH, as this command has told it before: that entry must still be there. Without it, a log that was
        made anew as a whole passes.
    """
    known = None if anchor is None else parse_anchor(anchor)
    async with _log() as log:
        report = await log.verify(anchor=known)
    if report.broken is not None:
        line(
            Console(),
            f"broken at entry {report.broken.number}: {report.broken.reason}; {report.entries} before it hold",
        )
        return 1
    line(Console(), f"{report.entries} entries hold; the newest is {report.head.number}:{report.head.hash.hex()}")
    return 0


def parse_anchor(text: str) -> Link:
    """The link that a text names.

    Raises:
        SettingsError: it names none.
    """
    found = _ANCHOR.match(text)
    if found is None:
        raise SettingsError(f"--anchor {text[:100]}: it takes NUMBER:HASH, as `holdfast audit verify` tells it")
    return Link(int(found[1]), bytes.fromhex(found[2]))


@asynccontextmanager
async def _log() -> AsyncIterator[AuditLog]:
    async with opened_pool() as (_, pool):
        yield AuditLog(PostgresAudit(pool), server=process_name())


def _line(entry: AuditEntry) -> AuditLine:
    note = entry.note
    detail = msgspec.Raw(note.detail.encode())
    words = note.action, note.subject, note.actor, note.reason
    return AuditLine(entry.number, entry.at, *words, detail, entry.hash.hex())


def _cells(each: AuditLine) -> Sequence[str]:
    at = each.at.isoformat(" ", "seconds")
    return str(each.number), at, each.action, each.subject, each.actor, each.reason
