"""Puts write-behind together over the tiers of one server."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.clock import Clock
from holdfast.invalidation.topics import WRITE_REFUSED
from holdfast.kinds import Kind
from holdfast.metrics.counters import WriteBehindCounters
from holdfast.protocols import FaultSink, JournalBase, JournalStreams, Storage
from holdfast.recovery.pacing import RetryBudget
from holdfast.row_decoding import RowDecoder
from holdfast.settings import Settings
from holdfast.tiers.l1_local import Shelf
from holdfast.write_behind.accepting import WriteBehind
from holdfast.write_behind.buffer import Buffer, BufferRules
from holdfast.write_behind.dead_writes import DeadWrites
from holdfast.write_behind.flusher import FIRST_EPOCH, Flusher
from holdfast.write_behind.flushing import Flushing
from holdfast.write_behind.handing_over import HandingOver
from holdfast.write_behind.heartbeat import Heartbeat
from holdfast.write_behind.journal import JournalWriter
from holdfast.write_behind.lives import Life, Lives
from holdfast.write_behind.others_entries import OthersEntries
from holdfast.write_behind.overlay import Overlay
from holdfast.write_behind.publishing import FlushPublisher
from holdfast.write_behind.refusals import announcing
from holdfast.write_behind.takeover import Takeover
from holdfast.writing import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What write-behind stands on; see `Given` for what is not said here.

    Attributes:
        base, streams: what L3 knows of journals, and journals in L2.
        shelves: L1's, by kind.
        ready: lets L1 hear of changes; says whether it answers for a kind.
        announce: gives an event to this server's own subscribers; must neither wait nor raise.
        faults: is told of tiers that have no room.
        retries: how many calls of L3 may be made again.
    """

    settings: Settings
    kinds: Mapping[str, Kind[Any]]
    base: JournalBase
    streams: JournalStreams
    l3: Storage
    shelves: Mapping[str, Shelf]
    untrusted: Container[str]
    ready: Callable[[str], Awaitable[bool]]
    writer: Writer
    new_id: Callable[[], str]
    server: str
    clock: Clock
    wall: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]]
    random_: random.Random
    counters: WriteBehindCounters
    announce: Callable[[str, Any], None]
    faults: FaultSink
    retries: RetryBudget


def buffer_rules(settings: Settings) -> BufferRules:
    """When writes are due, and how many there may be."""
    return BufferRules(
        quiet_seconds=settings.write_behind_quiet_seconds,
        age_seconds=settings.write_behind_age_seconds,
        writes_max=settings.write_behind_writes_max,
        bytes_max=settings.write_behind_bytes_max,
        crowded_seconds=settings.write_behind_crowded_seconds,
    )


class Making:
    """Makes the parts of one server's write-behind, which share a buffer and an overlay."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._limits = ground.writer.limits
        self._buffer = Buffer(buffer_rules(ground.settings))
        laid = {kind: shelf.laid for kind, shelf in ground.shelves.items()}
        owned = {name: kind.owned_by for name, kind in ground.kinds.items() if kind.owned_by is not None}
        handed_over = {*owned, *(name for name, kind in ground.kinds.items() if kind.handed_over)}
        self._overlay = Overlay(self._buffer, laid, owned, handed_over)
        self._stored = RowDecoder(ground.kinds, ground.faults).stored
        self._flushing = Flushing(ground.base, ground.kinds, self._limits, self._stored)
        self._publisher = FlushPublisher(ground.writer)
        self._on_refused = announcing(ground.announce, WRITE_REFUSED)
        self._others_entries = OthersEntries(
            self._flushing, ground.counters, publisher=self._publisher, on_refused=self._on_refused
        )
        self._lives = self._make_lives()

    def write_behind(self) -> WriteBehind:
        """What accepts this server's writes."""
        ground = self._ground
        return WriteBehind(
            lives=self._lives,
            buffer=self._buffer,
            overlay=self._overlay,
            kinds=ground.kinds,
            shelves=ground.shelves,
            untrusted=ground.untrusted,
            ready=ground.ready,
            clock=ground.clock,
            wall=ground.wall,
            counters=ground.counters,
            commit_seconds=ground.settings.write_behind_commit_seconds,
            check_writes=ground.writer.check_writes,
        )

    def takeover(self) -> Takeover:
        """What takes over from dead servers."""
        ground = self._ground
        return Takeover(
            ground.base,
            ground.streams,
            self._flushing,
            self._others_entries,
            kinds=ground.kinds,
            limits=self._limits,
            server=ground.server,
            takeover_seconds=ground.settings.write_behind_takeover_seconds,
            clock=ground.clock,
            sleep=ground.sleep,
            random_=ground.random_,
            counters=ground.counters,
            own=lambda: self._lives.journal,
        )

    def handing_over(self) -> HandingOver:
        """What decides a document's writes before it is taken over."""
        ground = self._ground
        return HandingOver(
            ground.base,
            ground.streams,
            self._others_entries,
            kinds=ground.kinds,
            limits=self._limits,
            sleep=ground.sleep,
        )

    def dead_writes(self, write_behind: WriteBehind) -> DeadWrites:
        """What knows the writes that were given up."""
        ground = self._ground
        return DeadWrites(
            ground.base,
            ground.l3,
            ground.kinds,
            self._limits,
            stored=self._stored,
            settle=write_behind.settle,
            tell=self._publisher.tell,
            doubt=self._publisher.doubt,
            actor=ground.server,
        )

    def _make_lives(self) -> Lives:
        ground = self._ground
        return Lives(
            base=ground.base,
            streams=ground.streams,
            l3=ground.l3,
            kinds=ground.kinds,
            buffer=self._buffer,
            overlay=self._overlay,
            make_life=self._make_life,
            new_id=ground.new_id,
            server=ground.server,
            clock=ground.clock,
            sleep=ground.sleep,
            doubt=self._publisher.doubt,
            on_refused=self._on_refused,
            commit_seconds=ground.settings.write_behind_commit_seconds,
            close_seconds=ground.settings.write_behind_close_seconds,
        )

    def _make_life(self, journal: str) -> Life:
        """What works on a journal; each part may find out that it was replaced, and the first is listened to."""
        ground = self._ground

        def replaced() -> None:
            self._lives.replaced(life)

        replicas = ground.settings.journal_replicas
        writer = JournalWriter(
            ground.streams,
            journal,
            replicas_min=1 if replicas is None else replicas,
            clock=ground.clock,
            sleep=ground.sleep,
            on_unsecured=self._lives.hurry_unsecured,
            on_sealed=replaced,
            faults=ground.faults,
        )
        heartbeat = Heartbeat(
            ground.base,
            journal,
            FIRST_EPOCH,
            takeover_seconds=ground.settings.write_behind_takeover_seconds,
            clock=ground.clock,
            sleep=ground.sleep,
            on_replaced=replaced,
        )
        life = Life(writer, self._make_flusher(journal, writer, replaced), heartbeat)
        return life

    def _make_flusher(self, journal: str, writer: JournalWriter, replaced: Callable[[], None]) -> Flusher:
        ground = self._ground
        return Flusher(
            self._flushing,
            self._buffer,
            self._overlay,
            journal=journal,
            clock=ground.clock,
            sleep=ground.sleep,
            random_=ground.random_,
            counters=ground.counters,
            retries=ground.retries,
            caches=self._publisher,
            on_decided=writer.decided,
            on_refused=self._on_refused,
            on_replaced=replaced,
            faults=ground.faults,
        )
