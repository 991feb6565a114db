# ruff: noqa: S608 - only constants are put together
"""The SQL of runs and their snapshots (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from holdfast.protocols.runs import RunFilter

# As the index `run_open` has it: only then that is used.
_OPEN: Final = "fields[4] NOT IN ('completed', 'failed', 'cancelled')"
_ORPHANED: Final = f"""{_OPEN} AND fields[4] <> 'paused' AND NOT EXISTS (
    SELECT FROM holdfast.journals j WHERE j.journal = holdfast.run_journal(r.document) AND j.state = 'live')"""

SNAPSHOTS: Final = r"""
SELECT id, octet_length(document::text), created_at FROM holdfast."RunContextSnapshot"
WHERE id >= $1::text || '/0' AND id < $1 || '/:' AND id > $2::text
    AND substr(id, length($1) + 2) ~ '^[0-9]{8}(\.base)?$'
ORDER BY id LIMIT $3"""
"""($1 run, $2 the id before, $3 limit); another run may have this one's name for the beginning of its own."""

PRUNE: Final = "SELECT holdfast.prune_snapshots($1, $2, $3)"
OLD: Final = "SELECT part::text, first_day FROM holdfast.old_snapshots($1) LIMIT 120"
DROP: Final = "SELECT holdfast.drop_snapshots($1::text::regclass)"
MAKE_AHEAD: Final = "SELECT holdfast.make_months($1)"


def listing(which: RunFilter, *, after: int | None, limit: int) -> tuple[str, Sequence[Any]]:
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
    conditions = [f"{condition} ${place}" for place, condition in enumerate(given, 1)]
    if which.orphaned:
        conditions.append(_ORPHANED)
    statement = f"""
        SELECT id, version, birth, schema, document FROM holdfast."Run" AS r
        WHERE {" AND ".join(conditions) or "true"} ORDER BY {order} LIMIT ${len(given) + 1}"""
    return statement, [*given.values(), limit]
