# ruff: noqa: S608 - only constants are put together
"""The SQL of the change feed (pure).

A cursor is a snapshot. What is new lies at or beyond its end, or was running when it was taken: exactly the rows that
the statement's own snapshot sees and the cursor does not, however late a transaction commits. No LIMIT cuts that, for a
cut answer has no cursor; an answer that would be too large is counted and left out.
"""

from __future__ import annotations

from typing import Final

from holdfast.tiers.l3_statements import OWN_IDENTITY

CHANNEL: Final = "holdfast_feed"
CHANGES_MAX: Final = 50_000
"""Changes in one answer; a reader that is further behind begins anew."""

HORIZON: Final = "270 seconds"
"""Nine tenths of the age that a mark has by which a leaf is emptied: whoever sees this mark misses nothing."""

IDENTITY_SEQ: Final = -1
"""In place of `seq`, in the row that tells the identity."""

# Of a row that came with a dump the origin is another table.
_IDENTITY: Final = f"holdfast.incarnation i WHERE {OWN_IDENTITY}"

SERVER: Final = """
SELECT pg_is_in_recovery() AS standby,
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8::text AS start"""

PROBE: Final = f"SELECT pg_current_snapshot()::text AS snapshot, id::text AS incarnation FROM {_IDENTITY}"
"""Equal texts prove that nothing was committed in between. It costs a small part of the full statement."""

LEAD: Final = "SELECT pg_try_advisory_lock(hashtextextended('holdfast.leader', 0))"
STILL_LEADS: Final = "SELECT true"
"""To a session that got the lead once, any answer says that it has it."""

RENEW_INCARNATION: Final = "UPDATE holdfast.incarnation SET id = gen_random_uuid() WHERE id = $1"
RAISE_GENERATION: Final = "SELECT holdfast.raise_generation($1)"
MARK: Final = "SELECT holdfast.mark_outbox()"
IDLE_LEAVES: Final = "SELECT leaf::oid FROM holdfast.idle_leaves() AS leaf"
EMPTY_LEAF: Final = "SELECT holdfast.empty_leaf($1::oid::regclass)"

_COLUMNS: Final = "xid, seq, at, kind, op, keys, ids, versions"
_AT: Final = "(extract(epoch FROM at) * 1000000)::int8::text"

# Rows with xids that nobody can have drawn here came with a dump of another server.
_OWN: Final = "xid < pg_snapshot_xmax(pg_current_snapshot())"

# The two conditions are index scans of their own; with OR there would be one over everything.
_SINCE: Final = f"""
    SELECT {_COLUMNS} FROM holdfast.outbox WHERE xid >= $1::text::xid8 AND {_OWN}
    UNION ALL SELECT {_COLUMNS} FROM holdfast.outbox WHERE xid = ANY ($2::text[]::xid8[])"""

# On a copy of older files xids above the copy's are drawn again, and the cursor may see them though it never saw what
# they stand for now. What came after the copy has a `seq` above all that was delivered before it.
_SINCE_BEFORE_RESTART: Final = f"""
    SELECT {_COLUMNS} FROM holdfast.outbox
    WHERE {_OWN} AND (xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[]) OR seq > $6)"""

_IS_THERE: Final = f"EXISTS (SELECT FROM holdfast.outbox WHERE xid = $7::text::xid8 AND seq = $6 AND {_AT} = $8)"


def _poll(since: str, proven: str) -> str:
    """A row of identity, whose `seq` is IDENTITY_SEQ, then the outbox's rows in order, all of it from one snapshot."""
    return f"""
WITH fresh AS MATERIALIZED (SELECT * FROM ({since}) AS everything LIMIT {CHANGES_MAX + 1})
SELECT ({IDENTITY_SEQ})::int8 AS seq, NULL AS xid, NULL AS at, NULL AS kind, NULL::"char" AS op, NULL::text[] AS ids,
       NULL::int8[] AS versions, pg_current_snapshot()::text AS snapshot, i.id::text AS incarnation,
       coalesce((SELECT json_object_agg(scope, generation ORDER BY scope) FROM holdfast.generations), '{{}}')
           AS generations,
       (SELECT m.snapshot FROM holdfast.outbox_mark_ages m WHERE age >= interval '{HORIZON}' ORDER BY age LIMIT 1)
           AS horizon,
       (SELECT sum(keys) FROM fresh) AS changes,
       {proven} AS proven,
       CASE WHEN $4 THEN (SELECT ARRAY[seq::text, xid::text, {_AT}] FROM holdfast.outbox WHERE {_OWN}
                          ORDER BY outbox.xid DESC, outbox.seq DESC LIMIT 1) END AS newest,
       CASE WHEN $3 THEN pg_notify('{CHANNEL}', '')::text END AS announced,
       (SELECT json_object_agg(tag, generation) FROM holdfast.tag_generations WHERE generation > $5) AS tags
FROM {_IDENTITY}
UNION ALL
SELECT seq, xid::text, {_AT}, kind, op, ids, versions, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM fresh WHERE (SELECT sum(keys) FROM fresh) <= {CHANGES_MAX}
ORDER BY seq"""


POLL: Final = _poll(_SINCE, "true")
"""$1 the cursor's xmax (null: a beginning), $2 its running xids, $3 announce, $4 tell the newest row there is, $5 the
number above which generations of tags are told."""

POLL_AFTER_RESTART: Final = _poll(_SINCE_BEFORE_RESTART, _IS_THERE)
"""As POLL, and $6 to $8 seq, xid and time of the row that must still be there for the cursor to be continued."""
