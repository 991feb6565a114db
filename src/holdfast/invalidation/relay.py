"""The relay: one server, elected, fences L2 after what the change feed brings; the others stand by (rule C3).

For each node of L2 it goes on from the node's own watermark, which lies beside the data and moves with it: after a
failover to a replica that was behind, or a restart from an old dump, watermark and data are old together, and the
relay repeats what the node lost. Fences and watermark are set in one step, and only if the watermark is still the
one last seen, so an old relay, or a connection that was silently led to another node, can do no harm.

A node whose watermark is gone, or of a past that cannot be continued, begins anew: its snapshot is taken first and its
generation drawn then, so that every entry which counts was read after the snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar
from uuid import UUID

import msgspec

from holdfast.background import Background
from holdfast.clock import Clock
from holdfast.errors import HoldfastError, TierError, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import (
    SHARED_SCOPE,
    Change,
    ChangeSource,
    Coherence,
    Cursor,
    FenceSink,
    FenceTarget,
    Poll,
    Snapshot,
    Watermark,
)

STANDBY_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 0.25
MARK_SECONDS: Final = 1.0
"""How old a watermark may grow while nothing changes."""
SILENT_SECONDS: Final = 1.0
"""How long a node that failed is left alone."""
TIDY_SECONDS: Final = 30.0
GAP_SECONDS: Final = 0.1
"""Between rounds. Readers judge L2 by what they know themselves, so that fences need no hurry, and a key that changes
often is fenced once a round."""
Known = TypeVar("Known")


class FollowsChanges(Protocol):
    """Who acts on changes once for all servers."""

    async def follow(self, changes: Sequence[Change]) -> None:
        """Act on changes; some may come again."""
        ...

    async def follow_anything(self) -> None:
        """Act as if anything had changed."""
        ...

    def forget(self) -> None:
        """Another server may have acted meanwhile."""
        ...


class Relay:
    """Fences L2 while this server is elected.

    Args:
        first: told of all changes before the nodes are; what it raises fails the round, which is repeated.

    Attributes:
        leading: whether it is.
        fenced: keys whose fences were sent; a key that is sent again counts again.
        restarts: nodes that had to begin anew.
    """

    def __init__(
        self, source: ChangeSource, sink: FenceSink, *, clock: Clock, first: FollowsChanges | None = None
    ) -> None:
        self._source = source
        self._sink = sink
        self._clock = clock
        self._first = first
        self._marks: dict[str, Watermark] = {}
        self._moved_at: dict[str, float] = {}
        self._silent: dict[str, tuple[float, Exception]] = {}  # nodes left alone: until when, and why
        self._tidied_at = clock.monotonic()
        self._wake = asyncio.Event()
        self._loop = Background(self._run, "relay")
        self.leading = False
        self._fault: Exception | None = None
        self.fenced = 0
        self.restarts = 0

    @property
    def fault(self) -> Exception | None:
        """Why the last round failed, or else why a node is left alone; None: neither."""
        now = self._clock.monotonic()
        return self._fault or next((fault for until, fault in self._silent.values() if until > now), None)

    def start(self) -> None:
        """Stand by, or lead, in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End, and let another server lead; may be called twice."""
        await self._loop.stop()
        self.leading = False
        await self._source.close()

    def wake(self) -> None:
        """Something changed: do not wait for the next round. A stand-by has no use for it."""
        if self.leading:
            self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
                self._fault = None
            except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault; `fault` shows it
                self._note_fault(fault)
            await self._pause(IDLE_SECONDS if self.leading and self._fault is None else STANDBY_SECONDS)

    def _note_fault(self, fault: Exception) -> None:
        self._fault = fault
        if not isinstance(fault, HoldfastError):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "holdfast: a round of the relay failed", "exception": fault}
            )

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(GAP_SECONDS)
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    async def _round(self) -> None:
        """Bring every node that answers up to now."""
        led = self.leading
        try:
            self.leading = await self._source.lead()
        except BaseException:
            self.leading = False  # another server may lead now
            raise
        if not self.leading:
            return
        if not led:
            self._marks.clear()  # another server may have led meanwhile
            if self._first is not None:
                self._first.forget()
        targets = await self._sink.targets()
        awake = [target for target in targets if not self._is_silent(target)]
        await asyncio.gather(*(self._learn(target) for target in awake if target.name not in self._marks))
        await self._begin([target for target in awake if not self._continues(target) and not self._is_silent(target)])
        for start, group in self._by_start(awake):
            await self._bring(start, group)
        names = {target.name for target in targets}
        self._marks, self._moved_at, self._silent = (
            _only(names, self._marks),
            _only(names, self._moved_at),
            _only(names, self._silent),
        )
        await self._tidy()

    async def _learn(self, target: FenceTarget) -> None:
        """Read where a node stands."""
        try:
            mark = await self._sink.watermark(target)
        except TierError as fault:
            self._leave_alone(target, fault)
        else:
            if mark is not None:
                self._marks[target.name] = mark

    async def _begin(self, targets: Sequence[FenceTarget]) -> None:
        """Give nodes a new generation, and a snapshot that is older than it."""
        if not targets:
            return
        cursor = (await self._source.poll(None)).cursor
        coherence = await self._source.raise_generation(SHARED_SCOPE)
        if coherence.incarnation != cursor.coherence.incarnation:
            raise TierUnavailable("L3: it became another one while nodes of L2 began anew")
        await self._source.poll(cursor, announce=True)  # readers trust the nodes once they know the generation
        after = beginning(cursor, coherence)
        self.restarts += len(targets)
        await asyncio.gather(*(self._advance(target, after, {}) for target in targets))

    def _continues(self, target: FenceTarget) -> bool:
        """Whether a node's watermark speaks for all that it serves.

        One that was given slots begins anew: what their older owner was told is not known, and if they came with the
        slot of that node's watermark, the watermark itself is of the other node.
        """
        mark = self._marks.get(target.name)
        return mark is not None and all(
            any(first <= low and high <= last for first, last in mark.slots) for low, high in target.slots
        )

    def _by_start(self, targets: Sequence[FenceTarget]) -> list[tuple[Cursor, list[FenceTarget]]]:
        """The nodes whose watermarks are known, by the cursor from which each is to be told."""
        groups: dict[tuple[bytes, Snapshot], tuple[Cursor, list[FenceTarget]]] = {}
        for target in targets:
            if (mark := self._marks.get(target.name)) is not None:
                cursor = Cursor(Coherence(UUID(bytes=mark.incarnation)), mark.snapshot, mark.anchor)
                groups.setdefault((mark.incarnation, mark.snapshot), (cursor, []))[1].append(target)
        return list(groups.values())

    async def _bring(self, start: Cursor, targets: Sequence[FenceTarget]) -> None:
        """Tell nodes everything since a cursor."""
        poll = await self._source.poll(start)
        if poll.reset is not None or start.life != poll.cursor.life:
            if self._first is not None:
                await (self._first.follow(poll.changes) if poll.reset is None else self._first.follow_anything())
            # A past that cannot be continued; or L3 was started anew, and L2 may hold what was read at the end of
            # its last
            # life and is not in these files.
            await self._begin(targets)
            return
        if self._first is not None:
            await self._first.follow(poll.changes)
        kinds, versions = _gathered(poll.changes)
        known = poll.cursor.coherence.highest
        for kind in kinds:
            known = (await self._source.raise_generation(f"{SHARED_SCOPE}:{kind}")).highest
        await asyncio.gather(
            *(self._follow(target, poll, known, versions) for target in targets if self._wants(target, poll))
        )
        self.fenced += len(versions)

    def _wants(self, target: FenceTarget, poll: Poll) -> bool:
        mark = self._marks[target.name]
        if poll.changes or mark.slots != target.slots or mark.anchor[:1] != poll.cursor.life:
            return True
        # Also while nothing at all changes: so a node that lost everything is found out, and L2 is of use again.
        return self._moved_at.get(target.name, 0.0) + MARK_SECONDS <= self._clock.monotonic()

    async def _follow(self, target: FenceTarget, poll: Poll, known: int, versions: Mapping[Key, int]) -> None:
        mark, cursor = self._marks[target.name], poll.cursor
        after = Watermark(mark.incarnation, cursor.snapshot, mark.generation, known, (), cursor.anchor)
        await self._advance(target, after, versions)

    async def _advance(self, target: FenceTarget, after: Watermark, versions: Mapping[Key, int]) -> None:
        """Fence and move one node's watermark; what it is afterwards is read anew if that is in doubt."""
        after = msgspec.structs.replace(after, slots=target.slots)
        before = self._marks.pop(target.name, None)
        try:
            moved = await self._sink.advance(target, before, after, versions)
        except TierError as fault:
            self._leave_alone(target, fault)
            return
        if moved:
            self._marks[target.name] = after
            self._moved_at[target.name] = self._clock.monotonic()

    def _leave_alone(self, target: FenceTarget, fault: Exception) -> None:
        self._silent[target.name] = (self._clock.monotonic() + SILENT_SECONDS, fault)

    def _is_silent(self, target: FenceTarget) -> bool:
        return target.name in self._silent and self._silent[target.name][0] > self._clock.monotonic()

    async def _tidy(self) -> None:
        if self._tidied_at + TIDY_SECONDS <= self._clock.monotonic():
            self._tidied_at = self._clock.monotonic()
            await self._source.tidy()


def beginning(cursor: Cursor, coherence: Coherence) -> Watermark:
    """The watermark of a node that begins anew at a cursor, with the generation drawn for it."""
    generation = coherence.generations[SHARED_SCOPE]
    return Watermark(coherence.incarnation.bytes, cursor.snapshot, generation, coherence.highest, (), cursor.anchor)


def _only(names: Container[str], known: dict[str, Known]) -> dict[str, Known]:
    """What is known of these nodes; addresses may change for ever."""
    return {name: each for name, each in known.items() if name in names}


def _gathered(changes: Iterable[Change]) -> tuple[set[str], dict[Key, int]]:
    """The kinds of which any number of keys changed, and the highest version of every other key."""
    kinds: set[str] = set()
    versions: dict[Key, int] = {}
    for change in changes:
        key = change.key
        if change.whole_kind:
            kinds.add(key.kind)
        elif change.version > versions.get(key, 0):
            versions[key] = change.version
    return kinds, versions
