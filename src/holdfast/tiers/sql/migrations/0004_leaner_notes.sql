-- The note of 0003 at a lower price: what an UPDATE erased is kept no more, and what it wrote is read once. And two
-- settings of the transaction, which are undone with a savepoint as the notes are: they say what was noted so far.

-- Add a kind to the list `holdfast.kinds`, from which a transaction learns what it changed: at SERIALIZABLE a look into
-- the outbox would make it conflict with all who write to it. Only where somebody will ask, which `holdfast.mark` says.
-- What a transaction before has set is empty now, no NULL.
CREATE FUNCTION holdfast.note_kind(kind text) RETURNS text LANGUAGE sql
    RETURN CASE WHEN pg_catalog.current_setting('holdfast.mark', true) OPERATOR(pg_catalog.<>) ''
            AND (kind = ANY (pg_catalog.string_to_array(pg_catalog.current_setting('holdfast.kinds', true), ',')))
                IS NOT TRUE
        THEN pg_catalog.set_config('holdfast.kinds', pg_catalog.concat_ws(
                 ',', nullif(pg_catalog.current_setting('holdfast.kinds', true), ''), kind), true) END;

-- As in 0003, but for changed primary keys.
CREATE OR REPLACE FUNCTION holdfast.note() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys_max CONSTANT integer := 5000;
    kinds text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
        SELECT holdfast.outbox_leaf(clock_timestamp()), TG_ARGV[0],
               CASE WHEN count(*) > keys_max THEN 'm' ELSE 'd' END,
               CASE WHEN count(*) > keys_max THEN 1 ELSE count(*) END,
               CASE WHEN count(*) > keys_max THEN ARRAY[''] ELSE array_agg(id) END,
               CASE WHEN count(*) > keys_max THEN ARRAY[max(version)] ELSE array_agg(version) END
        FROM (SELECT id, nextval('holdfast.version_seq') AS version FROM erased LIMIT keys_max + 1) AS gone
        HAVING count(*) > 0;
    ELSIF TG_OP = 'TRUNCATE' THEN
        INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
        VALUES (holdfast.outbox_leaf(clock_timestamp()), TG_ARGV[0], 't', 1, ARRAY[''],
                ARRAY[nextval('holdfast.version_seq')]);
    ELSE
        INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
        SELECT holdfast.outbox_leaf(clock_timestamp()), TG_ARGV[0],
               CASE WHEN count(*) > keys_max THEN 'm' WHEN TG_OP = 'INSERT' THEN 'i' ELSE 'u' END,
               CASE WHEN count(*) > keys_max THEN 1 ELSE count(*) END,
               CASE WHEN count(*) > keys_max THEN ARRAY[''] ELSE array_agg(id) END,
               CASE WHEN count(*) > keys_max THEN ARRAY[nextval('holdfast.version_seq')] ELSE array_agg(version) END
        FROM (SELECT id, version FROM written LIMIT keys_max + 1) AS changed
        HAVING count(*) > 0;
    END IF;
    IF FOUND THEN
        kinds := holdfast.note_kind(TG_ARGV[0]);  -- PERFORM would be five times as slow
    END IF;
    RETURN NULL;
END $$;

-- An UPDATE that changed a primary key deletes the old one. The number is the lowest that is above the old key's last
-- version: whatever row takes that key in the same statement has drawn no lower one. F4: a transaction tells 5000 such
-- keys of a kind apart, then once that it may be any. Their count is a setting of the transaction: what undoes the notes
-- undoes it too.
CREATE FUNCTION holdfast.note_moved() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys_max CONSTANT integer := 5000;
    counter CONSTANT text := 'holdfast.moved_' || TG_ARGV[0];
    -- Never set in this session it is NULL; after a transaction that set it, it is empty.
    moved CONSTANT integer := coalesce(nullif(current_setting(counter, true), '')::integer, 0) + 1;
BEGIN
    IF moved > keys_max + 1 THEN
        RETURN NULL;
    END IF;
    PERFORM set_config(counter, moved::text, true), holdfast.note_kind(TG_ARGV[0]);
    IF moved > keys_max THEN
        INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
        VALUES (holdfast.outbox_leaf(clock_timestamp()), TG_ARGV[0], 'm', 1, ARRAY[''],
                ARRAY[nextval('holdfast.version_seq')]);
    ELSE
        INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
        VALUES (holdfast.outbox_leaf(clock_timestamp()), TG_ARGV[0], 'd', 1, ARRAY[OLD.id], ARRAY[OLD.version + 1]);
    END IF;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION holdfast.note_moved() FROM PUBLIC;

-- The triggers by which a table tells of its changes. Tables of history refuse every UPDATE, and a trigger of rows would
-- come down to their partitions by itself.
CREATE FUNCTION holdfast.note_triggers(kind text)
    RETURNS TABLE (name text, event text, level text, function regproc, type integer)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'holdfast_note_' || wanted.name, wanted.event, wanted.level, wanted.function, wanted.type
    FROM (VALUES
        ('insert', 'INSERT', 'REFERENCING NEW TABLE AS written FOR EACH STATEMENT', 'holdfast.note'::regproc, 4),
        ('update', 'UPDATE', 'REFERENCING NEW TABLE AS written FOR EACH STATEMENT', 'holdfast.note', 16),
        ('delete', 'DELETE', 'REFERENCING OLD TABLE AS erased FOR EACH STATEMENT', 'holdfast.note', 8),
        ('truncate', 'TRUNCATE', 'FOR EACH STATEMENT', 'holdfast.note', 32),
        ('moved', 'UPDATE', 'FOR EACH ROW WHEN (OLD.id <> NEW.id)', 'holdfast.note_moved', 17)
    ) AS wanted (name, event, level, function, type)
    WHERE wanted.name <> 'moved' OR NOT EXISTS (SELECT FROM holdfast.kinds k WHERE k.name = $1 AND append_only)
