"""The wire format of L2: one header of fixed offsets, then the document as L3 stores it, gzipped above a size.

Format 1, big-endian:

    ====== ==== ===========================================================
    offset size field
    ====== ==== ===========================================================
    0      1    ``H``
    1      1    format (1)
    2      1    flags: 1 compressed, 2 encrypted, 4 fence
    3      1    zero
    4      4    key id of the encryption; 0: none
    8      8    node's clock when the read from L3 began, ms; of a fence: until when
                the key is leased to who loads it, ms
    16     16   incarnation of L3
    32     8    version
    40     8    highest generation in the snapshot that the row was read in
    48     8    birth version
    56     4    TTL, ms
    60     2    schema of the document
    62     2    zero
    64     4    CRC-32 of the L2 key's name, bytes 0-63 and the payload
    68     ...  payload
    ====== ==== ===========================================================

The scripts of L2 read bytes 0, 2, 8-15, 16-31, 32-39 and 56-59, so every later format must keep these. A fence has no
payload. The checksum covers the key's name, so that an entry moved to another key is noticed; of a fence it takes bytes
8-15 as zeros, for these are the scripts'. The lease of a key that holds nothing is a fence of version 0 and no
checksum.

Format 2 is an entry of a kind that declares tags: the same header with 2 as its format, then a block of tags, then the
payload; the checksum takes the block too. The block is its length in 2 bytes, then each tag in UTF-8 with a NUL behind
it. A server that does not know the format takes the entry for absent.
"""

from __future__ import annotations

import struct
from typing import Final, cast
from uuid import UUID

import msgspec
from isal import igzip, isal_zlib
from isal.isal_zlib import crc32

from holdfast.errors import CorruptDocument
from holdfast.protocols import ANY_VERSION, Row
from holdfast.tags import TAGS_MAX

FORMAT: Final = 1
TAGGED_FORMAT: Final = 2
COMPRESSED: Final = 1
ENCRYPTED: Final = 2
FENCE: Final = 4
HEADER_BYTES: Final = 68

_HEAD = struct.Struct(">sBBBIQ16sQQQIHH")
_CHECKSUM = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_HEADER = struct.Struct(">HBxIQ16sQQQIH2xI")  # the same with the checksum, and letter and format as one number
_LETTER: Final = ord("H")
_BEGIN: Final = _LETTER << 8 | FORMAT
_BEGIN_TAGGED: Final = _LETTER << 8 | TAGGED_FORMAT
_NO_LEASE = bytes(8)
_GZIP_WINDOW = 31  # zlib's name for "gzip container, largest window"
_GZIP_LEVEL = 1
_BROKEN = cast("type[Exception]", isal_zlib.error)


class WireEntry(msgspec.Struct, frozen=True, gc=False):
    """A decoded entry of L2.

    Attributes:
        row: None for a fence.
        read_at_ms: the node's clock when the read from L3 began; of a fence, the end of its lease.
        ttl_ms: from `read_at_ms` on.
        tags: of the document; None: it is of format 1, and tells none.
    """

    row: Row | None
    version: int
    incarnation: bytes
    generation: int
    read_at_ms: int
    ttl_ms: int
    tags: tuple[str, ...] | None = None


