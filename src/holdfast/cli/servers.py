"""`holdfast up`, `status` and `down`: the embedded servers by hand.

What a shell may evaluate goes to stdout, everything else to stderr: ``eval "$(holdfast up)"``.
"""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.cli.showing import line

if TYPE_CHECKING:
    from holdfast.embedded import EmbeddedOptions, Running, ServerStatus

PIPE_COLUMNS = 4096  # more than the longest home, twice
MASTER_KEYS = "HOLDFAST_MASTER_KEYS"
COLOURS = {"running": "green", "stopped": "dim", "dead": "red"}


async def up(*, home: Path | None = None, replicas: int = 0, postgres_version: int = 18) -> None:
    """Start the embedded servers, or what of them does not run, and print how to reach them.

    They run until `holdfast down`. The lines printed on stdout contain the password of the Valkey nodes. They contain
    no master key: the last one has the shell read the home's own from its file.

    Parameters
    ----------
    home
        Directory of the servers' files; HOLDFAST_HOME or the user's data directory if not given.
    replicas
        Replicas of each of the three Valkey primaries, 0 or 1.
    postgres_version
        Major version of PostgreSQL, 16 or 18. A home keeps the one that it was made with.
    """
    from holdfast.embedded import EmbeddedOptions, ensure_running  # noqa: PLC0415 - other commands do not need it

    progress, output = Console(stderr=True), Console()
    options = EmbeddedOptions(_home(home), replicas=replicas, postgres_version=postgres_version)
    try:
        running = await ensure_running(options, progress=lambda text: line(progress, text))
    except asyncio.CancelledError:
        line(progress, "interrupted: what is being started goes on and stays up; `holdfast down` ends it")
        raise
    started = ", ".join(running.started)
    line(progress, f"started {started}" if started else "all servers were running")
    if os.environ.get(MASTER_KEYS, "") not in ("", ",".join(running.master_keys)):
        line(progress, f"{MASTER_KEYS} is set to other keys: leave out the third line to keep them")
    line(progress, "the second of the following lines contains a password")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # the path of a home need not be UTF-8
    for each in _exports(options, running):
        line(output, each)


async def status(*, home: Path | None = None) -> int:
    """Show the embedded servers; the exit status is 0 if all of them run, else 1.

    Parameters
    ----------
    home
        Directory of the servers' files; HOLDFAST_HOME or the user's data directory if not given.
    """
    from holdfast.embedded import status as embedded_status  # noqa: PLC0415 - other commands do not need it

    servers = await embedded_status(_options(home))
    output = Console()
    if not output.is_terminal:
        output.width = PIPE_COLUMNS  # every fact on the line of its server, for whatever reads them
    output.print(_table(servers))
    return 0 if all(server.state == "running" for server in servers) else 1


async def down(*, home: Path | None = None) -> None:
    """Stop the embedded servers; their data stays, and the next start finds it.

    Parameters
    ----------
    home
        Directory of the servers' files; HOLDFAST_HOME or the user's data directory if not given.
    """
    from holdfast.embedded import stop  # noqa: PLC0415 - other commands do not need it

    progress = Console(stderr=True)
    stopped = ", ".join(await stop(_options(home), progress=lambda text: line(progress, text)))
    line(progress, f"stopped {stopped}" if stopped else "no server was running")


def _exports(options: EmbeddedOptions, running: Running) -> tuple[str, ...]:
    """The variables that name the servers, and the home's master key, for a shell; within $() quotes begin anew."""
    from holdfast.embedded.layout import Layout  # noqa: PLC0415 - other commands do not need it

    master_key = Layout.of(options.home).master_key
    return (
        f"export HOLDFAST_POSTGRES_URL={shlex.quote(running.postgres_url)}",
        f"export HOLDFAST_REDIS_URLS={shlex.quote(','.join(running.redis_urls))}",
        f'export {MASTER_KEYS}="$(cat {shlex.quote(str(master_key))})"',
    )


def _home(given: Path | None) -> Path:
    from holdfast.embedded import default_home  # noqa: PLC0415 - other commands do not need it

    return given or default_home()


def _options(home: Path | None) -> EmbeddedOptions:
    """Whatever a home runs: `status` and `stop` look at what is there."""
    from holdfast.embedded import EmbeddedOptions  # noqa: PLC0415 - other commands do not need it

    return EmbeddedOptions(_home(home))


def _table(servers: tuple[ServerStatus, ...]) -> Table:
    table = Table("server", "state", "pid", "address", "log", box=None)
    for server in servers:
        pid = str(server.pid or "")
        state = Text(server.state, COLOURS[server.state])
        # As they are, and whole: an address cut off is of no use, and a path may contain what rich takes for markup.
        table.add_row(
            server.name, state, pid, *(Text(text, overflow="fold") for text in (server.address, str(server.log)))
        )
    return table
