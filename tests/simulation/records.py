"""What a world committed and answered, for the history checker: one history for each life of L3.

A crash that loses commits, or an older copy, begins another life: what was lost never was. An answer may come from
any life that its bound reaches back into; of several, the newest that knows it is taken, and binds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import msgspec

from holdfast.clock import Clock
from holdfast.keys import Key
from holdfast.protocols import Change, Row
from holdfast.testing.history import History, Rule, check

RULES = frozenset({Rule.ORDER, Rule.PHANTOM, Rule.STALE, Rule.READ_YOUR_WRITES})
"""Plain reads of a server are not monotonic within the bound: that is what scopes are for, which keep every rule."""


class Life:
    """One life of L3.

    Attributes:
        began, ended: seconds.
        history, scoped: what servers answered, and what scopes did, beside the same commits.
        versions: of each document committed in it or there at its beginning, by key and number.
        missing: keys that had no row at some time.
    """

    def __init__(self, began: float) -> None:
        self.began, self.ended = began, inf
        self.history, self.scoped = History(), History()
        self.versions: dict[tuple[Key, int], int] = {}
        self.deletes: set[tuple[Key, int]] = set()
        self.missing: set[Key] = set()

    def committed(self, key: Key, version: int, at: float, **more: Any) -> None:
        """Note a commit."""
        for history in (self.history, self.scoped):
            history.committed(key, version, at, **more)

    def knows(self, key: Key, number: int | None) -> bool:
        """Whether an answer (None: MISSING) can be of this life."""
        return key in self.missing if number is None else (key, number) in self.versions


class Records:
    """The record of one world. Documents are known by their numbers, no two the same.

    Args:
        keys: all there are.
        rows: what is committed; at each commit it is looked at anew.
    """

    def __init__(self, clock: Clock, keys: Sequence[Key]) -> None:
        self.faults: list[str] = []
        self.answers = self.scoped_answers = self.errors = 0
        self._clock = clock
        self._keys = keys
        self._rows: dict[Key, Row | None] = dict.fromkeys(keys)
        self._acknowledged: dict[tuple[str, Key], list[tuple[int, float]]] = {}
        self._lives = [Life(-inf)]
        self._lives[0].missing.update(keys)

    def committed(self, rows: Mapping[Key, Row], changes: Sequence[Change]) -> None:
        """Note what a commit has changed."""
        life, now = self._lives[-1], self._clock.monotonic()
        for key in self._keys:
            row = rows.get(key)
            if row is self._rows[key]:
                continue
            self._rows[key] = row
            if row is not None:
                life.versions[key, number_in(row)] = row.version
                life.committed(key, row.version, now, begun=now)
            else:
                version = max(each.version for each in changes if each.key in {key, Key(key.kind, "")})
                life.missing.add(key)
                life.deletes.add((key, version))
                life.committed(key, version, now, begun=now, deleted=True)

    def begin_life(self, rows: Mapping[Key, Row]) -> None:
        """L3 lives anew, with these rows."""
        now = self._clock.monotonic()
        self._lives[-1].ended = now
        self._lives.append(life := Life(now))
        for key in self._keys:
            self._rows[key] = row = rows.get(key)
            if row is None:
                life.missing.add(key)
                continue
            number = number_in(row)
            life.versions[key, number] = row.version
            life.committed(key, row.version, -inf)
            for (server, each), acknowledged in self._acknowledged.items():
                if each == key and any(own == number for own, _ in acknowledged):
                    life.history.wrote(server, key, row.version, now)

    def wrote(self, server: str, key: Key, number: int, version: int | None = None, *, scoped: bool = False) -> None:
        """A write of a document was acknowledged just now, to a server's task or to a scope."""
        now = self._clock.monotonic()
        if not scoped:
            self._acknowledged.setdefault((server, key), []).append((number, now))
        lives = [life for life in self._lives if (key, number) in life.versions]
        if not lives or version not in {None, *(life.versions[key, number] for life in lives)}:
            self.faults.append(f"{server} was told that {key} has document {number} at version {version}")
        for life in lives:
            history = life.scoped if scoped else life.history
            history.wrote(server, key, life.versions[key, number], now)

    def deleted(self, server: str, key: Key, version: int, *, scoped: bool = False) -> None:
        """A deletion of a row was acknowledged just now."""
        for life in self._lives:
            if (key, version) in life.deletes:
                history = life.scoped if scoped else life.history
                history.wrote(server, key, version, self._clock.monotonic())

    def read(  # noqa: PLR0917 - an answer has six parts
        self,
        server: str,
        key: Key,
        number: int | None,
        began: float,
        bound: float,
        version: int | None = None,
        *,
        scoped: bool = False,
    ) -> None:
        """A read was answered just now, with a document's number or None for MISSING."""
        self.answers += 1
        self.scoped_answers += scoped
        ended, oldest = self._clock.monotonic(), began - bound
        reached = [life for life in self._lives if life.began <= ended and oldest <= life.ended]
        life = next((life for life in reversed(reached) if life.knows(key, number)), self._lives[-1])
        self._check_own(server, key, reached[reached.index(life) + 1 :] if life in reached else [], began)
        known = life.versions.get((key, number), -1) if number is not None else None
        if version not in {None, known}:
            self.faults.append(f"{server} read {key} version {version} with document {number}, which is {known}")
        start = min(max(began, life.began), life.ended)
        bound = start - max(oldest, life.began)
        history = life.scoped if scoped else life.history
        history.read(server, key, known, start, min(max(ended, start), life.ended), bound=bound)

    def violations(self) -> list[str]:
        """All faults found."""
        judged = [each for life in self._lives for each in check(life.history, rules=RULES)]
        judged += [each for life in self._lives for each in check(life.scoped)]
        return [*self.faults, *(f"{each.what} on {each.session}: {each.facts}" for each in judged)]

    def _check_own(self, server: str, key: Key, newer: Sequence[Life], began: float) -> None:
        """An answer of an earlier life, though this server has written in a later one."""
        for number, ended in self._acknowledged.get((server, key), ()):
            if ended <= began and any(life.began < ended and (key, number) in life.versions for life in newer):
                self.faults.append(f"{server} read {key} of an earlier life of L3 than its own write {number}")


def number_in(row: Row) -> int:
    """The number of the document in a row."""
    return int(msgspec.json.decode(row.body)["name"])
