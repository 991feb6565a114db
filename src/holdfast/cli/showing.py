"""How commands show records: a table on a terminal, one JSON object a line to whatever else reads them.

Names and texts are anybody's: on a terminal nothing of them acts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table
from rich.text import Text

Record = TypeVar("Record", bound=msgspec.Struct)
Place = Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))]
"""A number that L3 gives what it keeps: of a record, or a cursor."""

_ACTING: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What moves the cursor, clears, colours or turns the direction of writing."""
_UNITS: Final = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0))


def show(
    records: Sequence[Record],
    columns: Sequence[str],
    cells: Callable[[Record], Sequence[str]],
    none: str,
    *,
    json: bool = False,
) -> None:
    """Print records.

    Args:
        columns: headings of the table.
        cells: a record's line of it.
        none: said on a terminal if there are no records.
        json: as JSON on a terminal too.
    """
    console = Console()
    if json or not console.is_terminal:
        for record in records:
            line(console, msgspec.json.encode(record).decode())
    elif not records:
        line(console, none)
    else:
        table = Table(*columns, box=None)
        for record in records:
            table.add_row(*map(cell, cells(record)))
        console.print(table)


def tell_left_out(cursors: Sequence[int], unreadable: Sequence[str], limit: int) -> None:
    """Name what a list leaves out, since it cannot be read, and say where it goes on if it may.

    Args:
        cursors: of what it shows; `limit`: the most that it could.
    """
    console = Console(stderr=True)
    for each in unreadable:
        line(console, f"{each}: cannot be read; a server that meets it puts it in quarantine")
    if cursors and len(cursors) + len(unreadable) >= limit:
        line(console, f"there may be more: --after {cursors[-1]}")


def cell(text: str) -> Text:
    """A cell of a table. Whole and no markup: an id cut off is of no use, and may hold what rich takes for markup."""
    return Text(printable(text), overflow="fold")


def line(console: Console, text: str) -> None:
    """Print a line, however wide the terminal; to whatever else reads it exactly as it is."""
    shown = printable(text) if console.is_terminal else text
    console.print(shown, markup=False, emoji=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """A text in which nothing acts on a terminal: such characters are shown as JSON escapes them."""
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def age(seconds: float | None) -> str:
    """A time that has passed, in words; nothing if it is not known."""
    if seconds is None:
        return ""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
