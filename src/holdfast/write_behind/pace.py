"""How much is decided in one transaction (pure): less after a failure; L3 may have ended it for the time it took."""

from __future__ import annotations

from typing import Final

KEYS_MAX: Final = 500
"""In one transaction; its rows are locked until it ends."""
KEY_WRITES_MAX: Final = 1000
"""Of one key; a large document takes its time for each."""


class Pace:
    """What may be taken next.

    Attributes:
        keys: how many, of each of which `writes`.
    """

    def __init__(self, keys: int = KEYS_MAX, writes: int = KEY_WRITES_MAX) -> None:
        self.keys = keys
        self.writes = writes

    def slower(self) -> None:
        """What was taken was not decided."""
        self.keys, self.writes = max(1, self.keys // 2), max(1, self.writes // 2)

    def faster(self) -> None:
        """It was; a little more each time, so that where there is a limit it is seldom met."""
        self.keys = min(KEYS_MAX, self.keys + max(1, self.keys // 8))
        self.writes = min(KEY_WRITES_MAX, self.writes + max(1, self.writes // 8))
