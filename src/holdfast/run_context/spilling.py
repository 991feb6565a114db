"""What moves out of a document into history, in the transaction that stores it (pure)."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from holdfast.documents import Document

D = TypeVar("D", bound=Document)


class Spilled(NamedTuple, Generic[D]):
    """A document in parts.

    Attributes:
        document: the row, without what moved.
        history: new rows of append-only kinds: the kind's name, the id, the document.
    """

    document: D
    history: tuple[tuple[str, str, Document], ...]
