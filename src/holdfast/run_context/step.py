"""A step of a run, as the code that makes it sees it (pure)."""

from __future__ import annotations

from holdfast.documents import FreeValue


class Step:
    """A step under way.

    Attributes:
        result: what it gives; kept in its record.
    """

    def __init__(self, step_id: str) -> None:
        self.step_id = step_id
        self.result: FreeValue = None
