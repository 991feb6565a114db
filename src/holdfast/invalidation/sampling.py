"""Which cached answers are verified: a share of them, and no more than there is room for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from itertools import islice
from random import Random
from typing import Final

from holdfast.entry import MISSING, Tier
from holdfast.invalidation.consistency import Sample
from holdfast.keys import Key
from holdfast.protocols import Row
from holdfast.tiers.l1_local import Shelf

RECENT_MAX: Final = 1000
"""Entries of a shelf that are looked at for a draw, beginning with the one used last."""


class AnswerSampler:
    """Draws from L2's hits as they are given.

    The gap to the next draw is drawn, not each hit's fate, so that a hit costs one subtraction.

    Args:
        share: of the hits that are drawn, 0 to 1.
        room: draws kept until they are taken; beyond, the oldest go.
    """

    def __init__(self, share: float, *, room: int, random_: Random) -> None:
        self._share = share
        self._random = random_
        self._drawn: deque[Sample] = deque(maxlen=room)
        self._left = self._gap()

    def answered(self, key: Key, row: Row, read_at: float) -> None:
        """L2 answered with a row that was read from L3 at a moment (monotonic seconds)."""
        self._left -= 1
        if self._left <= 0:
            self._left = self._gap()
            self._drawn.append(Sample(key, Tier.L2, row.version, row, read_at))

    def take(self) -> list[Sample]:
        """What was drawn since the last call."""
        drawn = list(self._drawn)
        self._drawn.clear()
        return drawn

    def _gap(self) -> float:
        """Hits until the next draw, geometrically distributed."""
        if self._share <= 0:
            return math.inf
        if self._share >= 1:
            return 1
        return 1 + math.floor(math.log(1 - self._random.random()) / math.log1p(-self._share))


class ShelfSampler:
    """Draws from what L1 answered with, afterwards: a hit is too hot to be counted twice.

    How many are drawn follows the shelf's own count of hits. Which ones is left to chance among the entries used since
    the last draw, and among those that say "no such row", whose uses L1 does not note.

    Args:
        shelves: by kind.
        share: of the hits that are drawn, 0 to 1.
        room: draws from one shelf at most.
    """

    def __init__(self, shelves: Mapping[str, Shelf], share: float, *, room: int, random_: Random) -> None:
        self._shelves = shelves
        self._share = share
        self._room = room
        self._random = random_
        self._hits = {kind: shelf.hits for kind, shelf in shelves.items()}
        self._since = -math.inf

    def take(self, now: float) -> list[Sample]:
        """Draw from the hits since the last call."""
        drawn = [sample for kind, shelf in self._shelves.items() for sample in self._draw(kind, shelf)]
        self._since = now
        return drawn

    def _draw(self, kind: str, shelf: Shelf) -> list[Sample]:
        hits = shelf.hits
        wanted = (hits - self._hits[kind]) * self._share
        self._hits[kind] = hits
        count = min(self._room, int(wanted) + (self._random.random() < wanted % 1))
        if not count:
            return []
        used = [
            (identifier, entry)
            for identifier, entry in islice(reversed(shelf.entries.items()), RECENT_MAX)
            if entry.used_at >= self._since or entry.value is MISSING
        ]
        chosen = self._random.sample(used, min(count, len(used)))
        return [
            Sample(Key(kind, identifier), Tier.L1, entry.version, entry, entry.read_at) for identifier, entry in chosen
        ]
