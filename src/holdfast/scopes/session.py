"""One scope's knowledge on one server: what it saw, and whether this server's caches know as much."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

from holdfast.clock import Clock
from holdfast.errors import Closed, HoldfastError, IncarnationChanged, InvalidToken, TierUnavailable
from holdfast.flights import Resolved
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.lease import FeedLease
from holdfast.keys import Key
from holdfast.scopes import tokens
from holdfast.scopes.elsewhere import Elsewhere
from holdfast.scopes.floors import Floor, Floors
from holdfast.scopes.tokens import JOURNALS_MAX, UNSURE_MAX, Token
from holdfast.write_behind.entries import Entry

CHANGED = (
    "L3 is another one than this scope has seen: it crashed, failed over or was restored, and what the scope saw may "
    "not exist any more; begin a new scope without a token"
)
SETTLE_SECONDS: Final = 10.0
"""How long a write of a scope waits for those that it saw on other servers; as a rule these take five at most."""
RUNNING_MAX: Final = 1_000_000
"""Numbers that transactions may have drawn beyond the last one that is over."""
_UNPROVABLE: Final = Floor(None, math.inf)


class OwnWrites(Protocol):
    """This server's undecided writes."""

    @property
    def journal(self) -> str | None:
        """The journal that takes them now."""
        ...

    def position(self, key: Key) -> tuple[str, int] | None:
        """The journal and number of the last one of a key; None: there is none."""
        ...

    def where(self, journal: str, through: int) -> tuple[str, int] | None:
        """Where its writes up to a place in a journal of its own are undecided now; None: all are decided."""
        ...


