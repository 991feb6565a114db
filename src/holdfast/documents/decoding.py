"""From stored bytes to a document: read, upgraded to the current schema, checked; or a typed error."""

from __future__ import annotations

import functools
import re
from typing import Any, TypeVar

import msgspec

from holdfast.documents.base import Document
from holdfast.documents.faults import DEPTH_CEILING, FaultError
from holdfast.documents.frozen import FreeValue, FrozenDict, FrozenList
from holdfast.documents.plans import VERSION
from holdfast.documents.structs import Nested, load_struct, locate, plan_of
from holdfast.errors import CorruptDocument, DocumentTooDeep, HoldfastError, SchemaTooNew

D = TypeVar("D", bound=Document)

_SCHEMA_ONE = ("1", "1.0")  # what the system before Holdfast wrote
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_VALUE = re.compile(r"\A(Invalid (?:enum )?value) .*?(?= - at `(?:key` in `)?\$[^`]*`\Z|\Z)", re.DOTALL)
_TAG_LEVELS_MAX = 3  # levels of JSON that one container can take: {"$dict": [[key, value]]}


def decode(document_type: type[D], body: bytes, *, what: str = "document") -> D:
    """The document that `encode` stored, or one of an older schema, upgraded.

    Args:
        document_type: its class.
        body: UTF-8 JSON.
        what: names the document in errors, as in ``swarm:s1``.

    Raises:
        SchemaTooNew: it was written by a newer version of this program. Not corruption.
        CorruptDocument: it is not JSON, or not of this shape; says which document, and the path.
    """
    # A tag is an object whose one key begins with $; most documents have none, and need no walk for them.
    tagged = b'"$' in body or b"\\u0024" in body
    try:
        document = None if tagged else _load_at_once(document_type, body)
        if document is None:
            stored = _upgraded(document_type, _from_json(body, what), what)
            document = _load(document_type, stored, what, tagged=tagged)
    except RecursionError as error:
        # Only if the body is to blame: a caller deep in its own recursion must not have it quarantined.
        levels_max = DEPTH_CEILING * (_TAG_LEVELS_MAX if tagged else 1)
        if _depth(body) > levels_max:
            raise CorruptDocument(f"{what} nests deeper than {levels_max} levels") from error
        raise
    return document


def _load_at_once(document_type: type[D], body: bytes) -> D | None:
    """The document, if it has the current schema, no unknown fields, no faults; None leads the long way.

    msgspec then reads typed structs straight from the bytes, which takes half the time.
    """
    opening, decoder = _reader(document_type)
    if not body.startswith(opening):
        return None
    try:
        document: D = decoder.decode(b'{"' + body[len(opening) :])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # the long way finds unknown fields a place, and an error its words
    return document


@functools.cache
def _reader(document_type: type[D]) -> tuple[bytes, msgspec.json.Decoder[D]]:
    """How `encode` begins such a document, and what reads the rest."""
    plan_of(document_type)
    opening = f'{{"{VERSION}":{document_type.SCHEMA},"'.encode()
    return opening, msgspec.json.Decoder(document_type, dec_hook=_frozen)


def _load(document_type: type[D], stored: dict[str, Any], what: str, *, tagged: bool) -> D:
    try:
        load_struct(plan_of(document_type), stored, tagged=tagged)
        return msgspec.convert(stored, document_type, str_keys=True, dec_hook=_frozen)
    except msgspec.ValidationError as error:
        raise _corrupt(what, locate(Nested((document_type,)), stored, _without_values(error))) from error
    except FaultError as fault:
        raise _corrupt(what, fault) from fault


def _without_values(error: msgspec.ValidationError) -> msgspec.ValidationError:
    """The same without what the document holds, since logs and events tell it: of its class's own errors the type."""
    text, cause = str(error), error.__cause__
    if isinstance(cause, DocumentTooDeep):
        return error
    if cause is not None:
        return msgspec.ValidationError(f"{type(cause).__name__}{text.removeprefix(str(cause))}")
    return msgspec.ValidationError(_VALUE.sub(r"\1", text))


def _corrupt(what: str, fault: FaultError) -> CorruptDocument:
    place = f" at {fault.path}" if fault.path else ""
    return CorruptDocument(f"{what} does not hold what it should{place}: {fault.reason}")


def _frozen(kind: type, value: FreeValue) -> FreeValue:
    """For fields declared as object, or as one of our own types: msgspec does not know these."""
    if kind is object:
        return value
    if kind in (FrozenDict, FrozenList) and isinstance(value, dict if kind is FrozenDict else list):
        return kind(value)
    raise TypeError(f"expected {kind.__qualname__}, got {type(value).__qualname__}")


def _from_json(body: bytes, what: str) -> dict[str, Any]:
    try:
        stored = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"{what} is not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise CorruptDocument(f"{what} is not a JSON object but {type(stored).__name__}")
    return stored


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for token in _BRACKETS.finditer(body):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        deepest = max(deepest, depth)
    return deepest


def _upgraded(document_type: type[Document], stored: dict[str, Any], what: str) -> dict[str, Any]:
    schema = _schema(stored.pop(VERSION, 1), what)
    if schema > document_type.SCHEMA:
        raise SchemaTooNew(what, found=schema, known=document_type.SCHEMA)
    for step in range(schema, document_type.SCHEMA):
        try:
            stored = document_type.upgrade(stored, step)
        except HoldfastError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise CorruptDocument(
                f"{what} cannot be upgraded from schema {step} to {step + 1}: {type(error).__name__}"
            ) from error
    return stored


def _schema(found: object, what: str) -> int:
    if found in _SCHEMA_ONE:
        return 1
    if type(found) is int and found >= 1:
        return found
    raise CorruptDocument(f"{what} has as its {VERSION} a {type(found).__name__} which is no schema number")
