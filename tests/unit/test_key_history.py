"""What is remembered of keys, and what is forgotten first."""

from __future__ import annotations

from holdfast.changes import ChangeOperation
from holdfast.entry import Tier
from holdfast.invalidation.key_history import LINES_MAX, Event, KeyHistory
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Change

KEY, OTHER = Key("bot", "b1"), Key("bot", "b2")


def events(history: KeyHistory, key: Key = KEY) -> list[tuple[float, Event, int]]:
    """What is remembered of a key."""
    return [(line.moment, line.event, line.version) for line in history.of([key])[key]]


def test_everything_about_a_key_in_its_order() -> None:
    """Of polls, of notes, of its kind and of all keys; nothing of others."""
    history = KeyHistory(0.0)
    history.filled(1.0, KEY, 3, Tier.L2, held=True)
    history.fed(
        2.0, [Change(KEY, 4), Change(OTHER, 5), Change(Key("team", ""), 6), Change(KEY, 7, ChangeOperation.DELETE)]
    )
    history.told(3.0, KEY, 8)
    history.told(3.5, KEY, ANY_VERSION)
    history.filled(4.0, KEY, 7, None, held=False)
    history.filled(5.0, KEY, 8, Tier.L3, held=True, offered=True)
    history.fed(6.0, [Change(Key("bot", ""), 9)])
    history.flushed(7.0, "bot")
    history.flushed(7.5, "team")
    history.flushed(8.0)
    history.told(9.0, OTHER, 10)
    assert events(history) == [
        (1.0, Event.FILLED, 3),
        (2.0, Event.FED, 4),
        (2.0, Event.DELETED, 7),
        (3.0, Event.TOLD, 8),
        (3.5, Event.DOUBTED, ANY_VERSION),
        (4.0, Event.REFUSED, 7),
        (5.0, Event.FILLED, 8),
        (5.0, Event.OFFERED, 8),
        (6.0, Event.KIND_FED, 9),
        (7.0, Event.FLUSHED, 0),
        (8.0, Event.FLUSHED, 0),
    ]
    assert history.of([KEY])[KEY][0].told(1.5) == "0.500 s ago: L1 took version 3 from L2"
    assert history.of([KEY])[KEY][5].told(4.0) == "0.000 s ago: L1 refused version 7 from a write"


def test_the_oldest_changes_go_first() -> None:
    """A poll is forgotten whole when there are too many changes, and from when on all is known is known."""
    history = KeyHistory(0.0, notes_max=10)
    assert history.complete_since == 0.0
    history.fed(1.0, [Change(KEY, 1)])
    history.fed(2.0, [Change(OTHER, number) for number in range(2, 11)])
    assert history.complete_since == 0.0
    history.fed(3.0, [Change(KEY, 11)])
    assert events(history) == [(3.0, Event.FED, 11)]
    assert history.complete_since == 1.0


def test_of_a_poll_that_is_too_large_the_end_is_kept() -> None:
    """However many changes come at once, the room is the same."""
    history = KeyHistory(0.0, notes_max=10)
    history.fed(1.0, [Change(KEY, number) for number in range(100)])
    assert [version for _, _, version in events(history)] == list(range(90, 100))
    assert history.complete_since == 1.0


def test_the_oldest_notes_go_first() -> None:
    """And a key shows its newest lines only."""
    history = KeyHistory(0.0, notes_max=LINES_MAX + 5)
    for number in range(LINES_MAX + 10):
        history.told(float(number), KEY, number)
    assert [version for _, _, version in events(history)] == list(range(10, LINES_MAX + 10))
    assert history.complete_since == 5.0
    for number in range(LINES_MAX + 10):
        history.filled(10.0 + number, KEY, number, Tier.L3, held=True)
    assert history.complete_since == 15.0


def test_polls_without_changes_are_not_kept() -> None:
    """There are ten a second, for ever."""
    history = KeyHistory(0.0)
    for _ in range(1000):
        history.fed(1.0, [])
    assert not history._polls
