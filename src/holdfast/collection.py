"""A typed collection: the documents of one kind, read and written.

Reads go to L1 first, without awaiting anything on a hit; the rest is `reading`. Writes go through `writing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

from holdfast.documents import Document, encode
from holdfast.entry import MISSING, Consistency, Durability, Entry, Receipt
from holdfast.errors import AppendOnly, Conflict, InvalidDocument, InvalidKey, InvalidOperation, NotFound
from holdfast.flights import Resolved
from holdfast.intake import checked_key, checked_version, checked_write
from holdfast.key_locks import KeyLocks
from holdfast.keys import Key, check_id
from holdfast.kinds import Kind
from holdfast.protocols import Invalidation, Target, Write
from holdfast.reading import Reads
from holdfast.resolution import Resolver
from holdfast.voiding import Invalidator
from holdfast.watching import Watch, Watching
from holdfast.write_behind.accepting import WriteBehind
from holdfast.write_behind.checking import checked
from holdfast.write_behind.coalescing import coalesced
from holdfast.write_behind.operations import Operation, Set
from holdfast.write_behind.pending_reader import PendingReader
from holdfast.writing import Writes

D = TypeVar("D", bound=Document)

UPDATE_ATTEMPTS_MAX: Final = 64
GET_MANY_LOADS_MAX: Final = 10_000
"""Under way at once for one `get_many`: a fifth of what may wait, so that no call is too large to ever be served."""
MADE_LATE_MIN: Final = 250
"""From this many documents on, `put_many` writes the first while it encodes the others."""
PUT_MANY_BYTES_MAX: Final = 64 * 1024 * 1024
PUT_MANY_DOCUMENTS_MAX: Final = 100_000
SCAN_PAGE: Final = 200
_BOUNDED: Final = Consistency.BOUNDED  # an enum's member costs a tenth of a hit to look up


class Collection(Generic[D]):
    """The documents of one kind.

    Attributes:
        turns, watching: of the updaters of a key in this process, and of its watchers; the scopes' share them.
        invalidator: makes void what caches hold.
        write_behind: accepts writes that are not committed at once.

    Args:
        reader: answers with committed values; this server's undecided writes are laid over them here.
        seen: told of each key whose undecided writes were shown, or made.
        before_write: awaited before rows are written by what they hold now.

    `peek(id)` is an attribute that is called: L1 only, synchronous, the live document or None. It is L1's own
    function, since one more call would be a third of its cost.
    """

    def __init__(
        self,
        kind: Kind[D],
        *,
        peek: Callable[[str], Any | None],
        reader: Reads,
        resolver: Resolver,
        writer: Writes,
        turns: KeyLocks,
        invalidator: Invalidator,
        watching: Watching,
        write_behind: WriteBehind,
        seen: Callable[[Key], None] = lambda _: None,
        before_write: Callable[[Sequence[Key]], Awaitable[None]] | None = None,
    ) -> None:
        self.kind = kind
        self.peek: Callable[[str], D | None] = peek
        self.turns = turns
        self.write_behind = write_behind
        self._committed = reader
        self._seen = seen
        self._before_write = before_write
        self._reader = PendingReader(reader, write_behind, seen)
        self._resolver = resolver
        self._writer = writer
        self.invalidator = invalidator
        self.watching = watching

    async def get(
        self, identifier: str, *, consistency: Consistency = _BOUNDED, max_stale: float | None = None
    ) -> D | None:
        """The document, or None if L3 has no such row.

        Args:
            max_stale: if L3 cannot be asked, how long ago what L1 holds may last have been known to be current,
                seconds; None: what the kind says, which is to refuse unless it says otherwise.

        Raises:
            InvalidKey: the id.
            TierError: L3 was needed and could not answer, or too many reads wait for it; never reported as missing.
            StaleUnavailable: and what L1 holds is older than `max_stale`.
            CorruptDocument, SchemaTooNew: what is stored cannot be read by this server.
        """
        if consistency is _BOUNDED:
            peek = self.peek  # CPython 3.11 calls an attribute that is no method the slow way
            try:
                held = peek(identifier)
            except TypeError:  # what cannot be looked up in a dict is no id
                check_id(identifier)
                raise
            if held is not None:
                return held
        resolved = await self._reader.read(self.key(identifier), Consistency(consistency), max_stale)
        return None if resolved.value is MISSING else cast("D", resolved.value)

    async def entry(
        self, identifier: str, *, consistency: Consistency = _BOUNDED, max_stale: float | None = None
    ) -> Entry[D] | None:
        """The document with its version, tier, age and whether it is stale; None if there is no such row.

        Arguments and errors are those of `get`.
        """
        key = self.key(identifier)
        if consistency is _BOUNDED:
            self.peek(identifier)  # counts, and renews its place in the LRU order
        resolved = await self._reader.read(key, Consistency(consistency), max_stale)
        if resolved.value is MISSING:
            return None
        age_seconds = max(0.0, self._resolver.now() - resolved.read_at)
        return Entry(
            cast("D", resolved.value), resolved.version, resolved.tier, age_seconds, resolved.stale, resolved.pending
        )

    async def get_many(
        self, identifiers: Iterable[str], *, consistency: Consistency = _BOUNDED, max_stale: float | None = None
    ) -> dict[str, D]:
        """The documents that exist, by id: one L2 round trip a node and one L3 query for 256 misses.

        Arguments and errors are those of `get`.
        """
        if isinstance(identifiers, str):  # its characters would be taken for ids
            raise InvalidKey(f"get_many takes several ids, not one text: get_many([{identifiers!r}])")
        found: dict[str, D] = {}
        absent: list[Key] = []
        consistency = Consistency(consistency)
        for identifier in dict.fromkeys(map(check_id, identifiers)):
            held = self.peek(identifier) if consistency is _BOUNDED else None
            if held is not None:
                found[identifier] = held
            else:
                absent.append(Key(self.kind.name, identifier))
        for start in range(0, len(absent), GET_MANY_LOADS_MAX):
            read = await self._reader.read_many(absent[start : start + GET_MANY_LOADS_MAX], consistency, max_stale)
            found |= {key.id: cast("D", each.value) for key, each in read.items() if each.value is not MISSING}
        return found

    async def put(
        self,
        identifier: str,
        document: D,
        *,
        expected_version: int | None = None,
        durability: Durability = Durability.COMMITTED,
    ) -> Receipt:
        """Store a document.

        Args:
            expected_version: None to store whatever is there, 0 if it must not exist, else the version it
                must have.
            durability: what the write is to have survived when this returns. Below COMMITTED it replaces what this
                server sees now; if that has changed when it comes to L3, the kind's `on_conflict` decides.

        Raises:
            InvalidKey, InvalidDocument: refused, with the place of the fault; nothing was written.
            Conflict: the row is at another version; nothing was written.
            OutcomeUnknown: the connection was lost after sending; read before repeating.
            TierError: L3 could not take it; nothing was written.
            InvalidOperation, Refused, Undecided, Overloaded: below COMMITTED, as `patch`.
        """
        write = self._write(identifier, document, expected_version)
        if Durability(durability) is not Durability.COMMITTED:
            if expected_version is not None:
                raise InvalidOperation("", f"{write.key}: only L3 knows versions: expected_version takes COMMITTED")
            return await self.accept(write.key, (Set(document),), None, Durability(durability))
        await self._settle([write.key])
        versions = await self._writer.save(self.kind, [(write, document)])
        return Receipt(versions[write.key])

    async def patch(
        self, identifier: str, *operations: Operation, default: D | None = None, durability: Durability | None = None
    ) -> Receipt:
        """Change a document by operations, which are applied to whatever it is when they come to L3.

        ``await state.swarms.patch("s1", Increment("stats", "total_tool_calls"), Set("goal", "ship it"))``. All of one
        call take effect together, or none. Reads of this server show them at once.

        Args:
            operations: `Set`, `Delete`, `Append`, `Increment`, `Merge`.
            default: what they are applied to if there is no row.
            durability: what the write is to have survived when this returns; None: what the kind says.

        Raises:
            InvalidOperation: one does not fit the kind of document, or what is there now; nothing was accepted.
            NotFound: no row and no default.
            Overloaded: too much waits for L3 already; nothing was accepted.
            Refused: it was accepted and decided otherwise: it is not in effect.
            Undecided: it was accepted, and has not survived that much yet; it carries the receipt.
            AppendOnly: the kind keeps its documents as they are.
            TierError: any other one: the document could not be read, and nothing was accepted. `Undecided` is one too:
                whoever repeats a patch after that may do it twice. So may who was cancelled: what was accepted is
                decided all the same.
        """
        key = self.key(identifier)
        level = self.kind.durability if durability is None else Durability(durability)
        if default is not None:
            (begun,) = checked(self.kind.document, [Set(default)], self._writer.limits)
            default = cast("D", cast("Set", begun).value)  # as it will be read back
        return await self.accept(key, operations, default, level)

    async def put_many(self, documents: Mapping[str, D]) -> dict[str, Receipt]:
        """Store documents, all or none, in one transaction. Raises like `put`."""
        if not isinstance(documents, Mapping):
            raise InvalidKey(f"put_many takes documents by their ids, not a {type(documents).__name__}")
        if len(documents) > PUT_MANY_DOCUMENTS_MAX:
            raise InvalidDocument(
                "",
                f"{len(documents)} documents of kind {self.kind.name} in one put_many;"
                f" at most {PUT_MANY_DOCUMENTS_MAX}",
            )
        room = PUT_MANY_BYTES_MAX

        def made(document: D) -> bytes:
            nonlocal room
            body = encode(document, self._writer.limits)
            room -= len(body)
            if room < 0:
                raise InvalidDocument("", f"put_many: over {PUT_MANY_BYTES_MAX} bytes in one call; split it")
            return body

        late = len(documents) >= MADE_LATE_MIN and not self.kind.append_only
        writes = []
        for identifier, document in documents.items():
            key = checked_key(self.kind, identifier, document)
            body = partial(made, document) if late else made(document)
            writes.append((Write(key, document.SCHEMA, body, tags=self.kind.tags_of(key, document)), document))
        await self._settle([write.key for write, _ in writes])
        versions = await self._writer.save(self.kind, writes) if writes else {}
        return {key.id: Receipt(version) for key, version in versions.items()}

    async def update(self, identifier: str, change: Callable[[D], D], *, default: D | None = None) -> D:
        """Change a document by a pure function and return what was stored.

        Args:
            change: from the current document to the new one; synchronous, without effects, and run again when
                another writer was faster.
            default: what `change` gets when there is no row.

        Raises:
            NotFound: no row and no default.
            Conflict: other writers were faster 64 times in a row.
            InvalidDocument: `change` returned what cannot be stored, or no document. And whatever `change`
                raises.
        """
        key = self.key(identifier)
        # Writers of this process take turns; only those of other processes can still make an attempt fail.
        async with self.turns.turn(key):
            return await self._update(key, change, default)

    async def delete(self, identifier: str, *, expected_version: int | None = None) -> Receipt:
        """Delete a document; the receipt's `existed` says whether there was one.

        Raises:
            Conflict: the row is not at the expected version.
            AppendOnly: the kind keeps its documents.
            OutcomeUnknown, TierError: as `put`.
        """
        key = self.key(identifier)
        expected = checked_version(key, expected_version)
        await self._settle([key])
        return await self._writer.delete(key, expected)

    async def invalidate(self, identifier: str, *, reason: str, actor: str | None = None) -> Invalidation:
        """Make void what caches hold of one document, which itself is not touched; L2 does without it for a minute.

        Arguments and errors are those of `Invalidator.invalidate`.
        """
        return await self.invalidator.void(Target.of(self.key(identifier)), reason, actor)

    async def scan(self, *, after: str | None = None) -> AsyncIterator[tuple[str, D]]:
        """Every document, from L3, in the byte order of ids; pages of 200, each from a snapshot of its own.

        Args:
            after: begin behind this id.

        Raises:
            CorruptDocument, SchemaTooNew: naming the id; go on with `after` it.
        """
        if after is not None:
            check_id(after)
        while page := await self._reader.scan(self.kind.name, after=after, limit=SCAN_PAGE):
            for key, row in page:
                yield key.id, self._resolver.stored(key, row)
            after = page[-1][0].id

    def watch(self, identifier: str | None = None, *, after: str | None = None) -> Watch[D]:
        """Changes of a document, or of all of the kind: ``async for change in state.bots.watch("b1"):``.

        Whoever makes them, with whatever tool: each commit is told once, from this call on; those of one document in
        the order of their commits. While L3 cannot be asked the watch waits. A watch that may have missed changes is
        told so by a `RESET`: more than 1000 waited for it, L3 lost a part of its past, or the token is too old. It ends
        when it, or the store, is closed.

        Args:
            after: a token of a watch, also of another document or server: begin behind its change.

        Raises:
            InvalidKey, InvalidToken: the id, or the token.
            Overloaded: 10,000 watches are open on this server.
            StorageNotReady: the kind's table does not tell of its changes.
            Closed: the store is closed.
            CorruptDocument, SchemaTooNew: while iterating, for one change; iterate again to go on behind it.
        """
        self._resolver.check_open()
        return self.watching.open(Key(self.kind.name, "" if identifier is None else check_id(identifier)), after)

    async def accept(
        self, key: Key, operations: Sequence[Operation], default: D | None, durability: Durability, owner: int = 0
    ) -> Receipt:
        """Take a patch in; `owner`: see `WriteBehind.patch`."""
        self._resolver.check_open()
        if self.kind.append_only:
            raise AppendOnly(f"{key}: documents of kind {self.kind.name} are history and cannot be changed")
        if not operations:
            raise InvalidOperation("", f"{key}: a patch needs an operation, such as Set or Increment")
        ready = coalesced(self.kind.document, checked(self.kind.document, operations, self._writer.limits))

        async def read() -> Resolved:
            return await self._reader.read(key, Consistency.BOUNDED)

        receipt = await self.write_behind.patch(
            key,
            ready,
            default=default,
            durability=durability,
            read=read,
            settle_seen=partial(self._before_write, [key]) if self._before_write is not None else None,
            owner=owner,
        )
        self._seen(key)
        return receipt

    async def _settle(self, keys: Sequence[Key]) -> None:
        """Let what was accepted before, and seen, be decided before these rows are written."""
        if self._before_write is not None:
            await self._before_write(keys)
        await self.write_behind.settle(keys)

    def key(self, identifier: str) -> Key:
        """The key of a document; `InvalidKey`: the id is none."""
        return Key(self.kind.name, check_id(identifier))

    def _write(self, identifier: str, document: D, expected: int | None) -> Write:
        return checked_write(self.kind, identifier, document, expected, self._writer.limits)

    async def _update(self, key: Key, change: Callable[[D], D], default: D | None) -> D:
        conflict: Conflict | None = None
        for attempt in range(UPDATE_ATTEMPTS_MAX):
            if attempt:
                await self._writer.sleep(self._writer.backoff(attempt))
            await self._settle([key])
            resolved = await self._committed.read(key, Consistency.STRONG)
            current = default if resolved.value is MISSING else cast("D", resolved.value)
            if current is None:
                raise NotFound(f"{key} does not exist; give update a default to create it")
            changed = change(current)
            try:
                await self._writer.save(self.kind, [(self._write(key.id, changed, resolved.version), changed)])
            except Conflict as fault:
                conflict = fault
            else:
                return changed
        raise cast("Conflict", conflict)
