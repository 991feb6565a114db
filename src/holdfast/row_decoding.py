"""The documents in rows: whatever cannot be made of one is told as a fault of the row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.documents import decode
from holdfast.errors import CorruptDocument, HoldfastError
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import FaultSink, Row, Source


class RowDecoder:
    """Makes the documents of one server's kinds.

    Args:
        faults: is told of rows of L3 that do not decode.
    """

    def __init__(self, kinds: Mapping[str, Kind[Any]], faults: FaultSink) -> None:
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
            raise CorruptDocument(f"{key}: its class could not make it: {type(fault).__name__}: {fault}") from fault

    def stored(self, key: Key, row: Row) -> Any:
        """The document in a row as L3 holds it; one that does not decode is reported. Raises as `decode`."""
        try:
            return self.decode(key, row)
        except CorruptDocument as fault:
            self._faults.report(fault, Source.L3, key=key, evidence=row.body)
            raise
