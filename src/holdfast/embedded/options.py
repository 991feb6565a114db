"""What is asked of the embedded servers, and what is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from holdfast.embedded.binaries import POSTGRES_FOLDERS
from holdfast.errors import SettingsError

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """What to run.

    Attributes:
        home: directory of the servers' files; made if absent.
        replicas: for each of the three Valkey primaries, 0 or 1.
        postgres_version: major, 16 or 18.
    """

    home: Path
    replicas: int = 0
    postgres_version: int = 18

    def __post_init__(self) -> None:
        if self.replicas not in (0, 1):
            raise SettingsError(f"embedded replicas: 0 or 1 for each primary, not {self.replicas!r}")
        if self.postgres_version not in POSTGRES_FOLDERS:
            raise SettingsError(f"embedded postgres_version: 16 or 18, not {self.postgres_version!r}")


@dataclass(frozen=True, slots=True)
class Running:
    """A running set.

    Attributes:
        postgres_url: as asyncpg takes it.
        redis_urls: of every node; they contain the password.
        started: names of the servers that this call started, empty when all of them ran.
        master_keys: for the setting of that name, for whoever names no key of his own: those in the home's own file.
            Secrets are closed to whoever has the servers' files without it.
    """

    postgres_url: str = field(repr=False)
    redis_urls: tuple[str, ...] = field(repr=False)
    started: tuple[str, ...]
    master_keys: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server of a home.

    Attributes:
        name: as in messages.
        state: running, stopped (not meant to run), or dead (was started, and is gone or does not answer).
        pid: None when there is no process.
        address: where it listens; empty when it never ran.
        log: its log file.
    """

    name: str
    state: Literal["running", "stopped", "dead"]
    pid: int | None
    address: str
    log: Path
