"""The text in which a scope travels to another server (pure; rule S2).

It tells where the issuer's feed stood, what the scope saw beyond that, and of which L3. What would make it longer than
400 characters is left out, and a flag says so: then the receiver believes its caches only after a poll of its own,
which covers everything that can have been seen.
"""

from __future__ import annotations

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final
from uuid import UUID

import msgspec

from holdfast.errors import InvalidToken
from holdfast.protocols import Snapshot

TOKEN_CHARACTERS_MAX: Final = 400
UNSURE_MAX: Final = 16
"""Transactions of unknown outcome; they cannot be left out."""
_FORMAT: Final = 1
_HEAD: Final = struct.Struct(">BI")  # format, CRC-32 of the rest
_XID_MAX: Final = 2**63 - 1


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What a token says.

    Attributes:
        incarnation: of L3, 16 bytes.
        everything: the scope may have seen anything committed before the token was made.
        position: xmin, xmax and running transactions of the issuer's feed: all that it sees may have been seen.
        floors: versions seen beyond that, by digest of their keys; 0: no row.
        unsure: transactions of unknown outcome, by number.
    """

    incarnation: bytes
    everything: bool = False
    position: tuple[int, int, tuple[int, ...]] | None = None
    floors: dict[bytes, int] = {}
    unsure: tuple[int, ...] = ()

    @property
    def snapshot(self) -> Snapshot | None:
        """The position, as the feed's."""
        return Snapshot(*self.position) if self.position is not None else None


def encode(token: Token) -> str:
    """The text of a token, of at most 400 characters that may stand in a header, an address or a cookie."""
    text = _text(token)
    if len(text) > TOKEN_CHARACTERS_MAX:
        text = _text(Token(token.incarnation, everything=True, unsure=token.unsure))
    return text


def decode(text: str) -> Token:
    """Read a token.

    Raises:
        InvalidToken: it is none, or was cut or changed on its way.
    """
    if not isinstance(text, str) or not 0 < len(text) <= TOKEN_CHARACTERS_MAX:
        raise InvalidToken(f"a scope's token is text of 1 to {TOKEN_CHARACTERS_MAX} characters")
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        version, checksum = _HEAD.unpack_from(data)
    except (UnicodeEncodeError, binascii.Error, struct.error) as fault:
        raise InvalidToken(f"{text[:20]!r}... is no scope's token: {fault}") from fault
    body = data[_HEAD.size :]
    if checksum != binascii.crc32(body) or _text_of(data) != text:
        raise InvalidToken("a scope's token does not match its checksum: it was cut or changed on its way")
    if version != _FORMAT:
        raise InvalidToken(f"a scope's token has format {version}, this server reads {_FORMAT}")
    try:
        return _checked(msgspec.msgpack.decode(body, type=Token))
    except (msgspec.DecodeError, ValueError) as fault:
        raise InvalidToken(f"a scope's token says what none can say: {fault}") from fault


def _checked(token: Token) -> Token:
    UUID(bytes=token.incarnation)
    xmin, xmax, running = token.position or (0, 0, ())
    numbers = (xmin, xmax, *running, *token.unsure, *token.floors.values())
    if not all(0 <= number <= _XID_MAX for number in numbers) or len(token.unsure) > UNSURE_MAX:
        raise ValueError("numbers out of range")
    return token


def _text(token: Token) -> str:
    body = msgspec.msgpack.encode(token)
    return _text_of(_HEAD.pack(_FORMAT, binascii.crc32(body)) + body)


def _text_of(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
