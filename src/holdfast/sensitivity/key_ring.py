"""The data keys of one server: one to seal with from the start, others when something comes that they have sealed.

After a rotation of master keys a new one seals: who has the older master key, and a copy of L3 from before, has the
data keys of then.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from holdfast.documents.sealed import NONCE_BYTES
from holdfast.errors import KeyMissing, KeyRetired
from holdfast.protocols.data_keys import DATA_KEYS_LISTED_MAX, DataKeyRow, KeyRows
from holdfast.sensitivity.data_keys import SECRET_BYTES, DataKey
from holdfast.sensitivity.known_keys import KnownKeys, Sealer
from holdfast.sensitivity.master_keys import MasterKeys

logger = logging.getLogger("holdfast")

ID_BYTES: Final = 8

Record = Callable[[str, int], Awaitable[None]]
"""Told which master keys give way to which, and in how many rows, before that is done."""


class KeyRing:
    """Loads data keys from L3, and makes new ones.

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
        self._retired: set[str] = set()  # master keys; an L3 that fell back does not know of them any more

    async def renew(self) -> None:
        """Seal with the newest key that can be unwrapped here; with a new one, if that is outdated or there is none.

        Without master keys there is nothing to seal with.

        Raises:
            KeyMissing: a master key of the settings is not the one that L3 knows by its id.
            KeyRetired: no key can be unwrapped here, and the first master key is retired.
            TierError: L3 cannot tell.
        """
        if not self._masters:
            return
        await self._note_retired()
        newest = await self._rows.newest(self._masters.ids)
        key = await self._made() if newest is None else self._unwrapped(newest.row)
        if newest is not None and newest.is_outdated:
            key = await self._newer(key)
        if self.known.sealer is None or self.known.sealer.key_id != key.id:
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

    async def rewrap(self, record: Record) -> int:
        """Wrap by the first master key what others wrap, as far as it can be unwrapped here; returns how many rows.

        An L3 that fell back to before a rotation has its rows as they were then, and who rotated may have no older
        master key any more. A row is replaced only as it was read, so several servers may do it at once; one whose own
        first master key was retired does not. No master key is retired again: that is for whoever rotates.

        Raises:
            KeyRetired: the first master key is, or was once, retired.
            TierError: L3 did not do it.
        """
        if not self._masters:
            return 0
        await self._note_retired()
        if self._masters.first.id in self._retired:
            raise KeyRetired(self._masters.first.id)
        rewrapped, after = 0, None
        while page := await self._rows.list(after=after, limit=DATA_KEYS_LISTED_MAX):
            rewrapped += await self._rewrap([(row, key) for row in page if (key := self._key_of_others(row))], record)
            after = page[-1].id
        return rewrapped

    async def _note_retired(self) -> None:
        self._retired |= {each.id for each in await self._rows.masters() if each.retired_at is not None}

    async def _rewrap(self, found: Sequence[tuple[DataKeyRow, DataKey]], record: Record) -> int:
        if not found:
            return 0
        older = ",".join(sorted({row.master_id for row, _ in found}))
        await record(f"{older}->{self._masters.first.id}", len(found))
        wrapped = [(wrapped_row(key, self._masters, self._entropy), row.wrapped) for row, key in found]
        return sum([await self._rows.rewrap(row, before) for row, before in wrapped])

    def _key_of_others(self, row: DataKeyRow) -> DataKey | None:
        """The key in a row that another master key wraps than the first, if it can be had here."""
        if row.master_id == self._masters.first.id:
            return None
        with contextlib.suppress(KeyMissing):
            return self.known.get(row.id) or self._unwrapped(row)
        return None

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

    async def _newer(self, outdated: DataKey) -> DataKey:
        """A new key instead of one from before a rotation, if the first master key of the settings may wrap one."""
        try:
            return await self._made()
        except KeyRetired as fault:
            logger.warning("data key %s goes on sealing, though older than the last rotation: %s", outdated.id, fault)
            return outdated

    def _unwrapped(self, row: DataKeyRow) -> DataKey:
        return self._masters.unwrap(row.id, row.master_id, row.wrapped)


def wrapped_row(key: DataKey, masters: MasterKeys, entropy: Callable[[int], bytes]) -> DataKeyRow:
    """A data key as L3 takes it, wrapped by the first master key."""
    return DataKeyRow(key.id, masters.first.id, masters.first.wrap(key, entropy(NONCE_BYTES)))
