"""The wire format of L2, byte for byte.

Servers of different versions share one L2, and its scripts read fixed offsets: a change of these bytes needs another
format number and golden files of its own beside these.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from holdfast.protocols import Row, Snapshot, Watermark
from holdfast.tiers import l2_watermarks
from holdfast.tiers.codec import Codec, WireEntry

GOLDEN = Path(__file__).parent / "golden"
NAME = b"vrooli:bot:b1"
INCARNATION = UUID("0b6b7a6e-93a5-4c64-8f0e-6d7b1b9f2c11")
VERSION, BIRTH, GENERATION, SCHEMA = 0x0102030405060708, 0x0102030405060700, 0x1112131415161718, 3
READ_AT_MS, TTL_MS = 1_750_000_000_123, 1_800_000
SHORT = b'{"name":"Ada","model":"m-1"}'
LONG = b'{"name":"Ada","metadata":{"notes":"' + b"hold fast " * 20 + b'"}}'
TAGS = ("bot:b1", "\u65e5\u672c")
FENCE = WireEntry(
    row=None, version=VERSION + 1, incarnation=INCARNATION.bytes, generation=GENERATION, read_at_ms=0, ttl_ms=0
)
LEASED = msgspec.structs.replace(FENCE, read_at_ms=1_750_000_002_123)
MARK_NAME = b"vrooli:{3560}:watermark"
MARK = Watermark(
    incarnation=INCARNATION.bytes,
    snapshot=Snapshot(740, 760, (741, 750)),
    generation=VERSION,
    known_generation=GENERATION,
    slots=((0, 99), (200, 5460)),
    anchor=("1", "2026"),
)

codec = Codec(compress_above_bytes=100)


def golden(name: str) -> bytes:
    """The bytes of a golden file: hexadecimal, with comments."""
    lines = (GOLDEN / f"{name}.hex").read_text(encoding="ascii").splitlines()
    return bytes.fromhex("".join(line.partition("#")[0] for line in lines))


def encode(body: bytes, tags: tuple[str, ...] | None = None) -> bytes:
    """What this version writes for a body."""
    row = Row(version=VERSION, birth=BIRTH, schema=SCHEMA, body=body)
    return codec.encode(
        NAME,
        row,
        incarnation=INCARNATION,
        generation=GENERATION,
        read_at_ms=READ_AT_MS,
        ttl_ms=TTL_MS,
        tags=tags,
    )


def entry(body: bytes, tags: tuple[str, ...] | None = None) -> WireEntry:
    """What a body's golden file must be read as."""
    return WireEntry(
        row=Row(version=VERSION, birth=BIRTH, schema=SCHEMA, body=body),
        version=VERSION,
        incarnation=INCARNATION.bytes,
        generation=GENERATION,
        read_at_ms=READ_AT_MS,
        ttl_ms=TTL_MS,
        tags=tags,
    )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("plain", entry(SHORT)),
        ("tagged", entry(SHORT, TAGS)),
        ("compressed", entry(LONG)),
        ("fence", FENCE),
        ("fence-leased", LEASED),
    ],
)
def test_golden_bytes_are_read_for_ever(name: str, wanted: WireEntry) -> None:
    """Every later version must read what this one wrote."""
    assert codec.decode(NAME, golden(name)) == wanted


def test_a_plain_entry_is_written_as_it_always_was() -> None:
    """Each byte of header, checksum and body is the golden one."""
    assert encode(SHORT) == golden("plain")


def test_an_entry_with_tags_is_written_as_it_always_was() -> None:
    """Each byte is the golden one; its checksum is of the name and of all that lies around it."""
    written = encode(SHORT, TAGS)
    assert written == golden("tagged")
    assert int.from_bytes(written[64:68]) == zlib.crc32(NAME + written[:64] + written[68:])


def test_a_compressed_entry_with_tags_is_read_back() -> None:
    """The tags lie in front of the payload as they are, and any gzip reads what follows."""
    written = encode(LONG, TAGS)
    assert written[68:84] == golden("tagged")[68:84]
    assert gzip.decompress(written[84:]) == LONG
    assert codec.decode(NAME, written) == entry(LONG, TAGS)


def test_a_fence_is_written_as_it_always_was() -> None:
    """Each byte of a fence is the golden one; it has no payload."""
    fence = codec.encode_fence(NAME, VERSION + 1, incarnation=INCARNATION, generation=GENERATION)
    assert fence == golden("fence")
    assert len(fence) == 68


def test_a_watermark_is_written_and_read_as_it_always_was() -> None:
    """Each byte is the golden one, and the key it lies on has the golden name."""
    assert l2_watermarks.watermark_key(b"vrooli:", 0) == MARK_NAME
    assert l2_watermarks.encode(MARK_NAME, MARK) == golden("watermark")
    assert l2_watermarks.decode(MARK_NAME, golden("watermark")) == MARK


def test_a_compressed_entry_is_written_as_it_always_was() -> None:
    """The header is the golden one, and any gzip reads the payload: its exact bytes are the compressor's affair."""
    written = encode(LONG)
    assert written[:64] == golden("compressed")[:64]
    assert gzip.decompress(written[68:]) == LONG
    assert gzip.decompress(golden("compressed")[68:]) == LONG


def test_compressed_bytes_carry_no_time_of_their_own() -> None:
    """The same entry is the same bytes, whenever it is written: gzip's time field is zero."""
    assert encode(LONG) == encode(LONG)
    assert encode(LONG)[68 + 4 : 68 + 8] == bytes(4)
