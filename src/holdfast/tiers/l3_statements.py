"""The SQL of L3, one set per kind (pure).

Only table names are put into these texts: they come from `Kind`, are checked there and quoted here. Ids, documents and
versions are always parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from holdfast.kinds import Kind

# A dump brings the row of another table, a copy made with TEMPLATE that of another database.
OWN_IDENTITY = "i.origin = i.tableoid AND i.home = current_database()"

# One row of identity in front of the data, so that both come from one snapshot in one round trip.
COHERENCE = f"""
SELECT (-1)::int2 AS kind, i.id::text AS id, 0::int8 AS version, 0::int8 AS birth, 0::int2 AS schema,
       coalesce((SELECT json_object_agg(scope, generation ORDER BY scope) FROM holdfast.generations), '{{}}') AS
       document
FROM holdfast.incarnation i WHERE {OWN_IDENTITY}"""

# What is decided of journals, in front of the data in the same way.
_MARKS = """
SELECT (-1)::int2 AS kind, journal AS id, 0::int8 AS version, 0::int8 AS birth, 0::int2 AS schema,
       to_json(decided::text) AS document
FROM holdfast.journals WHERE journal = ANY($%d::text[])"""

# What the triggers of a row set, drawn by the statement itself: they believe it, and their call is spared.
_DRAW = "nextval('holdfast.version_seq')"
_STAMPS = f"{_DRAW}, currval('holdfast.version_seq'), clock_timestamp()"  # in this order: both are the same number
_RESTAMP = f"version = {_DRAW}, updated_at = clock_timestamp()"

ENSURE_INCARNATION = "SELECT holdfast.ensure_incarnation()"
ENSURE_MONTH = "SELECT holdfast.ensure_month($1, now())"


class Statements(msgspec.Struct, frozen=True):
    """The statements of one kind. Arrays are parallel, in key order; each statement returns `id` and `version`.

    If the kind declares tags, what writes documents takes them as one parameter more, the last: of one row an array, of
    several rows an array of the texts of arrays, since arrays of arrays must be of one length.

    Attributes:
        load: ($1 ids) the identity row, then the rows.
        probe: ($1 ids, $2 versions known) as `load`, without the documents of rows at these versions.
        read: ($1 ids) the rows.
        read_locked: ($1 ids) the rows, locked in key order.
        upsert: ($1 ids, $2 documents, $3 schema) puts whatever is there.
        upsert_one: ($1 id, $2 document, $3 schema) the same for one row, cheaper.
        insert: ($1 ids, $2 documents, $3 schema) inserts what is not there.
        replace: ($1 ids, $2 documents, $3 schema, $4 versions) updates the rows that are at these versions.
        lock: ($1 ids) locks the rows that exist, in key order.
        version: ($1 id) the row's version, without a lock; no id.
        delete: ($1 id, $2 version or null) returns the number drawn (null: nothing deleted) and the version
            found.
        scan: ($1 id, $2 limit) rows after an id; no id is empty, so that an empty one asks from the start.
    """

    load: str
    probe: str
    read: str
    read_locked: str
    upsert: str
    upsert_one: str
    insert: str
    replace: str
    lock: str
    version: str
    delete: str
    scan: str

    @classmethod
    def of(cls, table: str, *, append_only: bool, tagged: bool = False) -> Statements:
        """The statements for a table of the schema `holdfast`."""
        name = f"holdfast.{quote(table)}"
        # A row of history is stamped by its trigger, which every row has to pass.
        stamped, stamps = ("", "") if append_only else (", version, birth, updated_at", f", {_STAMPS}")
        rows = f"SELECT u.*, $3::int2{stamps} FROM unnest($1::text[], $2::json[]) AS u"
        if tagged:
            rows = f"""SELECT u.id, u.document, $3::int2, u.tags::text[]{stamps}
                FROM unnest($1::text[], $2::json[], $4::text[]) AS u (id, document, tags)"""
        target = f"INSERT INTO {name} AS t (id, document, schema{', tags' if tagged else ''}{stamped})"
        insert = f"{target} {rows}"
        returning = "RETURNING t.id, t.version"
        on_conflict = f"""ON CONFLICT (id) DO UPDATE
            SET document = EXCLUDED.document, schema = EXCLUDED.schema, {_RESTAMP}"""
        if tagged:
            on_conflict += ", tags = EXCLUDED.tags"
        read = f"SELECT id, version, birth, schema, document FROM {name} WHERE id = ANY($1::text[])"
        return cls(
            load=COHERENCE + _rows(0, table, 1),
            probe=f"""{COHERENCE}
                UNION ALL SELECT 0::int2, t.id, t.version, t.birth, t.schema,
                    CASE WHEN t.version <> k.version THEN t.document END
                FROM unnest($1::text[], $2::int8[]) AS k (id, version) JOIN {name} t ON t.id = k.id""",
            read=read,
            read_locked=f"{read} ORDER BY id FOR UPDATE",
            upsert=f"{insert} {on_conflict} {returning}",
            upsert_one=f"{target} VALUES ($1, $2, $3{', $4' if tagged else ''}{stamps}) {on_conflict} {returning}",
            # An append-only table has no unique index on the id alone; its trigger enters the ids in a table that has,
            # and what exists is refused there.
            insert=f"{insert} {'' if append_only else 'ON CONFLICT (id) DO NOTHING'} {returning}",
            replace=f"""UPDATE {name} t
                SET document = u.document, schema = $3::int2, {_RESTAMP}{", tags = u.tags::text[]" if tagged else ""}
                FROM unnest($1::text[], $2::json[], $4::int8[]{", $5::text[]" if tagged else ""})
                    AS u (id, document, version{", tags" if tagged else ""})
                WHERE t.id = u.id AND t.version = u.version {returning}""",
            lock=f"SELECT t.id, t.version FROM {name} t WHERE t.id = ANY($1::text[]) ORDER BY t.id FOR UPDATE",
            version=f"SELECT t.version FROM {name} t WHERE t.id = $1",
            delete=f"""WITH found AS (SELECT version FROM {name} WHERE id = $1),
                gone AS (DELETE FROM {name} WHERE id = $1 AND ($2::int8 IS NULL OR version = $2)
                         RETURNING nextval('holdfast.version_seq') AS drawn)
                SELECT EXISTS (SELECT FROM gone) AS deleted, (SELECT version FROM found) AS found,
                       coalesce((SELECT drawn FROM gone), nextval('holdfast.version_seq')) AS drawn""",
            scan=f"""SELECT id, version, birth, schema, document FROM {name}
                WHERE id > $1 ORDER BY id LIMIT $2""",
        )


def load_many(tables: Sequence[str]) -> str:
    """The load statement over several tables: ids of the n-th table are parameter n, `kind` is its position."""
    return COHERENCE + "".join(_rows(position, table, position + 1) for position, table in enumerate(tables))


def rows_and_marks(tables: Sequence[str]) -> str:
    """Rows of several tables, as `load_many`, and behind their ids the journals whose marks are wanted."""
    rows = (_rows(position, table, position + 1) for position, table in enumerate(tables))
    return _MARKS % (len(tables) + 1) + "".join(rows)


def statements_of(kinds: Mapping[str, Kind[Any]]) -> dict[str, Statements]:
    """The statements of every kind, by its name."""
    return {
        kind.name: Statements.of(kind.table, append_only=kind.append_only, tagged=kind.tags is not None)
        for kind in kinds.values()
    }


def quote(identifier: str) -> str:
    """An SQL identifier in quotes."""
    return '"' + identifier.replace('"', '""') + '"'


def _rows(position: int, table: str, parameter: int) -> str:
    return (
        f"\nUNION ALL SELECT {position}::int2, id, version, birth, schema, document"
        f" FROM holdfast.{quote(table)} WHERE id = ANY(${parameter}::text[])"
    )
