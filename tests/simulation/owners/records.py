"""What the servers of a world were told of their writes and takeovers, held against what L3 has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from holdfast.entry import Durability
from holdfast.errors import Refused
from holdfast.keys import Key
from holdfast.protocols import Row
from holdfast.testing.simulation import World
from holdfast.write_behind.receipts import PendingWrite
from simulation.owners.held import KEYS, Held, held_in, moved_in
from simulation.write_behind.judge import Judge
from simulation.write_behind.records import Records


class Written:
    """A write that a server took in.

    Attributes:
        owner: the epoch it was written under; 0: in nobody's name.
        acknowledged: when its caller was told that it is JOURNALED or more; None: it was not.
        names: of the entries it was.
        is_dead: its server is.
    """

    def __init__(self, server: str, write: PendingWrite) -> None:
        self.server = server
        self.write = write
        self.key, self.owner = write.key, write.entry.owner
        self.token = str(getattr(write.entry.operations[0], "values")[0])  # noqa: B009 - only `Append` has them
        self.acknowledged: int | None = None
        self.names: list[tuple[str, int]] = []
        self.is_dead = False


class Taken(NamedTuple):
    """A takeover of a document from an epoch; `began` before anything was decided for it."""

    key: Key
    epoch: int
    began: int


class Read(NamedTuple):
    """What a server answered, and the tokens it had taken in before."""

    server: str
    key: Key
    held: Held | None
    own: Sequence[Written]


class OwnerRecords(Records):
    """The record of one world; moments are numbers that rise."""

    def __init__(self, world: World) -> None:
        super().__init__(Judge(), world)
        self.writes: dict[int, Written] = {}
        self.taken: list[Taken] = []
        self.lists: dict[Key, list[str]] = {}
        self._seen: dict[Key, Held] = {}
        self._reads: list[Read] = []
        self._moments = count(1)
        self._rows: Mapping[Key, Row] = {}

    def now(self) -> int:
        """A moment."""
        return next(self._moments)

    def entered(self, server: str, journal: str, write: PendingWrite) -> None:
        """A server has taken a write in, or entered it again."""
        self.writes.setdefault(id(write), Written(server, write)).names.append((journal, write.entry.seq))

    def died(self, server: str, window_seconds: float) -> None:
        """A server will never go on."""
        for written in self.writes.values():
            written.is_dead = written.is_dead or written.server == server

    def acknowledged(self, write: PendingWrite) -> None:
        """A caller was told that its write has survived."""
        self.writes[id(write)].acknowledged = self.now()

    def of_server(self, server: str, key: Key) -> list[Written]:
        """What a server has taken in of a key."""
        return [each for each in self.writes.values() if each.server == server and each.key == key]

    def answered(self, server: str, key: Key, held: Held | None, own: Sequence[Written]) -> None:
        """A server has answered a read."""
        self.reads += 1
        self._reads.append(Read(server, key, held, own))

    def committed(self, rows: Mapping[Key, Row]) -> None:
        """A transaction has committed: what it added was written by the owner of before, or in nobody's name."""
        owners = {written.token: written.owner for written in self.writes.values()}
        self._rows = rows
        for key in KEYS:
            held, before = held_in(rows, key), self._seen.get(key)
            if held is None or held is before:
                continue
            items = moved_in(rows, key, held.moved) + list(held.items)
            old = self.lists.get(key, [])
            if items[: len(old)] != old:
                self.faults.append(f"{key}: {old} became {items}")
            for token in items[len(old) :]:
                if owners.get(token, -1) not in (0, before.epoch if before else 1):
                    self.faults.append(f"{key}: {token} of epoch {owners.get(token)} was applied at {before}")
            if before is not None and held.epoch != before.epoch and items != old:
                self.faults.append(f"{key}: taken over and written to at once: {before}, {held}")
            self._seen[key], self.lists[key] = held, items

    def violations(self) -> list[str]:
        """All faults found, when all has come to rest."""
        faults = list(self.faults)
        for written in self.writes.values():
            faults += [
                f"{fault}: {written.names} {written.write!r} {written.token} of {written.owner} by {written.server}"
                for fault in self._faults_in_write(written)
            ]
        for read in self._reads:
            faults += self._faults_in_read(read)
        return faults

    def _faults_in_write(self, written: Written) -> Iterator[str]:
        write, times = written.write, self.lists.get(written.key, []).count(written.token)
        if times > 1:
            yield f"applied {times} times"
        if isinstance(write._end, Refused) and times:
            yield "told refused, and is in effect"
        if write.durability is Durability.COMMITTED and not times:
            yield "told committed, and is not in effect"
        if not written.is_dead and not times and not isinstance(write._end, Refused):
            yield "neither applied nor refused, though its server lived"
        if written.acknowledged is None or times:
            return
        if written.owner == 0:
            yield "acknowledged, in nobody's name, and not in effect"
        if any(
            taken.key == written.key and taken.epoch == written.owner and written.acknowledged < taken.began
            for taken in self.taken
        ):
            yield "acknowledged before its document was taken over, and not in effect"
        if not any(taken.key == written.key and taken.epoch == written.owner for taken in self.taken):
            yield "acknowledged, never taken over, and not in effect"

    def _faults_in_read(self, read: Read) -> Iterator[str]:
        items = [] if read.held is None else list(read.held.items)
        shown = (moved_in(self._rows, read.key, read.held.moved) if read.held is not None else []) + items
        if len(set(shown)) != len(shown):
            yield f"{read.server} read {read.key} with a write twice: {read.held} behind {shown}"
        for written in read.own:
            if written.token not in shown and written.token in self.lists.get(read.key, []):
                yield f"{read.server} read {read.key} without its own {written.token}: {read.held} behind {shown}"
