"""A value that is encrypted, with what whoever has the keys needs in order to open it.

    format, 1 byte: 1 | length of the key's id, 1 byte | the id, ASCII | salt, 16 bytes | nonce, 12 bytes | ciphertext

It is stored under the tag ``{"$sealed": "<base64>"}``. How it is made and opened: `holdfast.sensitivity.sealing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FORMAT: Final = 1
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
"""At the end of the ciphertext, by which a change of any bit is noticed."""
KEY_ID_BYTES_MAX: Final = 64
SEALED_BYTES_MAX: Final = 1 << 20
_ID_AT: Final = 2


@dataclass(frozen=True, slots=True, repr=False)
class Sealed:
    """An encrypted value; equal to another if all of its bytes are.

    One of a later format is kept as it is, and cannot be opened here.

    Attributes:
        content: as it is stored, header first; at most 1 MiB.
    """

    content: bytes

    def __post_init__(self) -> None:
        size, content = len(self.content), self.content
        if not _ID_AT < size <= SEALED_BYTES_MAX:
            raise ValueError(f"a sealed value has 3 to {SEALED_BYTES_MAX} bytes, not {size}")
        if self.is_known and not (0 < content[1] <= KEY_ID_BYTES_MAX and len(self.ciphertext) >= TAG_BYTES):
            raise ValueError("a sealed value is cut short")
        if self.is_known and not content[_ID_AT : self._salt_at].isascii():
            raise ValueError("the key of a sealed value has an id that is not ASCII")

    def __repr__(self) -> str:
        # Not even the ciphertext: a log of it is what somebody who steals a key later would want.
        if not self.is_known:
            return f"{type(self).__name__}(format {self.content[0]}, {len(self.content)} bytes)"
        return f"{type(self).__name__}(key {self.key_id}, {len(self.ciphertext)} bytes)"

    @property
    def is_known(self) -> bool:
        """Whether it has the format that this version writes."""
        return self.content[0] == FORMAT

    @property
    def key_id(self) -> str:
        """The id of the data key it was sealed with."""
        return self.content[_ID_AT : self._salt_at].decode("ascii")

    @property
    def salt(self) -> bytes:
        """By which the data key became the one that encrypts."""
        return self.content[self._salt_at : self._salt_at + SALT_BYTES]

    @property
    def nonce(self) -> bytes:
        """Never used twice with one key and salt."""
        return self.content[self._salt_at + SALT_BYTES : self._ciphertext_at]

    @property
    def header(self) -> bytes:
        """All before the ciphertext."""
        return self.content[: self._ciphertext_at]

    @property
    def ciphertext(self) -> bytes:
        """The value, encrypted, with what authenticates it, its header and its place."""
        return self.content[self._ciphertext_at :]

    @property
    def _salt_at(self) -> int:
        return _ID_AT + self.content[1]

    @property
    def _ciphertext_at(self) -> int:
        return self._salt_at + SALT_BYTES + NONCE_BYTES


def header_of(key_id: str, salt: bytes, nonce: bytes) -> bytes:
    """The header of what is sealed with these.

    Args:
        key_id: 1 to 64 characters of ASCII.
    """
    identifier = key_id.encode("ascii")
    return bytes((FORMAT, len(identifier))) + identifier + salt + nonce
