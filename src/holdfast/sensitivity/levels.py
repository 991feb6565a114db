"""Which sensitivities make a value a secret, and which of two is stricter (pure).

A word that this version does not know, of a later one, counts as a secret, and as stricter than all.
"""

from __future__ import annotations

from typing import Final

from holdfast.documents import DataSensitivity

_PLAIN: Final = frozenset(
    {DataSensitivity.PUBLIC.value, DataSensitivity.INTERNAL.value, DataSensitivity.CONFIDENTIAL.value}
)
_ORDER: Final = tuple(level.value for level in DataSensitivity)


def is_secret(*sensitivities: str) -> bool:
    """Whether one of these says that a value is sealed, and leaves its run for nobody but the parent."""
    return not _PLAIN.issuperset(sensitivities)


def strictest(*sensitivities: str) -> str:
    """The strictest of these."""
    return max(sensitivities, key=lambda each: _ORDER.index(each) if each in _ORDER else len(_ORDER))
