"""Entries of a journal: what was encoded is decoded, and what was damaged never becomes an entry."""

from __future__ import annotations

import struct
import zlib
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_operations import BOARDS, KEY, KINDS, LIMITS, Board, Card, boards, operations
from holdfast.documents import Document, FrozenDict, Limits
from holdfast.errors import CorruptDocument, SchemaTooNew, UnknownKind
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.write_behind import entries
from holdfast.write_behind.applying import apply_noting
from holdfast.write_behind.checking import checked
from holdfast.write_behind.entries import HEADER_BYTES, Entry, decode_entry, encode_entry, key_of
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Set
from holdfast.write_behind.routes import Inapplicable

versions = st.integers(0, 2**62)


def entry(*given_: Operation, default: Board | None = None, seq: int = 7) -> Entry:
    """An entry with round numbers for what its operations do not say."""
    kept = checked(Board, given_, LIMITS)
    expects = tuple(b"12345678" if isinstance(each, Set) else None for each in kept)
    return Entry(seq, KEY, kept, 5, 9, default, expects, 1, 1_700_000_000_000)


SAMPLE = entry(
    Set("cards", Card(id="x", words=["p"]), item="x"),
    Delete("free", "a"),
    Append("topics", "a", "q"),
    Increment("ratio", by=0.5),
    Merge({"by_name": {"a": {"notes": {"n": 1}}}, "title": "t"}),
    default=Board(title="new"),
)
DATA = encode_entry(SAMPLE, KINDS)


def sealed(body: bytes, *, seq: int = 7, form: int = 1, flags: int = 0) -> bytes:
    """An entry with the checksum it should have, as documented."""
    checksum = zlib.crc32(struct.pack(">QBB", seq, form, flags) + body)
    return struct.pack(">BBI", form, flags, checksum) + body


def read(data: bytes, seq: int = 7, limits: Limits = LIMITS) -> Entry:
    """The entry, as this server reads it."""
    return decode_entry(data, seq, KINDS, limits)


@given(
    board=boards,
    given_=operations,
    default=st.none() | boards,
    seq=st.integers(1, 2**63),
    birth=versions,
    base_version=versions,
    accepted_at_ms=versions,
    owner=versions,
)
def test_what_was_encoded_is_decoded(
    board: Board, given_: tuple[Operation, ...], default: Board | None, seq: int, **facts: Any
) -> None:
    """Whatever the operations, with the type of each value and what each `Set` replaced."""
    kept: tuple[Operation, ...] = ()
    expects: tuple[bytes | None, ...] = ()
    for operation in given_:
        try:
            board, more = apply_noting(board, [operation])  # type: ignore[assignment]  # none deletes the row
        except Inapplicable:
            continue
        kept, expects = (*kept, operation), expects + more
    written = Entry(seq, KEY, kept, default=default, expects=expects, schema=1, **facts)
    decoded = decode_entry(encode_entry(written, KINDS), seq, KINDS, LIMITS)
    assert decoded == written
    assert repr(decoded) == repr(written)


def every_byte_counts() -> None:
    """Whichever byte is another one, and in whichever way: it is noticed."""
    for position in range(len(DATA)):
        for flip in (1, 0x80, 0xFF):
            damaged = bytearray(DATA)
            damaged[position] ^= flip
            try:
                decoded = read(bytes(damaged))
            except CorruptDocument:
                continue
            raise AssertionError(f"byte {position}: read as {decoded}")


def test_damage_is_noticed_wherever_it_is() -> None:
    """No entry with a byte changed is read, as the same or as another one."""
    every_byte_counts()


def test_without_the_checksum_damage_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the test above: a checksum that always matches."""
    monkeypatch.setattr(entries, "_checksum", lambda *_: int.from_bytes(DATA[2:HEADER_BYTES]))
    with pytest.raises((AssertionError, SchemaTooNew)):
        every_byte_counts()


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES, HEADER_BYTES + 1, len(DATA) - 1])
def test_a_part_of_an_entry_is_none(length: int) -> None:
    """However much of it is missing."""
    with pytest.raises(CorruptDocument):
        read(DATA[:length])


def test_an_entry_under_another_number_is_noticed() -> None:
    """The number is checked, though the stream holds it and not the entry."""
    assert read(DATA) == SAMPLE
    with pytest.raises(CorruptDocument, match="entry 8: its checksum"):
        read(DATA, seq=8)


def test_the_checksum_is_as_documented() -> None:
    """Another program can check an entry by the module's text."""
    assert sealed(DATA[HEADER_BYTES:]) == DATA


