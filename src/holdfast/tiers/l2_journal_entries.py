"""How a journal and its entries are named in L2 (pure).

All keys of a journal are in one slot, by a hash tag: its stream, and a hash that says what the stream forgets when it
is trimmed, or removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from holdfast.errors import InvalidKey

SEQ_END: Final = 1 << 53
"""Numbers are below this: a script of L2 computes with doubles."""
_NAME: Final = re.compile(r"[0-9A-Za-z._:@-]{1,200}\Z")


def names_of(prefix: bytes, journal: str) -> list[bytes]:
    """The names of a journal's state and of its stream.

    Raises:
        InvalidKey: the journal's name could choose another slot, or is none.
    """
    if not _NAME.match(journal):
        raise InvalidKey(f"journal {journal!r:.60}: use 1 to 200 of letters, digits and ._:@-")
    base = b"%bwb:{%b}" % (prefix, journal.encode())
    return [base + b":state", base + b":entries"]


def check_append(entries: Sequence[tuple[int, bytes]], expected: int, keep_from: int) -> None:
    """Check the numbers of an append.

    Raises:
        ValueError: they do not rise above `expected`, or are beyond what L2 computes exactly.
    """
    numbers = [expected, *(seq for seq, _ in entries)]
    if any(low >= high for low, high in pairwise(numbers)):
        raise ValueError(f"the numbers of an append rise above {expected}: {numbers[1:6]}...")
    if expected < 0 or keep_from < 0 or max(numbers[-1], keep_from) >= SEQ_END:
        raise ValueError(f"the numbers of a journal are from 1 to {SEQ_END - 1}")


def entry_of(row: Sequence[Any]) -> tuple[int, bytes]:
    """Number and bytes of a stream's entry; what nobody of us put there has no bytes."""
    identifier, fields = row
    seq = int(identifier.split(b"-")[0])
    return seq, fields[1] if len(fields) == 2 and fields[0] == b"e" else b""
