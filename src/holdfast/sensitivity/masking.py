"""Taking secrets out of texts that are recorded: words of errors, above all (pure).

What user code does with an opened value is its own; but what it raises may quote it, and errors are kept with a run.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from holdfast.documents import FreeValue

MASK: Final = "***"
CHARACTERS_MIN: Final = 4
"""Shorter ones are not masked: they would be found in any text."""
PIECE_CHARACTERS: Final = 512
"""Of a longer secret each such piece is masked by itself, so that a part of it in a text is found too."""
PIECES_MAX: Final = 10_000
"""That are known at once; those met longest ago make room."""
TEXT_CHARACTERS_MAX: Final = 16_384
"""What is behind is cut off."""

_ALWAYS_THE_SAME: Final = re.compile(r"[ !#-&(-\[\]-~]*")
"""What is quoted as it is: printable ASCII without quotes and backslashes."""


class Mask:
    """The secrets that this process has met, as far as texts may quote them."""

    __slots__ = ("_lengths", "_pieces")

    def __init__(self) -> None:
        self._pieces: OrderedDict[str, None] = OrderedDict()
        self._lengths: dict[str, list[int]] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._pieces)} pieces)"

    def note(self, value: FreeValue) -> None:
        """Mask this value, and each one in it, from here on."""
        for text in _texts(value):
            for piece in _pieces(text):
                if piece in self._pieces:
                    self._pieces.move_to_end(piece)
                else:
                    self._pieces[piece] = None
                    self._lengths = None
        while len(self._pieces) > PIECES_MAX:
            self._pieces.popitem(last=False)
            self._lengths = None

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
        if self._lengths is None:
            self._lengths = self._by_beginning()
        for start in range(len(text) - CHARACTERS_MIN + 1):
            for length in self._lengths.get(text[start : start + CHARACTERS_MIN], ()):
                if text[start : start + length] in self._pieces:
                    yield start, start + length
                    break

    def _by_beginning(self) -> dict[str, list[int]]:
        """How long pieces are that begin with the same characters, the longest first."""
        lengths: dict[str, set[int]] = {}
        for piece in self._pieces:
            lengths.setdefault(piece[:CHARACTERS_MIN], set()).add(len(piece))
        return {beginning: sorted(each, reverse=True) for beginning, each in lengths.items()}


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
