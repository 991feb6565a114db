"""The documents in rows: whatever cannot be made of one is told as a fault of the row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from holdfast.documents import decode
from holdfast.errors import CorruptDocument, HoldfastError, SchemaTooNew
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import FaultSink, Row, Source

T = TypeVar("T")
U = TypeVar("U")
Stored = Callable[[Key, Row], Any]
"""The document in a row of L3; raises as `RowDecoder.stored`."""


class Page(list[T]):
    """Part of a list. Rows that cannot be read are left out of it, so that they hide no others.

    Attributes:
        unreadable: their ids.
    """

    def __init__(self, items: Iterable[T] = (), unreadable: Sequence[str] = ()) -> None:
        super().__init__(items)
        self.unreadable = [*unreadable]

    def of(self, items: Iterable[U]) -> Page[U]:
        """The same with other things in the place of these."""
        return Page(items, self.unreadable)


class RowDecoder:
    """Makes the documents of one server's kinds.

    Args:
        faults: is told of rows of L3 that do not decode; None: nobody is.
    """

    def __init__(self, kinds: Mapping[str, Kind[Any]], faults: FaultSink | None = None) -> None:
        self._kinds = kinds
        self._faults = faults

    def decode(self, key: Key, row: Row) -> Any:
        """The document in a row, wherever that comes from.

        Raises:
            CorruptDocument, SchemaTooNew: also for whatever a class's own `upgrade` or `__post_init__` raised.
        """
        try:
            return decode(self._kinds[key.kind].document, row.body, what=str(key))
        except HoldfastError:
            raise
        except Exception as fault:
            raise CorruptDocument(f"{key}: its class could not make it: {type(fault).__name__}") from fault

    def stored(self, key: Key, row: Row) -> Any:
        """The document in a row as L3 holds it; one that does not decode is reported. Raises as `decode`."""
        try:
            return self.decode(key, row)
        except CorruptDocument as fault:
            if self._faults is not None:
                self._faults.report(fault, Source.L3, key=key, evidence=row.body, version=row.version)
            raise


async def page_of(
    kind: str,
    after: int | None,
    rows: Callable[[int | None], Awaitable[Sequence[tuple[str, Row]]]],
    made: Callable[[str, Any, Row], T],
    stored: Stored,
) -> Page[T]:
    """What of a kind's rows can be read; it is empty only where no row follows that can be.

    Args:
        after: the birth of the last row known.
        rows: lists ids and rows behind a birth.
        made: makes what is listed of an id, its document and row.
    """
    page: Page[T] = Page()
    while not page and (found := await rows(after)):
        for name, row in found:
            try:
                page.append(made(name, stored(Key(kind, name), row), row))
            except (CorruptDocument, SchemaTooNew):
                page.unreadable.append(name)
        after = found[-1][1].birth
    return page
