"""The command `holdfast`.

Every fault of the user's or of a server's ends in one sentence on stderr and exit status 2; a traceback is a
fault of this package.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import cyclopts

from holdfast.cli.audit import audit
from holdfast.cli.dead_letters import dead_letters
from holdfast.cli.demo import demo
from holdfast.cli.escalations import escalations
from holdfast.cli.events import events
from holdfast.cli.exports import exports
from holdfast.cli.health import health
from holdfast.cli.invalidate import invalidate
from holdfast.cli.keys import keys
from holdfast.cli.migrate import migrate
from holdfast.cli.pending import pending
from holdfast.cli.quarantine import quarantine
from holdfast.cli.recovery import recovery
from holdfast.cli.reviews import reviews
from holdfast.cli.runs import runs
from holdfast.cli.servers import down, status, up
from holdfast.cli.showing import printable
from holdfast.errors import HoldfastError

T = TypeVar("T")

app = cyclopts.App(
    name="holdfast",
    help="Holdfast, the state layer for agent swarms: in memory, shared in Redis, held in PostgreSQL.",
    version_flags=["--version"],
)
app.command(demo)
app.command(up)
app.command(status)
app.command(down)
app.command(migrate)
app.command(invalidate)
app.command(events)
app.command(pending)
app.command(dead_letters)
app.command(runs)
app.command(keys)
app.command(reviews)
app.command(escalations)
app.command(audit)
app.command(exports)
app.command(health)
app.command(recovery)
app.command(quarantine)


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        sys.exit(app(sys.argv[1:], backend="asyncio", result_action="return_value") or 0)
    except HoldfastError as fault:
        lines = map(printable, f"holdfast: {fault}".splitlines())  # an id in it may be anybody's
        print(*lines, sep="\n", file=sys.stderr)  # noqa: T201 - the place where errors meet the user
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, on uvloop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - optional, and not on every platform
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