$$;

CREATE OR REPLACE FUNCTION holdfast.watch_relation(kind text, relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM holdfast.note_triggers(kind) LOOP
        -- What a partition has from its parent cannot be made there.
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = wanted.name AND tgparentid <> 0) THEN
            EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s EXECUTE FUNCTION %s(%L)',
                           wanted.name, wanted.event, relation, wanted.level, wanted.function, kind);
        END IF;
        EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', relation, wanted.name);
    END LOOP;
    PERFORM holdfast.stamp_relation(kind, relation);
END $$;

-- The trigger that draws versions, where it was dropped or switched off. A partition gets its own when it is attached.
CREATE FUNCTION holdfast.stamp_relation(kind text, relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present holdfast.kinds := (SELECT k FROM holdfast.kinds k WHERE k.name = kind);
    stamped boolean := EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'holdfast_stamp');
BEGIN
    IF NOT stamped AND relation = to_regclass(format('holdfast.%I', present.table_name)) THEN
        EXECUTE format('CREATE TRIGGER holdfast_stamp BEFORE INSERT OR UPDATE %s ON %s FOR EACH ROW EXECUTE FUNCTION %s',
                       CASE WHEN present.append_only THEN 'OR DELETE' END, relation,
                       CASE WHEN present.append_only THEN format('holdfast.stamp_once(%L)', present.table_name)
                            ELSE 'holdfast.stamp()' END);
        stamped := true;
    END IF;
    IF stamped THEN
        EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER holdfast_stamp', relation);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION holdfast.watch_table(kind text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root regclass := (SELECT to_regclass(format('holdfast.%I', table_name)) FROM holdfast.kinds WHERE name = kind);
BEGIN
    -- The kind's own table first: with it its partitions get triggers of rows.
    PERFORM holdfast.watch_relation(kind, root) WHERE root IN (SELECT relation FROM holdfast.unwatched(kind));
    PERFORM holdfast.watch_relation(kind, relation)
    FROM (SELECT DISTINCT relation FROM holdfast.unwatched(kind)) AS faulty;
END $$;

CREATE OR REPLACE FUNCTION holdfast.unwatched(kind text)
    RETURNS TABLE (relation regclass, trigger_name text, fault text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation, wanted.name, CASE
        WHEN t.oid IS NULL THEN 'is missing'
        WHEN t.tgenabled = 'D' THEN 'is disabled'
        WHEN t.tgenabled <> 'A' THEN 'is not enabled always'
        ELSE 'is not Holdfast''s' END
    FROM holdfast.relations($1) AS r (relation)
    CROSS JOIN (SELECT 'holdfast_stamp', NULL::regproc, NULL::integer
                UNION ALL SELECT name, function, type FROM holdfast.note_triggers($1)) AS wanted (name, function, type)
    LEFT JOIN pg_trigger AS t ON t.tgrelid = r.relation AND t.tgname = wanted.name
    WHERE (t.tgenabled = 'A' AND (wanted.type IS NULL OR (
        t.tgfoid = wanted.function AND t.tgtype = wanted.type
        AND t.tgargs = convert_to($1, 'UTF8') || '\x00'))) IS NOT TRUE
    ORDER BY r.relation, wanted.name
$$;

-- A database made with TEMPLATE has the row, and its oids, of the one it was made from.
ALTER TABLE holdfast.incarnation ADD home name NOT NULL DEFAULT current_database();

-- Draw an identity if there is none of this database: a crash emptied the table, or its row came with a dump or a copy.
-- It acts for its owner and does nothing otherwise, so that every role may call it.
CREATE FUNCTION holdfast.ensure_incarnation() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO holdfast.incarnation AS i DEFAULT VALUES
    ON CONFLICT (one) DO UPDATE SET id = EXCLUDED.id, origin = EXCLUDED.origin, home = EXCLUDED.home
    WHERE i.origin <> i.tableoid OR i.home <> current_database()
$$;

DO $$
DECLARE
    made text;
BEGIN
    FOREACH made IN ARRAY ARRAY['ensure_incarnation()', 'note_kind(text)', 'note_moved()', 'note_triggers(text)',
                               'stamp_relation(text, regclass)'] LOOP
        EXECUTE format('ALTER FUNCTION holdfast.%s OWNER TO %s', made, holdfast.keeper());
    END LOOP;
END $$;

SELECT holdfast.watch_relation(name, root) FROM holdfast.kinds, to_regclass(format('holdfast.%I', table_name)) AS root
WHERE root IS NOT NULL ORDER BY name;
SELECT holdfast.watch_relation(name, relation) FROM holdfast.kinds, holdfast.relations(name) AS relation
ORDER BY name, relation;
