"""The text of a token: few bytes that may travel in a header, an address or a cookie, and show a change (pure).

A byte that names the format, what the token says, and a CRC-32 of both, in URL-safe base64 without padding.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, urlsafe_b64encode
from typing import Final

from holdfast.errors import InvalidToken

TOKEN_CHARACTERS_MAX: Final = 400
_CHECK_BYTES: Final = 4


def seal(form: int, body: bytes) -> str:
    """The text of a token of a format; whether it is too long is the caller's to see."""
    data = bytes([form]) + body
    return _text_of(data + zlib.crc32(data).to_bytes(_CHECK_BYTES, "big"))


def unseal(whose: str, form: int, text: object) -> bytes:
    """What a token says.

    Args:
        whose: for the message: "a scope's".
        form: the format that is read here.

    Raises:
        InvalidToken: it is none, was cut or changed on its way, or is of another format.
    """
    if not isinstance(text, str) or not 0 < len(text) <= TOKEN_CHARACTERS_MAX:
        raise InvalidToken(f"{whose} token is text of 1 to {TOKEN_CHARACTERS_MAX} characters")
    try:
        data = b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as fault:
        raise InvalidToken(f"{text[:20]!r}... is no token, {whose} or other: {fault}") from fault
    sealed, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not sealed or zlib.crc32(sealed).to_bytes(_CHECK_BYTES, "big") != check or _text_of(data) != text:
        raise InvalidToken(f"{whose} token does not match its checksum: it was cut or changed on its way")
    if sealed[0] != form:
        raise InvalidToken(f"{whose} token has format {sealed[0]}, this server reads {form}")
    return sealed[1:]


def _text_of(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
