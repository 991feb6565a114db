# ruff: noqa: S608 - only constants are put together
"""The SQL of what L3 knows of journals (pure).

Sets of entries travel as the text of an `int8multirange`. What waits for a journal's lock, and is not a flush, has a
limit of its own: the setting is made in the statement itself, before anything is locked, and ends with it.
"""

from __future__ import annotations

from typing import Final

from holdfast.tiers.l3_audit import with_note

REGISTER: Final = """
WITH made AS (INSERT INTO holdfast.journals (journal, server) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING journal)
INSERT INTO holdfast.journal_beats (journal) SELECT journal FROM made"""

BEAT: Final = """
UPDATE holdfast.journal_beats AS b SET beat = beat + 1, changed = clock_timestamp()
FROM holdfast.journals AS j
WHERE b.journal = $1 AND j.journal = b.journal AND j.epoch = $2 AND j.state IN ('live', 'taken') RETURNING true"""

RECORDS: Final = """
SELECT journal, server, epoch, beat, state, taker, decided::text, refused::text,
       extract(epoch FROM clock_timestamp() - greatest(j.changed, b.changed))::float8
FROM holdfast.journals AS j JOIN holdfast.journal_beats AS b USING (journal) ORDER BY born, journal"""

_PATIENCE: Final = "WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', $3, true))"

TAKE: Final = f"""{_PATIENCE}
UPDATE holdfast.journals SET epoch = epoch + 1, state = 'taken', taker = $4, changed = clock_timestamp() FROM patience
WHERE journal = $1 AND epoch = $2 AND state <> 'drained' RETURNING true"""

ENTER_STATE: Final = f"""{_PATIENCE}
UPDATE holdfast.journals SET state = $4, changed = clock_timestamp() FROM patience
WHERE journal = $1 AND epoch = $2 RETURNING true"""

FORGET: Final = f"""{_PATIENCE}
DELETE FROM holdfast.journals USING patience WHERE journal = $1 AND epoch = $2 RETURNING true"""

OWN: Final = """
SELECT decided::text, refused::text FROM holdfast.journals WHERE journal = $1 AND epoch = $2 FOR NO KEY UPDATE"""
"""Whoever waited for the lock is judged by the row as it is then."""

ROWS: Final = "SET LOCAL lock_timeout = 250"
"""Milliseconds: who waits for a row that another transaction keeps, keeps all others of its batch waiting."""

DECIDE: Final = """
UPDATE holdfast.journals SET decided = decided + $2::text::int8multirange,
    refused = refused + $3::text::int8multirange WHERE journal = $1"""

KEEP: Final = """
WITH kept AS (
    INSERT INTO holdfast.dead_writes (journal, seq, kind, key, entry, reason)
    SELECT $1, u.* FROM unnest($2::int8[], $3::text[], $4::text[], $5::bytea[], $6::text[]) AS u
    ON CONFLICT DO NOTHING RETURNING id)
DELETE FROM holdfast.dead_writes WHERE id IN (
    SELECT id FROM holdfast.dead_writes WHERE id <= (SELECT max(id) FROM kept) - $7::int8
    ORDER BY id FOR UPDATE SKIP LOCKED)
RETURNING id"""
"""Counts nothing: of the numbers drawn, the newest are kept."""

_LETTERS: Final = """
SELECT id, journal, kind, key, seq, entry, reason, extract(epoch FROM clock_timestamp() - at)::float8
FROM holdfast.dead_writes"""
LETTERS: Final = f"{_LETTERS} ORDER BY id LIMIT $1"
LETTER: Final = f"{_LETTERS} WHERE id = $1"
DISCARD: Final = "DELETE FROM holdfast.dead_writes WHERE id = $1 RETURNING true"
DISCARD_NOTED: Final = with_note(DISCARD, 2)

SAVEPOINT: Final = "SAVEPOINT refusable"
BACK: Final = "ROLLBACK TO SAVEPOINT refusable; RELEASE SAVEPOINT refusable"
RELEASE: Final = "RELEASE SAVEPOINT refusable"

END_STUCK: Final = """
SELECT pg_terminate_backend(l.pid)
FROM holdfast.journals AS j
JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.transactionid = j.xmax AND l.granted
JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE j.journal = $1 AND a.wait_event_type = 'Client'
    AND a.state_change < clock_timestamp() - $2::int8 * interval '1 millisecond'"""
"""End the session that has a journal's lock, if it has waited for its client since so long.

If it is idle, the server ends it. In the middle of a statement it is not, and no timeout of the server's ends a session
that cannot get its answer out, or that has parsed a statement and is not told to run it.
"""


def begin(idle_ms: int) -> str:
    """Begin a flush that the server ends, session and all, when it is idle for so long.

    Nor is the journal's lock waited for longer; those of rows are not waited for as long, see `ROWS`.

    Each statement must see what was committed while it waited for a lock, whatever the database's default is.
    """
    return (
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
        f"SET LOCAL idle_in_transaction_session_timeout = {int(idle_ms)}; SET LOCAL lock_timeout = {int(idle_ms)}"
    )
