"""A data key, and the keys that are derived from it (pure).

AES-GCM with random nonces is safe for about 2**32 values under one key. Servers share data keys, and none can count for
the others: so each seals with a key of its own, derived from the data key by a salt that it draws, and counts for that.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES: Final = 32
DERIVED_MAX: Final = 1_000
"""Derived keys that are kept; one takes some microseconds to derive again."""
_INFO: Final = b"holdfast sealed value 1"


class DataKey:
    """A data key; its secret is in no text.

    Attributes:
        id: 1 to 64 characters of ASCII.
    """

    __slots__ = ("_derived", "_secret", "id")

    def __init__(self, identifier: str, secret: bytes) -> None:
        """Hold a secret of 32 bytes."""
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a data key has {SECRET_BYTES} bytes, not {len(secret)}")
        self.id = identifier
        self._secret = secret
        self._derived: OrderedDict[bytes, AESGCM] = OrderedDict()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def cipher(self, salt: bytes) -> AESGCM:
        """What encrypts under the key that is derived by this salt."""
        if (cipher := self._derived.get(salt)) is None:
            derived = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=salt, info=_INFO).derive(self._secret)
            cipher = self._derived[salt] = AESGCM(derived)
            if len(self._derived) > DERIVED_MAX:
                self._derived.popitem(last=False)
        return cipher

    def secret(self) -> bytes:
        """Its bytes, to be wrapped."""
        return self._secret
