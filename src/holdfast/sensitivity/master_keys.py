"""Master keys: from the settings, to wrap data keys with (pure).

A setting has ``id:key``, the key being 32 bytes in base64. No text, error or `repr` has one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.documents.sealed import NONCE_BYTES
from holdfast.errors import KeyMissing, SettingsError
from holdfast.sensitivity.data_keys import DataKey

SETTING: Final = "master_keys"
MASTER_KEY_BYTES: Final = 32
MASTER_KEYS_MAX: Final = 32
ID_PATTERN: Final = r"[A-Za-z0-9._-]{1,64}"
HOW_TO_MAKE_ONE: Final = "`holdfast keys new` makes one"
_WRAPPED_FORMAT: Final = b"\x01"
_EXPECTED: Final = f"is id:key, the key being {MASTER_KEY_BYTES} bytes in base64; {HOW_TO_MAKE_ONE}"


class MasterKey:
    """A master key; wraps data keys, and unwraps them."""

    __slots__ = ("_cipher", "id")

    def __init__(self, identifier: str, secret: bytes) -> None:
        self.id = identifier
        self._cipher = AESGCM(secret)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def wrap(self, key: DataKey, nonce: bytes) -> bytes:
        """A data key as L3 keeps it: format, nonce and ciphertext.

        Args:
            nonce: 12 random bytes.
        """
        return _WRAPPED_FORMAT + nonce + self._cipher.encrypt(nonce, key.secret(), self._place(key.id))

    def unwrap(self, key_id: str, wrapped: bytes) -> DataKey:
        """The data key that `wrap` wrapped.

        Raises:
            KeyMissing: this is not the key it was wrapped with, or it was changed.
        """
        nonce, ciphertext = wrapped[1 : 1 + NONCE_BYTES], wrapped[1 + NONCE_BYTES :]
        if wrapped[:1] != _WRAPPED_FORMAT:
            raise KeyMissing(f"data key {key_id} is wrapped in a way that this version does not know; update it")
        try:
            return DataKey(key_id, self._cipher.decrypt(nonce, ciphertext, self._place(key_id)))
        except (InvalidTag, ValueError):
            raise KeyMissing(
                f"data key {key_id} cannot be unwrapped: the setting {SETTING} has another key named {self.id} than the"
                " one it was wrapped with, or L3's row was changed"
            ) from None

    def _place(self, key_id: str) -> bytes:
        parts = (b"holdfast data key", key_id.encode("ascii"), self.id.encode("ascii"))
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class MasterKeys:
    """The master keys of one server; the first wraps what is new."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[MasterKey]) -> None:
        self._keys = {key.id: key for key in keys}

    @classmethod
    def read(cls, setting: Sequence[str]) -> MasterKeys:
        """Those of the setting.

        Raises:
            SettingsError: one is not as it should be; the message tells which by its number.
        """
        if len(setting) > MASTER_KEYS_MAX:
            raise SettingsError(f"{SETTING}: at most {MASTER_KEYS_MAX} are possible, not {len(setting)}")
        keys = cls(_read(each, number) for number, each in enumerate(setting, 1))
        if len(keys.ids) < len(setting):
            raise SettingsError(f"{SETTING}: two of them have one id")
        return keys

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._keys)})"

    @property
    def ids(self) -> tuple[str, ...]:
        """In the order of the setting."""
        return tuple(self._keys)

    @property
    def first(self) -> MasterKey:
        """What wraps what is new.

        Raises:
            KeyMissing: there is none.
        """
        if not self._keys:
            raise no_master_key()
        return next(iter(self._keys.values()))

    def unwrap(self, key_id: str, master_id: str, wrapped: bytes) -> DataKey:
        """A data key of L3.

        Raises:
            KeyMissing: the master key is not among these, or is another one.
        """
        if (master := self._keys.get(master_id)) is None:
            raise KeyMissing(f"data key {key_id} is wrapped by the master key {master_id}: add it to {SETTING}")
        return master.unwrap(key_id, wrapped)


def no_master_key() -> KeyMissing:
    """What to say where there is none."""
    return KeyMissing(f"there is no key to seal or open secret values with: set {SETTING}; {HOW_TO_MAKE_ONE}")


def master_key_line(identifier: str, secret: bytes) -> str:
    """A master key as the setting has it.

    Raises:
        SettingsError: it cannot have this id.
    """
    line = f"{identifier}:{base64.b64encode(secret).decode()}"
    _read(line, 1)
    return line


def shown(setting: Sequence[str]) -> tuple[str, ...]:
    """The setting without its keys; what is no such setting is hidden whole."""
    return tuple(f"{found[1]}:***" if (found := re.match(rf"({ID_PATTERN}):", each)) else "***" for each in setting)


def _read(text: str, number: int) -> MasterKey:
    identifier, separator, encoded = text.partition(":")
    if not separator or re.fullmatch(ID_PATTERN, identifier) is None:
        raise SettingsError(f"{SETTING}: number {number} {_EXPECTED}; the id is of letters, digits and ._-")
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError(f"{SETTING}: number {number} {_EXPECTED}") from None
    if len(secret) != MASTER_KEY_BYTES:
        raise SettingsError(f"{SETTING}: number {number} {_EXPECTED}, not {len(secret)}")
    return MasterKey(identifier, secret)
