"""The watermark's wire format: what was encoded is decoded, and what was damaged counts as none."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocols import Snapshot, Watermark
from holdfast.tiers.l2_topology import SLOTS, slot_of
from holdfast.tiers.l2_watermarks import HEADER_BYTES, decode, encode, part_after, watermark_key

NAME = b"vrooli:{1}:watermark"
MARK = Watermark(
    bytes(range(16)), Snapshot(740, 760, (741, 750)), 1 << 60, (1 << 60) + 5, ((0, 99), (200, 5460)), ("a", "b")
)

number64 = st.integers(0, 2**63 - 1)
slots = st.integers(0, SLOTS - 1)
marks = st.builds(
    Watermark,
    incarnation=st.binary(min_size=16, max_size=16),
    snapshot=st.builds(Snapshot, number64, number64, st.lists(number64, max_size=5).map(tuple)),
    generation=number64,
    known_generation=number64,
    slots=st.lists(st.tuples(slots, slots), max_size=5).map(tuple),
    anchor=st.lists(st.text(max_size=20), max_size=4).map(tuple),
)


def sealed(data: bytes, name: bytes = NAME) -> bytes:
    """The watermark with the checksum it should have: CRC-32 of the name and the bytes, its own as zeros."""
    return data[:4] + zlib.crc32(name + data[:4] + bytes(4) + data[8:]).to_bytes(4) + data[8:]


@given(name=st.binary(max_size=30), mark=marks, part=st.integers(0, 2**16 - 1))
def test_what_was_encoded_is_decoded(name: bytes, mark: Watermark, part: int) -> None:
    """Everything comes back, under the widest values of each field; the part is no matter of its meaning."""
    assert decode(name, encode(name, mark, part=part)) == mark


@given(mark=marks)
def test_what_the_scripts_read_is_at_its_offsets(mark: Watermark) -> None:
    """Bytes 0, 8-15 and 16-31 are mark, generation and incarnation, big-endian."""
    data = encode(NAME, mark)
    assert data[:1] == b"W"
    assert int.from_bytes(data[8:16]) == mark.generation
    assert data[16:32] == mark.incarnation


def test_no_flipped_bit_is_a_watermark() -> None:
    """Each single damaged bit makes it none."""
    data = encode(NAME, MARK)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode(NAME, bytes(damaged)) is None


def test_a_watermark_cut_short_or_longer_is_none() -> None:
    """Every prefix of it, and one with more behind it, is none."""
    data = encode(NAME, MARK)
    for cut in [*(data[:size] for size in range(len(data))), data + b"\0"]:
        assert decode(NAME, cut) is None


def test_a_watermark_of_another_key_is_none() -> None:
    """One that was copied from another node, or another prefix, does not speak of this one."""
    assert decode(b"vrooli:{2}:watermark", encode(NAME, MARK)) is None


@pytest.mark.parametrize(
    "rest",
    [b"", b"\xc1", msgspec.msgpack.encode(["no snapshot", 1, [], []]), msgspec.msgpack.encode(["1:2:", "x", [], []])],
)
def test_a_sealed_watermark_of_another_shape_is_none(rest: bytes) -> None:
    """What another version of Holdfast may write under the same format byte is not guessed at."""
    assert decode(NAME, sealed(encode(NAME, MARK)[:HEADER_BYTES] + rest)) is None


def test_more_fields_than_are_known_are_left_alone() -> None:
    """A later version may add to the end of the array."""
    rest: list[Any] = msgspec.msgpack.decode(encode(NAME, MARK)[HEADER_BYTES:])
    longer = sealed(encode(NAME, MARK)[:HEADER_BYTES] + msgspec.msgpack.encode([*rest, "later"]))
    assert decode(NAME, longer) == MARK


def test_a_watermark_of_another_format_is_none() -> None:
    """Its offsets may be the same, its meaning is not known."""
    data = encode(NAME, MARK)
    assert decode(NAME, sealed(data[:1] + b"\x02" + data[2:])) is None


@given(part=st.integers(0, 2**16 - 1))
def test_a_part_differs_from_the_one_before(part: int) -> None:
    """Also where the counter begins again; a part is never numbered like a whole watermark."""
    before = encode(NAME, MARK, part=part)
    after = part_after(before)
    assert 0 < after < 2**16
    assert encode(NAME, MARK, part=after) != before


@given(slot=slots)
def test_a_watermarks_key_lies_in_its_slot(slot: int) -> None:
    """By the part between the braces, which alone counts for servers."""
    name = watermark_key(b"prefix:", slot)
    assert name.startswith(b"prefix:{")
    assert name.endswith(b"}:watermark")
    assert slot_of(name[len(b"prefix:{") : name.index(b"}")]) == slot
