"""Texts that are recorded have no secrets in them that this process has met."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.documents import freeze
from holdfast.sensitivity import masking
from holdfast.sensitivity.masking import (
    BYTES_MAX,
    CHARACTERS_MIN,
    PIECE_CHARACTERS,
    SECRET_BYTES_MAX,
    TEXT_CHARACTERS_MAX,
    Mask,
)

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


LARGEST = "".join(f"{number:08}" for number in range(1 << 17))
"""As large as a secret can be, 1 MiB, and no part of it like another."""


def is_known(mask: Mask, text: str) -> bool:
    """Whether a text is masked as a whole, piece by piece."""
    return not mask.masked(text).replace(MASKED, "")


def test_a_large_secret_makes_no_small_one_forgotten() -> None:
    """Whatever its size, it is known as a whole and costs an eighth of the room at most; in pieces it has thousands."""
    mask, small = Mask(), [f"token-{number:06}" for number in range(1_000)]
    for each in small:
        mask.note(each)
    assert len(LARGEST) == 1 << 20
    mask.note(LARGEST)
    assert all(is_known(mask, each) for each in small)
    assert is_known(mask, LARGEST[: 20 * PIECE_CHARACTERS])
    assert is_known(mask, LARGEST[-20 * PIECE_CHARACTERS :])


def test_of_a_secret_of_too_many_parts_those_in_front_are_known() -> None:
    """It has its share of the room and no more: a mebibyte of small numbers would fill all of it several times."""
    mask, parts = Mask(), [f"{number:06x}" for number in range(200_000)]
    mask.note("token")
    mask.note(parts)
    assert is_known(mask, "token")
    assert is_known(mask, parts[0])
    assert not is_known(mask, parts[-1])
    assert SECRET_BYTES_MAX - 1_000 < mask._bytes <= SECRET_BYTES_MAX + 1_000


def test_secrets_are_forgotten_as_a_whole_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is met again is young again, and what a younger one has too stays known."""
    monkeypatch.setattr(masking, "BYTES_MAX", BYTES_MAX // 64)
    mask, parts = Mask(), [f"part-{number}" for number in range(50)]
    for first in ([*parts, "shared"], "kept-secret", ["shared", "younger"]):
        mask.note(freeze(first))
    number, met = 0, "kept-secret"
    while is_known(mask, parts[0]):
        assert all(is_known(mask, each) for each in parts)
        mask.note(f"{number:06}-filler")
        mask.note(met)
        number += 1
    assert not any(is_known(mask, each) for each in parts)
    assert all(is_known(mask, each) for each in (met, "shared", "younger"))
    while is_known(mask, "younger"):
        mask.note(f"{number:06}-filler")
        number += 1
    assert not is_known(mask, "shared")


@pytest.mark.parametrize(
    "secret",
    [
        lambda number: f"{number:06x}",
        lambda number: f"{number:06x}{'x' * 500}",
        lambda number: f"{number:04}\u2603" * 10,
        lambda number: [f"{number:04}-{part}" for part in range(30)],
        lambda number: LARGEST[number:],
    ],
    ids=["short", "long", "quoted", "of parts", "largest"],
)
def test_memory_for_what_is_known_is_bounded(secret: Callable[[int], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the interpreter counts it, whatever secrets look like; with a sixteenth of the bound, to be quick."""
    monkeypatch.setattr(masking, "BYTES_MAX", BYTES_MAX // 16)
    monkeypatch.setattr(masking, "SECRET_BYTES_MAX", SECRET_BYTES_MAX // 16)
    mask = Mask()
    tracemalloc.start()
    try:
        for number in range(4_000 if len(str(secret(0))) < 10_000 else 20):
            mask.note(freeze(secret(number)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert BYTES_MAX // 64 < held <= BYTES_MAX // 16


def test_what_is_forgotten_leaves_nothing() -> None:
    """No count, no length and no piece: of those that younger secrets have, only these."""
    mask = Mask()
    for each in ("hush", ["hush", "hush-hush"], f"{LINES} and more"):
        mask.note(freeze(each))
    while mask._secrets:
        mask._forget(*mask._secrets.popitem(last=False))
    assert (mask._bytes, mask._pieces, mask._lengths) == (0, {}, {})
    assert repr(mask) == "Mask(0 secrets, 0 bytes)"


def test_secrets_that_overlap_leave_nothing_of_each_other() -> None:
    """Whichever is met first, and however one lies in the other."""
    for order in (1, -1):
        mask = Mask()
        for each in ("hush-A1", "A1-token", "word", "password-in", "word-i")[::order]:
            mask.note(each)
        assert mask.masked("<hush-A1-token> password-in word word-in") == f"<{MASKED}> {MASKED} {MASKED} {MASKED}n"


def test_without_the_longest_first_an_end_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the shortest of those that begin alike."""
    lengths_of = Mask._lengths_of
    monkeypatch.setattr(Mask, "_lengths_of", lambda mask, beginning: lengths_of(mask, beginning)[::-1])
    mask = Mask()
    mask.note(["password", "password-in"])
    assert mask.masked("a password-in") == f"a {MASKED}-in"
