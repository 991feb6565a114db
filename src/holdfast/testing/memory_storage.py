"""L3 in memory: the rules of V1-V3 over dictionaries. Several servers of one test share one `MemoryStorage`."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from holdfast.errors import AppendOnly, Conflict, TierUnavailable
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN, Kind
from holdfast.protocols import Coherence, Loaded, Row, Write


class MemoryStorage:
    """`Storage` in memory.

    Attributes:
        away: while True every call fails as if the server could not be reached.
        loads: the keys of each `load` so far, for tests that count queries.
    """

    def __init__(self, kinds: Iterable[Kind[Any]] = BUILT_IN, *, seed: int = 0) -> None:
        self.away = False
        self.loads: list[tuple[Key, ...]] = []
        self._append_only = {kind.name for kind in kinds if kind.append_only}
        self._rows: dict[Key, Row] = {}
        self._version = 1
        self._random = random.Random(seed)  # noqa: S311 - identities of a test must repeat
        self._coherence = Coherence(self._new_identity(), {"all": 1})

    def coherence(self) -> Coherence:
        """The identity now; see `Storage.coherence`."""
        return self._coherence

    async def load(self, keys: Sequence[Key]) -> Loaded:
        """Read rows; see `Storage.load`."""
        self._check_here()
        self.loads.append(tuple(keys))
        return Loaded(self._coherence, {key: self._rows[key] for key in keys if key in self._rows})

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `Storage.save`."""
        self._check_here()
        for write in writes:
            self._check_write(write)
        bodies = {write.key: write.made() for write in writes}
        versions = {}
        for write in sorted(writes, key=lambda write: (write.key.kind, write.key.id.encode())):
            version = self._draw()
            before = self._rows.get(write.key)
            birth = version if before is None else before.birth
            self._rows[write.key] = Row(version, birth, write.schema, bodies[write.key])
            versions[write.key] = version
        return versions

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `Storage.delete`."""
        self._check_here()
        if key.kind in self._append_only:
            raise AppendOnly(f"{key}: documents of kind {key.kind} are history and stay")
        held = self._rows.get(key)
        if expected is not None and expected != (held.version if held else 0):
            raise Conflict(key, expected=expected, actual=held.version if held else 0)
        self._rows.pop(key, None)
        return self._draw(), held is not None

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows in order of ids; see `Storage.scan`."""
        self._check_here()
        start = b"" if after is None else after.encode()
        found = sorted((key for key in self._rows if key.kind == kind), key=lambda key: key.id.encode())
        return [(key, self._rows[key]) for key in found if key.id.encode() > start][:limit]

    def crash(self) -> None:
        """Come back as another incarnation, as after a crash or a failover; the rows stay."""
        self._coherence = Coherence(self._new_identity(), self._coherence.generations)

    def raise_generation(self, scope: str) -> int:
        """Void every cached entry of a scope (``all`` or ``kind:<name>``); returns the new generation."""
        generation = self._draw()
        self._coherence = Coherence(self._coherence.incarnation, {**self._coherence.generations, scope: generation})
        return generation

    def _draw(self) -> int:
        self._version += 1
        return self._version

    def _new_identity(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def _check_here(self) -> None:
        if self.away:
            raise TierUnavailable("L3 in memory is away")

    def _check_write(self, write: Write) -> None:
        held = self._rows.get(write.key)
        if write.key.kind in self._append_only and (held is not None or write.expected):
            raise AppendOnly(f"{write.key}: documents of kind {write.key.kind} are history and cannot be changed")
        found = held.version if held else 0
        if write.expected is not None and write.expected != found:
            raise Conflict(write.key, expected=write.expected, actual=found)
