"""The codec of L2: what was encoded is decoded, and what was damaged never becomes a value."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import CorruptDocument
from holdfast.protocols import ANY_VERSION, Row
from holdfast.tags import TAGS_MAX
from holdfast.tiers.codec import COMPRESSED, ENCRYPTED, FENCE, HEADER_BYTES, Codec, WireEntry

NAME = b"vrooli:bot:b1"
INCARNATION = UUID(int=0x1234)
ROW = Row(version=70, birth=60, schema=2, body=b'{"name":"Ada","metadata":{"notes":"aaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}')

plain = Codec(compress_above_bytes=1 << 20)
packing = Codec(compress_above_bytes=0)

names = st.binary(max_size=40)
number64 = st.integers(0, ANY_VERSION)
rows = st.builds(
    Row,
    version=st.integers(0, ANY_VERSION - 1),
    birth=number64,
    schema=st.integers(0, 2**16 - 1),
    body=st.one_of(st.binary(max_size=80), st.binary(min_size=1, max_size=4).map(lambda part: part * 400)),
)


tags = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def encode(codec: Codec, row: Row = ROW, name: bytes = NAME, tags: tuple[str, ...] | None = None) -> bytes:
    """An entry with round numbers for what the row does not say."""
    facts: dict[str, Any] = {"generation": 50, "read_at_ms": 1000, "ttl_ms": 900_000, "tags": tags}
    return codec.encode(name, row, incarnation=INCARNATION, **facts)


def sealed(data: bytes, name: bytes = NAME) -> bytes:
    """The entry with the checksum it should have, as documented: CRC-32 of name, header and payload."""
    checksum = zlib.crc32(name + data[:64] + data[HEADER_BYTES:])
    return data[:64] + struct.pack(">I", checksum) + data[HEADER_BYTES:]


def fence(version: int = 70) -> bytes:
    """A fence on the key."""
    return plain.encode_fence(NAME, version, incarnation=INCARNATION, generation=50)


SAMPLES = {
    "plain": encode(plain),
    "compressed": encode(packing),
    "fence": fence(),
    "tagged": encode(plain, tags=("bot:b1", "team:t1")),
}


@given(
    name=names,
    row=rows,
    incarnation=st.uuids(),
    generation=number64,
    read_at_ms=number64,
    ttl_ms=st.integers(0, 2**32 - 1),
    tags=st.one_of(st.none(), st.lists(tags, max_size=TAGS_MAX).map(tuple)),
    codec=st.sampled_from([plain, packing, Codec(compress_above_bytes=50)]),
)
def test_what_was_encoded_is_decoded(name: bytes, row: Row, incarnation: UUID, codec: Codec, **facts: Any) -> None:
    """A row comes back with everything beside it, compressed or not, under the widest values of each field."""
    data = codec.encode(name, row, incarnation=incarnation, **facts)
    assert codec.decode(name, data) == WireEntry(row, row.version, incarnation.bytes, **facts)


@given(cut=st.integers(0, 40), row=rows)
def test_tags_that_end_early_are_corrupt(cut: int, row: Row) -> None:
    """Whatever their checksum says: a length that leads beyond the entry is not followed."""
    head = encode(plain, row, tags=())[:HEADER_BYTES]
    with pytest.raises(CorruptDocument, match="its tags end early"):
        plain.decode(NAME, sealed(head + (b"\x00\x28" + b"tag\0" * 10)[:cut]))


@pytest.mark.parametrize("block", [b"\x00\x03tag", b"\x00\x04\xff\xff\xff\0"], ids=["no NUL at its end", "no UTF-8"])
def test_tags_that_are_none_are_corrupt(block: bytes) -> None:
    """Nobody writes such a block."""
    with pytest.raises(CorruptDocument, match="its tags"):
        plain.decode(NAME, sealed(encode(plain, tags=())[:HEADER_BYTES] + block))


def test_too_many_tags_are_corrupt() -> None:
    """What this version never writes is not looked up tag by tag."""
    many = tuple(str(number) for number in range(TAGS_MAX + 1))
    with pytest.raises(CorruptDocument, match="too many"):
        plain.decode(NAME, encode(plain, tags=many))


@given(name=names, version=number64, incarnation=st.uuids(), generation=number64)
def test_a_fence_comes_back_without_a_row(name: bytes, version: int, incarnation: UUID, generation: int) -> None:
    """A fence has version, incarnation and generation, no payload and no row."""
    data = plain.encode_fence(name, version, incarnation=incarnation, generation=generation)
    assert len(data) == HEADER_BYTES
    assert plain.decode(name, data) == WireEntry(None, version, incarnation.bytes, generation, 0, 0)


@given(name=names, row=rows, incarnation=st.uuids(), read_at_ms=number64, ttl_ms=st.integers(0, 2**32 - 1))
def test_what_the_scripts_read_is_at_its_offsets(
    name: bytes, row: Row, incarnation: UUID, read_at_ms: int, ttl_ms: int
) -> None:
    """Bytes 0, 8-15, 16-31, 32-39 and 56-59 are mark, read time, incarnation, version and TTL, big-endian."""
    data = packing.encode(name, row, incarnation=incarnation, generation=1, read_at_ms=read_at_ms, ttl_ms=ttl_ms)
    assert data[:1] == b"H"
    assert int.from_bytes(data[8:16]) == read_at_ms
    assert data[16:32] == incarnation.bytes
    assert int.from_bytes(data[32:40]) == row.version
    assert int.from_bytes(data[56:60]) == ttl_ms


@given(version=number64, until_ms=number64)
def test_a_lease_changes_a_fence_in_its_end_alone(version: int, until_ms: int) -> None:
    """The scripts set and clear bytes 8-15 of a fence without being able to make a checksum."""
    leased = bytearray(fence(version))
    leased[8:16] = until_ms.to_bytes(8)
    assert plain.decode(NAME, bytes(leased)) == WireEntry(None, version, INCARNATION.bytes, 50, until_ms, 0)


@pytest.mark.parametrize("sample", SAMPLES)
def test_no_flipped_bit_becomes_a_value(sample: str) -> None:
    """Each single damaged bit is noticed; in the format byte it makes an entry of an unknown format, which is None.

    Of a fence the lease may be damaged: it has no value, and a wrong lease costs a load or a short wait.
    """
    data = SAMPLES[sample]
    for bit in range(len(data) * 8):
        place, damaged = bit // 8, bytearray(data)
        damaged[place] ^= 1 << bit % 8
        if place == 1:
            assert packing.decode(NAME, bytes(damaged)) is None
        elif sample == "fence" and place in range(8, 16):
            decoded = packing.decode(NAME, bytes(damaged))
            assert decoded is not None
            assert decoded.row is None
        else:
            with pytest.raises(CorruptDocument, match="L2 entry b'vrooli:bot:b1': "):
                packing.decode(NAME, bytes(damaged))


@settings(max_examples=50)
@given(name=names, row=rows, data=st.data())
def test_no_damaged_byte_becomes_a_value(name: bytes, row: Row, data: st.DataObject) -> None:
    """Whatever one byte of any entry is changed into, no row comes out."""
    damaged = bytearray(encode(packing, row, name))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    if place == 1:
        assert packing.decode(name, bytes(damaged)) is None
    else:
        with pytest.raises(CorruptDocument):
            packing.decode(name, bytes(damaged))


@pytest.mark.parametrize("sample", SAMPLES)
def test_an_entry_cut_short_or_longer_is_corrupt(sample: str) -> None:
    """Every prefix of an entry, and an entry with more behind it, is refused."""
    data = SAMPLES[sample]
    for cut in [*(data[:size] for size in range(len(data))), data + b"\0"]:
        with pytest.raises(CorruptDocument):
            packing.decode(NAME, cut)


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("other", [b"vrooli:bot:b2", b"vrooli:bot:b", b"vrooli:team:b1", b""])
def test_an_entry_under_another_keys_name_is_corrupt(sample: str, other: bytes) -> None:
    """The checksum covers the name: a value moved or copied to another key is never taken for that key's."""
    with pytest.raises(CorruptDocument, match="its checksum does not match"):
        packing.decode(other, SAMPLES[sample])


