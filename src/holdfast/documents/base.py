"""What every document and every part of one derives from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

import msgspec

from holdfast.documents.frozen import EMPTY_DICT, IMMUTABLE, FrozenDict
from holdfast.documents.plans import EXTRA
from holdfast.documents.structs import freeze_fields


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A struct inside a document: immutable to the leaf, open to fields that a newer version added.

    Values given to the constructor are frozen there: a list becomes a `FrozenList`, a dict a `FrozenDict`.
    The caller's own list can change later, the document does not. Types are checked by `encode`.

    A subclass may have a ``__post_init__`` of its own; it runs after the values are frozen.

    Attributes:
        extra: fields unknown to this version, by their stored names; stored again beside the known ones.
    """

    extra: FrozenDict = msgspec.field(default=EMPTY_DICT, name=EXTRA)

    def __init_subclass__(cls, **options: Any) -> None:  # msgspec's own
        """Note that instances never change, and that they freeze their values first."""
        super().__init_subclass__(**options)
        IMMUTABLE.add(cls)
        own: Callable[[Any], None] | None = cls.__dict__.get("__post_init__")
        if own is not None:
            cls.__post_init__ = _frozen_first(own)  # type: ignore[method-assign,assignment]  # same signature

    def __post_init__(self) -> None:
        freeze_fields(self)


def _frozen_first(own: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(self: Part) -> None:
        freeze_fields(self)
        own(self)

    return run


class Document(Part, frozen=True, kw_only=True):
    """A value with a key of its own: a row in L3, an entry in a cache. Documents of your own derive from it.

    Attributes:
        SCHEMA: number of the class's schema, from 1. Raise it when a stored field changes its name or
            meaning, and override `upgrade`; a new field with a default needs neither.
    """

    SCHEMA: ClassVar[int] = 1

    @classmethod
    def upgrade(cls, fields: dict[str, Any], schema: int) -> dict[str, Any]:  # noqa: ARG003  # subclasses do
        """Turn the stored fields of schema `schema` into those of the next; called once per step.

        Args:
            fields: as stored: stored names, free values still tagged; may be changed in place.
            schema: the number of their schema, below `SCHEMA`.

        Returns:
            The fields of schema ``schema + 1``. A ValueError, TypeError or LookupError says they are corrupt.
        """
        return fields
