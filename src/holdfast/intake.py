"""What callers hand in, checked before anything is written (pure)."""

from __future__ import annotations

from typing import Any, TypeVar

from holdfast.documents import Document, Limits, encode
from holdfast.errors import InvalidDocument
from holdfast.keys import Key, check_id
from holdfast.kinds import Kind
from holdfast.protocols import ANY_VERSION, Write

D = TypeVar("D", bound=Document)


def checked_key(kind: Kind[D], identifier: str, document: D) -> Key:
    """The key of a document that is of its kind's very class.

    Raises:
        InvalidKey, InvalidDocument: the id, or the class.
    """
    key = Key(kind.name, check_id(identifier))
    wanted, given = kind.document, type(document)
    if given is not wanted:  # a subclass too: other servers would read it back as its base
        raise InvalidDocument("", f"{key}: a {wanted.__name__} is wanted, not a {given.__name__}")
    return key


def checked_write(kind: Kind[D], identifier: str, document: D, expected: Any, limits: Limits) -> Write:
    """A document on its way to L3, encoded.

    Raises:
        InvalidKey, InvalidDocument: with the place of the fault.
    """
    key = checked_key(kind, identifier, document)
    tags = kind.tags_of(key, document)
    return Write(key, document.SCHEMA, encode(document, limits), checked_version(key, expected), tags)


def checked_version(key: Key, expected: Any) -> int | None:
    """The version that a write expects: None for any, 0 for none.

    Raises:
        InvalidDocument: it is no version.
    """
    if expected is None or (type(expected) is int and 0 <= expected < ANY_VERSION):
        return expected
    raise InvalidDocument("", f"{key}: expected_version {expected!r} is no version (a whole number from 0 to 2^63-2)")
