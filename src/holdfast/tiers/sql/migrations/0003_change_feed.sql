-- The outbox: what changed, told by triggers in the writer's own transaction, whatever tool it uses. Rules F1, F3, F4
-- and C4 of the protocol.

-- Drawn while the changed rows are locked, so that it orders the changes of one key.
CREATE SEQUENCE holdfast.outbox_seq AS bigint CACHE 1;

-- One row for what a statement did to a table: a row for each key would make statements of many keys a fifth slower.
-- An id that is empty stands for any number of the kind's keys. op: i, u, d as in INSERT, UPDATE, DELETE; t as in
-- TRUNCATE; m for more keys than are told apart. Logged, unlike the identity: a prepared transaction may commit after a
-- crash.
CREATE TABLE holdfast.outbox (
    leaf smallint NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq bigint NOT NULL DEFAULT nextval('holdfast.outbox_seq'),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text COLLATE "C" NOT NULL,
    op "char" NOT NULL,
    keys integer NOT NULL,
    ids text[] COLLATE "C" NOT NULL,
    versions bigint[] NOT NULL
) PARTITION BY LIST (leaf);
CREATE INDEX outbox_xid_seq ON holdfast.outbox (xid, seq);

-- F3: a ring of leaves, each written for five minutes and emptied whole before its next turn. No row is ever changed,
-- so vacuum would find nothing to do, and be in the way of who empties the leaf. A leaf that is missing fails no write:
-- its rows go to the last one. Wide values are stored as they are, since packing them takes the writer longer.
DO $$
DECLARE
    leaf text;
BEGIN
    FOR leaf IN SELECT 'outbox_' || number FROM generate_series(0, 5) number LOOP
        EXECUTE format('CREATE TABLE holdfast.%I PARTITION OF holdfast.outbox FOR VALUES IN (%L)',
                       leaf, right(leaf, 1));
    END LOOP;
    CREATE TABLE holdfast.outbox_rest PARTITION OF holdfast.outbox DEFAULT;
    FOR leaf IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'holdfast.outbox'::regclass LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false, toast.autovacuum_enabled = false)', leaf);
        EXECUTE format('ALTER TABLE %s ALTER ids SET STORAGE EXTERNAL, ALTER versions SET STORAGE EXTERNAL', leaf);
    END LOOP;
END $$;

CREATE FUNCTION holdfast.outbox_leaf(moment timestamptz) RETURNS smallint LANGUAGE sql STABLE
    RETURN (pg_catalog.date_part('epoch', moment)::bigint / 300 % 6)::smallint;

-- A dump holds the rows of UNLOGGED tables too. Where it was restored the tables are others, and the rows do not count.
ALTER TABLE holdfast.incarnation ADD origin oid NOT NULL DEFAULT 'holdfast.incarnation'::regclass;

-- Snapshots of the past: a leaf may be emptied of what an old one sees, and a reader that has not seen as much as one
-- that is a little younger must begin anew. UNLOGGED like the identity, so both are lost together.
CREATE UNLOGGED TABLE holdfast.outbox_marks (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    snapshot text NOT NULL DEFAULT pg_current_snapshot()
);
ALTER TABLE holdfast.outbox_marks ADD origin oid NOT NULL DEFAULT 'holdfast.outbox_marks'::regclass;
-- By a clock that stands still where the machine's was set back: what was once old stays old.
CREATE VIEW holdfast.outbox_mark_ages AS
    SELECT at, snapshot, greatest(clock_timestamp(), max(at) OVER ()) - at AS age
    FROM holdfast.outbox_marks WHERE origin = tableoid;

