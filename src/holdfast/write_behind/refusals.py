"""What is told of an accepted write that was refused: to the subscribers of the server that decided it (pure)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from holdfast.errors import Refused

DETAIL_CHARACTERS_MAX: Final = 300

OnRefused = Callable[[Refused, str, int], None]
"""Is told of a refused write, with the name of its journal and its number there; must neither wait nor raise."""


def announcing(announce: Callable[[str, Any], None], topic: str) -> OnRefused:
    """Tells of refused writes under a topic."""

    def tell(refused: Refused, journal: str, seq: int) -> None:
        announce(topic, refusal_data(refused, journal, seq))

    return tell


def refusal_data(refused: Refused, journal: str, seq: int) -> dict[str, Any]:
    """The data of the event: which write it was and why, and none of what it would have written."""
    return {
        "kind": refused.key.kind,
        "id": refused.key.id,
        "reason": refused.reason,
        "detail": refused.detail[:DETAIL_CHARACTERS_MAX],
        "journal": journal,
        "seq": seq,
    }
