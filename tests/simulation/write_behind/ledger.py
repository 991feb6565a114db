"""The documents of these worlds: each write leaves a token of its own, once, beside what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from holdfast import Append, Kind, Set
from holdfast.documents import Document
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST
from holdfast.keys import Key
from holdfast.write_behind.operations import Operation


class Ledger(Document, frozen=True, kw_only=True):
    """A document that tells who wrote to it.

    Attributes:
        author: the token of whoever put it; every document has another one.
        tokens: of all other writes, in their order.
        count: how many these are.
        note: the token of the last write that set it.
        facts: by token, of the writes that merged one.
    """

    author: str
    tokens: Sequence[str] = EMPTY_LIST
    count: int = 0
    note: str = ""
    facts: Mapping[str, int] = EMPTY_DICT


LEDGER: Final = Kind("ledger", Ledger)
KEYS: Final = tuple(Key("ledger", name) for name in ("l1", "l2", "l3"))


def token_of(operations: Sequence[Operation]) -> str | None:
    """The token that a write leaves; None: it deletes the document."""
    for operation in operations:
        if isinstance(operation, Append):
            return str(operation.values[0])
        if isinstance(operation, Set) and not operation.place.path:
            return str(operation.value.author)
    return None


def cuts(operations: Sequence[Operation]) -> bool:
    """Whether a write ends a document: what others left in it is gone."""
    return any(not operation.place.path for operation in operations)


def faults_in(document: Ledger) -> str | None:
    """What cannot be true of any document that was ever shown."""
    tokens = list(document.tokens)
    if len(set(tokens)) != len(tokens):
        return f"tokens twice: {tokens}"
    if document.count != len(tokens):
        return f"count {document.count} of tokens {tokens}"
    if lone := set(document.facts) - set(tokens):
        return f"facts without their tokens: {lone}"
    return None


def with_token(document: Ledger, token: str) -> Ledger:
    """What an update makes of a document: one write more."""
    return Ledger(
        author=document.author,
        tokens=[*document.tokens, token],
        count=document.count + 1,
        note=document.note,
        facts=document.facts,
    )
