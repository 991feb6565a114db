"""Errors in words, as records and events tell them (pure)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

ERROR_CHARACTERS_MAX: Final = 2_000


def in_words(fault: str | BaseException, masked: Callable[[str], str]) -> str:
    """An error, for a record: not too long, without secrets, and "?" for what JSON or L3 has no place for.

    Args:
        masked: takes secrets out of a text; before it is cut, or a part of one could stay.
    """
    try:
        told = fault if isinstance(fault, str) else f"{type(fault).__name__}: {fault}"
    except Exception:  # noqa: BLE001 - it is a user's, and what it does when asked is not known
        told = type(fault).__name__
    return masked(told)[:ERROR_CHARACTERS_MAX].encode(errors="replace").decode().replace("\0", "?")
