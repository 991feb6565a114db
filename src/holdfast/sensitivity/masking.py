"""Taking secrets out of texts that are recorded: words of errors, above all (pure).

What user code does with an opened value is its own; but what it raises may quote it, and errors are kept with a run.
Of what is known only hashes are kept: so there is room for each secret as a whole, in however many parts.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from holdfast.documents import FreeValue

MASK: Final = "***"
CHARACTERS_MIN: Final = 4
"""Shorter ones are not masked: they would be found in any text."""
PIECE_CHARACTERS: Final = 512
"""Of a longer secret each such piece is masked by itself, so that a part of it in a text is found too."""
ANY_LENGTH_MAX: Final = 32
"""A longer piece is known by two parts of it, whose lengths are powers of two."""
PIECES_MAX: Final = 1 << 19
"""Of secrets in one set; of two sets the older one is then forgotten. What is met again is in the younger one.

A set has 11 MiB then. One secret of 1 MiB has 600,000 pieces at most, and is in one set in any case.
"""
TEXT_CHARACTERS_MAX: Final = 16_384
"""What is behind is cut off."""

_SLOTS_MIN: Final = 1 << 12
_ALL_BITS: Final = (1 << 64) - 1
_BEGINNINGS: Final = 1 << 14
_PARTS_MANY: Final = 100
"""Of a secret with so many pieces it is remembered that it is known: they are not gone through with each reading."""
_LARGE_MAX: Final = 10_000
"""Remembered so."""
_ALWAYS_THE_SAME: Final = re.compile(r"[ !#-&(-\[\]-~]*")
"""What is quoted as it is: printable ASCII without quotes and backslashes."""


class Mask:
    """The secrets that this process has met, as far as texts may quote them."""

    __slots__ = ("_sets",)

    def __init__(self) -> None:
        self._sets: tuple[_Set, ...] = ()  # the younger one first; none, as long as there is no secret

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sum(each.count for each in self._sets)} pieces)"

    def note(self, value: FreeValue, plain: bytes) -> None:
        """Mask this value, and each one in it, from here on.

        Args:
            plain: the value as it is sealed.
        """
        if self._sets and hash(plain) in self._sets[0].large:
            return
        pieces = {each for text in _texts(value) for each in _pieces(text)}
        young = self._with_room_for(len(pieces))
        for each in pieces:
            young.add(each)
        if len(pieces) >= _PARTS_MANY and len(young.large) < _LARGE_MAX:
            young.large.add(hash(plain))

    def masked(self, text: str) -> str:
        """The text with ``***`` in the place of secrets, cut off if it is long; those that overlap become one."""
        head = text[:TEXT_CHARACTERS_MAX]
        shown, end = list[str](), 0
        for start, stop in self._found_in(head):
            if start >= end:
                shown += (head[end:start], MASK)
            end = max(end, stop)
        masked = "".join((*shown, head[end:]))
        # At the cut there may be the beginning of a piece, which is not found as it is not whole.
        return masked if len(text) <= TEXT_CHARACTERS_MAX else masked[:-PIECE_CHARACTERS]

    def _with_room_for(self, more: int) -> _Set:
        """The younger set; a new one, if so many more pieces may not fit."""
        if not self._sets or self._sets[0].count + more > PIECES_MAX:
            self._sets = (_Set(), *self._sets[:1])
        return self._sets[0]

    def _found_in(self, text: str) -> Iterator[tuple[int, int]]:
        """Where pieces are in a text, the longest at each place. It is walked through once, however many there are."""
        for start in range(len(text) - CHARACTERS_MIN + 1):
            beginning = hash(text[start : start + CHARACTERS_MIN]) % _BEGINNINGS
            for each in self._sets:
                if each.lengths[beginning] and (length := each.length_at(text, start, beginning)):
                    yield start, start + length


class _Set:
    """A set of texts, as hashes of 64 bits in a table that is at most half full.

    Attributes:
        count: how many.
        large: hashes of secrets of many pieces that are in it, each as a whole.
        lengths: by hashes of how texts begin: the lengths there are, each as a bit.
    """

    __slots__ = ("_table", "count", "large", "lengths")

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * _SLOTS_MIN))
        self.lengths = [0] * _BEGINNINGS
        self.count = 0
        self.large: set[int] = set()

    def add(self, piece: str) -> None:
        """Have this one in it, of `CHARACTERS_MIN` characters at least."""
        hashed = _hash(piece)
        at = self._slot(hashed)
        if self._table[at]:
            return
        self._table[at] = hashed
        self.lengths[hash(piece[:CHARACTERS_MIN]) % _BEGINNINGS] |= 1 << len(piece)
        self.count += 1
        if 2 * self.count > len(self._table):
            self._grow()

    def length_at(self, text: str, start: int, beginning: int) -> int:
        """How long the longest is that is in a text from there on, where it begins so; 0: there is none."""
        lengths = self.lengths[beginning]
        while lengths:
            length = lengths.bit_length() - 1
            if start + length <= len(text) and self._table[self._slot(_hash(text[start : start + length]))]:
                return length
            lengths ^= 1 << length
        return 0

    def _slot(self, hashed: int) -> int:
        """Where a hash is in the table, or has to be."""
        table, last = self._table, len(self._table) - 1
        at = hashed & last
        while (there := table[at]) and there != hashed:
            at = at + 1 & last
        return at

    def _grow(self) -> None:
        before = self._table
        self._table = array("Q", bytes(16 * len(before)))
        for hashed in filter(None, before):
            self._table[self._slot(hashed)] = hashed


def _hash(piece: str) -> int:
    """64 bits, and not 0."""
    return hash(piece) & _ALL_BITS or 1


def _texts(value: FreeValue) -> Iterator[str]:
    """The value's leaves and the names in it, as texts show them."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(name)
            yield from _texts(each)
    elif isinstance(value, list | tuple | frozenset):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield repr(value)[2:-1]
        yield value.hex()
    elif value is not None and not isinstance(value, bool):
        yield str(value)
        yield repr(value)


def _written(text: str) -> Iterable[str]:
    """The text in all ways that it is written in."""
    quoted = (repr(text), ascii(text), json.dumps(text), json.dumps(text, ensure_ascii=False))
    return dict.fromkeys((text, *(each[1:-1] for each in quoted)))


def _pieces(text: str) -> Iterator[str]:
    """The text as it is, and as Python and JSON quote it, in pieces."""
    for written in (text,) if _ALWAYS_THE_SAME.fullmatch(text) else _written(text):
        for start in range(0, len(written), PIECE_CHARACTERS):
            yield from _of_few_lengths(written[start : start + PIECE_CHARACTERS])


def _of_few_lengths(piece: str) -> Iterator[str]:
    """A piece as its beginning and its end, which overlap; so in a text few lengths have to be tried at each place."""
    size = len(piece)
    length = size if size <= ANY_LENGTH_MAX else 1 << size.bit_length() - 1
    if size >= CHARACTERS_MIN:
        yield piece[:length]
    if size > length:
        yield piece[-length:]
