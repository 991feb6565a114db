"""The wire format of a node's watermark, and the name of the key that holds it (pure; rule C3).

Format 1, big-endian:

    ====== ==== ===========================================================
    offset size field
    ====== ==== ===========================================================
    0      1    ``W``
    1      1    format (1)
    2      2    part: 0, or how many parts of an unfinished advance were sent
    4      4    CRC-32 of the key's name and all other bytes
    8      8    the node's generation
    16     16   incarnation of L3
    32     ...  MessagePack array: snapshot's text, known generation, slots, anchor
    ====== ==== ===========================================================

The scripts of L2 read bytes 0, 8-15 and 16-31, so every later format must keep these. What cannot be read counts as no
watermark: the relay then begins anew, and readers miss.

The key is tagged so that it lies in the lowest slot which the node serves. So it is the node's own, no command on it
touches another slot, and a failover or an old dump brings it back together with the data it speaks of.
"""

from __future__ import annotations

import binascii
import struct
from functools import lru_cache
from itertools import count
from typing import Final

import msgspec

from holdfast.protocols import Snapshot, Watermark
from holdfast.tiers.l2_topology import SLOTS, Ranges, slot_of

FORMAT: Final = 1
PARTS: Final = 1 << 16
HEADER_BYTES: Final = 32

_HEAD = struct.Struct(">sBHIQ16s")


class _Rest(msgspec.Struct, frozen=True, array_like=True):
    snapshot: str
    known_generation: int
    slots: Ranges
    anchor: tuple[str, ...]


_DECODER = msgspec.msgpack.Decoder(_Rest)
_ENCODER = msgspec.msgpack.Encoder()


@lru_cache(SLOTS)
def watermark_key(prefix: bytes, lowest_slot: int) -> bytes:
    """The name of the watermark of the node whose lowest slot this is: ``<prefix>{<tag>}:watermark``."""
    tag = next(tag for number in count() if slot_of(tag := b"%d" % number) == lowest_slot)
    return prefix + b"{" + tag + b"}:watermark"


def encode(name: bytes, mark: Watermark, *, part: int = 0) -> bytes:
    """A watermark for the key called `name`."""
    rest = _ENCODER.encode(_Rest(str(mark.snapshot), mark.known_generation, mark.slots, mark.anchor))
    parts = (b"W", FORMAT, part, 0, mark.generation, mark.incarnation)
    checksum = binascii.crc32(name + _HEAD.pack(*parts) + rest)
    return _HEAD.pack(b"W", FORMAT, part, checksum, mark.generation, mark.incarnation) + rest


def decode(name: bytes, data: bytes) -> Watermark | None:
    """Read a watermark back; None if it is damaged, another key's, or of a format this version does not know."""
    if len(data) < HEADER_BYTES or data[:2] != b"W\x01":
        return None
    _, _, _, checksum, generation, incarnation = _HEAD.unpack_from(data)
    if binascii.crc32(name + data[:4] + bytes(4) + data[8:]) != checksum:
        return None
    try:
        rest = _DECODER.decode(data[HEADER_BYTES:])
        snapshot = Snapshot.parse(rest.snapshot)
    except (msgspec.MsgspecError, ValueError):  # its checksum holds: another version of Holdfast wrote it so
        return None
    return Watermark(incarnation, snapshot, generation, rest.known_generation, rest.slots, rest.anchor)


def part_after(data: bytes) -> int:
    """The number of the part that follows this watermark, so that no two in a row are the same bytes."""
    return (int.from_bytes(data[2:4]) + 1) % PARTS or 1
