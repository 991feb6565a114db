"""The event bus: `publish`, `subscribe`, and what this server runs for them.

A broadcast subscription gets every event of its pattern, on every server. Those of a group, which are told by its name
and pattern, share them: each event is handled by one of them. Events with no promise (fire-and-forget) go to whoever
listens now; reliable ones are kept until every reader is done with them: all groups, and the broadcast subscriptions of
each running server.

Limits: of one partition and priority at most `event_backlog_max` events that some reader has yet to settle; then
`publish` raises `Overloaded`. A group that nobody reads for is forgotten, with its position, after
`event_group_idle_seconds`; a server that ended without saying so, after five minutes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final

import msgspec

from holdfast.audit.log import AuditLog
from holdfast.clock import Clock
from holdfast.documents.frozen import freeze_within
from holdfast.errors import Closed, CorruptDocument, InvalidEvent, SchemaTooNew, TierError, WrongEventLoop
from holdfast.events import (
    PRIORITIES,
    Delivery,
    Event,
    EventLimits,
    Metadata,
    Priority,
    check_key,
    check_member,
    decode,
    encode,
    partition_of,
)
from holdfast.invalidation.dead_letters import DeadLetters
from holdfast.invalidation.event_queue import Waiting
from holdfast.invalidation.event_readers import Readers
from holdfast.invalidation.event_writer import EventWriter
from holdfast.invalidation.subscription import Handler, HandlerRules, Subscription
from holdfast.invalidation.topics import FEED_TOPICS, STATE_RESET, check_group, check_topic, compile_pattern
from holdfast.protocols import EventTransport
from holdfast.settings import Settings

FROM_A_THREAD: Final = "use asyncio.run_coroutine_threadsafe with its loop there"
SERVER_IDLE_SECONDS: Final = 300.0
"""After which a server that no longer reads is taken for dead, and what was kept for its broadcasts goes."""


class BusRules(msgspec.Struct, frozen=True):
    """The limits of a bus.

    Attributes:
        publish_seconds: how long a reliable event may take to be taken by L2.
        lease_seconds: after which the partitions of a dead server are worked by another.
        group_idle_seconds: after which a group that nobody reads for is forgotten.
    """

    limits: EventLimits = EventLimits()
    handlers: HandlerRules = HandlerRules()
    publish_seconds: float = 15.0
    lease_seconds: float = 6.0
    group_idle_seconds: float = 86_400.0


def bus_rules(settings: Settings, masked: Callable[[str], str] = str) -> BusRules:
    """The limits of the event bus.

    Args:
        masked: takes secrets out of what handlers have raised.
    """
    return BusRules(
        limits=EventLimits(settings.event_bytes_max, settings.document_depth_max),
        handlers=HandlerRules(
            timeout_seconds=settings.event_handler_timeout_seconds,
            attempts_max=settings.event_attempts_max,
            queue_max=settings.event_queue_max,
            masked=masked,
        ),
        publish_seconds=settings.event_publish_timeout_seconds,
        lease_seconds=settings.event_lease_seconds,
        group_idle_seconds=settings.event_group_idle_seconds,
    )


class EventBus:
    """The bus of one server.

    Args:
        server: names this life of this server; unique.
        wall: the time of day, seconds since 1970.
        new_id: a unique id.
        sleep: pauses, seconds.
        audit: where it is recorded what becomes of dead letters.

    Attributes:
        subscriptions: those that are open.
        dead_letters: reliable events that were given up, by whichever server.
        unsent: events without promise that L2 did not take.
        unreadable: events without promise that could not be read.
    """

    def __init__(
        self,
        transport: EventTransport,
        *,
        server: str,
        rules: BusRules,
        clock: Clock,
        wall: Callable[[], float],
        new_id: Callable[[], str],
        sleep: Callable[[float], Awaitable[object]],
        audit: AuditLog,
    ) -> None:
        self.subscriptions: list[Subscription] = []
        self.dead_letters = DeadLetters(transport, rules.limits, audit)
        self.unsent = 0
        self.unreadable = 0
        self._transport = transport
        self._server = server
        self._rules = rules
        self._clock = clock
        self._wall, self._new_id, self._sleep = wall, new_id, sleep
        self._readers: dict[Subscription, Readers] = {}
        self._ending: dict[Subscription, asyncio.Task[None]] = {}
        self._broadcast: Readers | None = None
        self._numbers = count(1)
        self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writers = [
            EventWriter(transport, partition, patience_seconds=rules.publish_seconds, clock=clock, sleep=sleep)
            for partition in range(transport.partitions)
        ]

    async def start(self) -> None:
        """Begin to listen; L2 may be away."""
        if not self._running:
            self._running = True
            self._loop = asyncio.get_running_loop()
            await self._transport.start(self._hear, self._hint)

    async def stop(self) -> None:
        """Close all subscriptions, and publish no more; may be called twice."""
        self._running = False
        await asyncio.gather(*(self._leave(each) for each in list(self._readers)))
        await asyncio.gather(*(writer.stop() for writer in self._writers))
        await self._transport.close()

    async def publish(
        self,
        topic: str,
        data: Any = None,
        *,
        delivery: Delivery = Delivery.FIRE_AND_FORGET,
        priority: Priority = Priority.MEDIUM,
        key: str | None = None,
    ) -> Event:
        """Publish an event, and return it.

        Args:
            data: plain JSON values.
            delivery: with `RELIABLE` this returns once the event survives the death of any one server process.
            key: reliable events of one key and priority are handled in the order in which they were published.

        Raises:
            InvalidTopic: the topic breaks the rules, or the store alone tells it.
            InvalidEvent: data or key cannot be published, or there is no such priority or delivery.
            Overloaded: too many reliable events are waiting already; it was not published.
            TierUnavailable: L2 did not take a reliable event in time; it was not published.
            OutcomeUnknown: the same, but it may have been. An event without promise is never refused so.
        """
        self._check_open()
        metadata = Metadata(
            priority=check_member(Priority, priority, "priority"),
            delivery=check_member(Delivery, delivery, "delivery"),
            key=check_key(key),
        )
        now = dt.datetime.fromtimestamp(self._wall(), dt.UTC)
        event = Event(self._new_id(), check_topic(topic), now, self._server, data, metadata)
        body = encode(event, self._rules.limits)
        partition = partition_of(key or event.id, self._transport.partitions)
        if metadata.delivery is Delivery.RELIABLE:
            await self._writers[partition].append(PRIORITIES.index(metadata.priority), body)
        else:
            try:
                await self._transport.send(partition, body)
            except TierError:
                self.unsent += 1
        return event

    def subscribe(self, pattern: str, handler: Handler, *, group: str | None = None) -> Subscription:
        """Call a handler with the events of a pattern, until the subscription is closed.

        Args:
            pattern: `*` stands for one segment of a topic, `**` at the end for any number.
            handler: an async function, or one that runs in a thread; takes an `Event`. From the thread it publishes
                by ``asyncio.run_coroutine_threadsafe(state.publish(...), loop)``, with the loop of the store.
            group: of all servers' subscriptions with this group and pattern, one handles each event. None: all do.
                What the store itself tells, such as ``state/updated``, is no event of groups.

        Raises:
            InvalidTopic: the pattern, or the group's name, breaks the rules, or such a group is told nothing.
            InvalidEvent: the handler cannot be called.
            WrongEventLoop: this runs in a thread, or another loop. Nothing was done.
        """
        self._check_open()
        compiled = compile_pattern(pattern)
        if not callable(handler):
            raise InvalidEvent("handler", f"is a function that takes an event, not {type(handler).__name__}")
        if group is None:
            readers = self._broadcasts()
        else:
            readers = self._group_readers(f"{check_group(group, compiled)}:{pattern}")
        subscription = Subscription(
            compiled,
            handler,
            group=group,
            rules=self._rules.handlers,
            claim=None if group is None else lambda event: self._claims(readers.name, event),
            clock=self._clock,
            ready=readers.ready,
            leave=self._leave,
            sleep=self._sleep,
        )
        self.subscriptions.append(subscription)
        self._readers[subscription] = readers
        readers.subscriptions.append(subscription)
        subscription.start()
        readers.start()
        return subscription

    def announce(self, topic: str, data: Any) -> None:
        """Give this server's broadcast subscriptions an event that only concerns this server, without promise."""
        if self.subscriptions:
            self.deliver_local(self._announcement(topic, data))

    def _announcement(self, topic: str, data: Any) -> Event:
        now = dt.datetime.fromtimestamp(self._wall(), dt.UTC)
        frozen = freeze_within(data, self._rules.limits.depth_max)  # several handlers get the same
        priority = Priority.CRITICAL if topic == STATE_RESET else Priority.MEDIUM
        return Event(self._new_id(), topic, now, self._server, frozen, Metadata(priority=priority))

    def deliver_local(self, event: Event) -> None:
        """Give an event to this server's broadcast subscriptions alone, without promise."""
        self._push(event, broadcast_only=True)

    def _check_open(self) -> None:
        if not self._running:
            raise Closed("the state store is not open")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as fault:
            raise WrongEventLoop("this is a thread without the store's event loop: " + FROM_A_THREAD) from fault
        if loop is not self._loop:
            raise WrongEventLoop("this store was opened in another event loop: " + FROM_A_THREAD)

    async def _leave(self, subscription: Subscription) -> None:
        """End a subscription, once; whoever asks later waits for the same end."""
        ending = self._ending.get(subscription)
        if ending is None:
            if subscription not in self._readers:
                return
            self.subscriptions.remove(subscription)
            # A task of its own: whoever closes it may be cancelled, and what is half ended would read on for ever.
            ending = asyncio.get_running_loop().create_task(self._end(subscription), name="holdfast events ending")
            self._ending[subscription] = ending
        elif subscription.is_caller:
            return  # that end waits for the handler that asks
        await asyncio.shield(ending)

    async def _end(self, subscription: Subscription) -> None:
        readers = self._readers[subscription]
        if subscription.group is None:
            readers.subscriptions.remove(subscription)
        try:
            await subscription.stop()
            if subscription.group is not None:  # until here: what no subscription is there for counts as settled
                readers.subscriptions.remove(subscription)
            if not readers.subscriptions:
                if readers is self._broadcast:
                    self._broadcast = None
                await readers.stop()
        finally:
            del self._readers[subscription], self._ending[subscription]

    def _broadcasts(self) -> Readers:
        if self._broadcast is None:
            # A number of its own for each: the one before may still be ending.
            name = f"@{self._server}.{next(self._numbers)}"
            self._broadcast = self._new_readers(name, forget=True, idle_seconds=SERVER_IDLE_SECONDS)
        return self._broadcast

    def _group_readers(self, name: str) -> Readers:
        return self._new_readers(name, forget=False, idle_seconds=self._rules.group_idle_seconds)

    def _new_readers(self, name: str, *, forget: bool, idle_seconds: float) -> Readers:
        return Readers(
            self._transport,
            name=name,
            owner=f"{self._server}.{next(self._numbers)}",
            forget=forget,
            lease_seconds=self._rules.lease_seconds,
            idle_seconds=idle_seconds,
            limits=self._rules.limits,
            clock=self._clock,
        )

    async def _claims(self, reader: str, event: Event) -> bool:
        try:
            return await self._transport.claim(reader, event.id)
        except TierError:
            self.unsent += 1
            return False

    def _hear(self, body: bytes) -> None:
        try:
            event = decode(body, self._rules.limits)
        except (CorruptDocument, SchemaTooNew):
            self.unreadable += 1
            return
        self._push(event, broadcast_only=False)

    def _push(self, event: Event, *, broadcast_only: bool) -> None:
        rank = PRIORITIES.index(event.metadata.priority)
        for each in self.subscriptions:
            if (each.group is None or not broadcast_only) and each.pattern.matches(event.type):
                dropped = each.push(Waiting(event, rank, arrived=self._clock.monotonic()))
                if dropped is not None and dropped.event.type in FEED_TOPICS:
                    self._remind(each)

    def _remind(self, late: Subscription) -> None:
        """Tell a subscription that it missed changes; if it does not listen to that, those of this server that do."""
        listening = [each for each in self.subscriptions if each.group is None and each.pattern.matches(STATE_RESET)]
        data = {"reason": "this subscriber was too slow", "timestamp": round(self._wall() * 1000)}
        reset = self._announcement(STATE_RESET, data)
        for each in [late] if late in listening else listening:
            each.remind(Waiting(reset, PRIORITIES.index(Priority.CRITICAL)))

    def _hint(self, partition: int) -> None:
        for readers in set(self._readers.values()):
            readers.hint(partition)