def test_a_newer_format_is_not_corruption() -> None:
    """Nor is a newer schema: a server that was not updated yet leaves them to others."""
    with pytest.raises(SchemaTooNew):
        read(sealed(DATA[HEADER_BYTES:], form=2))
    newer = msgspec.structs.replace(SAMPLE, schema=2)
    with pytest.raises(SchemaTooNew, match="schema 2, this server reads up to 1"):
        read(encode_entry(newer, KINDS))


def test_an_encrypted_entry_is_refused() -> None:
    """This version has no keys."""
    with pytest.raises(CorruptDocument, match="encrypted"):
        read(sealed(DATA[HEADER_BYTES:], flags=1))


@pytest.mark.parametrize("body", [b"\x00", b"\x90", msgspec.msgpack.encode(["board", "b1", -1, 0, 1, 0, None, []])])
def test_what_is_no_entry_is_corrupt(body: bytes) -> None:
    """Whatever its checksum says."""
    with pytest.raises(CorruptDocument):
        read(sealed(body))


def test_an_entry_of_an_unknown_kind_is_corrupt() -> None:
    """There is no class to read its values by."""
    with pytest.raises(UnknownKind, match="'board'"):
        decode_entry(DATA, 7, {}, LIMITS)


def test_an_entry_larger_than_any_is_refused_unread() -> None:
    """By its size alone."""
    with pytest.raises(CorruptDocument, match="bytes, which no entry has"):
        read(sealed(bytes(2_000_000)), limits=Limits(bytes_max=1000))


def test_the_largest_patch_has_room() -> None:
    """What is accepted under some limits is read under them."""
    limits = Limits(bytes_max=50_000)
    kept = checked(Board, [Increment("counts", f"{'k' * 15}{each}") for each in range(1000)], limits)
    large = Entry(7, KEY, kept, 0, 0, Board(title="t" * 49_000), (None,) * 1000, 1, 0)
    assert decode_entry(encode_entry(large, KINDS), 7, KINDS, limits) == large


class Before(Document, frozen=True, kw_only=True):
    """The document as an older version of the program has it."""

    points: str = ""
    title: str = ""


class After(Document, frozen=True, kw_only=True):
    """And as a newer one has it: `points` became a number."""

    SCHEMA: ClassVar[int] = 2

    points: int = 0
    title: str = ""


def test_an_older_entry_is_read_as_far_as_it_fits() -> None:
    """An operation has no upgrade: where the type of its place has changed it is refused, with the place."""
    older, newer = {"thing": Kind("thing", Before)}, {"thing": Kind("thing", After)}

    def carried(operation: Operation) -> Entry:
        kept = checked(Before, [operation], LIMITS)
        written = Entry(1, Key("thing", "t1"), kept, 5, 5, None, (None,), 1, 0)
        return decode_entry(encode_entry(written, older), 1, newer, LIMITS)

    assert carried(Set("title", "t")).operations == (Set("title", "t"),)
    with pytest.raises(CorruptDocument, match="points"):
        carried(Set("points", "12"))


def test_values_keep_the_types_of_their_places() -> None:
    """A text in a mapping that looks like a tag stays a text; a tuple stays one."""
    kept = checked(Board, [Set("free", {"$ref": (1, b"2")}), Append("pair", "p")], LIMITS)
    written = Entry(1, KEY, kept, 5, 5, None, (None, None), BOARDS.document.SCHEMA, 0)
    first = decode_entry(encode_entry(written, KINDS), 1, KINDS, LIMITS).operations[0]
    assert isinstance(first, Set)
    assert first.value == FrozenDict({"$ref": (1, b"2")})


def test_an_entry_of_before_owners_is_read() -> None:
    """It was written in nobody's name."""
    fields = msgspec.msgpack.decode(DATA[HEADER_BYTES:])
    older = sealed(msgspec.msgpack.encode(fields[:-1]))
    assert (fields[-1], len(fields), read(older)) == (0, 9, SAMPLE)


def test_the_key_of_an_entry_is_told_without_reading_the_rest() -> None:
    """What is damaged is not believed, nor what holds no entry."""
    assert key_of(DATA, 7, LIMITS) == KEY
    for damaged in (DATA[:-1] + bytes([DATA[-1] ^ 1]), sealed(b"\xc0")):
        with pytest.raises(CorruptDocument):
            key_of(damaged, 7, LIMITS)
