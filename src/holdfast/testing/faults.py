"""What a fault proxy can be told to do to whom, as data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self, TypeAlias, get_args

Kind: TypeAlias = Literal["hold", "drop", "delay", "cut", "refuse"]
Way: TypeAlias = Literal["to_server", "to_client"]
Direction: TypeAlias = Literal["to_server", "to_client", "both"]

FIRST_BYTES_MAX = 1_024


@dataclass(slots=True)
class Connection:
    """What a `where` is asked about.

    Attributes:
        number: counts the accepted connections of a proxy from 1.
        first_bytes: what the client has sent so far, at most FIRST_BYTES_MAX of it.
    """

    number: int
    first_bytes: bytes = field(default=b"", repr=False)  # a password may be in it


Where: TypeAlias = Callable[[Connection], bool]


def everywhere(_: Connection) -> bool:
    """The `where` of a fault that is meant for all connections."""
    return True


@dataclass(slots=True, eq=False)
class Fault:
    """A fault of a proxy, on until `end`; in a `with` statement, to the end of its block."""

    kind: Kind
    switch_off: Callable[[Fault], None]
    direction: Direction = "both"
    where: Where = everywhere
    seconds: float = 0.0
    jitter_seconds: float = 0.0
    after_bytes: int = 0

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise ValueError(f"{self.kind}: direction is to_server, to_client or both, not {self.direction!r}")
        for name in ("seconds", "jitter_seconds", "after_bytes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{self.kind}: {name} is 0 or more, not {getattr(self, name)!r}")

    def end(self) -> None:
        """Switch it off; again, it has no effect."""
        self.switch_off(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@dataclass(slots=True)
class FaultBoard:
    """The faults that are on, and an event for those who wait for a change."""

    on: list[Fault] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def switch_on(
        self,
        kind: Kind,
        direction: Direction = "both",
        where: Where = everywhere,
        *,
        seconds: float = 0.0,
        jitter_seconds: float = 0.0,
        after_bytes: int = 0,
    ) -> Fault:
        """Add a fault.

        Raises:
            ValueError: there is no such direction, or a number is negative.
        """
        fault = Fault(kind, self.switch_off, direction, where, seconds, jitter_seconds, after_bytes)
        self.on.append(fault)
        self._announce()
        return fault

    def switch_off(self, *faults: Fault) -> None:
        """Remove faults, those that are on."""
        self.on = [fault for fault in self.on if fault not in faults]
        self._announce()

    def _announce(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def matching(self, kind: Kind, way: Way, connection: Connection) -> list[Fault]:
        """The faults of a kind that are on for this direction of this connection."""
        return [
            fault
            for fault in self.on
            if fault.kind == kind and fault.direction in (way, "both") and fault.where(connection)
        ]
