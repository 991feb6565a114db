"""Where the embedded servers of one home keep their files."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import ServerStartError, SettingsError

PRIMARIES = 3

# A socket's path has 108 bytes on Linux and 104 on macOS, with the NUL that ends it.
SOCKET_PATH_BYTES_MAX = 103
SOCKET_NAME = ".s.PGSQL.5432"

# PostgreSQL keeps paths in buffers of 1024 bytes, and its own file names take their part.
HOME_BYTES_MAX = 800

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def default_home() -> Path:
    """The home used when none is named: HOLDFAST_HOME, else `holdfast` in the user's data directory.

    Raises:
        SettingsError: none of HOLDFAST_HOME, XDG_DATA_HOME and HOME says where.
    """
    if named := os.environ.get("HOLDFAST_HOME"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME", "")
    if Path(data).is_absolute():  # the XDG rules: a relative path is to be ignored
        return Path(data) / "holdfast"
    try:
        return Path.home() / ".local" / "share" / "holdfast"
    except RuntimeError as fault:
        raise SettingsError("HOLDFAST_HOME: set it to a directory, since this user has no HOME") from fault


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """The files of one Valkey node; `index` counts from 1, and the replicas follow the primaries."""

    home: Path
    index: int

    @property
    def name(self) -> str:
        """What messages, `status` and the state file call it."""
        return f"valkey-{self.index}"

    @property
    def folder(self) -> Path:
        """Its working directory: append-only files, nodes.conf, configuration. By this argument it is recognised."""
        return self.home / self.name

    @property
    def configuration(self) -> Path:
        """Holds the password, so mode 0600. The server reads it as its standard input."""
        return self.folder / "valkey.conf"

    @property
    def pid_file(self) -> Path:
        """Written by the server when it starts, removed when it stops cleanly."""
        return self.folder / "valkey.pid"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.home / f"{self.name}.log"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one home; `home` is absolute and free of links, so that every process spells it alike."""

    home: Path

    @classmethod
    def of(cls, home: Path) -> Layout:
        """The layout of a home as a user wrote it.

        Raises:
            ServerStartError: the path is one that the servers cannot work with.
        """
        path = home.expanduser().resolve()
        if _CONTROL.search(str(path)):
            raise ServerStartError(f"home {str(path)!r} holds a control character: choose another HOLDFAST_HOME")
        if (size := len(os.fsencode(path))) > HOME_BYTES_MAX:
            raise ServerStartError(
                f"home {str(path)[:60]}... is {size} bytes long, PostgreSQL takes at most {HOME_BYTES_MAX}: "
                "choose a shorter HOLDFAST_HOME"
            )
        return cls(path)

    @property
    def lock(self) -> Path:
        """Held by the one process that starts or stops servers."""
        return self.home / "lock"

    @property
    def state(self) -> Path:
        """What runs; written when all of it is ready."""
        return self.home / "state.json"

    @property
    def password(self) -> Path:
        """The password of the Valkey nodes, mode 0600."""
        return self.home / "password"

    @property
    def master_key(self) -> Path:
        """The master key of this home, or several by commas, as the setting `master_keys` takes them, mode 0600."""
        return self.home / "master_key"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's area, unless `privileges` has to place it elsewhere."""
        return self.home / "postgres"

    @property
    def postgres_log(self) -> Path:
        """What PostgreSQL prints."""
        return self.home / "postgres.log"

    def nodes(self, replicas: int) -> tuple[NodeFiles, ...]:
        """The Valkey nodes of a set with so many replicas for each primary."""
        return tuple(NodeFiles(self.home, index) for index in range(1, PRIMARIES * (1 + replicas) + 1))

    def prepare(self) -> None:
        """Make the home, closed to others.

        Raises:
            ServerStartError: it is someone else's, and so is what its files say.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (owner := self.home.stat().st_uid) != os.geteuid():
            raise ServerStartError(
                f"home {self.home} belongs to user id {owner}, this is user id {os.geteuid()}: choose another"
            )

    def replicas(self) -> int | None:
        """How many replicas for each primary the home was made with; None if it has no nodes yet."""
        if not any(files.folder.is_dir() for files in self.nodes(1)):
            return None
        return int(any(files.folder.is_dir() for files in self.nodes(1)[PRIMARIES:]))


def write_privately(file: Path, content: bytes) -> None:
    """Replace a file as a whole, readable by its owner only; a crash leaves the old one or the new one."""
    writing = file.with_name(f"{file.name}.new")
    with os.fdopen(os.open(writing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    writing.replace(file)


def socket_directory_fits(directory: Path) -> bool:
    """Whether clients can name a socket there: short enough, and nothing that a URL gives a meaning."""
    path = str(directory / SOCKET_NAME)
    try:
        size = len(path.encode())
    except UnicodeEncodeError:  # bytes that are no UTF-8 do not survive a URL
        return False
    return size <= SOCKET_PATH_BYTES_MAX and "," not in path


def private_directory(*, ours: bool = True) -> Path:
    """A new directory of mode 0700 with a short path: for a socket whose home has a long one.

    Args:
        ours: false if another account will have to reach it, which the runtime directory does not allow.

    Raises:
        ServerStartError: there is no place with a short path.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if ours and socket_directory_fits(Path(runtime) / "holdfast-12345678") and _is_private(Path(runtime)):
        return Path(tempfile.mkdtemp(prefix="holdfast-", dir=runtime))
    made = Path(tempfile.mkdtemp(prefix="holdfast-"))
    if not socket_directory_fits(made):
        made.rmdir()
        raise ServerStartError(f"no place for a socket: both the home and {made.parent} have too long a path")
    return made


def remove_private_directory(directory: Path) -> None:
    """Remove a directory made by `private_directory`, and only if nothing but a socket is left in it."""
    if not directory.is_dir():
        return
    for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
        (directory / name).unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()


def _is_private(directory: Path) -> bool:
    """Whether a directory is there, ours, and open to us."""
    return (
        directory.is_absolute()
        and directory.is_dir()
        and directory.stat().st_uid == os.geteuid()
        and os.access(directory, os.W_OK | os.X_OK)
    )