@pytest.mark.parametrize("data", [b"", b"H", b"OK", b"\0" * 68, b"X" * 200])
def test_what_is_no_entry_is_corrupt(data: bytes) -> None:
    """A value that something else wrote is refused with its size."""
    with pytest.raises(CorruptDocument, match=rf"L2 entry b'vrooli:bot:b1': {len(data)} bytes that are no entry"):
        plain.decode(NAME, data)


@pytest.mark.parametrize("number", [0, 3, 255])
def test_an_entry_of_another_format_is_none(number: int) -> None:
    """A newer server's entry is a miss, not corruption, whatever stands behind its format byte."""
    assert plain.decode(NAME, b"H" + bytes([number]) + SAMPLES["plain"][2:]) is None


def test_an_encrypted_entry_is_refused_with_its_key_id() -> None:
    """Without the key its payload is not a document."""
    data = bytearray(SAMPLES["plain"])
    data[2], data[4:8] = ENCRYPTED, struct.pack(">I", 42)
    with pytest.raises(CorruptDocument, match="encrypted with key 42, which this server does not have"):
        plain.decode(NAME, sealed(bytes(data)))


def test_bodies_above_the_size_are_compressed() -> None:
    """Up to the size a body is stored as it is; above it gzipped."""
    body = b"a" * 100
    at, above = Codec(compress_above_bytes=100), Codec(compress_above_bytes=99)
    assert encode(at, Row(1, 1, 1, body))[HEADER_BYTES:] == body
    packed = encode(above, Row(1, 1, 1, body))
    assert packed[2] == COMPRESSED
    assert len(packed) < HEADER_BYTES + len(body)


