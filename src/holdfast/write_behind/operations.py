"""Operations: small changes to a document that say what is done, not what results (pure).

Two servers that each add 1 make 2, and whoever appends keeps what others appended. An operation addresses a *place*:
attributes and keys from the document's root on, each a text of its own and never parsed; then perhaps one item of the
sequence that is there, by its id; then perhaps attributes and keys inside the item::

    Set("goal", "ship it")
    Increment("stats", "total_tool_calls", by=1)
    Set("blackboard", BlackboardItem(id="b1", value=1), item="b1")
    Set("subtasks", "done", item="t1", inside=("status",))

What is given last to `Set`, `Append` and `Merge` is the value. None of it is checked here but what no call may be
without; `checking.checked` does, when it knows the class of the document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.documents import FreeValue
from holdfast.documents.faults import at_key, join_steps


class ItemId(NamedTuple):
    """The step to an item of a sequence: the first one of this id."""

    id: str

    def __str__(self) -> str:
        return f"[id={self.id!r:.60}]"


Step = str | ItemId


class Place(NamedTuple):
    """Where in a document an operation acts.

    Attributes:
        path: attributes and keys; empty: the document itself.
        item: the id of an item of the sequence there.
        inside: attributes and keys inside the item.
    """

    path: tuple[str, ...] = ()
    item: str | None = None
    inside: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """The way from the root."""
        return self.path if self.item is None else (*self.path, ItemId(self.item), *self.inside)

    def __str__(self) -> str:
        return text_of(self.steps)


def text_of(steps: tuple[Step, ...]) -> str:
    """A way as errors write it, as in ``subtasks[id='t1'].status``; empty for the root."""
    return join_steps(at_key(step) if isinstance(step, str) else str(step) for step in steps)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Operation:
    """A pure change to a document; `Set`, `Delete`, `Append`, `Increment` and `Merge` are all there are."""

    place: Place

    def _fill(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _shown(self) -> str:
        path, item, inside = self.place
        parts = [repr(step) for step in path]
        behind = [] if item is None else [f"item={item!r}"]
        if inside:
            behind.append(f"inside={inside!r}")
        return ", ".join([*parts, *self._payload(), *behind])

    def _payload(self) -> list[str]:
        return []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown()})"


def _addressed(name: str, arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    if not arguments:
        raise TypeError(f"{name} takes a value behind its path: {name}('goal', 'x')")
    return arguments[:-1], arguments[-1]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Set(Operation):
    """Put a value at a place.

    An item that is not there is appended; ``Set(document)`` replaces the document, or creates it. If what the writer
    replaced is no longer there when it is decided, the conflict strategy says which value stands (rule W6).

    Args:
        path_and_value: the path, and the value last.
        item: id of the item to replace, or with `inside` to change; the value's own id must be the same.
        inside: attributes and keys inside the item.
    """

    value: FreeValue

    def __init__(self, *path_and_value: FreeValue, item: str | None = None, inside: tuple[str, ...] = ()) -> None:
        path, value = _addressed("Set", path_and_value)
        self._fill(place=Place(path, item, inside), value=value)

    def _payload(self) -> list[str]:
        return [repr(self.value)]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Delete(Operation):
    """Remove a key of a mapping or an item, or set an attribute to its default; ``Delete()`` deletes the row.

    What is not there is not deleted, and that is no fault.
    """

    def __init__(self, *path: str, item: str | None = None, inside: tuple[str, ...] = ()) -> None:
        self._fill(place=Place(path, item, inside))


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Append(Operation):
    """Add a value at the end of a sequence, also if it holds one of the same id; an absent key begins an empty one.

    Attributes:
        values: what is appended: one value, or those of several `Append` that became one.
    """

    values: tuple[FreeValue, ...]

    def __init__(self, *path_and_value: FreeValue, item: str | None = None, inside: tuple[str, ...] = ()) -> None:
        path, value = _addressed("Append", path_and_value)
        self._fill(place=Place(path, item, inside), values=(value,))

    @classmethod
    def several(cls, place: Place, values: tuple[FreeValue, ...]) -> Append:
        """One operation that appends several values, in order."""
        operation = cls.__new__(cls)
        object.__setattr__(operation, "place", place)
        object.__setattr__(operation, "values", values)
        return operation

    def _payload(self) -> list[str]:
        return [repr(value) for value in self.values]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Increment(Operation):
    """Add to a number; an absent key of a mapping counts as 0."""

    by: int | float

    def __init__(self, *path: str, by: float = 1, item: str | None = None, inside: tuple[str, ...] = ()) -> None:
        self._fill(place=Place(path, item, inside), by=by)

    def _payload(self) -> list[str]:
        return [f"by={self.by!r}"]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Merge(Operation):
    """Merge a mapping into a mapping, or by its attributes' names into a part of a document.

    A mapping in it is merged into what is at its key, if that is a mapping or a part; every other value replaces.
    """

    mapping: Mapping[str, Any]

    def __init__(self, *path_and_mapping: FreeValue, item: str | None = None, inside: tuple[str, ...] = ()) -> None:
        path, mapping = _addressed("Merge", path_and_mapping)
        self._fill(place=Place(path, item, inside), mapping=mapping)

    def _payload(self) -> list[str]:
        return [repr(self.mapping)]


def with_value(operation: Set, value: FreeValue) -> Set:
    """The same with another value."""
    path, item, inside = operation.place
    return Set(*path, value, item=item, inside=inside)
