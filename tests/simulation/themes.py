"""What a world is about: how fast its people are, how bad its network, and what fails."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

FAULTS: Final = ("feeds", "relays", "nodes", "crashes", "files", "outages")


class Theme(NamedTuple):
    """One kind of world.

    Attributes:
        faults: the groups of faults that happen; see `chaos`.
        pace_seconds: the longest pause between two steps of an agent, or of another tool.
        lost: how much gets lost, 0 to 1.
        late: the share of fills, and of advances of the relay, that are late.
        delays: what the longest way to a tier is drawn from, seconds.
        slow: what the longest way of a read or write of L3, or of a relay's poll, is drawn from besides.
    """

    faults: tuple[str, ...]
    pace_seconds: float
    lost: float
    late: float
    delays: tuple[float, ...] = (0.0, 0.002, 0.01)
    slow: tuple[float, ...] = (0.3,)


def _mixed(random_: random.Random) -> Theme:
    """A bit of everything."""
    faults = tuple(group for group in FAULTS if random_.random() < 0.4)
    return Theme(faults, random_.choice((0.05, 0.2)), random_.choice((0.0, 0.5, 1.0)), 0.15)


def _busy(_: random.Random) -> Theme:
    """Nothing fails, but everybody is in each other's way."""
    return Theme((), 0.01, 0.0, 0.1, (0.0, 0.002, 0.05))


def _feeds(_: random.Random) -> Theme:
    """Servers are cut off from the feed."""
    return Theme(("feeds",), 0.15, 0.5, 0.0, slow=(0.3, 0.6))


def _relays(_: random.Random) -> Theme:
    """The relay is slow and changes, and nodes of L2 have to begin anew."""
    return Theme(("relays",), 0.1, 0.5, 0.3, slow=(0.3, 0.6))


def _nodes(_: random.Random) -> Theme:
    """Nodes of L2 forget, and messages to them are late."""
    return Theme(("nodes",), 0.1, 0.0, 0.4)


def _crashes(_: random.Random) -> Theme:
    """L3 comes back without its last commits."""
    return Theme(("crashes",), 0.1, 0.5, 0.1)


def _files(_: random.Random) -> Theme:
    """L3 comes back on older files, and not everybody notices at once."""
    return Theme(("files",), 0.1, 0.0, 0.1)


def _outages(random_: random.Random) -> Theme:
    """L2 and L3 go away for seconds, one or both, and come back."""
    return Theme(("outages",), 0.4, random_.choice((0.0, 0.5)), 0.1)


THEMES: Final = {
    "mixed": _mixed,
    "busy": _busy,
    "feeds": _feeds,
    "relays": _relays,
    "nodes": _nodes,
    "crashes": _crashes,
    "files": _files,
    "outages": _outages,
}
