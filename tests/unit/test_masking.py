"""Texts that are recorded have no secrets in them that this process has met."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.documents import freeze
from holdfast.sensitivity import masking
from holdfast.sensitivity.masking import (
    CHARACTERS_MIN,
    PIECE_CHARACTERS,
    PIECES_MAX,
    TEXT_CHARACTERS_MAX,
    Mask,
)

LINES = "it's \"\n\\ so\u00e9\x1b"


def note(mask: Mask, value: object) -> None:
    """Let a process meet a value."""
    mask.note(freeze(value), repr(value).encode("utf-8", "surrogatepass"))


def masked(value: object, text: str) -> str:
    """A text, by a process that has met a value."""
    mask = Mask()
    note(mask, value)
    return mask.masked(text)


def test_secrets_are_masked_wherever_they_stand() -> None:
    """More than once, and one within another."""
    mask = Mask()
    for value in ("hush", "hush-hush", ["nested", {"key-name": ("deeper",)}]):
        note(mask, value)
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
    """Whatever its size, it is known as a whole, and in pieces it has thousands."""
    mask, small = Mask(), [f"token-{number:06}" for number in range(1_000)]
    for each in small:
        note(mask, each)
    assert len(LARGEST) == 1 << 20
    note(mask, LARGEST)
    assert all(is_known(mask, each) for each in small)
    assert is_known(mask, LARGEST[: 20 * PIECE_CHARACTERS])
    assert is_known(mask, LARGEST[-20 * PIECE_CHARACTERS :])


def test_of_a_secret_of_many_parts_each_is_known() -> None:
    """As many as a mebibyte holds."""
    mask, parts = Mask(), [f"{number:05x}" for number in range(130_000)]
    note(mask, parts)
    assert is_known(mask, "".join(parts[:1_000]))
    assert is_known(mask, "".join(parts[-1_000:]))
    assert "hush" in mask.masked("hush")


def test_many_secrets_of_many_parts_make_no_other_forgotten() -> None:
    """Nine of five thousand parts: less than a tenth of what there is room for."""
    mask = Mask()
    note(mask, "hush-hush")
    for number in range(9):
        note(mask, [f"{number}-{part:06}" for part in range(5_000)])
    assert is_known(mask, "hush-hush")
    assert PIECES_MAX + 1 > 10 * 45_001


def test_what_was_met_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before as many pieces came as are kept; who is met again is young again, also one of many parts."""
    monkeypatch.setattr(masking, "PIECES_MAX", 1_000)
    mask, parts = Mask(), [f"part-{number}" for number in range(200)]
    for each in ("forgotten", parts, "met-again"):
        note(mask, each)
    for number in range(2_000):
        assert number > 900 or is_known(mask, "forgotten")
        note(mask, f"{number:06}-filler")
        for each in ("met-again", parts):
            note(mask, each)
    assert not is_known(mask, "forgotten")
    assert all(is_known(mask, each) for each in ("met-again", *parts))


@pytest.mark.parametrize(
    "secret",
    [
        lambda number: f"{number:06x}",
        lambda number: f"{number:06x}{'x' * (number % 500)}",
        lambda number: f"{number:04}\u2603" * 10,
        lambda number: [f"{number:04}-{part}" for part in range(120)],
        lambda number: ["the same"] * (number % 300),
        lambda number: LARGEST[number:],
    ],
    ids=["short", "long", "quoted", "of parts", "of the same", "largest"],
)
def test_memory_for_what_is_known_is_bounded(secret: Callable[[int], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the interpreter counts it, whatever secrets look like; with a part of the bound, to be quick."""
    monkeypatch.setattr(masking, "PIECES_MAX", PIECES_MAX // 256)
    mask = Mask()
    tracemalloc.start()
    try:
        for number in range(1_500 if len(str(secret(9))) < 10_000 else 20):
            note(mask, secret(number))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Of each set: slots of 8 bytes, at most four for a piece; and what does not grow with pieces.
    assert held <= 2 * (32 * PIECES_MAX // 256 + (2 << 20))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 32, 33, 63, 64, 65, 255, 257, 511, 512])
def test_a_secret_of_any_length_is_masked_as_one(size: int) -> None:
    """Long ones are known by two parts, which overlap."""
    secret = LARGEST[:size]
    expected = MASKED if size >= CHARACTERS_MIN else secret
    assert masked(secret, f"<{secret}>") == f"<{expected}>"


def test_there_are_few_lengths_to_try_at_each_place() -> None:
    """However many secrets begin alike and differ in length."""
    mask = Mask()
    for length in range(PIECE_CHARACTERS):
        note(mask, LARGEST[:length])
    assert max(each.bit_count() for each in mask._sets[0].lengths) <= 34


def test_secrets_that_overlap_leave_nothing_of_each_other() -> None:
    """Whichever is met first, and however one lies in the other."""
    for order in (1, -1):
        mask = Mask()
        for each in ("hush-A1", "A1-token", "word", "password-in", "word-i")[::order]:
            note(mask, each)
        assert mask.masked("<hush-A1-token> password-in word word-in") == f"<{MASKED}> {MASKED} {MASKED} {MASKED}n"


def test_without_the_longest_first_an_end_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the shortest of those that begin alike."""

    def shortest(kept: Any, text: str, start: int, beginning: int) -> int:
        sizes = (size for size in range(600) if kept.lengths[beginning] >> size & 1)
        return next((size for size in sizes if kept._table[kept._slot(masking._hash(text[start : start + size]))]), 0)

    monkeypatch.setattr(masking._Set, "length_at", shortest)
    mask = Mask()
    note(mask, ["password", "password-in"])
    assert mask.masked("a password-in") == f"a {MASKED}-in"
