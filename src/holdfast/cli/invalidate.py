"""`holdfast invalidate`: make void what caches hold, from a shell."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.cli.serving import opened_pool
from holdfast.cli.showing import line
from holdfast.errors import HoldfastError, SettingsError
from holdfast.keys import check_id, check_kind_name
from holdfast.kinds import register
from holdfast.node import process_name
from holdfast.protocols import Invalidation, Target
from holdfast.tags import check_tag
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.voiding import checked_text, invalidation_note

FORMS = "a target is kind:NAME, KIND:ID, tag:TAG or all"
HISTORY_MAX = 10_000
HISTORY_DEFAULT = 20


async def invalidate(
    target: str | None = None,
    *,
    dry_run: bool = False,
    reason: str = "by hand",
    actor: str | None = None,
    history: bool = False,
) -> None:
    """Make void what the caches of all servers hold of a kind, of a document, of a tag, or at all.

    No document is touched. What is void is read from PostgreSQL again when it is next asked for: by every server,
    within its staleness bound. The cost does not grow with what is cached.

    Parameters
    ----------
    target
        kind:NAME, KIND:ID, tag:TAG or all. With --history, how many records to show.
    dry_run
        Count the rows that the target names, and change nothing.
    reason
        For the record.
    actor
        Who does it, for the record; by default user@host:pid.
    history
        Show the newest records instead: what was made void, when, by whom and why.
    """
    console = Console()
    if history:
        limit = _limit(target)
    else:
        wanted = parse_target(target)
        reason, name = checked_text("--reason", reason), checked_text("--actor", actor or process_name())
    async with opened_pool() as (_, pool):
        storage = PostgresStorage(pool, register([]))
        if history:
            _show(console, await storage.invalidations(limit))
        elif dry_run:
            line(console, f"{wanted}: {await storage.count(wanted)} rows; nothing was changed")
        else:
            note = invalidation_note(wanted, reason, name)
            done = await storage.invalidate(wanted, reason=reason, actor=name, note=note)
            line(console, f"{done.scope}: void below {done.number}; recorded for {done.actor}: {done.reason}")


def parse_target(text: str | None) -> Target:
    """What a text names.

    Raises:
        SettingsError: it names nothing, and what would.
    """
    word, colon, rest = (text or "").partition(":")
    try:
        if word == "all" and not colon:
            return Target()
        if word == "tag":
            return Target(tag=check_tag(rest))
        if word == "kind":
            return Target(check_kind_name(rest))
        if colon:
            return Target(check_kind_name(word), check_id(rest))
    except HoldfastError as fault:
        raise SettingsError(f"invalidate {text}: {fault}; {FORMS}") from fault
    raise SettingsError(f"invalidate {text or ''}: {FORMS}")


def _limit(text: str | None) -> int:
    limit = int(text) if text is not None and text.isascii() and text.isdigit() else HISTORY_DEFAULT if not text else 0
    if not 0 < limit <= HISTORY_MAX:
        raise SettingsError(f"invalidate --history {text}: it takes a number of records, from 1 to {HISTORY_MAX}")
    return limit


def _show(console: Console, records: Sequence[Invalidation]) -> None:
    if not records:
        line(console, "nothing was invalidated yet")
        return
    if not console.is_terminal:
        console.width = 4096  # every record on a line of its own, for whatever reads them
    table = Table("at", "scope", "number", "actor", "reason", box=None)
    for record in records:
        at = record.at.isoformat(timespec="seconds")
        table.add_row(*map(Text, (at, record.scope, str(record.number), record.actor, record.reason)))
    console.print(table)
