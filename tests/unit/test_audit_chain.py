"""The hash chain of the audit log: whatever is done to it later is found, and placed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.audit import chain
from holdfast.audit.chain import GENESIS, AuditEntry, AuditNote, Break, ChainWalk, Link, chained

GOLDEN = "da9e2ac87c10496f8773a5b2bb0b87654a257f7a4a573b186559871931031a1d"
NOON = dt.datetime(2025, 6, 5, 12, tzinfo=dt.UTC)
FIELDS = ("action", "subject", "actor", "reason", "detail")


def log(length: int, base: int = 0) -> list[AuditEntry]:
    """A log of so many entries."""
    entries: list[AuditEntry] = []
    last = GENESIS
    for number in range(length):
        note = AuditNote(action="resolved", subject=f"review:{base + number}", actor="ada", reason="because")
        entries.append(chained(last, note, NOON + dt.timedelta(microseconds=number)))
        last = link(entries[-1])
    return entries


def link(entry: AuditEntry) -> Link:
    """What the next one is chained to."""
    return Link(entry.number, entry.hash)


def walked(
    entries: Sequence[AuditEntry], head: Link, anchor: Link | None = None, page: int = 3
) -> tuple[int, Break | None]:
    """How many entries hold, and where the log breaks; it is read as L3 gives it, in order of the numbers."""
    rows = sorted(entries, key=lambda entry: entry.number)
    walk = ChainWalk(head, anchor)
    while not walk.is_over:
        walk.follow([entry for entry in rows if entry.number > walk.last.number][:page])
    walk.end()
    return walk.last.number, walk.broken


def place(found: tuple[int, Break | None]) -> int | None:
    """The number at which a log breaks."""
    return None if found[1] is None else found[1].number


def rehashed(entry: AuditEntry) -> AuditEntry:
    """An entry whose hash was made anew, as whoever edits it would."""
    return msgspec.structs.replace(entry, hash=chain.hash_of(entry))


lengths = st.integers(2, 12)


@given(lengths, st.integers(1, 5))
def test_a_log_that_nobody_touched_holds(length: int, page: int) -> None:
    """However it is read; and an empty one does."""
    entries = log(length)
    assert walked(entries, link(entries[-1]), page=page) == (length, None)
    assert walked([], GENESIS) == (0, None)


@given(lengths, st.data())
def test_an_edit_is_found_and_placed(length: int, data: st.DataObject) -> None:
    """In any field: at the entry itself, or, if its hash was made anew, where the next one was chained to another."""
    entries = log(length)
    at = data.draw(st.integers(0, length - 1))
    field = data.draw(st.sampled_from(FIELDS))
    note = msgspec.structs.replace(entries[at].note, **{field: data.draw(st.text(max_size=5))})
    edited = msgspec.structs.replace(entries[at], note=note)
    if note == entries[at].note:
        return
    head = link(entries[-1])
    assert place(walked([*entries[:at], edited, *entries[at + 1 :]], head)) == at + 1
    last = at == length - 1
    assert place(walked([*entries[:at], rehashed(edited), *entries[at + 1 :]], head)) == (at + 1 if last else at + 2)


@given(lengths, st.data())
def test_another_time_is_found(length: int, data: st.DataObject) -> None:
    """To the microsecond."""
    entries = log(length)
    at = data.draw(st.integers(0, length - 1))
    later = entries[at].at + dt.timedelta(microseconds=data.draw(st.integers(1, 10**12)))
    edited = msgspec.structs.replace(entries[at], at=later)
    assert place(walked([*entries[:at], edited, *entries[at + 1 :]], link(entries[-1]))) == at + 1


@given(lengths, st.data())
def test_a_dropped_entry_is_found_and_placed(length: int, data: st.DataObject) -> None:
    """The last one too, by the head; and with those behind it numbered anew, by what they are chained to."""
    entries = log(length)
    at = data.draw(st.integers(0, length - 1))
    head = link(entries[-1])
    left = [*entries[:at], *entries[at + 1 :]]
    assert place(walked(left, head)) == at + 1
    closed_up = [
        rehashed(msgspec.structs.replace(entry, number=entry.number - (entry.number > at + 1))) for entry in left
    ]
    assert place(walked(closed_up, head)) == at + 1


@given(lengths, st.data())
def test_a_swap_is_found_and_placed(length: int, data: st.DataObject) -> None:
    """At the first of the two."""
    entries = log(length)
    first, second = sorted(data.draw(st.lists(st.integers(0, length - 1), min_size=2, max_size=2, unique=True)))
    swapped = list(entries)
    for here, there in ((first, second), (second, first)):
        moved = msgspec.structs.replace(entries[there], number=here + 1, previous=entries[here].previous)
        swapped[here] = moved
    assert place(walked(swapped, link(entries[-1]))) == first + 1


@given(lengths, st.data())
def test_an_inserted_entry_is_found_and_placed(length: int, data: st.DataObject) -> None:
    """Chained to the one before it, the others numbered anew: the one behind it was not chained to it."""
    entries = log(length)
    at = data.draw(st.integers(0, length - 1))
    before = GENESIS if at == 0 else link(entries[at - 1])
    slipped_in = chained(before, AuditNote(action="revealed", subject="x", actor="eve", reason="-"), NOON)
    moved = [rehashed(msgspec.structs.replace(entry, number=entry.number + 1)) for entry in entries[at:]]
    broken = walked([*entries[:at], slipped_in, *moved], link(entries[-1]))
    assert place(broken) in (at + 1, at + 2)


def test_a_log_that_was_made_anew_is_found_by_an_anchor() -> None:
    """Without one it holds as well as the first did: nothing in it can tell. One that was cut back is found too."""
    entries, forged = log(6), log(6, base=100)
    assert walked(forged, link(forged[-1])) == (6, None)
    assert place(walked(forged, link(forged[-1]), anchor=link(entries[3]))) == 4
    assert walked(entries, link(entries[-1]), anchor=link(entries[3])) == (6, None)
    assert place(walked(entries[:2], link(entries[1]), anchor=link(entries[3]))) == 4
    assert place(walked(entries[:5], link(entries[4])._replace(hash=bytes(32)))) == 5


def test_what_is_appended_meanwhile_is_left_alone() -> None:
    """Beyond the head of when the walk began."""
    entries = log(6)
    assert walked(entries, link(entries[3])) == (4, None)


def test_no_two_entries_have_the_same_bytes() -> None:
    """Where one text ends and the next begins is part of what is hashed."""
    one = AuditNote(action="a", subject="bc", actor="d", reason="e")
    two = AuditNote(action="ab", subject="c", actor="d", reason="e")
    assert chained(GENESIS, one, NOON).hash != chained(GENESIS, two, NOON).hash


def test_the_bytes_of_an_entry_stay_what_they_are() -> None:
    """Otherwise logs that were kept would break."""
    note = AuditNote(
        action="resolved", subject="review:a/b/c", actor="ada", reason="because", detail='{"choice":"child"}'
    )
    assert chained(GENESIS, note, NOON).hash.hex() == GOLDEN


@pytest.mark.parametrize(("covered", "broken"), [(True, 3), (False, None)], ids=["as it is", "mutant"])
def test_a_hash_covers_the_entry_before(
    covered: bool,  # noqa: FBT001
    broken: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mutant: it does not, and whoever edits an entry has only to point the next one to it."""
    if not covered:
        whole = chain.hash_of
        monkeypatch.setattr(chain, "hash_of", lambda entry: whole(msgspec.structs.replace(entry, previous=b"")))
    entries = log(4)
    edited = rehashed(msgspec.structs.replace(entries[1], at=NOON))
    follower = msgspec.structs.replace(entries[2], previous=edited.hash)
    assert place(walked([entries[0], edited, follower, entries[3]], link(entries[3]))) == broken
