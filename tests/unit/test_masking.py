"""Texts that are recorded have no secrets in them that this process has met."""

from __future__ import annotations

import json
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.documents import freeze
from holdfast.sensitivity import masking
from holdfast.sensitivity.masking import CHARACTERS_MIN, PIECE_CHARACTERS, PIECES_MAX, TEXT_CHARACTERS_MAX, Mask

LINES = "it's \"\n\\ so\u00e9\x1b"


def masked(value: object, text: str) -> str:
    """A text, by a process that has met a value."""
    mask = Mask()
    mask.note(freeze(value))
    return mask.masked(text)


def test_secrets_are_masked_wherever_they_stand() -> None:
    """More than once, and one within another."""
    mask = Mask()
    for value in ("hush", "hush-hush", ["nested", {"key-name": ("deeper",)}]):
        mask.note(freeze(value))
    text = "hush: hush-hush and nested key-name, deeper hushed"
    assert mask.masked(text) == "***: *** and *** ***, *** ***ed"
    assert mask.masked("nothing of it") == "nothing of it"


@pytest.mark.parametrize("quoted", [repr, json.dumps, ascii, str, lambda text: f"{KeyError(text)}"])
def test_as_python_and_json_quote_them(quoted: object) -> None:
    """Errors quote values by their repr as a rule."""
    assert callable(quoted)
    text = f"fault: {quoted(LINES)}"
    assert "so" not in masked(LINES, text)


@pytest.mark.parametrize(
    "value",
    [4111_1111_1111_1111, Decimal("99.90"), 12.375, b"\x00bytes", UUID(int=7), freeze({b"\xffab": 1})],
)
def test_what_is_no_text_is_masked_as_texts_show_it(value: object) -> None:
    """Numbers, bytes, ids."""
    leaf = next(iter(value)) if isinstance(value, dict) else value
    for text in (f"got {leaf}", f"got {leaf!r}"):
        assert MASKED in masked(value, text)
    if isinstance(leaf, bytes):
        assert masked(value, f"got {leaf.hex()}") == f"got {MASKED}"


MASKED = masking.MASK


@pytest.mark.parametrize("value", ["abc", True, None, 123, "", {"a": "b"}])
def test_what_any_text_may_have_is_left(value: object) -> None:
    """Under four characters, or a word of the language: nothing could be read any more."""
    assert masked(value, "True abc 123 None a b") == "True abc 123 None a b"


def test_a_part_of_a_long_secret_is_masked_too() -> None:
    """By pieces; of what is left at the ends there is less than a piece."""
    secret = "".join(f"{number:05}" for number in range(2_000))
    assert masked(secret, f"<{secret}>") == f"<{MASKED * 20}>"
    part = secret[PIECE_CHARACTERS : 3 * PIECE_CHARACTERS]
    assert masked(secret, f"<{part}>") == f"<{MASKED * 2}>"


@given(st.integers(0, 3 * PIECE_CHARACTERS), st.integers(CHARACTERS_MIN, PIECE_CHARACTERS))
def test_where_a_text_is_cut_no_beginning_of_a_secret_stays(before: int, size: int) -> None:
    """However it lies across the cut."""
    secret = "s" * size
    text = "x" * (TEXT_CHARACTERS_MAX - before) + secret * (3 * PIECE_CHARACTERS // size)
    assert "s" not in masked(secret, text + "tail")


def test_what_is_kept_is_bounded() -> None:
    """Those met longest ago make room; who is met again is young again."""
    mask = Mask()
    for number in range(PIECES_MAX + 5):
        mask.note(f"secret-{number:06}")
        mask.note("secret-000003")
    assert mask.masked("secret-000000") == "secret-000000"
    assert mask.masked("secret-000003 secret-010004") == f"{MASKED} {MASKED}"
    assert repr(mask) == f"Mask({PIECES_MAX} pieces)"


def test_secrets_that_overlap_leave_nothing_of_each_other() -> None:
    """Whichever is met first, and however one lies in the other."""
    for order in (1, -1):
        mask = Mask()
        for each in ("hush-A1", "A1-token", "word", "password-in", "word-i")[::order]:
            mask.note(each)
        assert mask.masked("<hush-A1-token> password-in word word-in") == f"<{MASKED}> {MASKED} {MASKED} {MASKED}n"


def test_without_the_longest_first_an_end_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the shortest of those that begin alike."""
    by_beginning = Mask._by_beginning
    monkeypatch.setattr(
        Mask, "_by_beginning", lambda mask: {name: each[::-1] for name, each in by_beginning(mask).items()}
    )
    mask = Mask()
    mask.note(["password", "password-in"])
    assert mask.masked("a password-in") == f"a {MASKED}-in"
