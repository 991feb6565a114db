"""The data keys of one server: one to seal with from the start, others when something comes that they have sealed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from holdfast.documents.sealed import NONCE_BYTES
from holdfast.errors import KeyMissing
from holdfast.protocols.data_keys import DATA_KEYS_LISTED_MAX, DataKeyRow, KeyRows
from holdfast.sensitivity.data_keys import SECRET_BYTES, DataKey
from holdfast.sensitivity.known_keys import KnownKeys, Sealer
from holdfast.sensitivity.master_keys import MasterKeys

logger = logging.getLogger("holdfast")

ID_BYTES: Final = 8


class KeyRing:
    """Loads data keys from L3, and makes the first one.

    Attributes:
        known: the keys that contexts seal and open with, without waiting.

    Args:
        entropy: so many random bytes.
    """

    def __init__(self, rows: KeyRows, masters: MasterKeys, entropy: Callable[[int], bytes]) -> None:
        self.known = KnownKeys()
        self._rows = rows
        self._masters = masters
        self._entropy = entropy

    async def start(self) -> None:
        """Have a key to seal with: the newest that can be unwrapped here, else a new one. Without master keys: none.

        Raises:
            KeyMissing: a master key of the settings is not the one that L3 knows by its id.
            KeyRetired: there is no key yet, and the first master key is retired.
            TierError: L3 cannot tell.
        """
        if not self._masters:
            return
        row = await self._rows.newest(self._masters.ids)
        key = await self._made() if row is None else self._unwrapped(row)
        self.known.learn(key)
        self.known.sealer = Sealer(key, self._entropy)

    async def know(self, key_ids: Iterable[str]) -> None:
        """Load those of some data keys that are not known yet. What cannot be had is told to who opens with it.

        Raises:
            TierError: L3 cannot tell.
        """
        unknown = self.known.unknown(key_ids)
        for start in range(0, len(unknown), DATA_KEYS_LISTED_MAX):
            wanted = unknown[start : start + DATA_KEYS_LISTED_MAX]
            found = await self._rows.find(wanted)
            for key_id in wanted:
                self._take(key_id, found.get(key_id))

    async def give_back(self) -> int:
        """Add those of the keys known here that L3 lacks; returns how many.

        Raises:
            KeyRetired: the first master key is retired.
            TierError: L3 did not take them, or cannot tell.
        """
        keys = {key.id: key for key in self.known.known()}
        given_back, ids = 0, list(keys)
        for start in range(0, len(ids), DATA_KEYS_LISTED_MAX):
            wanted = ids[start : start + DATA_KEYS_LISTED_MAX]
            found = await self._rows.find(wanted)
            for key_id in wanted:
                if key_id not in found:
                    await self._rows.add(wrapped_row(keys[key_id], self._masters, self._entropy))
                    logger.warning("data key %s was given back to L3, which had lost it", key_id)
                    given_back += 1
        return given_back

    def _take(self, key_id: str, row: DataKeyRow | None) -> None:
        if row is None:
            self.known.note_unreadable(key_id, f"data key {key_id} is not in L3: what it sealed cannot be opened")
            return
        try:
            self.known.learn(self._unwrapped(row))
        except KeyMissing as fault:
            self.known.note_unreadable(key_id, str(fault))
            logger.warning("values sealed with data key %s cannot be opened here: %s", key_id, fault)

    async def _made(self) -> DataKey:
        key = DataKey(self._entropy(ID_BYTES).hex(), self._entropy(SECRET_BYTES))
        await self._rows.add(wrapped_row(key, self._masters, self._entropy))
        return key

    def _unwrapped(self, row: DataKeyRow) -> DataKey:
        return self._masters.unwrap(row.id, row.master_id, row.wrapped)


def wrapped_row(key: DataKey, masters: MasterKeys, entropy: Callable[[int], bytes]) -> DataKeyRow:
    """A data key as L3 takes it, wrapped by the first master key."""
    return DataKeyRow(key.id, masters.first.id, masters.first.wrap(key, entropy(NONCE_BYTES)))
