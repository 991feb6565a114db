"""Reliable events that were given up: looked at, published again, or removed.

Each partition keeps about the last 10,000; older ones go.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec

from holdfast.audit.chain import AuditAction
from holdfast.audit.log import AuditLog
from holdfast.errors import CorruptDocument, InvalidEvent, SchemaTooNew
from holdfast.events import Event, EventLimits, decode
from holdfast.protocols import DeadLetter, EventTransport, Replayed

_ID: Final = re.compile(r"([0-9]{1,4})-(([0-9]{1,20})-([0-9]{1,20}))\Z")
BY_HAND: Final = "by hand"
_PART_MAX: Final = 2**64 - 1
"""Of the two numbers of an entry in a stream."""


class GivenUp(msgspec.Struct, frozen=True):
    """A dead letter.

    Attributes:
        id: for `replay` and `discard`.
        subscription: who gave it up: a group and its pattern, or the broadcasts of a server.
        reason: the last failure of the handler, in words.
        attempts: of the handler.
        event: None: it cannot be read.
    """

    id: str
    subscription: str
    reason: str
    attempts: int
    event: Event | None


class DeadLetters:
    """The dead letters of all servers."""

    def __init__(self, transport: EventTransport, limits: EventLimits, audit: AuditLog) -> None:
        self._transport = transport
        self._limits = limits
        self._audit = audit

    async def list(self, *, limit: int = 100) -> list[GivenUp]:
        """The dead letters, the oldest of each partition first.

        Args:
            limit: of each partition.

        Raises:
            TierError: L2 cannot be asked.
        """
        partitions = range(self._transport.partitions)
        found = await asyncio.gather(*(self._transport.dead_letters(each, limit=limit) for each in partitions))
        return [self._given_up(place, letter) for place, letters in enumerate(found) for letter in letters]

    async def replay(self, identifier: str, *, actor: str | None = None, reason: str = BY_HAND) -> Replayed:
        """Publish a dead letter's event again, for the group alone that gave it up; flagged as a duplicate.

        It comes behind all others of its key. That of a broadcast can be replayed only while its server still runs.
        It is recorded in the audit log before it is done, since that is in L3: what could not be recorded is not done,
        and what is recorded may still fail, or find no letter.

        Args:
            actor, reason: for the audit log; the actor is by default this server.

        Returns:
            What became of it, true if it was published. A letter that is there and was not published is kept.

        Raises:
            InvalidEvent: that is no letter's id.
            TierError: L3 did not take the record, and nothing was done; or L2 did not answer: look whether the letter
                is still there.
        """
        partition, letter = self._place(identifier)
        await self._note(AuditAction.REPLAYED, identifier, actor, reason)
        return await self._transport.replay(partition, letter)

    async def discard(self, identifier: str, *, actor: str | None = None, reason: str = BY_HAND) -> bool:
        """Remove a dead letter; False if there is none. It is recorded, and raises, as `replay` is and does."""
        partition, letter = self._place(identifier)
        await self._note(AuditAction.DISCARDED, identifier, actor, reason)
        return await self._transport.discard(partition, letter)

    async def _note(self, action: AuditAction, identifier: str, actor: str | None, reason: str) -> None:
        await self._audit.note(action, f"dead_letter:{identifier}", actor=actor, reason=reason)

    def _given_up(self, partition: int, letter: DeadLetter) -> GivenUp:
        try:
            event = decode(letter.body, self._limits)
        except (CorruptDocument, SchemaTooNew):
            event = None
        return GivenUp(f"{partition}-{letter.letter}", letter.reader, letter.reason, letter.attempts, event)

    def _place(self, identifier: str) -> tuple[int, str]:
        found = _ID.match(identifier)
        if (
            found is None
            or int(found[1]) >= self._transport.partitions
            or max(int(found[3]), int(found[4])) > _PART_MAX
        ):
            raise InvalidEvent("letter", f"{identifier[:40]!r} names no dead letter; `list` tells their ids")
        return int(found[1]), found[2]
