"""What this server lately learnt and did about keys, to say why an answer was wrong (pure).

Kept at next to no cost: of a poll of the feed its list of changes as it came, of a fill one tuple. What concerned a
key is looked for only when somebody asks. When it is full, the oldest goes.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from holdfast.entry import Tier
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Change

NOTES_MAX: Final = 20_000
"""Fills, other notes, and changes of polls, kept at most: of each. Together they are a few MB."""
LINES_MAX: Final = 16
"""Of one key, the newest that are told."""


class Event(enum.Enum):
    """What happened to a key."""

    FED = "the feed told of version {version}"
    DELETED = "the feed told of the deletion, version {version}"
    KIND_FED = "the feed told that any number of keys of the kind changed"
    TOLD = "a write or a check of this server told of version {version}"
    DOUBTED = "this server stopped believing any cached version"
    FILLED = "L1 took version {version} from {origin}"
    REFUSED = "L1 refused version {version} from {origin}"
    OFFERED = "version {version} was offered to L2"
    FLUSHED = "L1 was flushed"


class Line(msgspec.Struct, frozen=True, gc=False):
    """One event.

    Attributes:
        moment: when it was noted, monotonic seconds.
        version: 0: no such row, or none in particular.
        tier: of a fill, where the value came from; None: a write of this server.
    """

    moment: float
    key: Key
    event: Event
    version: int = 0
    tier: Tier | None = None

    @property
    def origin(self) -> str:
        """Of a fill, where the value came from, in words."""
        return self.tier.name if self.tier is not None else "a write"

    def told(self, now: float) -> str:
        """In words."""
        what = self.event.value.format(version=self.version or "none", origin=self.origin)
        return f"{now - self.moment:.3f} s ago: {what}"


EVERYTHING: Final = Key("", "")
"""The key of what concerned all keys."""


class KeyHistory:
    """The events of one server, the last ones of each sort.

    Args:
        began: monotonic seconds now.
        notes_max: fills, other notes, and changes of polls, kept at most: of each.
    """

    def __init__(self, began: float, *, notes_max: int = NOTES_MAX) -> None:
        self._complete_since = began
        self._notes_max = notes_max
        self._notes: deque[Line] = deque(maxlen=notes_max)
        # Bare tuples, for they are part of every miss: moment, key, version, tier, held by L1, offered to L2.
        self._fills: deque[tuple[float, Key, int, Tier | None, bool, bool]] = deque(maxlen=notes_max)
        self._polls: deque[tuple[float, Sequence[Change]]] = deque()
        self._fed = 0

    @property
    def complete_since(self) -> float:
        """From when on nothing was forgotten, monotonic seconds."""
        oldest = [self._complete_since]
        if len(self._notes) == self._notes_max:
            oldest.append(self._notes[0].moment)
        if len(self._fills) == self._notes_max:
            oldest.append(self._fills[0][0])
        return max(oldest)

    def fed(self, moment: float, changes: Sequence[Change]) -> None:
        """A poll of the feed brought changes. They must not be altered afterwards."""
        if not changes:
            return
        if len(changes) > self._notes_max:
            changes = changes[-self._notes_max :]
            self._complete_since = moment
        self._polls.append((moment, changes))
        self._fed += len(changes)
        while self._fed > self._notes_max:
            self._complete_since, forgotten = self._polls.popleft()
            self._fed -= len(forgotten)

    def told(self, moment: float, key: Key, version: int) -> None:
        """This server learnt by itself that a version exists."""
        self._notes.append(Line(moment, key, Event.TOLD if version != ANY_VERSION else Event.DOUBTED, version))

    def filled(
        self, moment: float, key: Key, version: int, tier: Tier | None, *, held: bool, offered: bool = False
    ) -> None:
        """L1 took a value of a tier, or of a write, or refused it; it may have been offered to L2 besides."""
        self._fills.append((moment, key, version, tier, held, offered))

    def flushed(self, moment: float, kind: str = "") -> None:
        """L1 was emptied, or the part of a kind."""
        self._notes.append(Line(moment, Key(kind, ""), Event.FLUSHED))

    def of(self, keys: Collection[Key]) -> dict[Key, list[Line]]:
        """The newest events of keys in their order, as far as they are remembered. Looks through all there is, once."""
        kinds = {Key(key.kind, "") for key in keys}
        found: dict[Key, list[Line]] = {key: [] for key in (*keys, *kinds, EVERYTHING)}
        for moment, changes in self._polls:
            for change in changes:
                if (lines := found.get(change.key)) is not None:
                    lines.append(_change(moment, change))
        for moment, key, version, tier, held, offered in self._fills:
            if (lines := found.get(key)) is not None:
                lines.append(Line(moment, key, Event.FILLED if held else Event.REFUSED, version, tier))
                if offered:
                    lines.append(Line(moment, key, Event.OFFERED, version))
        for line in self._notes:
            if (lines := found.get(line.key)) is not None:
                lines.append(line)
        return {key: _newest(found[key] + found[Key(key.kind, "")] + found[EVERYTHING]) for key in keys}


def _newest(lines: list[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.moment)[-LINES_MAX:]


def _change(moment: float, change: Change) -> Line:
    if change.whole_kind:
        return Line(moment, change.key, Event.KIND_FED, change.version)
    return Line(moment, change.key, Event.DELETED if change.deleted else Event.FED, change.version)
