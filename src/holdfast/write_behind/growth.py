"""How much larger a document becomes at least (pure): what is certain to have no room need not be encoded.

A document at its limit may have a thousand writes waiting, each of which is to be refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from holdfast.documents import Document, Limits
from holdfast.write_behind.operations import Append, Increment, Operation
from holdfast.write_behind.routes import value_at
from holdfast.write_behind.typed_values import encode_as, values_of

UNBOUND: Final = Limits(bytes_max=1 << 40, depth_max=128)
_FRAME: Final = len(b'{"__version":1,"value":}')
_SAFE: Final = 10**15
"""Below, JSON has all numbers in few digits."""


def least_growth(document: Document, operations: Iterable[Operation]) -> int | None:
    """Bytes of JSON that operations add to a document at least; None: they may take any number away.

    Args:
        operations: `checked` ones, at places that do not overlap.
    """
    growth = 0
    for operation in operations:
        match operation:
            case Append():
                values = values_of(type(document), operation)
                growth += sum(max(0, len(encode_as(kind, value, UNBOUND)) - _FRAME) for _, kind, value in values)
            case Increment():
                changed = _number_growth(value_at(document, operation.place), operation.by)
                if changed is None:
                    return None
                growth += changed
            case _:
                return None
    return growth


def _number_growth(current: Any, by: float) -> int | None:
    """Of a number; None: it is not certain."""
    if type(current) is not int or type(by) is not int or abs(current) >= _SAFE or abs(by) >= _SAFE:
        return None
    return len(msgspec.json.encode(current + by)) - len(msgspec.json.encode(current))
