"""What this server wrote last, decoded: a state that changes many times a second is not decoded for each change.

L3 says what the row is; only that the same JSON is the same document is remembered here, so nothing can be stale.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from holdfast.keys import Key
from holdfast.protocols import Row

BYTES_MAX: Final = 16 * 1024 * 1024
"""Of JSON."""


class OwnRows:
    """Documents by their key and JSON; those used longest ago make room.

    Args:
        bytes_max: of JSON that is kept.
    """

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._held: OrderedDict[Key, tuple[bytes, Any]] = OrderedDict()

    def document(self, key: Key, row: Row) -> Any:
        """What a row holds, if it is as it was kept; else None."""
        held = self._held.get(key)
        return held[1] if held is not None and held[0] == row.body else None

    def keep(self, key: Key, body: bytes, document: object) -> None:
        """Keep a document that was encoded."""
        self.drop(key)
        self._held[key] = body, document
        self._bytes += len(body)
        while self._bytes > self._bytes_max:
            self.drop(next(iter(self._held)))

    def drop(self, key: Key) -> None:
        """Forget a key."""
        body, _ = self._held.pop(key, (b"", None))
        self._bytes -= len(body)
