"""The data keys that a server has unwrapped, and the one it seals with (no I/O; what is random is passed in)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from holdfast.documents import FreeValue, freeze
from holdfast.documents.sealed import NONCE_BYTES, SALT_BYTES, Sealed
from holdfast.errors import KeyMissing
from holdfast.sensitivity.data_keys import DataKey
from holdfast.sensitivity.masking import Mask
from holdfast.sensitivity.master_keys import SETTING, no_master_key
from holdfast.sensitivity.sealing import Place, plain_bytes, seal, unseal, value_in

SEALS_MAX: Final = 1 << 30
"""Under one derived key: random nonces of 96 bits then meet with a probability of 2**-37."""

UNREADABLE_MAX: Final = 1_000
"""Keys of which it is remembered why they are not known; documents may name any."""


class Sealer:
    """Seals with keys derived from one data key, a new one before `SEALS_MAX` values.

    Args:
        entropy: so many random bytes.
    """

    __slots__ = ("_entropy", "_key", "_left", "_salt", "_seals_max")

    def __init__(self, key: DataKey, entropy: Callable[[int], bytes], *, seals_max: int = SEALS_MAX) -> None:
        self._key = key
        self._entropy = entropy
        self._seals_max = seals_max
        self._left = 0
        self._salt = b""

    @property
    def key_id(self) -> str:
        """Of the data key."""
        return self._key.id

    def seal(self, plain: bytes, place: Place) -> Sealed:
        """Seal the bytes of a value for its place."""
        if not self._left:
            self._salt, self._left = self._entropy(SALT_BYTES), self._seals_max
        self._left -= 1
        return seal(plain, place, self._key, self._salt, self._entropy(NONCE_BYTES))


class KnownKeys:
    """What a server, or a context by itself, can seal and open; one without keys refuses both.

    Attributes:
        sealer: what seals; None: there is no master key.
    """

    __slots__ = ("_keys", "_mask", "_unreadable", "sealer")

    def __init__(self) -> None:
        self.sealer: Sealer | None = None
        self._keys: dict[str, DataKey] = {}
        self._unreadable: dict[str, str] = {}
        self._mask = Mask()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._keys)})"

    def learn(self, key: DataKey) -> None:
        """Open with this one too."""
        self._keys[key.id] = key
        self._unreadable.pop(key.id, None)

    def get(self, key_id: str) -> DataKey | None:
        """The key of this id; None: it is not known."""
        return self._keys.get(key_id)

    def known(self) -> Sequence[DataKey]:
        """All that are known."""
        return list(self._keys.values())

    def note_unreadable(self, key_id: str, reason: str) -> None:
        """Why the key of this id is not known, for who asks for it."""
        self._unreadable[key_id] = reason
        if len(self._unreadable) > UNREADABLE_MAX:
            del self._unreadable[next(iter(self._unreadable))]

    def unknown(self, key_ids: Iterable[str]) -> list[str]:
        """Those of some ids whose keys are not known."""
        return [each for each in dict.fromkeys(key_ids) if each not in self._keys]

    def seal(self, value: FreeValue, place: Place) -> Sealed:
        """Seal a value for its place; from here on texts are masked for it.

        Raises:
            KeyMissing: there is no master key.
            InvalidDocument: it cannot be stored, or is too large.
        """
        plain = plain_bytes(value, place)
        sealed = self._sealing().seal(plain, place)
        self._mask.note(freeze(value), plain)
        return sealed

    def open(self, sealed: Sealed, place: Place) -> FreeValue:
        """Open a value in its place; from here on texts are masked for it.

        Raises:
            KeyMissing: its data key is not known here.
            SealBroken: it was sealed for another place, or was changed.
        """
        plain = unseal(sealed, place, self._key_of)
        value = value_in(plain, place)
        self._mask.note(value, plain)
        return value

    def move(self, sealed: Sealed, place: Place, to: Place) -> Sealed:
        """Seal a value anew, for another place; raises as `open`. Nobody here comes to see it."""
        return self._sealing().seal(unseal(sealed, place, self._key_of), to)

    def masked(self, text: str) -> str:
        """A text without the secrets that were sealed and opened here."""
        return self._mask.masked(text)

    def _sealing(self) -> Sealer:
        if self.sealer is None:
            raise no_master_key()
        return self.sealer

    def _key_of(self, key_id: str) -> DataKey:
        if (key := self._keys.get(key_id)) is not None:
            return key
        if self.sealer is None and not self._keys:
            raise KeyMissing(f"data key {key_id}: {no_master_key()}")
        raise KeyMissing(
            self._unreadable.get(key_id, f"data key {key_id} is not known here; see the setting {SETTING}")
        )
