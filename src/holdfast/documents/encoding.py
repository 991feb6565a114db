"""From a document to the bytes that are stored: UTF-8 JSON, or a refusal with the path of the fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.documents.base import Document
from holdfast.documents.direct import direct_json
from holdfast.documents.faults import DEPTH_CEILING, FaultError, join_steps
from holdfast.documents.frozen import FreeValue
from holdfast.documents.plans import VERSION
from holdfast.documents.shapes import Shape
from holdfast.documents.structs import Nested, store_struct
from holdfast.documents.tagging import storable_text
from holdfast.errors import DocumentTooLarge, InvalidDocument, SettingsError

_ESCAPED_NUL = b"\\u0000"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a document may be.

    Attributes:
        bytes_max: of its JSON, uncompressed.
        depth_max: levels of containers, the document itself being the first; at most 128.
    """

    bytes_max: int = 1_048_576
    depth_max: int = 64

    def __post_init__(self) -> None:
        if self.bytes_max < 1:
            raise SettingsError(f"bytes_max, the largest size of a document, is at least 1, not {self.bytes_max}")
        if not 1 <= self.depth_max <= DEPTH_CEILING:
            raise SettingsError(f"depth_max is between 1 and {DEPTH_CEILING} levels, not {self.depth_max}")


DEFAULT_LIMITS = Limits()


def encode(document: Document, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The document as UTF-8 JSON. Documents that hold the same have the same bytes, dicts in the same order.

    Raises:
        InvalidDocument: a value is of the wrong type, or none that can be stored; `path` says where.
        DocumentTooDeep: it nests deeper than `limits.depth_max`.
        DocumentTooLarge: it has more than `limits.bytes_max` bytes; `path` leads to the bulk of them.
    """
    if not isinstance(document, Document):
        raise InvalidDocument("", f"expected a Document, got {type(document).__qualname__}")
    body = direct_json(document, limits.depth_max)
    # An escaped NUL, and a document that is too large, are looked at more closely on the long way.
    if body is not None and len(body) <= limits.bytes_max and _ESCAPED_NUL not in body:
        return body
    return _encode_stored(document, limits)


def _encode_stored(document: Document, limits: Limits) -> bytes:
    shape = Nested((type(document),))
    try:
        stored = {VERSION: document.SCHEMA} | store_struct(document, limits.depth_max)
        body = _to_json(stored, shape)
    except FaultError as fault:
        raise fault.refused() from fault.__cause__
    if len(body) > limits.bytes_max:
        raise _too_large(shape, stored, len(body), limits.bytes_max)
    return body


def _to_json(stored: dict[str, Any], shape: Shape) -> bytes:
    try:
        body = msgspec.json.encode(stored)
    except (TypeError, ValueError) as error:
        # Half a surrogate pair, an int of thousands of digits, a subclass of str: a walk finds it.
        _check_leaves(shape, stored)
        raise FaultError(f"cannot be written as JSON: {error}") from error
    if _ESCAPED_NUL in body:  # or, harmless, the text of such an escape
        _check_leaves(shape, stored)
    return body


def _check_leaves(shape: Shape, stored: FreeValue) -> None:
    for step in _steps(stored):
        name, inner, each = shape.descend(step, stored)
        try:
            _check_leaf(step)
            _check_leaves(inner or Shape(), each)
        except FaultError as fault:
            fault.under(name)
            raise
    if not isinstance(stored, dict | list):
        _check_leaf(stored)


def _steps(stored: FreeValue) -> list[Any]:
    """Keys or indexes of a stored container; none of anything else."""
    if isinstance(stored, dict):
        return list(stored)
    return list(range(len(stored))) if isinstance(stored, list) else []


def _check_leaf(value: FreeValue) -> None:
    if isinstance(value, str):
        storable_text(value)
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError) as error:
        raise FaultError(f"cannot be written as JSON: {error}") from error


def _too_large(shape: Shape, stored: FreeValue, size: int, bytes_max: int) -> DocumentTooLarge:
    """Follow the largest child as long as it makes up most of the document."""
    steps: list[str] = []
    here_size = size
    while places := [shape.descend(step, stored) for step in _steps(stored)]:
        sizes = [len(msgspec.json.encode(each)) for _, _, each in places]
        if max(sizes) * 2 < size:
            break
        here_size = max(sizes)
        name, inner, stored = places[sizes.index(here_size)]
        steps.append(name)
        shape = inner or Shape()
    bulk = f"; {here_size} of them are here" if steps else ""
    return DocumentTooLarge(join_steps(steps), f"the document has {size} bytes, at most {bytes_max}{bulk}")
