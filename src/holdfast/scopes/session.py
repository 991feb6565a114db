"""One scope's knowledge on one server: what it saw, and whether this server's caches know as much."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from holdfast.clock import Clock
from holdfast.errors import Closed, HoldfastError, IncarnationChanged, InvalidToken, TierUnavailable
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.lease import FeedLease
from holdfast.keys import Key
from holdfast.scopes import tokens
from holdfast.scopes.floors import Floor, Floors
from holdfast.scopes.tokens import UNSURE_MAX, Token

CHANGED = (
    "L3 is another one than this scope has seen: it crashed, failed over or was restored, and what the scope saw may "
    "not exist any more; begin a new scope without a token"
)
RUNNING_MAX: Final = 1_000_000
"""Numbers that transactions may have drawn beyond the last one that is over."""
_UNPROVABLE: Final = Floor(None, math.inf)


class Session:
    """What one scope knows.

    It answers from `begin` to `end`, and only once.
    """

    def __init__(self, *, feed: ChangeFeed, lease: FeedLease, applier: ChangeApplier, clock: Clock) -> None:
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
        self._floors = Floors(token.floors, arrived, everything=token.everything or not self._covers(token))
        self._unsure = set(token.unsure)

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
        floors, more = self._floors.ahead(self._lease.renewed_at)
        known = cursor is not None and cursor.coherence.incarnation == self._incarnation
        position = None
        if cursor is not None and known:
            position = (cursor.snapshot.xmin, cursor.snapshot.xmax, cursor.snapshot.running)
        return tokens.encode(
            Token(self._incarnation.bytes, more or not known, position, floors, tuple(sorted(self._still_unsure())))
        )

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
