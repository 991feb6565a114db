"""Tokens: what they carry, and that nothing else is taken for one."""

from __future__ import annotations

import base64
import zlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidToken
from holdfast.invalidation.positions import Position, position_of, token_of
from holdfast.protocols import Coherence, Cursor, Snapshot
from holdfast.token_text import TOKEN_CHARACTERS_MAX

LIFE = ("1764441649123456",)
GOLDEN = "AZXEEBI0VniavN7wEjRWeJq83vCwMTc2NDQ0MTY0OTEyMzQ1NpPNAwICApLNAwYBB0AKLZw"


@st.composite
def snapshots(draw: st.DrawFn, running_max: int = 40) -> Snapshot:
    xmin = draw(st.integers(3, 2**40))
    running = sorted(draw(st.sets(st.integers(xmin, xmin + 5000), max_size=running_max)))
    return Snapshot(xmin, max([xmin, *running]) + draw(st.integers(0, 500)) + 1, tuple(running))


@st.composite
def positions(draw: st.DrawFn, running_max: int = 40) -> Position:
    cursor = Cursor(Coherence(draw(st.uuids())), draw(snapshots(running_max)), LIFE)
    count = draw(st.integers(0, 50_000))
    return Position(cursor, draw(snapshots(running_max)), count) if count else Position(cursor)


@given(positions())
def test_a_position_comes_back(position: Position) -> None:
    """Of what it is made, the generations and the anchor's end are left out: nobody asks for them."""
    anchored = Position(
        Cursor(
            Coherence(position.before.coherence.incarnation, {"all": 7}),
            position.before.snapshot,
            (*LIFE, "17", "8", "1764441649123457"),
        ),
        position.after,
        position.given,
    )
    token = token_of(anchored)
    assert len(token) <= TOKEN_CHARACTERS_MAX
    assert position_of(token) == position


@given(positions(running_max=600))
def test_a_token_that_would_be_too_long_stands_for_an_earlier_position(position: Position) -> None:
    """It may tell again what was told; it sees nothing that the position does not see."""
    token = token_of(position)
    assert len(token) <= TOKEN_CHARACTERS_MAX
    found = position_of(token)
    assert position.before.snapshot.covers(found.before.snapshot)
    assert (found.given, found.after) in {(position.given, position.after), (0, None)}
    if found.given:
        assert found == position


def test_a_thousand_transactions_at_once() -> None:
    """The token begins before the oldest of them."""
    running = tuple(range(1000, 400_000, 399))
    position = Position(Cursor(Coherence(UUID(int=1)), Snapshot(1000, 400_000, running), LIFE))
    assert position_of(token_of(position)).before.snapshot == Snapshot(1000, 1000)


def test_the_bytes_are_these() -> None:
    """Tokens are kept by others: a new form needs a new number of format."""
    cursor = Cursor(Coherence(UUID("12345678-9abc-def0-1234-56789abcdef0")), Snapshot(770, 774, (772,)), LIFE)
    position = Position(cursor, Snapshot(774, 775), 7)
    assert token_of(position) == GOLDEN
    assert position_of(GOLDEN) == position


@given(st.data(), positions())
def test_damage_is_noticed(data: st.DataObject, position: Position) -> None:
    """Of one character, of the end, of the beginning."""
    token = token_of(position)
    place = data.draw(st.integers(0, len(token) - 2))  # of the last one, not all bits count
    other = data.draw(st.sampled_from([each for each in "AZaz09-_ é." if each != token[place]]))
    for damaged in (token[:place] + other + token[place + 1 :], token[:place], token[1:], token + "AAAA"):
        with pytest.raises(InvalidToken):
            position_of(damaged)


@given(
    st.one_of(st.text(max_size=500), st.binary(max_size=300).map(lambda data: base64.urlsafe_b64encode(data).decode()))
)
def test_what_is_no_token(text: str) -> None:
    """Any text is refused by the same error."""
    with pytest.raises(InvalidToken):
        position_of(text)


@given(st.binary(max_size=60))
def test_a_right_checksum_makes_no_token(body: bytes) -> None:
    """What it says must be a position all the same."""
    data = b"\x01" + body
    text = base64.urlsafe_b64encode(data + zlib.crc32(data).to_bytes(4, "big")).rstrip(b"=").decode()
    try:
        position = position_of(text)
    except InvalidToken:
        return
    assert position.before.snapshot.xmax < 2**63


@pytest.mark.parametrize("given", [None, 7, b"abc", "", "A" * 401])
def test_the_error_says_what_is_wanted(given: object) -> None:
    """Also for what is no text."""
    with pytest.raises(InvalidToken, match="token"):
        position_of(given)  # type: ignore[arg-type]


def test_a_newer_format_is_named() -> None:
    """It is no damage: this server is too old."""
    body = b"\x02\xc0"
    text = base64.urlsafe_b64encode(body + zlib.crc32(body).to_bytes(4, "big")).rstrip(b"=").decode()
    with pytest.raises(InvalidToken, match="format 2"):
        position_of(text)
