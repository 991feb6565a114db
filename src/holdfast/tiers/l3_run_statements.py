# ruff: noqa: S608 - only constants are put together
"""The SQL of runs and their snapshots (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from holdfast.protocols.runs import RunFilter

# As the index `run_open` has it: only then that is used.
_OPEN: Final = "fields[4] NOT IN ('completed', 'failed', 'cancelled')"
# As `JournalRecord.seconds`, but by a time that stands still: a volatile clock would keep this from being a join.
_ORPHANED: Final = f"""{_OPEN} AND fields[4] <> 'paused' AND NOT EXISTS (
    SELECT FROM holdfast.journals j JOIN holdfast.journal_beats b USING (journal)
    WHERE j.journal = holdfast.run_journal(r.document) AND j.state = 'live'
        AND greatest(j.changed, b.changed) > statement_timestamp() - $1::float8 * interval '1 second')"""

CHILDREN: Final = """
SELECT id, version, birth, schema, document FROM holdfast."Run"
WHERE fields[2] = $1 AND birth > $2 ORDER BY birth LIMIT $3"""
"""($1 parent, $2 the birth before, $3 limit)."""

SNAPSHOTS: Final = r"""
SELECT id, octet_length(document::text), created_at FROM holdfast."RunContextSnapshot"
WHERE id >= $1::text || '/0' AND id < $1 || '/:' AND id > $2::text
    AND substr(id, length($1) + 2) ~ '^[0-9]{8}(\.base)?$'
ORDER BY id LIMIT $3"""
"""($1 run, $2 the id before, $3 limit); another run may have this one's name for the beginning of its own."""

BASES: Final = r"""
SELECT substr(id, length($1::text) + 2, 8)::int FROM holdfast."RunContextSnapshot"
WHERE id >= $1 || '/0' AND id < $1 || '/' || coalesce(to_char($2::int, 'FM00000000'), ':')
    AND substr(id, length($1) + 2) ~ '^[0-9]{8}\.base$'
ORDER BY id DESC LIMIT $3"""
"""($1 run, $2 below that number, or NULL, $3 limit). Of ids alone, so that their index is all that is read."""

PRUNE: Final = "SELECT holdfast.prune_snapshots($1, $2, $3)"
OLD: Final = "SELECT part::text, first_day FROM holdfast.old_snapshots($1) LIMIT 120"
DROP: Final = "SELECT holdfast.drop_snapshots($1::text::regclass)"
MAKE_AHEAD: Final = "SELECT holdfast.make_months($1)"


def listing(which: RunFilter, *, after: int | None, limit: int, dead_after_seconds: float) -> tuple[str, Sequence[Any]]:
    """The statement that lists runs, the newest first, and its arguments.

    One for each set of conditions: a plan that is to serve all of them could use no index. What `fields` are, and which
    index has which order, the migration tells.
    """
    wanted: dict[str, Any] = {
        "fields[1] =": which.swarm_id,
        "fields[2] =": which.parent_run_id,
        "fields[3] =": which.routine_id,
        "fields[4] =": which.status,
    }
    order = "birth DESC"
    if which == RunFilter():
        order, wanted["-birth >"] = "-birth", None if after is None else -after
    else:
        wanted["birth <"] = after
    given = {condition: value for condition, value in wanted.items() if value is not None}
    arguments = [dead_after_seconds] if which.orphaned else []
    conditions = [_ORPHANED] if which.orphaned else []
    for condition, value in given.items():
        arguments.append(value)
        conditions.append(f"{condition} ${len(arguments)}")
    statement = f"""
        SELECT id, version, birth, schema, document FROM holdfast."Run" AS r
        WHERE {" AND ".join(conditions) or "true"} ORDER BY {order} LIMIT ${len(arguments) + 1}"""
    return statement, [*arguments, limit]
