"""What a world is about: how fast its people are, how bad its network, and what fails."""

from __future__ import annotations

import random
from typing import Final, NamedTuple


class Theme(NamedTuple):
    """One kind of world.

    Attributes:
        faults: that happen, by name, some more often; see `chaos`.
        pace_seconds: the longest pause between two steps of a writer.
        delays: what the longest way of a message is drawn from, seconds.
        lost: of the calls of a tier, the share that gets lost.
        cutting: whether documents are put anew and deleted, after which nobody knows what they held.
        replicas: of L2.
    """

    faults: tuple[str, ...]
    pace_seconds: float = 0.1
    delays: tuple[float, ...] = (0.002, 0.02)
    lost: float = 0.0
    cutting: bool = True
    replicas: int = 1


ALL: Final = (
    "crash",
    "crash",
    "freeze",
    "freeze_and_crash",
    "fail_over",
    "l2_away",
    "l3_away",
    "l2_gone",
    "l3_gone",
    "l3_restart",
    "l3_crash",
)


def _mixed(random_: random.Random) -> Theme:
    faults = tuple(fault for fault in ALL if random_.random() < 0.5)
    return Theme(
        faults,
        random_.choice((0.03, 0.15)),
        (0.002, 0.02, 0.1),
        random_.choice((0.0, 0.03, 0.15)),
        random_.random() < 0.5,
        random_.choice((0, 1, 1)),
    )


def _busy(random_: random.Random) -> Theme:
    return Theme((), 0.02, (0.0, 0.002, 0.05), cutting=random_.random() < 0.5)


def _crashes(random_: random.Random) -> Theme:
    return Theme(("crash",), cutting=random_.random() < 0.3, delays=(0.002, 0.05))


def _zombies(random_: random.Random) -> Theme:
    return Theme(("freeze", "freeze_and_crash"), cutting=random_.random() < 0.3, delays=(0.002, 0.05))


def _lossy(random_: random.Random) -> Theme:
    return Theme(("freeze",), lost=0.25, cutting=random_.random() < 0.3)


def _l2(random_: random.Random) -> Theme:
    return Theme(
        ("fail_over", "fail_over", "l2_away", "l2_gone", "crash"), 0.05, (0.01, 0.1), 0.1, random_.random() < 0.3
    )


def _l3(random_: random.Random) -> Theme:
    return Theme(
        ("l3_away", "l3_gone", "l3_restart", "l3_crash", "crash", "freeze"), lost=0.05, cutting=random_.random() < 0.3
    )


THEMES: Final = {
    "mixed": _mixed,
    "busy": _busy,
    "crashes": _crashes,
    "zombies": _zombies,
    "lossy": _lossy,
    "l2": _l2,
    "l3": _l3,
}
