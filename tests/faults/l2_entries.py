"""Entries of L2 that nobody of this version wrote: made of a seed, each with what it may be read as."""

from __future__ import annotations

import pickle
import random
import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple
from uuid import UUID

from holdfast import Bot
from holdfast.documents import Limits, encode
from holdfast.protocols import Row
from holdfast.tiers.codec import COMPRESSED, HEADER_BYTES, Codec

INCARNATION: Final = UUID(int=7)
BOMB_BYTES: Final = 1 << 30
_BLOCK_BYTES: Final = 1 << 20


class Sample(NamedTuple):
    """One entry.

    Attributes:
        sort: how it was made.
        row: the only one that it may be read as; None: it must not be read as any.
    """

    sort: str
    data: bytes
    row: Row | None = None


class Entries:
    """Makes entries for keys of L2.

    Args:
        source: of all choices.
    """

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._codecs = (Codec(compress_above_bytes=1 << 20), Codec(compress_above_bytes=0))
        self._makers: tuple[tuple[Callable[[bytes], Sample], int], ...] = (
            (self.valid, 10),
            (self.noise, 20),
            (self.flipped, 25),
            (self.cut, 15),
            (self.spliced, 10),
            (self.moved, 5),
            (self.of_another_format, 10),
            (self.pickled, 4),
            (self.bomb, 1),
        )

    def next(self, name: bytes) -> Sample:
        """One for the key of that name."""
        makers, weights = zip(*self._makers, strict=True)
        (make,) = self._source.choices(makers, weights)
        return make(name)  # type: ignore[no-any-return]

    def valid(self, name: bytes) -> Sample:
        """What this version writes."""
        row = self._row()
        return Sample("valid", self._encoded(name, row), row)

    def noise(self, _name: bytes) -> Sample:
        """Any bytes, some behind our mark."""
        mark = self._source.choice((b"", b"H", b"H\x01", b"H\x02", b"H\x01\x01\x00"))
        return Sample("noise", mark + self._source.randbytes(self._source.randrange(300)))

    def flipped(self, name: bytes) -> Sample:
        """An entry with some bits changed."""
        data = bytearray(self._encoded(name, self._row()))
        for place in self._source.sample(range(len(data) * 8), self._source.randint(1, 5)):
            data[place // 8] ^= 1 << place % 8
        return Sample("flipped", bytes(data))

    def cut(self, name: bytes) -> Sample:
        """An entry without its end, or with more behind it."""
        data = self._encoded(name, self._row())
        if self._source.random() < 0.5:
            return Sample("cut", data[: self._source.randrange(len(data))])
        return Sample("cut", data + self._source.randbytes(self._source.randint(1, 50)))

    def spliced(self, name: bytes) -> Sample:
        """The head of one entry with the payload of another."""
        one, other = self._encoded(name, self._row()), self._encoded(name, self._row())
        return Sample("spliced", one[:HEADER_BYTES] + other[HEADER_BYTES:])

    def moved(self, name: bytes) -> Sample:
        """An entry of another key."""
        return Sample("moved", self._encoded(name + b"2", self._row()))

    def of_another_format(self, name: bytes) -> Sample:
        """An entry as other versions may write it, whose checksum is right."""
        data = bytearray(self._encoded(name, self._row()))
        data[1] = self._source.choice([0, *range(3, 256)])
        return Sample("of another format", sealed(name, bytes(data)))

    def pickled(self, _name: bytes) -> Sample:
        """What a program in Python might leave there."""
        protocol = self._source.randint(0, pickle.HIGHEST_PROTOCOL)
        return Sample("pickled", pickle.dumps({"name": str(self._source.random())}, protocol))

    def bomb(self, name: bytes) -> Sample:
        """A small entry whose payload claims, truly, to be a gibibyte; its checksum is right."""
        head = bytearray(self._encoded(name, self._row())[:HEADER_BYTES])
        head[1:3] = bytes((1, COMPRESSED))
        data = bytes(head) + self._source.choice(BOMBS)
        return Sample("bomb", sealed(name, data))

    def _row(self) -> Row:
        version = self._source.randint(1, 1 << 40)
        bot = Bot(name=str(version), metadata={"notes": "a" * self._source.randrange(2000)})
        return Row(version, version, Bot.SCHEMA, encode(bot, Limits(1 << 20, 64)))

    def _encoded(self, name: bytes, row: Row) -> bytes:
        codec = self._source.choice(self._codecs)
        tags = self._source.choice((None, (), ("bot:1", "team:2")))
        return codec.encode(
            name, row, incarnation=INCARNATION, generation=5, read_at_ms=1000, ttl_ms=900_000, tags=tags
        )


def sealed(name: bytes, data: bytes) -> bytes:
    """The entry with the checksum that it should have."""
    checksum = zlib.crc32(name + data[:64] + data[HEADER_BYTES:])
    return data[:64] + struct.pack(">I", checksum) + data[HEADER_BYTES:]


def _bomb(size: int) -> bytes:
    """A gzip stream of so many zeros, made of one block that is repeated: about a thousandth of their number."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(_BLOCK_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    head, end = b"\x1f\x8b\x08" + bytes(7), b"\x03\x00" + bytes(4) + struct.pack("<I", size & 0xFFFFFFFF)
    return head + block * (size // _BLOCK_BYTES) + end


BOMBS: Final = (_bomb(BOMB_BYTES), _bomb(16 * _BLOCK_BYTES), _bomb(BOMB_BYTES)[:1024])
"""Of a gibibyte, of a little more than an entry may have, and one of a kibibyte that never ends."""
