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
"""What is behind is cut off: a text is looked through once for each piece."""

_ALWAYS_THE_SAME: Final = re.compile(r"[ !#-&(-\[\]-~]*")
"""What is quoted as it is: printable ASCII without quotes and backslashes."""


class Mask:
    """The secrets that this process has met, as far as texts may quote them."""

    __slots__ = ("_longest_first", "_pieces")

    def __init__(self) -> None:
        self._pieces: OrderedDict[str, None] = OrderedDict()
        self._longest_first: list[str] | None = None

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
                    self._longest_first = None
        while len(self._pieces) > PIECES_MAX:
            self._pieces.popitem(last=False)
            self._longest_first = None

    def masked(self, text: str) -> str:
        """The text with ``***`` in the place of secrets, cut off if it is long."""
        if self._longest_first is None:  # one may be a part of another
            self._longest_first = sorted(self._pieces, key=len, reverse=True)
        masked = text[:TEXT_CHARACTERS_MAX]
        for piece in self._longest_first:
            masked = masked.replace(piece, MASK)
        # At the cut there may be the beginning of a piece, which is not found as it is not whole.
        return masked if len(text) <= TEXT_CHARACTERS_MAX else masked[:-PIECE_CHARACTERS]


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