class Codec:
    """Encodes and decodes entries.

    Args:
        compress_above_bytes: bodies longer than this are gzipped, if that makes them shorter.
        inflated_bytes_max: a body that inflates beyond this is corrupt; at most this much is ever allocated
            for it.
    """

    def __init__(self, *, compress_above_bytes: int = 1024, inflated_bytes_max: int = 8 * 1024 * 1024) -> None:
        self._compress_above_bytes = compress_above_bytes
        self._inflated_bytes_max = inflated_bytes_max

    def encode(
        self,
        name: bytes,
        row: Row,
        *,
        incarnation: UUID,
        generation: int,
        read_at_ms: int,
        ttl_ms: int,
        tags: tuple[str, ...] | None = None,
    ) -> bytes:
        """An entry holding a row, for the L2 key called `name`; with tags, or an empty tuple of them, of format 2."""
        payload, flags = row.body, 0
        if len(payload) > self._compress_above_bytes:
            packed = igzip.compress(payload, _GZIP_LEVEL, mtime=0)
            if len(packed) < len(payload):
                payload, flags = packed, COMPRESSED
        format_ = FORMAT
        if tags is not None:
            format_, payload = TAGGED_FORMAT, _block_of(tags) + payload
        head = _HEAD.pack(
            b"H", format_, flags, 0, 0, read_at_ms, incarnation.bytes, row.version, generation, row.birth, ttl_ms,
            row.schema, 0,
        )  # fmt: skip
        return head + _checksum(name, head, payload) + payload

    def encode_fence(self, name: bytes, version: int, *, incarnation: UUID, generation: int) -> bytes:
        """A fence: at least `version` exists."""
        head = _HEAD.pack(b"H", FORMAT, FENCE, 0, 0, 0, incarnation.bytes, version, generation, 0, 0, 0, 0)
        return head + _checksum(name, head, b"")

    def decode(self, name: bytes, data: bytes) -> WireEntry | None:
        """Read an entry back; None if it is of a format this version does not know.

        Raises:
            CorruptDocument: too short, wrong checksum, encrypted without a key here, or inflating beyond the
                limit.
        """
        if len(data) < HEADER_BYTES or data[0] != _LETTER:
            raise CorruptDocument(f"L2 entry {name!r}: {len(data)} bytes that are no entry of Holdfast")
        begin, flags, key_id, read_at_ms, incarnation, version, generation, birth, ttl_ms, schema, checksum = (
            _HEADER.unpack_from(data)
        )
        if begin not in (_BEGIN, _BEGIN_TAGGED):
            return None
        body = data[HEADER_BYTES:]
        head = data[:8] + _NO_LEASE + data[16:64] if flags & FENCE else data[:64]
        if crc32(body, crc32(head, crc32(name))) != checksum:
            raise CorruptDocument(f"L2 entry {name!r}: its checksum does not match")
        tags = None
        if begin == _BEGIN_TAGGED:
            tags, body = _split(name, body)
        if flags:
            if flags & ENCRYPTED:
                raise CorruptDocument(
                    f"L2 entry {name!r}: encrypted with key {key_id}, which this server does not have"
                )
            if flags & FENCE:
                return WireEntry(None, version, incarnation, generation, read_at_ms, ttl_ms)
            if flags & COMPRESSED:
                body = self._inflate(name, body)
        if version >= ANY_VERSION:
            raise CorruptDocument(f"L2 entry {name!r}: no row has version {version}")
        return WireEntry(Row(version, birth, schema, body), version, incarnation, generation, read_at_ms, ttl_ms, tags)

    def _inflate(self, name: bytes, payload: bytes) -> bytes:
        inflater = isal_zlib.decompressobj(wbits=_GZIP_WINDOW)
        try:
            body: bytes = inflater.decompress(payload, self._inflated_bytes_max + 1)
        except _BROKEN as fault:
            raise CorruptDocument(f"L2 entry {name!r}: its gzip stream is broken ({fault})") from fault
        if len(body) > self._inflated_bytes_max:
            raise CorruptDocument(f"L2 entry {name!r}: inflates beyond {self._inflated_bytes_max} bytes")
        if not inflater.eof:
            raise CorruptDocument(f"L2 entry {name!r}: its gzip stream ends early")
        return body


def _block_of(tags: tuple[str, ...]) -> bytes:
    block = "\0".join([*tags, ""]).encode()
    return _LENGTH.pack(len(block)) + block


def _split(name: bytes, data: bytes) -> tuple[tuple[str, ...], bytes]:
    """The tags in front of a payload, and the payload."""
    end = int.from_bytes(data[:2]) + 2
    try:
        tags = data[2:end].decode().split("\0")
    except UnicodeDecodeError as fault:
        raise CorruptDocument(f"L2 entry {name!r}: its tags are no UTF-8") from fault
    if end > len(data) or tags.pop() or len(tags) > TAGS_MAX:
        raise CorruptDocument(f"L2 entry {name!r}: its tags end early, or are too many")
    return tuple(tags), data[end:]


def _checksum(name: bytes, head: bytes, payload: bytes) -> bytes:
    return _CHECKSUM.pack(crc32(payload, crc32(head, crc32(name))))