-- The trigger function, once per statement; the kind is its argument. It acts for its owner, so writers need no right
-- on the outbox. Of an UPDATE that changed primary keys, the ids left behind are told as deleted: both transition tables
-- have their rows in the order of the scan, so their ids differ only then, and EXCEPT says which without comparing each
-- with each, whatever plan was made when there was one row.
CREATE FUNCTION holdfast.note() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys_max CONSTANT integer := 5000;
    op "char" := lower(TG_OP);
    changed text[];
    drawn bigint[];
    former text[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        changed := ARRAY(SELECT id FROM written LIMIT keys_max + 1);
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT ARRAY(SELECT id FROM written LIMIT keys_max + 1), ARRAY(SELECT version FROM written LIMIT keys_max),
               ARRAY(SELECT id FROM erased LIMIT keys_max) INTO changed, drawn, former;
    ELSIF TG_OP = 'DELETE' THEN
        changed := ARRAY(SELECT id FROM erased LIMIT keys_max + 1);
    ELSE
        changed := ARRAY[''];
    END IF;
    IF changed = '{}' THEN
        RETURN NULL;
    END IF;
    IF cardinality(changed) > keys_max THEN
        op := 'm';
        changed := ARRAY[''];
        former := changed;
    END IF;
    IF TG_OP = 'INSERT' AND op <> 'm' THEN
        drawn := ARRAY(SELECT version FROM written);
    ELSIF op <> 'u' THEN
        drawn := ARRAY(SELECT nextval('holdfast.version_seq') FROM unnest(changed));
    END IF;
    INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
    VALUES (holdfast.outbox_leaf(clock_timestamp()), TG_ARGV[0], op, cardinality(changed), changed, drawn);
    IF former <> changed THEN
        INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
        SELECT holdfast.outbox_leaf(clock_timestamp()), TG_ARGV[0], 'd', count(*), array_agg(id),
               array_agg(nextval('holdfast.version_seq'))
        FROM (SELECT id FROM erased EXCEPT SELECT id FROM written) AS vanished
        HAVING count(*) > 0;
    END IF;
    RETURN NULL;
END $$;
-- Or anybody could hang it on a table of theirs, and void what caches hold.
REVOKE EXECUTE ON FUNCTION holdfast.note() FROM PUBLIC;

-- A kind's table and everything below it: triggers of a statement fire for the table that the statement names, and
-- partitions do not inherit them.
CREATE FUNCTION holdfast.relations(kind text) RETURNS SETOF regclass
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree (relation) AS (
        SELECT to_regclass(format('holdfast.%I', table_name)) FROM holdfast.kinds WHERE name = $1
        UNION SELECT inhrelid FROM pg_inherits, tree WHERE inhparent = relation
    )
    SELECT relation FROM tree WHERE relation IS NOT NULL
$$;

CREATE FUNCTION holdfast.watch_relation(kind text, relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    operation text;
    tables text;
    name text;
BEGIN
    FOR operation, tables IN VALUES
        ('insert', 'REFERENCING NEW TABLE AS written'),
        ('update', 'REFERENCING OLD TABLE AS erased NEW TABLE AS written'),
        ('delete', 'REFERENCING OLD TABLE AS erased'),
        ('truncate', '')
    LOOP
        name := 'holdfast_note_' || operation;
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s
            FOR EACH STATEMENT EXECUTE FUNCTION holdfast.note(%L)', name, operation, relation, tables, kind);
        EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', relation, name);
    END LOOP;
END $$;

-- What the catalog says is wrong with the triggers of a kind's tables; nothing if all are there and always enabled.
CREATE FUNCTION holdfast.unwatched(kind text) RETURNS TABLE (relation regclass, trigger_name text, fault text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation, wanted.name, CASE
        WHEN t.oid IS NULL THEN 'is missing'
        WHEN t.tgenabled = 'D' THEN 'is disabled'
        WHEN t.tgenabled <> 'A' THEN 'is not enabled always'
        ELSE 'is not Holdfast''s' END
    FROM holdfast.relations($1) AS r (relation)
    CROSS JOIN (VALUES ('holdfast_stamp', NULL), ('holdfast_note_insert', 4), ('holdfast_note_update', 16),
                       ('holdfast_note_delete', 8), ('holdfast_note_truncate', 32)) AS wanted (name, event)
    LEFT JOIN pg_trigger AS t ON t.tgrelid = r.relation AND t.tgname = wanted.name
    WHERE (t.tgenabled = 'A' AND (wanted.event IS NULL OR (
        t.tgfoid = 'holdfast.note()'::regprocedure AND t.tgtype = wanted.event
        AND t.tgargs = convert_to($1, 'UTF8') || '\x00'))) IS NOT TRUE
    ORDER BY r.relation, wanted.name
$$;

-- Have a kind's tables tell of their changes. Where they do already nothing happens, and no lock is taken.
CREATE FUNCTION holdfast.watch_table(kind text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM holdfast.watch_relation(kind, relation)
    FROM (SELECT DISTINCT relation FROM holdfast.unwatched(kind) WHERE trigger_name <> 'holdfast_stamp') AS faulty;
END $$;

-- A kind is managed when its table is there and tells of its changes.
ALTER FUNCTION holdfast.manage_kind(text, text, boolean) RENAME TO make_table;
CREATE FUNCTION holdfast.manage_kind(kind text, wanted_table text, once boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM holdfast.make_table(kind, wanted_table, once);
    PERFORM holdfast.watch_table(kind);
END $$;

-- As in 0002, and a new partition is watched before it takes rows.
CREATE OR REPLACE FUNCTION holdfast.ensure_month(parent text, moment timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    first_day timestamptz := date_trunc('month', moment);
    next_day timestamptz := first_day + interval '1 month';
    part text := parent || to_char(first_day, '_YYYY_MM');
    kind text := (SELECT name FROM holdfast.kinds WHERE table_name = parent AND append_only);
BEGIN
    IF kind IS NULL THEN
        RAISE EXCEPTION 'no kind keeps its history in table %', parent USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF (moment BETWEEN now() - interval '10 years' AND now() + interval '1 year') IS NOT TRUE THEN
        RAISE EXCEPTION 'table %: months are made from 10 years back to 1 year ahead, not at %', parent, moment
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('holdfast.' || part, 0));
    IF to_regclass(format('holdfast.%I', part)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE holdfast.%I (LIKE holdfast.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
    EXECUTE format('ALTER TABLE holdfast.%I ADD CHECK (created_at >= %L AND created_at < %L)', part, first_day, next_day);
    PERFORM holdfast.watch_relation(kind, format('holdfast.%I', part)::regclass);
    EXECUTE format('ALTER TABLE holdfast.%I ATTACH PARTITION holdfast.%I FOR VALUES FROM (%L) TO (%L)',
                   parent, part, first_day, next_day);
END $$;

-- C4: the number is drawn under a lock that is kept until it is committed, so numbers are committed in their order.
CREATE FUNCTION holdfast.raise_generation(raised text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    drawn bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('holdfast.generations', 0));
    drawn := nextval('holdfast.version_seq');
    INSERT INTO holdfast.generations VALUES (raised, drawn)
    ON CONFLICT (scope) DO UPDATE SET generation = drawn;
    RETURN drawn;
END $$;

-- F3: store a mark, at most one a minute. Marks go after an hour, but for the youngest by which a leaf may have been
-- emptied.
CREATE FUNCTION holdfast.mark_outbox() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO holdfast.outbox_marks
    SELECT WHERE NOT EXISTS (SELECT FROM holdfast.outbox_mark_ages WHERE age < interval '1 minute');
    DELETE FROM holdfast.outbox_marks WHERE origin <> tableoid OR (
        at IN (SELECT at FROM holdfast.outbox_mark_ages WHERE age > interval '1 hour')
        AND at < (SELECT max(at) FROM holdfast.outbox_mark_ages WHERE age >= interval '5 minutes'));
$$;

-- The leaves that nobody should be writing to now.
CREATE FUNCTION holdfast.idle_leaves() RETURNS SETOF regclass
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT inhrelid::regclass FROM pg_inherits, pg_class
    WHERE inhparent = 'holdfast.outbox'::regclass AND pg_class.oid = inhrelid AND relname NOT IN (
        'outbox_' || holdfast.outbox_leaf(clock_timestamp()),
        'outbox_' || holdfast.outbox_leaf(clock_timestamp() - interval '5 minutes'))
    ORDER BY relname
$$;

-- F3: empty a leaf if all that is in it lies before an old mark, and say whether it was emptied. A transaction may
-- commit just as the lock is granted, so what counts is asked again afterwards, in a statement that sees it. Nobody
-- waits behind this for longer than the lock is waited for: a leaf that is in use is left for the next time.
CREATE FUNCTION holdfast.empty_leaf(leaf regclass) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' SET enable_seqscan = off AS $$
DECLARE
    mark pg_snapshot := (SELECT snapshot FROM holdfast.outbox_mark_ages WHERE age >= interval '5 minutes'
                         ORDER BY age LIMIT 1);
    -- An xid that nobody can have drawn here comes from another server, by way of a dump.
    is_past CONSTANT text := format(
        'SELECT EXISTS (SELECT FROM %1$s)
            AND NOT EXISTS (SELECT FROM %1$s WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip($1))))
            AND NOT EXISTS (SELECT FROM %1$s
                            WHERE xid >= pg_snapshot_xmax($1) AND xid < pg_snapshot_xmax(pg_current_snapshot()))', leaf);
    past boolean := false;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a leaf can be emptied at READ COMMITTED only' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'holdfast.outbox'::regclass AND inhrelid = leaf) THEN
        RAISE EXCEPTION '% is no leaf of the outbox', leaf USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF mark IS NOT NULL THEN
        EXECUTE is_past INTO past USING mark;
    END IF;
    IF past THEN
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', leaf);
        EXECUTE is_past INTO past USING mark;
    END IF;
    IF past THEN
        EXECUTE format('TRUNCATE %s', leaf);
    END IF;
    RETURN past;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

-- All of it is the keeper's, whoever migrates: the note of a write by anybody, and ensure_month, act for that role.
DO $$
DECLARE
    keeper regrole := holdfast.keeper();
    made text;
BEGIN
    FOR made IN
        SELECT 'TABLE ' || oid::regclass FROM pg_class WHERE relowner <> keeper AND (
            oid IN ('holdfast.outbox_seq'::regclass, 'holdfast.outbox'::regclass, 'holdfast.outbox_marks'::regclass,
                    'holdfast.outbox_mark_ages'::regclass)
            OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'holdfast.outbox'::regclass))
        UNION ALL SELECT 'FUNCTION ' || oid::regprocedure FROM pg_proc
        WHERE proowner <> keeper AND pronamespace = 'holdfast'::regnamespace
    LOOP
        EXECUTE format('ALTER %s OWNER TO %s', made, keeper);
    END LOOP;
END $$;

SELECT holdfast.watch_table(name) FROM holdfast.kinds ORDER BY name;
