"""What this server wrote last, decoded."""

from __future__ import annotations

from holdfast.keys import Key
from holdfast.protocols import Row
from holdfast.write_behind.own_rows import OwnRows

A, B = Key("swarm", "a"), Key("swarm", "b")


def row(body: bytes) -> Row:
    """One of any version."""
    return Row(7, 1, 1, body)


def test_the_same_json_is_the_same_document() -> None:
    """Another body, of whatever version, is not known; nor is another key."""
    rows, document = OwnRows(), object()
    rows.keep(A, b"{}", document)
    assert rows.document(A, row(b"{}")) is document
    assert rows.document(A, row(b"{ }")) is None
    assert rows.document(B, row(b"{}")) is None


def test_the_oldest_make_room() -> None:
    """The bytes are bounded, and a key counts once."""
    rows = OwnRows(bytes_max=10)
    for number in range(5):
        rows.keep(A, b"%d...." % number, number)
    rows.keep(B, b"....5", 5)
    assert rows.document(A, row(b"4....")) == 4
    rows.keep(Key("swarm", "c"), b".", 6)
    assert rows.document(A, row(b"4....")) is None
    assert rows.document(B, row(b"....5")) == 5


def test_what_alone_is_too_large_is_not_kept() -> None:
    """Then there is nothing."""
    rows = OwnRows(bytes_max=3)
    rows.keep(A, b"....", 1)
    assert rows.document(A, row(b"....")) is None
