"""Typed keys: a kind's name and an id. No text is ever split into a key."""

from __future__ import annotations

import re
from typing import NamedTuple

from holdfast.errors import InvalidKey

ID_BYTES_MAX = 512
KIND_NAME_BYTES_MAX = 40
KIND_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")

# What has a meaning inside a Redis Cluster key ({ } choose the slot), in a pattern, or in a log line.
_SPECIAL = b"%{}*?[]\\\x7f" + bytes(range(0x21))
_ESCAPED = re.compile(b"[" + re.escape(_SPECIAL) + b"]")


class Key(NamedTuple):
    """`(kind, id)`: the name of one document."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


def check_id(identifier: object) -> str:
    """Return the id unchanged if it can name a document.

    Raises:
        InvalidKey: it is not text, empty, over 512 bytes of UTF-8, holds NUL or is not valid Unicode.
    """
    return check_text("id", identifier, ID_BYTES_MAX)


def check_text(what: str, text: object, bytes_max: int) -> str:
    """Return a text unchanged if L3 can store it as a name of this sort.

    Raises:
        InvalidKey: it is not text, empty, too long in UTF-8, holds NUL or is not valid Unicode.
    """
    # What nearly all are is told in one line: this runs with every call.
    if type(text) is str and text.isascii() and 0 < len(text) <= bytes_max and "\0" not in text:
        return text
    article = "an" if what[0] in "aeiou" else "a"
    if not isinstance(text, str):
        raise InvalidKey(f"{article} {what} is text, not {type(text).__name__}: {text!r:.60}")
    if not text:
        raise InvalidKey(f"{article} {what} must not be empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as fault:
        raise InvalidKey(f"{what} {text!r:.60} is not valid Unicode (position {fault.start})") from fault
    if size > bytes_max:
        raise InvalidKey(f"{what} {text[:40]!r}... has {size} bytes; at most {bytes_max}")
    if "\0" in text:
        raise InvalidKey(f"{what} {text!r:.60} holds a NUL character, which PostgreSQL cannot store")
    return text


def check_kind_name(name: str) -> str:
    """Return the name unchanged if it can name a kind.

    Raises:
        InvalidKey: not 1-40 of ``a-z 0-9 _`` beginning with a letter.
    """
    if not isinstance(name, str) or not KIND_NAME.match(name):
        raise InvalidKey(f"kind name {name!r}: use 1 to 40 of a-z, 0-9 and _, beginning with a letter")
    return name


def joined_id(*parts: str) -> str:
    """An id of several parts with slashes between; those in all but the last are escaped, so that no two are one."""
    return "/".join((*(part.replace("%", "%25").replace("/", "%2F") for part in parts[:-1]), parts[-1]))


def redis_key(prefix: bytes, key: Key) -> bytes:
    """The key's name in L2: prefix, kind, percent-encoded id. An id can never choose a slot or form a pattern."""
    kind, identifier = key
    name = identifier.encode()
    if name.translate(None, _SPECIAL) != name:
        name = _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], name)
    return b"%b%b:%b" % (prefix, kind.encode(), name)
