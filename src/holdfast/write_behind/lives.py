"""The lives of one server's write-behind: each has a journal, and ends when the server does or is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from holdfast.clock import Clock
from holdfast.entry import Durability
from holdfast.errors import Closed, Refused, TierError, TierUnavailable, Undecided
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import JournalBase, JournalState, JournalStreams, Row, Storage
from holdfast.write_behind import renewal
from holdfast.write_behind.buffer import Buffer
from holdfast.write_behind.entries import encode_entry
from holdfast.write_behind.flusher import FIRST_EPOCH, Flusher
from holdfast.write_behind.heartbeat import Heartbeat
from holdfast.write_behind.journal import JournalWriter
from holdfast.write_behind.overlay import Overlay
from holdfast.write_behind.receipts import PendingWrite
from holdfast.write_behind.refusals import OnRefused

logger = logging.getLogger("holdfast")

MOVES_MAX: Final = 64
"""Former journals that are known; of older ones a scope takes everything for decided."""
ROWS_MAX: Final = 1000
"""Read at a time."""
LOOK_SECONDS: Final = 0.25
"""Between two looks at a journal that another server drains."""


@dataclass(frozen=True, slots=True)
class Life:
    """One journal, and what works on it."""

    journal: JournalWriter
    flusher: Flusher
    heartbeat: Heartbeat

    @property
    def name(self) -> str:
        """Of its journal."""
        return self.journal.journal

    def start(self) -> None:
        """Begin to work in the background."""
        self.heartbeat.start()
        self.flusher.start()
        self.journal.start()

    async def stop(self) -> None:
        """End what works; may be called twice."""
        await self.journal.stop()
        await self.flusher.stop()
        await self.heartbeat.stop()


class Lives:
    """Begins this server's lives, and ends them; at most one accepts writes.

    Args:
        make_life: what works on a new journal of that name; it says here when it is replaced.
        server: this one, in words.
        doubt: tells the caches that rows may have changed.
        on_refused: told of writes that another server refused.
        commit_seconds: how long a caller waits for a life.
        close_seconds: how long `stop` waits for L3 to take what was accepted.

    Attributes:
        current: the one whose journal takes writes now; None: there is none yet, or it was replaced.
    """

    def __init__(
        self,
        *,
        base: JournalBase,
        streams: JournalStreams,
        l3: Storage,
        kinds: Mapping[str, Kind[Any]],
        buffer: Buffer,
        overlay: Overlay,
        make_life: Callable[[str], Life],
        new_id: Callable[[], str],
        server: str,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        doubt: Callable[[Iterable[Key]], None],
        on_refused: OnRefused,
        commit_seconds: float,
        close_seconds: float,
    ) -> None:
        self.current: Life | None = None
        self._base = base
        self._streams = streams
        self._l3 = l3
        self._kinds = kinds
        self._buffer = buffer
        self._overlay = overlay
        self._make_life = make_life
        self._new_id = new_id
        self._server = server
        self._clock = clock
        self._sleep = sleep
        self._doubt = doubt
        self._on_refused = on_refused
        self._close_seconds = close_seconds
        self._commit_seconds = commit_seconds
        self._former: Life | None = None  # one that was replaced, until it is known what became of its writes
        self._changing: asyncio.Task[None] | None = None
        self._closed = False
        self._moved: dict[str, tuple[str, int]] = {}  # former journals, and how far their writes go in the next one

    @property
    def journal(self) -> str | None:
        """The name of the journal that takes writes now."""
        return self.current.name if self.current is not None else None

    def position(self, key: Key) -> tuple[str, int] | None:
        """The journal and number of the last undecided write of a key; None: there is none."""
        queue, life = self._buffer.queues.get(key), self.current or self._former
        if queue is None or life is None:
            return None
        return life.name, queue.writes[-1].entry.seq

    def where(self, journal: str, through: int) -> tuple[str, int] | None:
        """Where this server's undecided writes up to a place in a journal of its own are now; None: all are decided."""
        while journal in self._moved:
            journal, through = self._moved[journal]
        is_known = self.current is not None and journal == self.current.name
        if is_known and any(write.entry.seq <= through for write in self._buffer):
            return journal, through
        is_in_doubt = self._former is not None and self._former.name == journal
        return (journal, through) if is_in_doubt else None

    async def living(self) -> Life:
        """The current life, begun if there is none: a server that writes nothing keeps no journal.

        Raises:
            TierError: its journal could not be entered in L3, or what became of the former one is not known in time.
            Closed: the server has ended.
        """
        deadline = self._clock.monotonic() + self._commit_seconds
        while self.current is None:
            if self._closed:
                raise Closed("the store is closed")
            change = self._changing or self._change(self._begin())
            # Others wait for it too: it is not this caller's to cancel.
            await asyncio.wait([change], timeout=max(0.0, deadline - self._clock.monotonic()))
            if not change.done():
                raise TierUnavailable("write-behind: the journal is not begun, or not taken over; nothing was accepted")
            if not change.cancelled():
                change.result()
        return self.current

    @property
    def is_sure(self) -> bool:
        """Whether nobody else can have decided what is undecided here (rule W9); if not, `make_sure`."""
        return self.current is None or self._clock.monotonic() < self.current.heartbeat.sure_until

    async def make_sure(self) -> None:
        """Ask L3 whether the journal is still this server's; if not, what becomes of its writes is found out.

        Raises:
            TierError: L3 did not answer.
        """
        while not self.is_sure and self.current is not None:
            await self.current.heartbeat.beat()

    async def find_out(self, keys: Sequence[Key]) -> None:
        """Ask L3 which undecided writes of some keys are decided: whoever takes a document over decides what it finds.

        Those are in doubt from then on, until the next flush, which is told what became of them.

        Raises:
            TierError: L3 did not answer.
        """
        life = self.current
        if life is None:
            return  # it was replaced, and all of them are in doubt
        rows, marks = await self._base.rows_and_marks(keys, [life.name])
        if self.current is not life or life.name not in marks:
            return
        for key in keys:
            row = rows.get(key)
            if found := self._overlay.found(key, 0 if row is None else row.version, marks[life.name]):
                self._buffer.queues[key].set_doubt(found)
                self._overlay.changed(key)
        self.hurry(key for key in keys if key in self._buffer.queues and self._buffer.queues[key].doubt)

    def hurry(self, keys: Iterable[Key]) -> None:
        """Bring these keys' writes to L3 at once."""
        self._buffer.hurry(keys, self._clock.monotonic())
        if self.current is not None:
            self.current.flusher.wake()

    def hurry_unsecured(self, writes: Iterable[PendingWrite]) -> None:
        """The journal cannot take these now; those that are waited for are committed at once (rule W3)."""
        self.hurry(write.key for write in writes if write.awaits(Durability.JOURNALED))

    def replaced(self, life: Life) -> None:
        """Another server has this life's journal."""
        if self.current is life:
            self.current, self._former = None, life
            self._set_doubt()  # now: what is read next may have been written by the other one
            self._change(self._renew(life))
        elif self._closed:
            self._let_go(life)  # nobody here can bring them to L3 any more

    async def stop(self) -> None:
        """Accept nothing more, bring what was accepted to L3, and leave what is left to other servers.

        May be called twice.
        """
        self._closed = True
        if self._changing is not None:
            self._changing.cancel()
            await asyncio.wait([self._changing])
        life, self.current = self.current, None
        if life is not None:
            self._buffer.hurry(list(self._buffer.queues), self._clock.monotonic())
            life.flusher.wake()
            await self._flushed()
            await life.journal.drain()
            await life.stop()
            await self._tell_end(life.name)
        self._let_go(life)

    def _change(self, change: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._changing = asyncio.get_running_loop().create_task(change, name="holdfast journal change")
        task.add_done_callback(self._changed)
        return task

    def _changed(self, task: asyncio.Task[None]) -> None:
        self._changing = None
        if not task.cancelled() and (fault := task.exception()) is not None and not isinstance(fault, TierError):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "holdfast: a journal could not be begun", "exception": fault, "task": task}
            )

    async def _begin(self) -> None:
        life, began = self._make_life(self._new_id()), self._clock.monotonic()
        await self._base.register(life.name, self._server)
        life.heartbeat.beaten(began)
        self.current = life
        life.start()

    async def _renew(self, life: Life) -> None:
        """Go on in a new journal, once it is known what became of the writes of the former one; it may take long."""
        logger.warning("write-behind: journal %s was taken over by another server", life.name)
        while self.current is None:
            try:
                await self._renewed(life)
            except Exception as fault:  # noqa: BLE001 - without it nothing is ever written again
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: the renewal of a journal failed; it is tried again", "exception": fault}
                )
                await self._pause()

    async def _renewed(self, life: Life) -> None:
        """Find out what became of the writes of a life that was replaced, and go on with the others; see `renewal`."""
        await life.stop()
        self._set_doubt()  # a flush that was under way may have ended it
        keys = list(self._buffer.queues)
        record = await renewal.drained(self._base, life.name, self._pause)
        rows = await self._rows(keys)
        new = self._make_life(self._new_id())
        while not await self._registered(new.name):
            await self._pause()
        # From here on nothing is awaited: nobody sees a write of the old journal that is in none.
        writes: list[PendingWrite] = sorted(self._buffer, key=lambda write: write.entry.seq)
        again = renewal.settle(life.name, writes, record, rows, self._on_refused)
        left = set(map(id, again))
        for key in keys:
            self._buffer.decided(key, [write for write in self._buffer.queues[key].writes if id(write) not in left])
            self._buffer.certain(key)
            self._overlay.changed(key)
        self._doubt(keys)
        # All are made before any is changed: a write with its new number must not be judged by the old marks.
        entries = [msgspec.structs.replace(write.entry, seq=seq) for seq, write in enumerate(again, new.journal.number)]
        made = [(entry, encode_entry(entry, self._kinds)) for entry in entries]
        for write, (entry, data) in zip(again, made, strict=True):
            row = rows.get(write.key)
            write.enter_again(entry, data, 0 if row is None else row.version)
            new.journal.add(write)
        self._moved[life.name] = (new.name, again[-1].entry.seq if again else 0)
        while len(self._moved) > MOVES_MAX:
            del self._moved[next(iter(self._moved))]
        self.current, self._former = new, None
        new.start()
        logger.warning("write-behind: %d writes go on in journal %s", len(again), new.name)

    def _set_doubt(self) -> None:
        """Whether the undecided writes are in effect is not known here."""
        for key, queue in self._buffer.queues.items():
            queue.set_doubt(queue.writes)
            self._overlay.changed(key)

    async def _registered(self, journal: str) -> bool:
        try:
            await self._base.register(journal, self._server)
        except TierError as fault:
            logger.debug("registering journal %s: %s", journal, fault)
            return False
        return True

    async def _rows(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        rows: dict[Key, Row] = {}
        left = list(keys)
        while left:
            try:
                rows |= (await self._l3.load(left[:ROWS_MAX])).rows
                del left[:ROWS_MAX]
            except TierError as fault:
                logger.debug("reading what another server wrote: %s", fault)
                await self._pause()
        return rows

    async def _pause(self) -> None:
        await self._sleep(LOOK_SECONDS)

    async def _flushed(self) -> None:
        """Wait until everything is decided, for a time at most."""
        deadline = self._clock.monotonic() + self._close_seconds
        for write in list(self._buffer):
            left = max(0.0, deadline - self._clock.monotonic())
            with contextlib.suppress(Refused, Undecided, Closed):
                await write.reached(Durability.COMMITTED, left)

    async def _tell_end(self, journal: str) -> None:
        try:
            if len(self._buffer):
                await self._base.enter_state(journal, FIRST_EPOCH, JournalState.RELEASED)
            else:
                await self._streams.drop(journal)
                await self._base.forget(journal, FIRST_EPOCH)
        except TierError as fault:  # others find out by its beat
            logger.warning("write-behind: the end of journal %s could not be told: %s", journal, fault)

    def _let_go(self, life: Life | None) -> None:
        left = [write for write in self._buffer if not write.is_over]
        if not left:
            return
        kept = sum(write.in_journal for write in left)
        name = life.name if life is not None else "that another server has taken over"
        logger.warning("write-behind: %d writes stay in journal %s, for the next server that looks", kept, name)
        if kept < len(left):
            logger.error("write-behind: %d writes were in this process only, and are lost with it", len(left) - kept)
        for write in left:
            write.left(Closed(f"{write.key}: the store was closed before this write was decided"))
