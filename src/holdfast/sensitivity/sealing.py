"""Sealing a value in its place, and opening it there (pure).

A value is encrypted and authenticated together with the place it is for, so that ciphertext that somebody moves to
another variable, run or kind, or puts back in the place of a later write, is refused when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag

from holdfast.documents import Document, FreeValue, Limits, decode, encode
from holdfast.documents.faults import DEPTH_CEILING
from holdfast.documents.sealed import (
    KEY_ID_BYTES_MAX,
    NONCE_BYTES,
    SALT_BYTES,
    SEALED_BYTES_MAX,
    TAG_BYTES,
    Sealed,
    header_of,
)
from holdfast.errors import InvalidDocument, SealBroken
from holdfast.sensitivity.data_keys import DataKey

VALUE_BYTES_MAX: Final = SEALED_BYTES_MAX - KEY_ID_BYTES_MAX - SALT_BYTES - NONCE_BYTES - TAG_BYTES - 2
_LIMITS: Final = Limits(bytes_max=VALUE_BYTES_MAX, depth_max=DEPTH_CEILING)


class Place(NamedTuple):
    """Where a value belongs; it can be opened nowhere else.

    Attributes:
        kind, id: of its document.
        name: of the value in that document.
        version: of the value: the clock of its write, as text.
    """

    kind: str
    id: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}, {self.name!r}"

    def as_bytes(self) -> bytes:
        """Different for different places: each part behind its length."""
        parts = [part.encode(errors="surrogatepass") for part in self]  # what cannot be stored is refused later
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class _Content(Document, frozen=True):
    """What is encrypted: the wire form of one free value, tags and all."""

    value: Any


def plain_bytes(value: FreeValue, place: Place) -> bytes:
    """A free value as it is encrypted.

    Raises:
        InvalidDocument: it cannot be stored, or has over 1 MiB as JSON. The path ends at its name: what is inside a
            secret is in no text.
    """
    try:
        return encode(_Content(value=value), _LIMITS)
    except InvalidDocument as fault:
        raise type(fault)(place.name, fault.reason) from None


def value_in(plain: bytes, place: Place) -> FreeValue:
    """The frozen value that `plain_bytes` wrote."""
    return decode(_Content, plain, what=f"what is sealed in {place}").value


def seal(plain: bytes, place: Place, key: DataKey, salt: bytes, nonce: bytes) -> Sealed:
    """Encrypt a value for its place.

    Args:
        salt: 16 bytes that choose the key derived from `key`.
        nonce: 12 bytes, never used before with that.
    """
    header = header_of(key.id, salt, nonce)
    return Sealed(header + key.cipher(salt).encrypt(nonce, plain, header + place.as_bytes()))


def unseal(sealed: Sealed, place: Place, key_of: Callable[[str], DataKey]) -> bytes:
    """What was sealed for this place.

    Args:
        key_of: gives the data key of an id, or raises.

    Raises:
        SealBroken: it was sealed for another place, was changed, or is of a later format.
    """
    if not sealed.is_known:
        raise SealBroken(f"{place}: sealed in format {sealed.content[0]}, which this version does not know; update it")
    cipher = key_of(sealed.key_id).cipher(sealed.salt)
    try:
        return cipher.decrypt(sealed.nonce, sealed.ciphertext, sealed.header + place.as_bytes())
    except InvalidTag:
        raise SealBroken(f"{place}: it was sealed for another place, or changed since: it is not opened") from None
