"""Causes: each from the history that shows it."""

from __future__ import annotations

import pytest

from holdfast.entry import Tier
from holdfast.invalidation.causes import cause, differed_since
from holdfast.invalidation.consistency import Sample, Suspect
from holdfast.invalidation.key_history import Event, Line
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Row
from holdfast.tiers.l1_local import LocalEntry

KEY = Key("bot", "b1")
NOW, READ_AT = 100.0, 90.0
OLD, NEW = 790, 812


def suspect(tier: Tier, *, truth: int = NEW, served: int = OLD) -> Suspect:
    """An answer read at 90, ten seconds ago."""
    answer = LocalEntry("a document", served, READ_AT, 1e9, NOW) if tier is Tier.L1 else Row(served, 1, 1, b"{}")
    return Suspect(Sample(KEY, tier, served, answer, READ_AT), truth)


def line(moment: float, event: Event, version: int, tier: Tier | None = None) -> Line:
    """One line of the key's history."""
    return Line(moment, KEY, event, version, tier)


def fed(moment: float, version: int = NEW) -> Line:
    """The feed told of a version."""
    return line(moment, Event.FED, version)


def filled(moment: float, tier: Tier | None = Tier.L2) -> Line:
    """L1 took the old version."""
    return line(moment, Event.FILLED, OLD, tier)


LOCAL: list[tuple[list[Line], float, str]] = [
    ([filled(90)], 80, "never told of version 812, and remembers all since the value was read: the feed left it out"),
    ([filled(90)], 95, "If this server was told of version 812, it is no longer remembered (only the last 5.000 s"),
    (
        [filled(90), fed(97)],
        80,
        "Word of version 812 came 3.000 s ago, after version 790 was filled: its fence did not",
    ),
    ([fed(97), filled(99)], 80, "version 790 was filled from L2 2.000 s after it: it was not refused."),
    ([fed(97), filled(99, None)], 80, "version 790 was filled from a write 2.000 s after it: it was not refused."),
    ([fed(97)], 80, "no fill of version 790 is remembered: it came into L1 by another way."),
    ([fed(91, 800), filled(90)], 80, "This server was never told of version 812"),
    ([line(97, Event.KIND_FED, 0)], 80, "the feed told that any number of keys of the kind changed 3.000 s ago"),
    ([line(97, Event.FLUSHED, 0)], 95, "but L1 was flushed 3.000 s ago, after the value was read"),
    ([line(89, Event.FLUSHED, 0)], 80, "This server was never told of version 812"),
]
SHARED: list[tuple[list[Line], float, str]] = [
    ([line(91, Event.OFFERED, OLD)], 95, "was read from L3 10.000 s ago and filled by this server."),
    (
        [],
        95,
        "filled by another server, or longer ago than this one remembers. This server was not told of version 812",
    ),
    ([], 95, "the node was not fenced, or its fence did not refuse this entry."),
    ([fed(97)], 80, "Word of version 812 came 3.000 s ago, after the entry was read: it outlived its fence"),
    ([fed(85)], 80, "Word of version 812 came 15.000 s ago, before the entry claims to have been read"),
]


@pytest.mark.parametrize(("lines", "complete_since", "told"), LOCAL)
def test_of_an_entry_of_l1(lines: list[Line], complete_since: float, told: str) -> None:
    """The history tells the cause."""
    assert told in cause(suspect(Tier.L1), lines, now=NOW, complete_since=complete_since)


@pytest.mark.parametrize(("lines", "complete_since", "told"), SHARED)
def test_of_an_entry_of_l2(lines: list[Line], complete_since: float, told: str) -> None:
    """And of L2's also who filled it, as far as this server can know."""
    assert told in cause(suspect(Tier.L2), lines, now=NOW, complete_since=complete_since)


def test_of_a_row_that_is_gone() -> None:
    """The deletion drew a version of its own, which nobody knows but the feed."""
    lines = [fed(80, 700), line(97, Event.DELETED, 900)]
    told = cause(suspect(Tier.L1, truth=0), lines, now=NOW, complete_since=0.0)
    assert told.startswith("Word of the row's absence came 3.000 s ago")


def test_of_the_same_version() -> None:
    """Nothing that was told could have helped."""
    assert "triggers were off" in cause(suspect(Tier.L1, truth=OLD), [fed(97)], now=NOW, complete_since=0.0)


def test_how_long_it_was_wrong_is_never_overstated() -> None:
    """From the later of word and fill, if both are known; otherwise from when it was seen."""
    local = suspect(Tier.L1)
    assert differed_since(local, [filled(90), fed(97)], seen_at=99.5) == 97
    assert differed_since(local, [fed(97), filled(99)], seen_at=99.5) == 99
    assert differed_since(local, [fed(97)], seen_at=99.5) == 99.5
    assert differed_since(local, [filled(97)], seen_at=99.5) == 99.5
    assert differed_since(suspect(Tier.L2), [filled(90), fed(97)], seen_at=99.5) == 99.5
    assert differed_since(suspect(Tier.L2), [line(91, Event.OFFERED, OLD), fed(97)], seen_at=99.5) == 97


@pytest.mark.parametrize(
    ("served", "truth", "fence", "withdrawn"),
    [
        (OLD, NEW, NEW, NEW),  # the past
        (NEW, OLD, ANY_VERSION, NEW + 1),  # of an earlier life of the id
        (OLD, 0, ANY_VERSION, OLD + 1),  # gone
        (OLD, OLD, ANY_VERSION, OLD),  # damaged: the same version may come back, with its own contents
        (0, NEW, NEW, NEW),
    ],
)
def test_what_forbids_it(served: int, truth: int, fence: int, withdrawn: int) -> None:
    """A fence above what was served; in L2 one that lets the true row in, if a version can tell them apart."""
    found = suspect(Tier.L2, truth=truth, served=served)
    assert found.fence == fence
    assert (found.withdrawal.version, found.withdrawal.fence) == (served, withdrawn)