class Session:
    """What one scope knows.

    It answers from `begin` to `end`, and only once.
    """

    def __init__(
        self,
        *,
        feed: ChangeFeed,
        lease: FeedLease,
        applier: ChangeApplier,
        clock: Clock,
        own: OwnWrites,
        elsewhere: Elsewhere,
    ) -> None:
        self._own = own
        self._elsewhere = elsewhere
        self._journals: dict[str, int] = {}  # undecided writes were seen up to these numbers
        self._undecided: dict[Key, list[tuple[str, Entry]]] = {}  # of other servers
        self._feed = feed
        self._lease = lease
        self._applier = applier
        self._clock = clock
        self._floors = Floors()
        self._unsure: set[int] = set()
        self._incarnation = applier.incarnation
        self._refusal: HoldfastError | None = Closed("enter the scope: async with state.scope() as scope")
        self._begun = False

    async def begin(self, text: str | None) -> None:
        """Begin, with what a token tells.

        Raises:
            Closed: it has begun before.
            InvalidToken: it is none.
            IncarnationChanged: it is of another L3 than runs now.
            TierUnavailable: which L3 runs now cannot be found out.
        """
        if self._begun:
            raise Closed("this scope was entered before: begin another one, with its token if you like")
        token = tokens.decode(text) if text is not None else None
        self._begun = True
        self._incarnation = self._applier.incarnation
        if token is not None:
            await self._continue(token)
        self._refusal = None

    def end(self) -> None:
        """Answer nothing more."""
        self._refusal = Closed("this scope has ended, as its block has: begin another one, with its token if you like")

    async def _continue(self, token: Token) -> None:
        incarnation, arrived = UUID(bytes=token.incarnation), self.now()
        if incarnation != self._applier.incarnation:
            if not await self._feed.refresh():
                raise TierUnavailable("L3: it cannot be asked whether a scope's token is of the one that runs now")
            if incarnation != self._applier.incarnation:
                raise IncarnationChanged(CHANGED)
        self._incarnation = incarnation
        if token.unsure:
            await self._check_drawn(token.unsure)
        everything = token.everything or not self._covers(token)
        if token.journals:
            await self._learn({name.hex(): seq for name, seq in token.journals.items()})
            # What was decided meanwhile is in no journal any more, and was committed by now.
            arrived, everything = self.now(), True
        self._floors = Floors(token.floors, arrived, everything=everything)
        self._unsure = set(token.unsure)

    async def _learn(self, journals: Mapping[str, int]) -> None:
        """Read what is undecided elsewhere; this server's own is laid over its reads anyway."""
        self._journals = dict(journals)
        elsewhere = {name: seq for name, seq in journals.items() if name != self._own.journal}
        self._undecided = await self._elsewhere.entries(elsewhere)

    async def _check_drawn(self, xids: Iterable[int]) -> None:
        """Refuse transactions that L3 cannot have begun: they would be waited for for ever."""
        heard, cursor = await self._feed.refresh(), self._feed.cursor
        # A snapshot ends with the last transaction that is over; those that run may be numbered beyond, but not far.
        if heard and cursor is not None and max(xids) > cursor.snapshot.xmax + RUNNING_MAX:
            raise InvalidToken("a scope's token names a transaction that L3 cannot have begun")

    def _covers(self, token: Token) -> bool:
        """Whether this server's feed has come as far as the issuer's had."""
        cursor, snapshot = self._feed.cursor, token.snapshot
        return (
            cursor is not None
            and snapshot is not None
            and cursor.coherence.incarnation == self._incarnation
            and cursor.snapshot.covers(snapshot)
        )

    @property
    def token(self) -> str:
        """The text with which the scope goes on elsewhere."""
        self.check()
        cursor = self._feed.cursor
        journals = self._still_undecided()
        floors, more = self._floors.ahead(self._lease.renewed_at)
        known = cursor is not None and cursor.coherence.incarnation == self._incarnation
        position = None
        if cursor is not None and known:
            position = (cursor.snapshot.xmin, cursor.snapshot.xmax, cursor.snapshot.running)
        unsure = tuple(sorted(self._still_unsure()))
        return tokens.encode(Token(self._incarnation.bytes, more or not known, position, floors, unsure, journals))

    def check(self) -> None:
        """Refuse what the scope can no longer answer for.

        Raises:
            Closed: it was not entered, or has ended.
            TierUnavailable: more transactions of unknown outcome than a token can tell of have ended it.
            IncarnationChanged: L3 became another one.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._applier.incarnation != self._incarnation:
            raise IncarnationChanged(CHANGED)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic()

    def floor(self, key: Key) -> Floor:
        """The oldest state of a key that may be shown; while an outcome is unknown, none that a cache can prove."""
        return _UNPROVABLE if self._unsure and self._still_unsure() else self._floors.of(key)

    def passed(self, floor: Floor) -> bool:
        """Whether the caches of this server know everything that the floor stands for."""
        return floor.passed(self._lease.renewed_at)

    def is_unwatched(self, kind: str) -> bool:
        """Whether the feed says nothing of a kind."""
        return kind in self._lease.untrusted

    async def refresh(self) -> bool:
        """Let the feed come past everything seen so far; says whether it has."""
        return await self._feed.refresh()

    def see(self, versions: Mapping[Key, int], began: float) -> None:
        """A call that began at a moment showed or made these versions; 0: no row."""
        now, heard = self.now(), self._lease.renewed_at
        for key, version in versions.items():
            self._floors.see(key, version, began, now, heard)

    def see_undecided(self, key: Key) -> None:
        """Undecided writes of this server on a key were shown, or made."""
        position = self._own.position(key)
        if position is None:  # decided meanwhile
            self._floors.see_all(self.now())
            return
        journal, seq = position
        self._journals[journal] = max(seq, self._journals.get(journal, 0))
        if len(self._journals) > JOURNALS_MAX and len(self._still_undecided()) > JOURNALS_MAX:
            self._refusal = TierUnavailable(
                f"undecided writes in over {JOURNALS_MAX} journals in one scope, which ended it: flush() on the servers"
                " that it comes from"
            )

    def undecided(self, keys: Iterable[Key]) -> list[Key]:
        """Those of these keys of which undecided writes of other servers were seen."""
        return [key for key in keys if key in self._undecided] if self._undecided else []

    async def read_undecided(self, keys: Sequence[Key]) -> dict[Key, Resolved]:
        """These rows, of which undecided writes of other servers were seen, with those that still are."""
        began = self.now()
        found, settled = await self._elsewhere.read(keys, self._undecided)
        for key in settled:
            self._undecided.pop(key, None)
        self.see({key: read.version for key, read in found.items()}, began)
        return found

    async def settle_elsewhere(self, keys: Sequence[Key]) -> None:
        """Wait until the undecided writes of other servers that were seen on these keys are decided.

        Raises:
            TierUnavailable: they are not in time.
        """
        deadline = self.now() + SETTLE_SECONDS
        while left := self.undecided(keys):
            await self.read_undecided(left)
            if not (left := self.undecided(left)):
                return
            if self.now() >= deadline:
                raise TierUnavailable(
                    f"{left[0]}: a write that the scope saw on another server is not decided yet; nothing was written"
                )
            await self._elsewhere.pause()

    def _still_undecided(self) -> dict[bytes, int]:
        """How far undecided writes were seen, for a token."""
        elsewhere = {journal for entries in self._undecided.values() for journal, _ in entries}
        still = {journal: seq for journal, seq in self._journals.items() if journal in elsewhere}
        for journal, seq in self._journals.items():
            if journal not in elsewhere:
                if (place := self._own.where(journal, seq)) is None:
                    self._floors.see_all(self.now())
                else:
                    still[place[0]] = place[1]
        self._journals = still
        return {bytes.fromhex(journal): seq for journal, seq in self._journals.items()}

    def see_all(self, moment: float, unsure: Iterable[int] = ()) -> None:
        """Anything committed by a moment may have been seen, and what these transactions did, if they did.

        More of these than a token can tell of end the scope.
        """
        self._floors.see_all(moment)
        self._unsure = self._still_unsure() | set(unsure)
        if len(self._unsure) > UNSURE_MAX:
            self._refusal = TierUnavailable(
                f"L3: over {UNSURE_MAX} transactions of unknown outcome in one scope, which ended it"
            )

    def _still_unsure(self) -> set[int]:
        cursor = self._feed.cursor
        if self._unsure and cursor is not None:
            self._unsure = {xid for xid in self._unsure if not cursor.snapshot.sees(xid)}
        return self._unsure
