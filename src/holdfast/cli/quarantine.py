"""`holdfast quarantine`: what did not verify, in L2 or L3."""

from __future__ import annotations

import base64
import datetime as dt
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.cli.serving import opened_pool
from holdfast.cli.showing import Place, line, show
from holdfast.node import process_name
from holdfast.protocols import Quarantined
from holdfast.protocols.recovery import LINES_LISTED_MAX
from holdfast.recovery.quarantine import Quarantine
from holdfast.tiers.l3_recovery import PostgresQuarantine
from holdfast.write_behind.dead_writes import BY_HAND

COLUMNS = ("number", "tier", "key", "bytes", "count", "last met", "fault")
ROW_BYTES = 16
quarantine = cyclopts.App(
    name="quarantine", help="What L2 or L3 held and did not verify. None of it is served, and nothing here mends it."
)


class QuarantineLine(msgspec.Struct, frozen=True):
    """An entry as it is shown; `evidence` in base64, if it was asked for alone."""

    number: int
    tier: str
    kind: str
    id: str
    version: int | None
    fault: str
    size: int
    count: int
    server: str
    at: dt.datetime
    evidence: str | None = None


@quarantine.command(name="list")
async def list_(
    *,
    after: Place = 0,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=LINES_LISTED_MAX))] = 100,
) -> None:
    """Show what is in quarantine, the oldest first: where it was met, what is wrong with it, how often it was met.

    On a terminal it is a table, otherwise one JSON object a line.

    Parameters
    ----------
    after
        Show those behind the entry of this number.
    limit
        How many to show.
    """
    async with _opened() as held:
        found = await held.list(after=after, limit=limit)
    show([_line(each) for each in found], COLUMNS, _cells, "nothing is in quarantine")


@quarantine.command(name="show")
async def show_(number: Place, /, *, raw: bool = False) -> int:
    """Show an entry with its bytes: the first 64 KiB. The exit status is 1 if it is not there.

    On a terminal they are a hex dump, otherwise base64 in one JSON object.

    Parameters
    ----------
    number
        As `list` shows it.
    raw
        Write nothing but the bytes, as they are.
    """
    async with _opened() as held:
        found = await held.get(number)
    console = Console()
    if found is None:
        line(Console(stderr=True), f"{number}: not there")
        return 1
    if raw:
        sys.stdout.buffer.write(found.found.evidence)
    elif not console.is_terminal:
        line(console, msgspec.json.encode(_line(found, with_evidence=True)).decode())
    else:
        for text in (*_heading(found), *dumped(found.found.evidence)):
            line(console, text)
    return 0


@quarantine.command
async def discard(numbers: list[Place], /, *, reason: str = BY_HAND) -> int:
    """Remove entries for good; the exit status is 1 if one is not there any more.

    Parameters
    ----------
    numbers
        As `list` shows them.
    reason
        Why, for the audit log.
    """
    console, status = Console(), 0
    async with _opened() as held:
        for number in numbers:
            is_there = await held.discard(number, reason=reason)
            status = status if is_there else 1
            line(console, f"{number}: {'discarded' if is_there else 'not there'}")
    return status


def dumped(data: bytes) -> Iterator[str]:
    """Bytes as lines: where they are, 16 of them in hexadecimal digits, and those that are printable ASCII."""
    for place in range(0, len(data), ROW_BYTES):
        row = data[place : place + ROW_BYTES]
        text = "".join(chr(each) if 0x20 <= each < 0x7F else "." for each in row)
        yield f"{place:08x}  {row.hex(' '):<{3 * ROW_BYTES}} {text}"


@asynccontextmanager
async def _opened() -> AsyncIterator[Quarantine]:
    """The quarantine of L3."""
    async with opened_pool() as (_, pool):
        yield Quarantine(PostgresQuarantine(pool), actor=process_name())


def _line(entry: Quarantined, *, with_evidence: bool = False) -> QuarantineLine:
    found = entry.found
    evidence = base64.b64encode(found.evidence).decode() if with_evidence else None
    words = found.tier, found.kind, found.id, found.version, found.fault, found.size, found.count
    return QuarantineLine(entry.number, *words, found.server, found.at, evidence)


def _cells(each: QuarantineLine) -> Sequence[str]:
    at = each.at.isoformat(" ", "seconds")
    return str(each.number), each.tier, f"{each.kind}:{each.id}", str(each.size), str(each.count), at, each.fault


def _heading(entry: Quarantined) -> Iterator[str]:
    found = entry.found
    yield f"{entry.number}: {found.kind}:{found.id} in {found.tier}: {found.fault}"
    yield f"  met {found.count} times, last at {found.at.isoformat(' ', 'seconds')}, first by {found.server}"
    yield f"  {found.size} bytes, of which these are {len(found.evidence)}:"
