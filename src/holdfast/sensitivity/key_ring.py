"""The data keys of one server: one to seal with from the start, others when something comes that they have sealed.

After a rotation of master keys a new one seals: who has the older master key, and a copy of L3 from before, has the
data keys of then.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
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
        # Master keys, and data keys that were there when one was retired: an L3 that fell back does not know of them.
        self._retired: set[str] = set()
        self._outdated: set[str] = set()

    async def renew(self) -> None:
        """Seal with the newest key that can be unwrapped here; with a new one, if that is outdated or there is none.

        Outdated is also what was so before L3 fell back. Without master keys there is nothing to seal with.

        Raises:
            KeyMissing: a master key of the settings is not the one that L3 knows by its id.
            KeyRetired: no key can be unwrapped here, and the first master key is retired.
            TierError: L3 cannot tell.
        """
        if not self._masters:
            return
        await self._note_retired()
        for page in _pages([key.id for key in self.known.known()]):
            await self._note_outdated(page)
        key = await self._newest()
        if self.known.sealer is None or self.known.sealer.key_id != key.id:
            self.known.learn(key)
            self.known.sealer = Sealer(key, self._entropy)

    async def know(self, key_ids: Iterable[str]) -> None:
        """Load those of some data keys that are not known yet. What cannot be had is told to who opens with it.

        Raises:
            TierError: L3 cannot tell.
        """
        async for key_id, row in self._in_l3(self.known.unknown(key_ids)):
            self._take(key_id, row)

    async def give_back(self) -> int:
        """Add those of the keys known here that L3 lacks; returns how many.

        The outdated ones first: for L3 the newest key is the one that was added last.

        Raises:
            KeyRetired: the first master key is retired.
            TierError: L3 did not take them, or cannot tell.
        """
        keys = {key.id: key for key in self.known.known()}
        ids = sorted(keys, key=lambda key_id: key_id not in self._outdated)
        lacked = [key_id async for key_id, row in self._in_l3(ids) if row is None]
        for key_id in lacked:
            await self._rows.add(wrapped_row(keys[key_id], self._masters, self._entropy))
            logger.warning("data key %s was given back to L3, which had lost it", key_id)
        return len(lacked)

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
        self._check_not_retired()
        rewrapped, after = 0, None
        while page := await self._rows.list(after=after, limit=DATA_KEYS_LISTED_MAX):
            rewrapped += await self._rewrap([(row, key) for row in page if (key := self._key_of_others(row))], record)
            after = page[-1].id
        return rewrapped

    async def _note_retired(self) -> None:
        self._retired |= {each.id for each in await self._rows.masters() if each.retired_at is not None}

    async def _note_outdated(self, key_ids: Sequence[str]) -> None:
        self._outdated |= await self._rows.outdated(key_ids)

    def _check_not_retired(self) -> None:
        if self._masters.first.id in self._retired:
            raise KeyRetired(self._masters.first.id)

    async def _in_l3(self, key_ids: Sequence[str]) -> AsyncIterator[tuple[str, DataKeyRow | None]]:
        """What L3 has of each, and from here on it is known which of them are outdated."""
        for page in _pages(key_ids):
            found = await self._rows.find(page)
            await self._note_outdated(page)
            for key_id in page:
                yield key_id, found.get(key_id)

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

    async def _newest(self) -> DataKey:
        newest = await self._rows.newest(self._masters.ids)
        if newest is None:
            return await self._made()
        key = self._unwrapped(newest.row)
        if newest.is_outdated:
            self._outdated.add(key.id)
        return await self._newer(key) if key.id in self._outdated else key

    async def _made(self) -> DataKey:
        self._check_not_retired()
        key = DataKey(self._entropy(ID_BYTES).hex(), self._entropy(SECRET_BYTES))
        await self._rows.add(wrapped_row(key, self._masters, self._entropy))
        return key

    async def _newer(self, outdated: DataKey) -> DataKey:
        """A new key instead of one from before a rotation, if the first master key of the settings may wrap one."""
        try:
            return await self._made()
        except KeyRetired as fault:
            sealer = self.known.sealer
            if sealer and sealer.key_id not in self._outdated and (sealing := self.known.get(sealer.key_id)):
                return sealing
            logger.warning("data key %s goes on sealing, though older than the last rotation: %s", outdated.id, fault)
            return outdated

    def _unwrapped(self, row: DataKeyRow) -> DataKey:
        return self._masters.unwrap(row.id, row.master_id, row.wrapped)


def _pages(key_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many at a time as L3 is asked for."""
    for start in range(0, len(key_ids), DATA_KEYS_LISTED_MAX):
        yield key_ids[start : start + DATA_KEYS_LISTED_MAX]


def wrapped_row(key: DataKey, masters: MasterKeys, entropy: Callable[[int], bytes]) -> DataKeyRow:
    """A data key as L3 takes it, wrapped by the first master key."""
    return DataKeyRow(key.id, masters.first.id, masters.first.wrap(key, entropy(NONCE_BYTES)))
