"""Events: what is published, told to handlers, and kept while it waits (pure).

An event's data are plain JSON values. What handlers get is immutable to the leaf, since several may get the same.
"""

from __future__ import annotations

import binascii
import datetime as dt
import enum
import math
from typing import Any, Final, TypeVar

import msgspec

from holdfast.documents.faults import FaultError, at_index, at_key, too_deep
from holdfast.documents.frozen import FreeValue, freeze_within
from holdfast.errors import CorruptDocument, InvalidEvent, SchemaTooNew

FORMAT: Final = 1
KEY_BYTES_MAX: Final = 512
ENVELOPE_BYTES: Final = 8192
"""What an envelope may add to its data: a topic, a key and the rest, each of which has a limit."""
_LEAVES: Final = frozenset({type(None), bool, str, int, float})
"""Of these types and no other: what is derived from them would have to be made plain first."""
_INT_MAX: Final = 2**63 - 1
Option = TypeVar("Option", bound=enum.Enum)


class Priority(enum.Enum):
    """How urgent an event is: where several wait, a more urgent one is handled first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


PRIORITIES: Final = tuple(Priority)
"""The most urgent first; an event's rank is its place here."""


class Delivery(enum.Enum):
    """What is promised of an event."""

    FIRE_AND_FORGET = "fire_and_forget"
    """At most once, to whoever listens now."""
    RELIABLE = "reliable"
    """At least once, also to those that come back later; in order among those of its key and priority."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """How an event travels.

    Attributes:
        key: reliable events of one key and priority are handled in the order of their publishing; None: any order.
        attempt: 1 the first time a handler gets it; more after a failure, or after a server died with it.
        duplicate: it may have been handed to a handler before, which may have done its work or be at it still. Of all
            deliveries of one event to a subscription or group, at most one has no such flag.
    """

    priority: Priority = Priority.MEDIUM
    delivery: Delivery = Delivery.FIRE_AND_FORGET
    key: str | None = None
    attempt: int = 1
    duplicate: bool = False


class Event(msgspec.Struct, frozen=True):
    """One event.

    Attributes:
        id: unique; the same each time it is delivered.
        type: its topic.
        timestamp: when it was published, by that server's clock, with its zone.
        source: the server that published it.
        data: plain JSON values.
    """

    id: str
    type: str
    timestamp: dt.datetime
    source: str
    data: Any
    metadata: Metadata = Metadata()


class EventLimits(msgspec.Struct, frozen=True):
    """How large the data of an event may be.

    Attributes:
        bytes_max: of their JSON.
        depth_max: levels of containers.
    """

    bytes_max: int = 256 * 1024
    depth_max: int = 64


class _Wire(msgspec.Struct, frozen=True):
    v: int
    id: str
    type: str
    timestamp: dt.datetime
    source: str
    priority: Priority
    delivery: Delivery
    data: Any
    key: str | None = None


_DECODER = msgspec.json.Decoder(_Wire)
_FORMAT = msgspec.json.Decoder(msgspec.defstruct("_Format", [("v", int)]))


def encode(event: Event, limits: EventLimits) -> bytes:
    """The event as UTF-8 JSON, without what differs from one delivery to the next.

    Raises:
        InvalidEvent: its data are no plain JSON values, or too large or too deep; `path` says where.
    """
    try:
        _Check(limits).value(event.data, limits.depth_max)
    except FaultError as fault:
        raise InvalidEvent(fault.path, fault.reason) from fault.__cause__
    size = len(msgspec.json.encode(event.data))
    if size > limits.bytes_max:
        raise InvalidEvent("", f"has {size} bytes of JSON; at most {limits.bytes_max}")
    how = event.metadata
    wire = _Wire(
        FORMAT, event.id, event.type, event.timestamp, event.source, how.priority, how.delivery, event.data, how.key
    )
    return msgspec.json.encode(wire)


def decode(body: bytes, limits: EventLimits) -> Event:
    """The event of these bytes, its data immutable.

    Raises:
        CorruptDocument: they are none, or one over the limits.
        SchemaTooNew: a newer server wrote it.
    """
    if len(body) > limits.bytes_max + ENVELOPE_BYTES:
        raise CorruptDocument(f"an event has {len(body)} bytes; at most {limits.bytes_max + ENVELOPE_BYTES}")
    try:
        if (found := _FORMAT.decode(body).v) > FORMAT:  # type: ignore[attr-defined]
            raise SchemaTooNew("an event", found=found, known=FORMAT)
        wire = _DECODER.decode(body)
        data = freeze_within(wire.data, limits.depth_max)
    except (msgspec.DecodeError, RecursionError, FaultError) as fault:
        raise CorruptDocument(f"an event cannot be read: {fault}") from fault
    metadata = Metadata(priority=wire.priority, delivery=wire.delivery, key=wire.key)
    return Event(wire.id, wire.type, wire.timestamp, wire.source, data, metadata)


def partition_of(text: str, partitions: int) -> int:
    """The partition of an ordering key, or of an event's id if it has none; the same on every server."""
    return binascii.crc32(text.encode()) % partitions


