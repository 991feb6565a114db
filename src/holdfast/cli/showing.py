"""How commands show records: a table on a terminal, one JSON object a line to whatever else reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

Record = TypeVar("Record", bound=msgspec.Struct)

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
            # Whole, and as they are: an id cut off is of no use, and may contain what rich takes for markup.
            table.add_row(*(Text(cell, overflow="fold") for cell in cells(record)))
        console.print(table)


def line(console: Console, text: str) -> None:
    """Print a line as it is, however wide the terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def age(seconds: float | None) -> str:
    """A time that has passed, in words; nothing if it is not known."""
    if seconds is None:
        return ""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
