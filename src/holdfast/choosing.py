"""The collection of a kind, among those of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from holdfast.collection import Collection
from holdfast.documents import Document
from holdfast.errors import SettingsError
from holdfast.kinds import Kind

D = TypeVar("D", bound=Document)


def chosen(collections: Mapping[str, Collection[Any]], kind: Kind[D]) -> Collection[D]:
    """The collection of a kind.

    Raises:
        SettingsError: the kind is not known to this store, or it is another one of that name.
    """
    if not isinstance(kind, Kind):
        raise SettingsError(f"collection takes a Kind, not a {type(kind).__name__}; by name: collections[...]")
    collection = collections.get(kind.name)
    if collection is None:
        raise SettingsError(f"kind {kind.name} is not known here: connect(kinds=[...]) takes own kinds")
    if others := _differing(kind, collection.kind):
        raise SettingsError(f"kind {kind.name} is not the one known here: they differ in {', '.join(others)}")
    return collection


def _differing(kind: Kind[Any], other: Kind[Any]) -> list[str]:
    return [each.name for each in fields(kind) if getattr(kind, each.name) != getattr(other, each.name)]
