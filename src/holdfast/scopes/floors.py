"""What a scope has seen that a cache may not know yet (pure; rule S1).

A *floor* is the version of a key that the scope saw last, and since when. A cached answer does not go below it if it
is that very version, or if the server's change feed has come past that moment: a poll that began later and succeeded
has told the caches everything committed before. Higher numbers prove nothing: after a delete and a new insert a key may
go on with a lower one (rule V1). So floors are needed for an instant only, and few of them are kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from holdfast.keys import Key

FLOORS_MAX: Final = 256
"""Of one scope; beyond, one moment stands for all keys."""
NEVER: Final = -math.inf


class Floor(NamedTuple):
    """The oldest state of a key that a scope may be shown.

    Attributes:
        version: of that state, 0 for no row; None: not known, so only the feed can prove an answer.
        since: whatever was committed by this moment may have been seen, monotonic seconds; NEVER: nothing was.
    """

    version: int | None
    since: float

    def passed(self, heard: float) -> bool:
        """Whether a poll that began at a moment has told all that may have been seen."""
        return self.since < heard or self.since == NEVER  # at the same moment it may have begun before


class Floors:
    """The floors of one scope.

    Args:
        carried: versions by digest of their keys, from a token; see `digest`.
        carried_at: when the token came.
        everything: anything else that was committed by then may have been seen.
    """

    def __init__(
        self, carried: Mapping[bytes, int] | None = None, carried_at: float = NEVER, *, everything: bool = False
    ) -> None:
        self._own: dict[Key, Floor] = {}
        self._carried = dict(carried or {})
        self._carried_at = carried_at
        self._since = carried_at if everything else NEVER

    def of(self, key: Key) -> Floor:
        """The floor of a key."""
        floor = self._own.get(key)
        if floor is None and self._carried and (version := self._carried.get(digest(key))) is not None:
            floor = Floor(version, self._carried_at)
        return floor if floor is not None else Floor(None, self._since)

    def see(self, key: Key, version: int, began: float, now: float, heard: float) -> None:
        """A call that began at a moment ended now and showed, or made, a version of a key; 0: no row.

        Args:
            heard: when the last good poll of the feed began.
        """
        floor = self.of(key)
        if floor.version == version and version:  # "no row" may have come anew, after one that was there meanwhile
            return
        # A call that overlaps another may have been shown the older state of the two; which one, nobody can tell.
        told = began >= floor.since or floor.version == version
        self._own[key] = Floor(version if told else None, now)
        if len(self._own) > FLOORS_MAX:
            self.forget(heard)
        if len(self._own) > FLOORS_MAX:
            self.see_all(now)

    def see_all(self, moment: float) -> None:
        """Anything committed by a moment may have been seen.

        Also by calls that end later and began before it: no version seen so far proves anything any more.
        """
        carried_at = self._carried_at if self._carried else NEVER
        self._since = max(self._since, moment, carried_at, *(floor.since for floor in self._own.values()))
        self._own.clear()
        self._carried.clear()

    def forget(self, heard: float) -> None:
        """Drop what the feed has come past by now."""
        self._own = {key: floor for key, floor in self._own.items() if not floor.passed(heard)}
        if self._carried_at < heard:
            self._carried.clear()

    def ahead(self, heard: float) -> tuple[dict[bytes, int], bool]:
        """What the feed has not come past: versions by digest of their keys, and whether there is more than these."""
        self.forget(heard)
        versions = dict(self._carried)
        more = not Floor(None, self._since).passed(heard)
        for key, floor in self._own.items():
            if floor.version is None:
                more = True
                versions.pop(digest(key), None)
            else:
                versions[digest(key)] = floor.version
        return versions, more


def digest(key: Key) -> bytes:
    """Eight bytes that stand for a key in a token; two keys that share them cost a poll, nothing else."""
    return hashlib.blake2b(f"{key.kind}:{key.id}".encode(), digest_size=8).digest()