def test_a_body_that_gzip_would_lengthen_is_stored_as_it_is() -> None:
    """Compression never makes an entry longer."""
    body = bytes(range(256))
    data = encode(packing, Row(1, 1, 1, body))
    assert data[2] == 0
    assert data[HEADER_BYTES:] == body


@pytest.mark.parametrize("size", [0, 1, 4095, 4096])
def test_a_body_of_exactly_the_limit_is_read(size: int) -> None:
    """The limit of inflation is the largest body that counts."""
    bounded = Codec(compress_above_bytes=0, inflated_bytes_max=4096)
    decoded = bounded.decode(NAME, encode(packing, Row(1, 1, 1, b"a" * size)))
    assert decoded is not None
    assert decoded.row == Row(1, 1, 1, b"a" * size)


def test_a_body_beyond_the_limit_is_corrupt() -> None:
    """One byte more than the limit is refused, naming the limit."""
    bounded = Codec(compress_above_bytes=0, inflated_bytes_max=4096)
    with pytest.raises(CorruptDocument, match="inflates beyond 4096 bytes"):
        bounded.decode(NAME, encode(packing, Row(1, 1, 1, b"a" * 4097)))


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    """Sixteen KiB that inflate to 16 MiB cost little more than the limit."""
    bomb = encode(packing, Row(1, 1, 1, bytes(16 << 20)))
    bounded = Codec(inflated_bytes_max=64 * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptDocument, match="inflates beyond 65536 bytes"):
            bounded.decode(NAME, bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(bomb) < 64 * 1024
    assert peak < 1 << 20


@pytest.mark.parametrize("size", [0, 5, 10, -8, -1])
def test_a_gzip_stream_that_ends_early_is_corrupt(size: int) -> None:
    """A stream without its end is refused even when the checksum says that it was stored so."""
    data = SAMPLES["compressed"]
    with pytest.raises(CorruptDocument, match="gzip stream"):
        packing.decode(NAME, sealed(data[:HEADER_BYTES] + data[HEADER_BYTES:][:size]))


def test_a_payload_that_is_no_gzip_is_corrupt() -> None:
    """The flag says compressed and the payload is not: refused, with the cause chained."""
    data = bytearray(SAMPLES["plain"])
    data[2] = COMPRESSED
    with pytest.raises(CorruptDocument, match="its gzip stream is broken") as refused:
        packing.decode(NAME, sealed(bytes(data)))
    assert refused.value.__cause__ is not None


def test_a_fence_above_everything_has_the_highest_version() -> None:
    """After an unknown outcome the fence is above every version that L3's sequence can draw."""
    decoded = plain.decode(NAME, fence(ANY_VERSION))
    assert decoded is not None
    assert (decoded.row, decoded.version) == (None, 2**63 - 1)
    assert SAMPLES["fence"][2] == FENCE