def check_key(key: str | None) -> str | None:
    """Return the key unchanged if events can be ordered by it.

    Raises:
        InvalidEvent: it is no text, empty, too long, or not valid Unicode.
    """
    if key is None:
        return None
    if not isinstance(key, str):
        raise InvalidEvent("key", f"is text, not {type(key).__name__}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as fault:
        raise InvalidEvent("key", "is not valid Unicode") from fault
    if not 1 <= size <= KEY_BYTES_MAX:
        raise InvalidEvent("key", f"has {size} bytes; 1 to {KEY_BYTES_MAX}")
    return key


def check_member(options: type[Option], value: Option | str, name: str) -> Option:
    """Return the member of an enum that the value is, or is the value of.

    Raises:
        InvalidEvent: there is none.
    """
    try:
        return options(value)
    except ValueError as fault:
        known = ", ".join(repr(each.value) for each in options)
        raise InvalidEvent(name, f"is one of {known}, not {value!r}") from fault


class _Check:
    """One walk over data; it ends once they are too large, as those may be without end that hold a part repeatedly."""

    def __init__(self, limits: EventLimits) -> None:
        self._bytes_max = self._left = limits.bytes_max

    def value(self, value: FreeValue, room: int) -> None:
        """Raise the fault of a value that leaves so many levels of containers."""
        kind = type(value)
        self._spend(1 + len(value) if kind is str else 1)
        if kind in _LEAVES:
            _check_leaf(value)
            return
        if not isinstance(value, (list, tuple, dict)):
            raise FaultError(f"a {kind.__name__} is no JSON value: use dicts, lists, text, numbers, bools and None")
        if room < 1:
            raise too_deep()
        if isinstance(value, dict):
            for name, item in value.items():
                if type(name) is not str:
                    raise FaultError(f"the key {name!r} is no text")
                self._within(name, at_key(name), room)
                self._within(item, at_key(name), room)
        else:
            for index, item in enumerate(value):
                self._within(item, at_index(index), room)

    def _within(self, value: FreeValue, step: str, room: int) -> None:
        try:
            self.value(value, room - 1)
        except FaultError as fault:
            fault.under(step)
            raise

    def _spend(self, size: int) -> None:
        """Count what a value takes at least."""
        self._left -= size
        if self._left < 0:
            raise InvalidEvent("", f"has more than {self._bytes_max} bytes of JSON")


def _check_leaf(value: FreeValue) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as fault:
            raise FaultError("is not valid Unicode") from fault
    elif isinstance(value, float) and not math.isfinite(value):
        raise FaultError(f"{value!r} is no JSON number")
    elif isinstance(value, int) and abs(value) > _INT_MAX:
        raise FaultError("is an integer of more than 64 bits: write it as text")
