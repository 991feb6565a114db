"""The buffer of write-behind: when keys are due, what is taken, and how much there may be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_undecided import B1, B2, pending
from holdfast.keys import Key
from holdfast.write_behind.buffer import Buffer, BufferRules
from holdfast.write_behind.pace import Pace

RULES = BufferRules(quiet_seconds=2.0, age_seconds=5.0, writes_max=4, bytes_max=10_000, crowded_seconds=30.0)
ALL = (Pace(), 1 << 20)


def test_a_key_is_due_after_quiet_and_at_a_certain_age_at_the_latest() -> None:
    """Each write puts its key off, but not for ever."""
    buffer = Buffer(RULES)
    assert buffer.next_due() == math.inf
    due = []
    for seq, at in enumerate((0.0, 1.5, 3.0), 1):
        buffer.add(pending(seq, at=at))
        due.append(buffer.next_due())
    assert due == [2.0, 3.5, 5.0]
    assert buffer.take(4.9, *ALL) == {}
    assert [write.entry.seq for write in buffer.take(5.0, *ALL)[B1]] == [1, 2, 3]


def test_a_key_that_is_hurried_is_due_now() -> None:
    """Only that one; a later write of it changes nothing."""
    buffer = Buffer(RULES)
    buffer.add(pending(1, key=B1))
    buffer.add(pending(2, key=B2))
    buffer.hurry([B2, Key("bot", "unknown")], 0.5)
    buffer.add(pending(3, key=B2, at=1.0))
    assert buffer.next_due() == 0.5
    assert list(buffer.take(1.0, *ALL)) == [B2]
    assert buffer.next_due() == 2.0


def test_what_is_hurried_while_it_is_taken_is_due_when_that_is_decided() -> None:
    """A write that came meanwhile and is waited for does not wait for its quiet."""
    buffer = Buffer(RULES)
    first, second = pending(1), pending(2, at=3.0)
    buffer.add(first)
    buffer.take(2.0, *ALL)
    buffer.add(second)
    buffer.hurry([B1], 3.0)
    assert buffer.next_due() == math.inf  # its first is being decided: nothing overtakes it
    buffer.decided(B1, [first])
    assert buffer.take(3.0, *ALL) == {B1: [second]}


def test_what_came_while_another_was_taken_is_due_in_its_time() -> None:
    """Not hurried, it has its own quiet."""
    buffer = Buffer(RULES)
    first, second = pending(1), pending(2, at=3.0)
    buffer.add(first)
    buffer.take(2.0, *ALL)
    buffer.add(second)
    buffer.decided(B1, [first])
    assert buffer.next_due() == 5.0
    assert buffer.oldest_at() == 3.0


def test_what_is_given_back_is_due_at_once_with_what_came_meanwhile() -> None:
    """In its order."""
    buffer = Buffer(RULES)
    buffer.add(pending(1))
    buffer.take(2.0, *ALL)
    buffer.add(pending(2, at=3.0))
    buffer.give_back([B1], 3.0)
    assert [write.entry.seq for write in buffer.take(3.0, *ALL)[B1]] == [1, 2]


def test_what_is_left_of_a_batch_stays_taken_until_it_is_given_back() -> None:
    """Half of it was decided, the rest failed: that is due at once, and not after its quiet."""
    buffer = Buffer(RULES)
    writes = [pending(seq) for seq in (1, 2, 3)]
    for write in writes:
        buffer.add(write)
    buffer.take(2.0, *ALL)
    buffer.decided(B1, writes[:1])
    assert (buffer.queues[B1].taken, buffer.next_due()) == (2, math.inf)
    buffer.give_back([B1], 2.5)
    assert buffer.next_due() == 2.5
    assert buffer.take(2.5, *ALL) == {B1: writes[1:]}


def test_a_batch_has_so_many_keys_and_bytes() -> None:
    """What has no room is due still; one key goes however large it is."""
    buffer = Buffer(RULES)
    for seq, name in enumerate("abcd", 1):
        buffer.add(pending(seq, key=Key("bot", name)))
    size = pending(1, key=Key("bot", "a")).size
    assert len(buffer.take(2.0, Pace(keys=3), 2 * size)) == 2
    assert len(buffer.take(2.0, Pace(keys=1), 1)) == 1
    assert len(buffer.take(2.0, *ALL)) == 1


def test_it_is_full_and_crowded_by_number_bytes_and_age() -> None:
    """From half of it on it is crowded, and when its oldest write waits too long."""
    buffer = Buffer(RULES)
    assert not buffer.is_crowded(1e9)
    buffer.add(pending(1))
    assert not buffer.is_crowded(29.9)
    assert buffer.is_crowded(30.0)
    buffer.add(pending(2))
    assert buffer.is_crowded(0.0)
    assert not buffer.is_full(1)
    assert buffer.is_full(RULES.bytes_max)
    for seq in (3, 4):
        buffer.add(pending(seq))
    assert buffer.is_full(0)


@pytest.mark.parametrize("gone", [[1], [2], [1, 2], [3], [1, 2, 3]])
def test_what_is_decided_is_gone_and_makes_room(gone: list[int]) -> None:
    """And nothing else is; the others are in doubt still, and readers see that something was decided."""
    buffer = Buffer(RULES)
    writes = [pending(seq) for seq in (1, 2, 3)]
    queue, *_ = [buffer.add(write) for write in writes]
    buffer.take(9.0, *ALL)
    queue.set_doubt(writes)
    buffer.decided(B1, [write for write in writes if write.entry.seq in gone])
    left = [write for write in writes if write.entry.seq not in gone]
    assert list(buffer) == left
    assert (len(buffer), buffer.size) == (len(left), sum(write.size for write in left))
    assert (B1 in buffer.queues) == bool(left)
    assert (queue.doubt, queue.decisions) == (bool(left), 1)


@given(st.lists(st.tuples(st.sampled_from("ahtgdp"), st.sampled_from("xyz"), st.floats(0, 3)), max_size=60))
def test_it_never_loses_a_write_nor_its_order(steps: list[tuple[str, str, float]]) -> None:
    """Whatever is added, hurried, taken, given back and decided: each key's writes are all there, in order, and due."""
    buffer, model, now = Buffer(BufferRules(quiet_seconds=2.0, age_seconds=5.0)), dict[Key, list[int]](), 0.0
    taken: dict[Key, list[int]] = {}
    for seq, (step, name, seconds) in enumerate(steps, 1):
        key, now = Key("bot", name), now + seconds
        if step == "a":
            buffer.add(pending(seq, key=key, at=now))
            model.setdefault(key, []).append(seq)
        elif step == "h":
            buffer.hurry([key], now)
        elif step == "t" and not taken:
            batch = buffer.take(now, *ALL)
            taken = {each: [write.entry.seq for write in writes] for each, writes in batch.items()}
            assert all(model[each] == seqs for each, seqs in taken.items())
        elif step == "g":
            buffer.give_back(taken, now)
            taken = {}
        elif step == "d":
            for each, seqs in taken.items():
                buffer.decided(each, [write for write in buffer.queues[each].writes if write.entry.seq in seqs])
                model[each] = model[each][len(seqs) :]
            taken = {}
        elif step == "p":
            for each, seqs in taken.items():
                done = seqs[: len(seqs) // 2]
                buffer.decided(each, [write for write in buffer.queues[each].writes if write.entry.seq in done])
                model[each] = model[each][len(done) :]
                taken[each] = seqs[len(done) :]
                assert buffer.queues[each].taken == len(taken[each])
    buffer.give_back(taken, now)
    last = buffer.take(now + 10.0, *ALL)
    assert {key: [write.entry.seq for write in writes] for key, writes in last.items()} == {
        key: seqs for key, seqs in model.items() if seqs
    }
