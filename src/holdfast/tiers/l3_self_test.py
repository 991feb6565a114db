"""Which kinds may be cached: those whose tables prove that they tell of their changes.

Each table, and each partition, takes an insert, an update and a delete in a transaction that is rolled back, and the
outbox must tell them; of history, an insert and an erasure. What cannot be tried without harm, such as TRUNCATE, or
without a right to it, or because a constraint of the user's refuses the trial row, is judged by the catalog alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import uuid4

import asyncpg

from holdfast.kinds import Kind

# Whoever waits for a table keeps others waiting behind.
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '200ms'"

# Names with their schema, whatever the search path is.
_NAME: Final = "format('%s.%I', relnamespace::regnamespace, relname)"
_UNWATCHED: Final = f"""
SELECT {_NAME}, trigger_name, fault
FROM holdfast.unwatched($1) JOIN pg_class ON oid = relation LIMIT 1"""  # noqa: S608 - constants

# A moment that each partition takes: its lower bound, or what lies just below the upper one. The table above partitions
# takes that of one of them. A table that is partitioned and has no partition takes no rows.
_RELATIONS: Final = rf"""
WITH bounds AS (
    SELECT relation, {_NAME} AS name, relkind = 'p' AS parted, pg_get_expr(relpartbound, oid) AS bound
    FROM holdfast.relations($1) AS relation JOIN pg_class ON oid = relation
), moments AS (
    SELECT relation, name, parted, coalesce(
        substring(bound FROM $$FROM \('([^']+)'\)$$)::timestamptz,
        substring(bound FROM $$TO \('([^']+)'\)$$)::timestamptz - interval '1 microsecond') AS moment
    FROM bounds
)
SELECT name, coalesce(moment, (SELECT min(moment) FROM moments), now())::text AS moment,
       has_table_privilege(relation, 'INSERT') AS inserts,
       has_table_privilege(relation, 'UPDATE') AS updates,
       has_table_privilege(relation, 'DELETE') AS deletes,
       has_function_privilege('holdfast.erase_history(text, text[])', 'EXECUTE') AS erases
FROM moments WHERE NOT parted OR EXISTS (SELECT FROM moments WHERE moment IS NOT NULL)"""  # noqa: S608 - constants

_TOLD: Final = """
SELECT op, versions[array_position(ids, $1)] AS version FROM holdfast.outbox
WHERE xid = pg_current_xact_id() AND kind = $2 AND $1 = ANY (ids) ORDER BY seq"""


async def untrusted(connection: asyncpg.Connection[Any], kinds: Iterable[Kind[Any]]) -> dict[str, str]:
    """Kinds that no cache may answer for, by name, with the reason in words.

    Writers are not kept waiting, and nothing stays: whatever was tried is rolled back.

    Args:
        connection: outside a transaction.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: the connection failed; that says nothing of any kind.
    """
    reasons = {}
    transaction = connection.transaction(isolation="read_committed")
    await transaction.start()
    try:
        await connection.execute(_LOCK_TIMEOUT)
        for kind in kinds:
            if (reason := await _reason(connection, kind)) is not None:
                reasons[kind.name] = reason
    finally:
        if not connection.is_closed():
            await transaction.rollback()
    return reasons


async def _reason(connection: asyncpg.Connection[Any], kind: Kind[Any]) -> str | None:
    for relation, trigger, fault in await connection.fetch(_UNWATCHED, kind.name):
        return f"trigger {trigger} of {relation} {fault}: `holdfast migrate` makes it anew"
    relations = await connection.fetch(_RELATIONS, kind.name)
    if not relations:
        return f"{kind.table} takes no rows, it has no partition or does not exist: run `holdfast migrate`"
    for relation in relations:
        if (reason := await _silent(connection, kind, relation)) is not None:
            return reason
    return None


async def _silent(connection: asyncpg.Connection[Any], kind: Kind[Any], relation: asyncpg.Record) -> str | None:
    """Why it is not proven that a table tells of its changes."""
    identifier, name = f"self-test-{uuid4()}", relation["name"]
    trials = _trials(kind, relation, identifier)
    try:
        await connection.execute(";".join(["SAVEPOINT trial", *trials.values()]))
        told = await connection.fetch(_TOLD, identifier, kind.name)
    except asyncpg.PostgresError as fault:
        if connection.is_closed():
            raise
        if isinstance(fault, asyncpg.IntegrityConstraintViolationError) and fault.constraint_name:
            return None
        return f"{name} refuses a trial row: {fault}"
    finally:
        if not connection.is_closed():
            await connection.execute("ROLLBACK TO SAVEPOINT trial")
    if [op.decode() for op, _ in told] != list(trials):
        return f"of the trials {_words(trials)} in {name} the outbox tells {_words(op.decode() for op, _ in told)}"
    versions = [version for _, version in told]
    if versions != sorted(set(versions)):
        return f"the versions that {name} gives do not rise: {versions}"
    return None


def _trials(kind: Kind[Any], relation: asyncpg.Record, identifier: str) -> dict[str, str]:
    """What to try, by what the outbox calls it."""
    # Names come quoted from the catalog; ids and moments hold no quotes.
    name, moment = relation["name"], relation["moment"]
    trials = {
        "i": f"INSERT INTO {name} (id, document, created_at) VALUES ('{identifier}', '{{}}', '{moment}')",  # noqa: S608
        "u": f"UPDATE {name} SET document = '{{}}' WHERE id = '{identifier}'",  # noqa: S608
        "d": f"DELETE FROM {name} WHERE id = '{identifier}'",  # noqa: S608
    }
    if kind.append_only:
        trials["d"] = f"SELECT holdfast.erase_history({_literal(kind.table)}, ARRAY['{identifier}'])"
    if kind.append_only or not relation["updates"]:
        del trials["u"]
    if not relation["erases" if kind.append_only else "deletes"]:
        del trials["d"]
    return trials if relation["inserts"] else {}


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _words(operations: Iterable[str]) -> str:
    return ", ".join({"i": "INSERT", "u": "UPDATE", "d": "DELETE"}[each] for each in operations) or "nothing"
