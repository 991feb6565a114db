"""The text in which a scope travels to another server (pure; rule S2).

It tells where the issuer's feed stood, what the scope saw beyond that, and of which L3. What would make it longer than
400 characters is left out, and a flag says so: then the receiver believes its caches only after a poll of its own,
which covers everything that can have been seen.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from holdfast.errors import InvalidToken
from holdfast.protocols import Snapshot
from holdfast.token_text import TOKEN_CHARACTERS_MAX, seal, unseal

UNSURE_MAX: Final = 16
"""Transactions of unknown outcome; they cannot be left out."""
JOURNALS_MAX: Final = 4
"""Journals with undecided writes that the scope saw; they cannot be left out either."""
JOURNAL_BYTES: Final = 16
_FORMAT: Final = 1
_XID_MAX: Final = 2**63 - 1


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What a token says.

    Attributes:
        incarnation: of L3, 16 bytes.
        everything: the scope may have seen anything committed before the token was made.
        position: xmin, xmax and running transactions of the issuer's feed: all that it sees may have been seen.
        floors: versions seen beyond that, by digest of their keys; 0: no row.
        unsure: transactions of unknown outcome, by number.
        journals: of write-behind, by name: undecided writes were seen up to this number.
    """

    incarnation: bytes
    everything: bool = False
    position: tuple[int, int, tuple[int, ...]] | None = None
    floors: dict[bytes, int] = {}
    unsure: tuple[int, ...] = ()
    journals: dict[bytes, int] = {}

    @property
    def snapshot(self) -> Snapshot | None:
        """The position, as the feed's."""
        return Snapshot(*self.position) if self.position is not None else None


def encode(token: Token) -> str:
    """The text of a token, of at most 400 characters that may stand in a header, an address or a cookie."""
    text = _text(token)
    if len(text) > TOKEN_CHARACTERS_MAX:
        bare = Token(token.incarnation, everything=True, unsure=token.unsure, journals=token.journals)
        text = _text(bare)
    return text


def decode(text: str) -> Token:
    """Read a token.

    Raises:
        InvalidToken: it is none, or was cut or changed on its way.
    """
    body = unseal("a scope's", _FORMAT, text)
    try:
        return _checked(msgspec.msgpack.decode(body, type=Token))
    except (msgspec.DecodeError, ValueError) as fault:
        raise InvalidToken(f"a scope's token says what none can say: {fault}") from fault


def _checked(token: Token) -> Token:
    UUID(bytes=token.incarnation)
    xmin, xmax, running = token.position or (0, 0, ())
    numbers = (xmin, xmax, *running, *token.unsure, *token.floors.values(), *token.journals.values())
    if not all(0 <= number <= _XID_MAX for number in numbers) or len(token.unsure) > UNSURE_MAX:
        raise ValueError("numbers out of range")
    if len(token.journals) > JOURNALS_MAX or any(len(name) != JOURNAL_BYTES for name in token.journals):
        raise ValueError("no journals of ours")
    return token


def _text(token: Token) -> str:
    return seal(_FORMAT, msgspec.msgpack.encode(token))
