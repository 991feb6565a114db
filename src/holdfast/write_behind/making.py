"""Puts write-behind together over the tiers of one server."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.clock import Clock
from holdfast.kinds import Kind
from holdfast.metrics.counters import WriteBehindCounters
from holdfast.protocols import JournalBase, JournalStreams, Storage
from holdfast.settings import Settings
from holdfast.tiers.l1_local import Shelf
from holdfast.write_behind.accepting import WriteBehind
from holdfast.write_behind.buffer import Buffer, BufferRules
from holdfast.write_behind.flusher import FIRST_EPOCH, Flusher
from holdfast.write_behind.flushing import Flushing
from holdfast.write_behind.heartbeat import Heartbeat
from holdfast.write_behind.journal import JournalWriter
from holdfast.write_behind.lives import Life, Lives
from holdfast.write_behind.overlay import Overlay
from holdfast.write_behind.publishing import FlushPublisher
from holdfast.write_behind.takeover import Takeover
from holdfast.writing import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What write-behind stands on; see `Given` for what is not said here.

    Attributes:
        base, streams: what L3 knows of journals, and journals in L2.
        shelves: L1's, by kind.
        ready: lets L1 hear of changes; says whether it answers for a kind.
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


def buffer_rules(settings: Settings) -> BufferRules:
    """When writes are due, and how many there may be."""
    return BufferRules(
        quiet_seconds=settings.write_behind_quiet_seconds,
        age_seconds=settings.write_behind_age_seconds,
        writes_max=settings.write_behind_writes_max,
        bytes_max=settings.write_behind_bytes_max,
        crowded_seconds=settings.write_behind_crowded_seconds,
    )


def make(ground: Ground) -> tuple[WriteBehind, Takeover]:
    """What accepts this server's writes, and what takes over from dead servers."""
    settings, clock, limits = ground.settings, ground.clock, ground.writer.limits
    buffer = Buffer(buffer_rules(settings))
    overlay = Overlay(buffer, {kind: shelf.laid for kind, shelf in ground.shelves.items()})
    flushing, publisher = Flushing(ground.base, ground.kinds, limits), FlushPublisher(ground.writer)

    def make_life(journal: str) -> Life:
        """What works on a journal; each part may find out that it was replaced, and the first is listened to."""

        def replaced() -> None:
            lives.replaced(life)

        writer = JournalWriter(
            ground.streams,
            journal,
            replicas_min=1 if settings.journal_replicas is None else settings.journal_replicas,
            clock=clock,
            sleep=ground.sleep,
            on_unsecured=lives.hurry_unsecured,
            on_sealed=replaced,
        )
        flusher = Flusher(
            flushing,
            buffer,
            overlay,
            journal=journal,
            clock=clock,
            sleep=ground.sleep,
            random_=ground.random_,
            counters=ground.counters,
            caches=publisher,
            on_decided=writer.decided,
            on_replaced=replaced,
        )
        heartbeat = Heartbeat(
            ground.base,
            journal,
            FIRST_EPOCH,
            takeover_seconds=settings.write_behind_takeover_seconds,
            clock=clock,
            sleep=ground.sleep,
            on_replaced=replaced,
        )
        life = Life(writer, flusher, heartbeat)
        return life

    lives = Lives(
        base=ground.base,
        streams=ground.streams,
        l3=ground.l3,
        kinds=ground.kinds,
        buffer=buffer,
        overlay=overlay,
        make_life=make_life,
        new_id=ground.new_id,
        server=ground.server,
        clock=clock,
        sleep=ground.sleep,
        doubt=publisher.doubt,
        close_seconds=settings.write_behind_close_seconds,
    )
    write_behind = WriteBehind(
        lives=lives,
        buffer=buffer,
        overlay=overlay,
        kinds=ground.kinds,
        shelves=ground.shelves,
        untrusted=ground.untrusted,
        ready=ground.ready,
        clock=clock,
        wall=ground.wall,
        counters=ground.counters,
        commit_seconds=settings.write_behind_commit_seconds,
    )
    takeover = Takeover(
        ground.base,
        ground.streams,
        flushing,
        kinds=ground.kinds,
        limits=limits,
        server=ground.server,
        takeover_seconds=settings.write_behind_takeover_seconds,
        clock=clock,
        sleep=ground.sleep,
        random_=ground.random_,
        counters=ground.counters,
        own=lambda: lives.journal,
        tell=publisher.tell,
    )
    return write_behind, takeover
