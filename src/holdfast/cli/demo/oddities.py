"""Oddities of recordings: collected while they are read, listed in the report, never dropped."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Oddity(msgspec.Struct, frozen=True):
    """Something in a recording that needed a decision.

    Attributes:
        sort: a few words that name the class of oddity.
        place: where, as "step 7" or "mock x".
        says: what is odd, and what was made of it.
    """

    sort: str
    place: str
    says: str


class Oddities:
    """Collects the oddities of one file."""

    def __init__(self) -> None:
        self._found: list[Oddity] = []

    def add(self, sort: str, place: str, says: str) -> None:
        """Note one."""
        self._found.append(Oddity(sort, place, says))

    def unknown_fields(self, place: str, value: object, shape: type[msgspec.Struct]) -> None:
        """Note the fields of an object that its shape does not read."""
        known = {field.encode_name for field in msgspec.structs.fields(shape)}
        for name in sorted(set(_names(value)) - known):
            self.add("unknown field", place, f"{name!r} is not part of this shape and was not replayed")

    @property
    def found(self) -> tuple[Oddity, ...]:
        """All of them, in the order in which they were met."""
        return tuple(self._found)


def _names(value: object) -> Iterable[str]:
    return value if isinstance(value, dict) else ()
