"""What the servers of a world were told, held against what L3 has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import NamedTuple

from holdfast.clock import Clock
from holdfast.entry import Durability
from holdfast.errors import Refused
from holdfast.keys import Key
from holdfast.write_behind.receipts import PendingWrite
from simulation.write_behind.judge import Judge, Name
from simulation.write_behind.ledger import Ledger, cuts, faults_in, token_of

MARGIN_SECONDS = 1.0
"""A read may show what was so that long ago, at most: a lease of the feed, and a slow answer of L3."""


class Accepted:
    """A write that a server took in.

    Attributes:
        names: of the entries it was, one after the other.
        at: when it was taken in; `over` when its server died, infinity for one that lives.
        window_seconds: before that, in which it may have been taken in and be lost.
        shown_under: authors of documents in which a read of its server has shown it.
    """

    def __init__(self, write: PendingWrite, at: float) -> None:
        self.write = write
        self.key = write.key
        self.token = token_of(write.entry.operations)
        self.names: list[Name] = []
        self.at = at
        self.over = inf
        self.window_seconds = inf
        self.shown_under: set[str] = set()


class Hidden(NamedTuple):
    """A read of its server that did not show an accepted write."""

    accepted: Accepted
    fact: str


class Records:
    """The record of one world.

    Attributes:
        judge: of L3's commits.
        accepted: by the identity of the write.
        reads, errors: how many.
    """

    def __init__(self, judge: Judge, clock: Clock) -> None:
        self.judge = judge
        self.accepted: dict[int, Accepted] = {}
        self.reads = self.errors = 0
        self.faults: list[str] = []
        self._clock = clock
        self._hidden: list[Hidden] = []
        self._own: dict[tuple[str, Key], list[Accepted]] = {}

    def entered(self, server: str, journal: str, write: PendingWrite) -> None:
        """A server has taken a write in, or entered it again in another journal."""
        accepted = self.accepted.get(id(write))
        if accepted is None:
            accepted = self.accepted[id(write)] = Accepted(write, self._clock.monotonic())
            self._own.setdefault((server, write.key), []).append(accepted)
            if cuts(write.entry.operations):
                self.judge.cut[write.key] = self._clock.monotonic()
        name = (journal, write.entry.seq)
        accepted.names.append(name)
        self.judge.entries[name] = write.entry

    def died(self, server: str, window_seconds: float) -> None:
        """A server will never go on; what it took in that long before may be lost."""
        for (name, _), own in self._own.items():
            if name == server:
                for accepted in own:
                    accepted.over, accepted.window_seconds = self._clock.monotonic(), window_seconds

    def told_committed(self, write: PendingWrite) -> None:
        """A caller was told just now that its write is in effect."""
        if not self._applied(self.accepted[id(write)]):
            self.faults.append(f"a caller was told that {write.entry} is committed, and it is not")

    def own(self, server: str, key: Key) -> Sequence[Accepted]:
        """The writes of a key that a server has taken in so far."""
        return tuple(self._own.get((server, key), ()))

    def read(self, server: str, key: Key, document: Ledger | None, own: Sequence[Accepted]) -> None:
        """A server has answered a read.

        Args:
            own: what it had taken in when the read began.
        """
        self.reads += 1
        if document is not None and (fault := faults_in(document)):
            self.faults.append(f"{server} read {key}: {fault}")
        tokens = set() if document is None else {*document.tokens, document.author}
        for accepted in own:
            if accepted.token is None:
                continue
            if document is not None and accepted.token in tokens:
                accepted.shown_under.add(document.author)
                continue
            is_cut = self.judge.cut.get(key, -inf) >= accepted.at - MARGIN_SECONDS
            if not is_cut or (document is not None and document.author in accepted.shown_under):
                fact = f"{server} read {key} without its own {accepted.token} of {accepted.at}: {document}"
                self._hidden.append(Hidden(accepted, f"{fact} at {self._clock.monotonic()}"))

    def violations(self) -> list[str]:
        """All faults found, when all has come to rest."""
        faults = [*self.judge.faults, *self.faults]
        faults += [each.fact for each in self._hidden if self._applied(each.accepted) or self._is_lost(each.accepted)]
        for accepted in self.accepted.values():
            faults += self._faults_of(accepted)
        return faults

    def _faults_of(self, accepted: Accepted) -> Iterator[str]:
        write, applied, refused = accepted.write, self._applied(accepted), self._refused(accepted)
        what = f"{accepted.names} {write.entry.operations} of {accepted.at}, {write!r}"
        if len(applied) > 1:
            yield f"applied twice: {what}"
        if write.durability is Durability.COMMITTED and not applied:
            yield f"told committed, and is not in effect: {what}"
        if isinstance(write._end, Refused) and applied:
            yield f"told refused, and is in effect: {what}: {write._end}"
        if applied or refused:
            return
        if accepted.over == inf:
            yield f"undecided, though its server lives: {what}"
        elif write.durability is not Durability.ACCEPTED:
            yield f"lost, though acknowledged: {what}"
        elif accepted.over - accepted.at > accepted.window_seconds:
            yield f"lost {accepted.over - accepted.at} s after it was accepted: {what}"

    def _applied(self, accepted: Accepted) -> list[Name]:
        return [name for name in accepted.names if name in self.judge.applied]

    def _refused(self, accepted: Accepted) -> list[Name]:
        return [name for name in accepted.names if name in self.judge.refused]

    def _is_lost(self, accepted: Accepted) -> bool:
        return not self._refused(accepted) and accepted.over == inf
