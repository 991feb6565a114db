"""Invalidation on demand: what can be made void, and the record of it (rule C4)."""

from __future__ import annotations

import datetime as dt

import msgspec

from holdfast.keys import Key


class Target(msgspec.Struct, frozen=True):
    """What an invalidation names: a tag; or a kind, or one key of it; or, with nothing given, everything.

    There are no patterns: whatever is named here can be made void at a cost that does not grow with what is cached.

    Attributes:
        kind: a kind's name.
        id: of a document of the kind.
        tag: a tag, of whatever kinds.
    """

    kind: str | None = None
    id: str | None = None
    tag: str | None = None

    @classmethod
    def of(cls, key: Key) -> Target:
        """One key."""
        return cls(key.kind, key.id)

    @property
    def key(self) -> Key | None:
        """The key, if it is one."""
        return Key(self.kind, self.id) if self.kind is not None and self.id is not None else None

    def __str__(self) -> str:
        if self.tag is not None:
            return f"tag:{self.tag}"
        if self.kind is None:
            return "all"
        return f"kind:{self.kind}" if self.id is None else f"{self.kind}:{self.id}"


class Invalidation(msgspec.Struct, frozen=True):
    """The record of one.

    Attributes:
        at: by L3's clock.
        scope: what was made void: ``all``, ``kind:<name>``, ``tag:<tag>`` or ``<kind>:<id>``.
        number: the generation; of a key, the version of its fence.
        reason, actor: as given.
    """

    at: dt.datetime
    scope: str
    number: int
    reason: str
    actor: str
