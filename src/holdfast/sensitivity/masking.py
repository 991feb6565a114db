"""Taking secrets out of texts that are recorded: words of errors, above all (pure).

What user code does with an opened value is its own; but what it raises may quote it, and errors are kept with a run.
"""

from __future__ import annotations

import json
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from holdfast.documents import FreeValue

MASK: Final = "***"
CHARACTERS_MIN: Final = 4
"""Shorter ones are not masked: they would be found in any text."""
PIECE_CHARACTERS: Final = 512
"""Of a longer secret each such piece is masked by itself, so that a part of it in a text is found too."""
BYTES_MAX: Final = 16 << 20
"""Of memory for what is known; the secrets that were met longest ago are forgotten, each as a whole."""
SECRET_BYTES_MAX: Final = 2 << 20
"""Of memory for one secret; of a larger one, only as much of it as comes first is known."""
TEXT_CHARACTERS_MAX: Final = 16_384
"""What is behind is cut off."""

_PIECE_BYTES: Final = 384
"""Of memory for a piece beside its text, at most: where no other begins like it, and none is of the same secret."""
_ALWAYS_THE_SAME: Final = re.compile(r"[ !#-&(-\[\]-~]*")
"""What is quoted as it is: printable ASCII without quotes and backslashes."""


class Mask:
    """The secrets that this process has met, as far as texts may quote them."""

    __slots__ = ("_bytes", "_lengths", "_pieces", "_secrets")

    def __init__(self) -> None:
        self._secrets: OrderedDict[tuple[str, ...], int] = OrderedDict()  # by their pieces: the memory for each
        self._pieces: dict[str, int] = {}  # how many secrets have each
        self._lengths: dict[str, dict[int, int]] = {}  # by how pieces begin: how many have each length
        self._bytes = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._secrets)} secrets, {self._bytes} bytes)"

    def note(self, value: FreeValue) -> None:
        """Mask this value, and each one in it, from here on."""
        secret, size = _known_of(value)
        if secret in self._secrets:
            self._secrets.move_to_end(secret)
        elif secret:
            self._secrets[secret] = size
            self._bytes += size
            for piece in secret:
                self._add(piece)
            while self._bytes > BYTES_MAX:
                self._forget(*self._secrets.popitem(last=False))

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

    def _found_in(self, text: str) -> Iterator[tuple[int, int]]:
        """Where pieces are in a text, the longest at each place. It is walked through once, however many there are."""
        for start in range(len(text) - CHARACTERS_MIN + 1):
            for length in self._lengths_of(text[start : start + CHARACTERS_MIN]):
                if text[start : start + length] in self._pieces:
                    yield start, start + length
                    break

    def _lengths_of(self, beginning: str) -> Sequence[int]:
        """How long pieces are that begin so, the longest first."""
        lengths = self._lengths.get(beginning)
        return () if lengths is None else sorted(lengths, reverse=True)

    def _add(self, piece: str) -> None:
        count = self._pieces.get(piece, 0)
        self._pieces[piece] = count + 1
        if not count:
            lengths = self._lengths.setdefault(piece[:CHARACTERS_MIN], {})
            lengths[len(piece)] = lengths.get(len(piece), 0) + 1

    def _forget(self, secret: tuple[str, ...], size: int) -> None:
        self._bytes -= size
        for piece in secret:
            self._pieces[piece] -= 1
            if not self._pieces[piece]:
                del self._pieces[piece]
                self._forget_length(piece[:CHARACTERS_MIN], len(piece))

    def _forget_length(self, beginning: str, length: int) -> None:
        lengths = self._lengths[beginning]
        lengths[length] -= 1
        if not lengths[length]:
            del lengths[length]
        if not lengths:
            del self._lengths[beginning]


def _known_of(value: FreeValue) -> tuple[tuple[str, ...], int]:
    """The pieces of a value, each once, as far as they are known; and the memory for them, in bytes."""
    pieces, size = dict[str, None](), 0
    for piece in (piece for text in _texts(value) for piece in _pieces(text)):
        if piece not in pieces:
            more = sys.getsizeof(piece) + _PIECE_BYTES
            if size + more > SECRET_BYTES_MAX:
                break
            pieces[piece] = None
            size += more
    return tuple(pieces), size


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
            piece = written[start : start + PIECE_CHARACTERS]
            if len(piece) >= CHARACTERS_MIN:
                yield piece
