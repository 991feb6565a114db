"""Accepted writes that were given up: looked at, applied after all, or removed.

L3 keeps about the last 100,000, with what they were to do. One that is replayed is applied to the row as it is now, in
a transaction, and its letter is removed after the commit. So none is ever lost; a crash between the two leaves the
letter of a write that is in effect, and so may two replays of one letter at the same time: look before you repeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from holdfast.audit.chain import AuditAction, AuditNote
from holdfast.audit.log import Detail, noted
from holdfast.documents import Limits
from holdfast.entry import Receipt
from holdfast.errors import Conflict, CorruptDocument, Overloaded, Refused, SchemaTooNew
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import DeadWrite, Isolation, JournalBase, Storage, StorageTransaction
from holdfast.row_decoding import Stored
from holdfast.write_behind.deciding import Decision, decide
from holdfast.write_behind.entries import Entry, decode_entry
from holdfast.write_behind.flushing import writes_of
from holdfast.write_behind.outlines import outline

BY_HAND: Final = "by hand"
ATTEMPTS_MAX: Final = 16
"""Of a replay whose row is absent, and turns up while it is being inserted."""


class GivenUpWrite(msgspec.Struct, frozen=True):
    """A dead letter of write-behind.

    Attributes:
        id: for `replay` and `discard`.
        seq: its number in its journal.
        operations: what it was to do, in words, values cut short; none: it cannot be read.
        reason: why it was given up, in words.
        seconds: since then.
    """

    id: int
    journal: str
    seq: int
    key: Key
    operations: tuple[str, ...]
    reason: str
    seconds: float


class DeadWrites:
    """The given-up writes of all servers.

    Args:
        limits: of documents.
        stored: the document in a row.
        settle: brings this server's undecided writes of rows to L3 before anything else is done to these.
        tell: tells this server's caches the versions of rows that were written.
        doubt: tells them that rows may have changed.
        actor: who this server is, where a call does not say.
    """

    def __init__(
        self,
        base: JournalBase,
        l3: Storage,
        kinds: Mapping[str, Kind[Any]],
        limits: Limits,
        *,
        stored: Stored,
        settle: Callable[[Iterable[Key]], Awaitable[None]],
        tell: Callable[[Mapping[Key, int]], None],
        doubt: Callable[[Iterable[Key]], None],
        actor: str,
    ) -> None:
        self._base = base
        self._l3 = l3
        self._kinds = kinds
        self._limits = limits
        self._stored = stored
        self._settle = settle
        self._tell = tell
        self._doubt = doubt
        self._actor = actor

    async def list(self, *, limit: int = 100) -> list[GivenUpWrite]:
        """The dead letters, the oldest first.

        Raises:
            TierError: L3 cannot be asked.
        """
        return [given_up(letter, self._limits) for letter in await self._base.letters(limit=limit)]

    async def replay(self, identifier: int, *, actor: str | None = None, reason: str = BY_HAND) -> Receipt | None:
        """Apply a given-up write to its row as it is now, and remove its letter; None: there is no such letter.

        It is a new write: what was committed since is no conflict. A letter that was not applied is kept. The audit
        log says so in the transaction that applies it.

        Args:
            actor, reason: for the audit log; the actor is by default this server.

        Raises:
            Refused: the row does not allow it, would be too large, or is not there; the reason says which.
            CorruptDocument, SchemaTooNew, UnknownKind: the letter, or the row, cannot be read by this program.
            TierError: L3 refused the row or did not answer. If the write is in effect, as after `OutcomeUnknown` it may
                be, its letter is still there: look at the row before it is replayed again.
        """
        dead = await self._base.letter(identifier)
        if dead is None:
            return None
        entry = decode_entry(dead.letter.entry, dead.letter.seq, self._kinds, self._limits)
        await self._settle([entry.key])
        note = self._note(AuditAction.REPLAYED, dead, actor, reason)
        version = await self._applied(_afresh(entry), note)
        await self._base.discard(identifier)
        return Receipt(version)

    async def discard(self, identifier: int, *, actor: str | None = None, reason: str = BY_HAND) -> bool:
        """Remove a letter, and record that in the audit log, at once; False: there is none.

        Arguments are those of `replay`. Raises as `list` does.
        """
        dead = await self._base.letter(identifier)
        if dead is None:
            return False
        return await self._base.discard(identifier, self._note(AuditAction.DISCARDED, dead, actor, reason))

    def _note(self, action: AuditAction, dead: DeadWrite, actor: str | None, reason: str) -> AuditNote:
        facts: Detail = {"key": str(dead.letter.key), "journal": dead.journal, "seq": dead.letter.seq}
        who = self._actor if actor is None else actor
        return noted(action, f"dead_write:{dead.id}", actor=who, reason=reason, detail=facts)

    async def _applied(self, entry: Entry, note: AuditNote) -> int:
        """Commit what an entry makes of its row; returns the row's version, or what a deletion drew."""
        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._attempt(entry, note)
            except Conflict:
                continue  # a row turned up after it was seen to be absent: the entry is applied to that one
        raise Overloaded(f"{entry.key}: the row comes and goes while the write is being applied; try again")

    async def _attempt(self, entry: Entry, note: AuditNote) -> int:
        transaction = await self._l3.open_transaction(Isolation.READ_COMMITTED)
        try:
            version = await self._written(transaction, entry)
            await transaction.audit(note)
            await self._commit(transaction, entry.key)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(transaction.rollback()))
            raise
        self._tell({entry.key: version})
        return version

    async def _written(self, transaction: StorageTransaction, entry: Entry) -> int:
        """Write what an entry makes of the row, which is locked; returns its version, or what a deletion drew."""
        key, kind = entry.key, self._kinds[entry.key.kind]
        row = (await transaction.load([key], lock=True)).get(key)
        before = None if row is None else self._stored(key, row)
        decision: Decision[Any] = decide(
            kind, row, [entry], kind.on_conflict, self._limits, before=before, kinds=self._kinds
        )
        if (refusal := decision.refused.get(entry.seq)) is not None:
            raise Refused(key, refusal.reason.value, refusal.detail)
        version = 0 if row is None else row.version
        if decision.deleted:
            version, _ = await transaction.delete(key)
        if writes := writes_of(key, kind, row, decision):
            version = (await transaction.save(writes)).get(key, version)
        return version

    async def _commit(self, transaction: StorageTransaction, key: Key) -> None:
        try:
            await transaction.commit()
        except BaseException:
            self._doubt([key])  # it may be in effect, now or later
            raise


def given_up(dead: DeadWrite, limits: Limits) -> GivenUpWrite:
    """A letter in words (pure)."""
    letter = dead.letter
    try:
        operations = outline(letter.entry, letter.seq, limits).operations
    except (CorruptDocument, SchemaTooNew):
        operations = ()
    return GivenUpWrite(dead.id, dead.journal, letter.seq, letter.key, operations, letter.reason, dead.seconds)


def _afresh(entry: Entry) -> Entry:
    """The same operations on whatever row there is now, whatever the writer had seen, and whoever owns it."""
    return msgspec.structs.replace(entry, birth=0, base_version=0, expects=(None,) * len(entry.operations), owner=0)
