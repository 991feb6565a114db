"""The contract of L3's data keys: each is kept wrapped by a master key, which itself is nowhere in L3."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

DATA_KEYS_LISTED_MAX: Final = 1000
"""Rows in one answer, and ids in one question."""


class DataKeyRow(msgspec.Struct, frozen=True):
    """A data key as L3 has it.

    Attributes:
        id: 1 to 64 characters of ASCII; `master_id` too: of the master key it is wrapped by.
        wrapped: at most 200 bytes.
    """

    id: str
    master_id: str
    wrapped: bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.master_id!r})"


class NewestKey(msgspec.Struct, frozen=True):
    """The data key that was added last.

    Attributes:
        is_outdated: a master key was retired after it was added. Who has that one, and a copy of the row from before,
            has this key too, and what it seals.
    """

    row: DataKeyRow
    is_outdated: bool


class MasterKeyUse(msgspec.Struct, frozen=True):
    """A master key, as far as L3 knows it.

    Attributes:
        rows: data keys wrapped by it.
        retired_at: since when it wraps nothing new, by L3's clock; None: it does.
    """

    id: str
    rows: int
    retired_at: dt.datetime | None


class KeyRows(Protocol):
    """L3's data keys. Every method raises a `TierError` if it could not be done.

    Whatever is done at once: once a master key is retired, no row comes to be wrapped by it. Rows are never removed:
    what they have sealed could not be opened any more.
    """

    async def list(self, *, after: str | None = None, limit: int) -> Sequence[DataKeyRow]:
        """Rows in order of their ids.

        Args:
            after: the id of the last one known.
            limit: 1 to 1000, else it is a ValueError.
        """
        ...

    async def find(self, ids: Sequence[str]) -> Mapping[str, DataKeyRow]:
        """Those of some ids that are there, at most 1000."""
        ...

    async def outdated(self, ids: Sequence[str]) -> frozenset[str]:
        """Those of some ids, at most 1000, whose rows were there when a master key was retired."""
        ...

    async def newest(self, master_ids: Sequence[str]) -> NewestKey | None:
        """The row that was added last of those wrapped by one of these master keys; None: there is none."""
        ...

    async def add(self, row: DataKeyRow) -> None:
        """Add a row.

        Raises:
            KeyRetired: its master key is retired.
            TierError: there is a row of that id.
        """
        ...

    async def rewrap(self, row: DataKeyRow, wrapped_before: bytes) -> bool:
        """Let a row be wrapped so from now on; False: it is not wrapped as it was before, or is not there.

        Raises:
            KeyRetired: the new master key is retired; nothing was changed.
        """
        ...

    async def retire(self, master_ids: Sequence[str], *, first: str) -> None:
        """Let master keys wrap nothing any more, all of them or none; those that are retired stay so.

        Args:
            first: what wraps from now on; it is not retired, if it is among them.

        Raises:
            KeyRetired: `first` is retired, so that two who rotate to different keys cannot retire both.
        """
        ...

    async def masters(self) -> Sequence[MasterKeyUse]:
        """All master keys that ever wrapped a row or were retired, in order of their ids."""
        ...
