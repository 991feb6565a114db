"""What happened to a row, and what a watcher is told of it."""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

import msgspec

Value = TypeVar("Value")


class ChangeOperation(enum.Enum):
    """What was done, by whatever tool."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"
    """Of a whole kind: its table was emptied."""
    MANY = "many"
    """Of a whole kind: one statement changed more keys than are told apart."""
    VOID = "void"
    """No row changed: what caches hold of it was declared void."""
    RESET = "reset"
    """Only told to watchers: they may have missed any number of changes, and should read what they care for."""


class Watched(msgspec.Struct, Generic[Value], frozen=True):
    """One change, as a watcher gets it.

    Attributes:
        id: None: it is not of one key (`TRUNCATE`, `MANY`, `RESET`).
        operation: what was done.
        version: what the change drew; 0 for a `RESET`.
        document: read after the change, and maybe after later ones of the same key, which are told all the same. None:
            there is no row, or the change is not of one key.
        token: resumes behind this change, on any server: ``watch(after=token)``.
        reason: of a `RESET`, in words.
    """

    id: str | None
    operation: ChangeOperation
    version: int
    document: Value | None
    token: str
    reason: str = ""
