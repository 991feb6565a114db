"""Which keys are flushed next: each in its turn, and so much of each at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

import pytest

from holdfast.keys import Key
from holdfast.write_behind.buffer import Buffer, BufferRules
from holdfast.write_behind.pace import KEY_WRITES_MAX, Pace

QUIET, BUSY = Key("swarm", "quiet"), Key("swarm", "busy")
RULES = BufferRules()
BYTES_MAX = 1 << 30
FEW = Pace(keys=5)
HURRIED = 6
FLUSH_SECONDS = 0.05


@dataclass(frozen=True)
class Sized:
    """A write of a byte."""

    key: Key
    accepted_at: float
    size: int = 1


def turn_of_a_quiet_key() -> float:
    """When a key is taken that nobody hurries, while more are hurried all the time than go into a flush; seconds."""
    held, now, names = Buffer(RULES), 0.0, count()
    held.add(Sized(QUIET, now))
    while now < 10 * RULES.age_seconds:
        while len(held) <= HURRIED:
            key = Key("swarm", f"hurried {next(names)}")
            held.add(Sized(key, now))
            held.hurry([key], now)
        taken = held.take(now, FEW, BYTES_MAX)
        if QUIET in taken:
            return now
        for key, writes in taken.items():
            held.decided(key, writes)
        now += FLUSH_SECONDS
    return math.inf


def test_those_who_hurry_let_others_have_their_turn() -> None:
    """A key that is due stands before those that are hurried after it."""
    assert turn_of_a_quiet_key() <= RULES.quiet_seconds + 2 * FLUSH_SECONDS


def test_mutant_those_who_hurry_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the quiet key never has its turn."""
    hurry = Buffer.hurry

    def first_of_all(held: Buffer, keys: Iterable[Key], now: float) -> None:
        hurry(held, keys, -math.inf)

    monkeypatch.setattr(Buffer, "hurry", first_of_all)
    assert turn_of_a_quiet_key() == math.inf


def parts_of_a_busy_key(pace: Pace) -> list[int]:
    """How many writes of a key are taken at a time, of 2.5 times as many as may be; all of them, in order."""
    held, parts, order = Buffer(RULES), [], []
    for number in range(KEY_WRITES_MAX * 5 // 2):
        held.add(Sized(BUSY, float(number)))
    held.hurry([BUSY], 0.0)
    while held.next_due() < math.inf:
        writes = held.take(held.next_due(), pace, BYTES_MAX)[BUSY]
        order += [write.accepted_at for write in writes]
        parts.append(len(writes))
        held.decided(BUSY, writes)
    assert order == sorted(order)
    assert (len(held), held.size) == (0, 0)
    return parts


def test_of_one_key_only_so_many_writes_are_taken() -> None:
    """They are decided without a pause of the event loop."""
    assert parts_of_a_busy_key(Pace()) == [KEY_WRITES_MAX, KEY_WRITES_MAX, KEY_WRITES_MAX // 2]


def test_mutant_all_writes_of_a_key_are_taken() -> None:
    """However many there are."""
    assert parts_of_a_busy_key(Pace(writes=10 * KEY_WRITES_MAX)) == [KEY_WRITES_MAX * 5 // 2]


def due_after_a_failure() -> float:
    """When a key is due whose flush failed after a second, and to which more is written then."""
    held = Buffer(RULES)
    held.add(Sized(BUSY, 0.0))
    held.hurry([BUSY], 0.0)
    held.give_back(held.take(0.0, Pace(), BYTES_MAX), 1.0)
    held.add(Sized(BUSY, 1.5))
    return held.next_due()


def test_what_failed_is_not_put_off_by_what_is_written() -> None:
    """Somebody may wait for it."""
    assert due_after_a_failure() == 1.0


def test_mutant_a_failure_makes_a_key_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write of it puts it off, up to the greatest age."""
    give_back = Buffer.give_back

    def unhurried(held: Buffer, keys: Iterable[Key], now: float) -> None:
        keys = list(keys)
        give_back(held, keys, now)
        for key in keys:
            held.queues[key].hurried = False

    monkeypatch.setattr(Buffer, "give_back", unhurried)
    assert due_after_a_failure() == 1.5 + RULES.quiet_seconds
