"""The text of a token: it says what it was given, or that there is more, and believes nothing it was not given."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import InvalidToken
from holdfast.scopes.tokens import UNSURE_MAX, Token, decode, encode
from holdfast.token_text import TOKEN_CHARACTERS_MAX, seal

INCARNATION = UUID(int=7).bytes
numbers = st.integers(0, 2**63 - 1)
tokens = st.builds(
    Token,
    incarnation=st.binary(min_size=16, max_size=16),
    everything=st.booleans(),
    position=st.none() | st.tuples(numbers, numbers, st.lists(numbers, max_size=60).map(tuple)),
    floors=st.dictionaries(st.binary(min_size=8, max_size=8), numbers, max_size=20),
    unsure=st.lists(numbers, max_size=UNSURE_MAX).map(tuple),
)


@given(tokens)
def test_a_token_says_what_it_was_given_or_that_there_is_more(token: Token) -> None:
    """It never exceeds its length, and never loses a transaction of unknown outcome."""
    text = encode(token)
    assert len(text) <= TOKEN_CHARACTERS_MAX
    assert text.isascii()
    found = decode(text)
    assert found == token or found == Token(token.incarnation, everything=True, unsure=token.unsure)


def test_what_a_usual_scope_saw_fits() -> None:
    """A dozen keys beyond the feed, and some transactions that were running."""
    floors = {number.to_bytes(8): 2**40 + number for number in range(10)}
    token = Token(INCARNATION, position=(10**9, 10**9 + 5, (10**9, 10**9 + 3)), floors=floors)
    assert decode(encode(token)) == token


@given(tokens, st.integers(0, 10**6), st.integers(0, 63))
def test_a_changed_token_is_refused(token: Token, place: int, letter: int) -> None:
    """One character is enough; also at the end, where some bits of it mean nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    text = encode(token)
    place %= len(text)
    changed = text[:place] + alphabet[letter] + text[place + 1 :]
    if changed != text:
        with pytest.raises(InvalidToken):
            decode(changed)


@given(tokens, st.integers(1, 50))
def test_a_token_that_was_cut_is_refused(token: Token, cut: int) -> None:
    """As by a header that is too short."""
    with pytest.raises(InvalidToken):
        decode(encode(token)[:-cut])


@pytest.mark.parametrize("text", ["", "x", "ä" * 20, "A" * 401, "!!!!", "AAAAAAAAAAAA", "=" * 8, b"AAAA", None, 7])
def test_what_is_no_token_is_refused(text: object) -> None:
    """In words, whatever it is."""
    with pytest.raises(InvalidToken, match="token"):
        decode(text)  # type: ignore[arg-type]


def crafted(body: bytes, version: int = 1) -> str:
    """A text with a checksum that holds."""
    return seal(version, body)


@pytest.mark.parametrize(
    "fields",
    [
        [b"short", False, None, {}, ()],
        [INCARNATION, False, [1, -1, []], {}, ()],
        [INCARNATION, False, [1, 2**63, []], {}, ()],
        [INCARNATION, False, None, {b"12345678": -1}, ()],
        [INCARNATION, False, None, {}, list(range(UNSURE_MAX + 1))],
        [INCARNATION, 1, None, {}, ()],
        {"incarnation": INCARNATION},
        7,
    ],
)
def test_a_crafted_token_is_refused(fields: object) -> None:
    """A checksum is no proof of anything: what is inside is checked too."""
    with pytest.raises(InvalidToken):
        decode(crafted(msgspec.msgpack.encode(fields)))


def test_a_token_of_a_later_format_names_both() -> None:
    """Of a newer server, say."""
    with pytest.raises(InvalidToken, match=r"has format 2, this server reads 1$"):
        decode(crafted(msgspec.msgpack.encode(Token(INCARNATION)), version=2))


def test_a_token_holds_no_id() -> None:
    """It goes through headers and logs of others."""
    data = urlsafe_b64decode(encode(Token(INCARNATION, floors={b"12345678": 1})) + "==")
    assert len(data) < 60


@given(st.text(max_size=420) | st.binary(max_size=300).map(lambda data: urlsafe_b64encode(data).decode()))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    """Nothing but `InvalidToken` comes out."""
    try:
        decode(text)
    except InvalidToken:
        return
    raise AssertionError("junk was taken for a token")
