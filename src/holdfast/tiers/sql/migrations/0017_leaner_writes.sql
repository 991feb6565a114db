-- Versions that Holdfast's own statements draw themselves, and a note that does less where nothing was written. Rules
-- V1, V3 and F1 of the protocol; the prices are in ADR 0010.
--
-- A call of the function that draws versions costs a row a quarter of what PostgreSQL needs to write it, and an upsert
-- of a row that exists makes two. So a statement may draw the number where it writes the row: an upsert under the row's
-- lock as the trigger does, an UPDATE before it, and again where it finds the row changed when it has waited. It is
-- believed only if the number is the last that this session has drawn, and above the row's: no statement can choose one,
-- and where the order of evaluation is another, or the clock was set back, the trigger draws as ever. Several rows may be
-- given one number that way, by somebody who means to: versions are compared by key.
--
-- What is asked first keeps nearly all others out: of a session that has drawn nothing the last number cannot be asked,
-- and a row copied whole, by a restore, or written back by a tool, brings an old moment or the version that is there.
-- ADR 0010 says who meets the error all the same.
CREATE OR REPLACE FUNCTION holdfast.stamp_relation(kind text, relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    believed CONSTANT text := 'CASE WHEN NEW.updated_at > statement_timestamp() AND %s
        THEN NEW.version <> currval(''holdfast.version_seq'') ELSE true END';
    present holdfast.kinds := (SELECT k FROM holdfast.kinds k WHERE k.name = kind);
    is_root CONSTANT boolean := relation = to_regclass(format('holdfast.%I', present.table_name));
    stamp text;
BEGIN
    IF is_root AND present.append_only THEN
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'holdfast_stamp') THEN
            EXECUTE format('CREATE TRIGGER holdfast_stamp BEFORE INSERT OR UPDATE OR DELETE ON %s
                FOR EACH ROW EXECUTE FUNCTION holdfast.stamp_once(%L)', relation, present.table_name);
        END IF;
    ELSIF is_root THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER holdfast_stamp BEFORE INSERT ON %s FOR EACH ROW WHEN ('
            || believed || ') EXECUTE FUNCTION holdfast.stamp()', relation, 'NEW.birth = NEW.version');
        EXECUTE format('CREATE OR REPLACE TRIGGER holdfast_restamp BEFORE UPDATE ON %s FOR EACH ROW WHEN ('
            || believed || ') EXECUTE FUNCTION holdfast.stamp()', relation,
            'NEW.version > OLD.version AND NEW.birth = OLD.birth');
    END IF;
    FOR stamp IN SELECT tgname FROM pg_trigger
                 WHERE tgrelid = relation AND tgname IN ('holdfast_stamp', 'holdfast_restamp') LOOP
        EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', relation, stamp);
    END LOOP;
END $$;

-- As in 0004, and the second of the triggers that draw versions.
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
                UNION ALL SELECT 'holdfast_restamp', NULL, NULL FROM holdfast.kinds k
                WHERE k.name = $1 AND NOT append_only
                UNION ALL SELECT name, function, type FROM holdfast.note_triggers($1)) AS wanted (name, function, type)
    LEFT JOIN pg_trigger AS t ON t.tgrelid = r.relation AND t.tgname = wanted.name
    WHERE (t.tgenabled = 'A' AND (wanted.type IS NULL OR (
        t.tgfoid = wanted.function AND t.tgtype = wanted.type
        AND t.tgargs = convert_to($1, 'UTF8') || '\x00'))) IS NOT TRUE
    ORDER BY r.relation, wanted.name
$$;

-- As in 0004, but an upsert that finds all its rows calls this for its INSERT too, with none: what is cheapest is asked
-- first. And one row is inserted from values, not from a query.
CREATE OR REPLACE FUNCTION holdfast.note() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys_max CONSTANT integer := 5000;
    op "char" := lower(TG_OP);
    changed text[] := ARRAY[''];
    drawn bigint[];
    kinds text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NOT EXISTS (SELECT FROM written) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF TG_OP = 'DELETE' THEN
        SELECT array_agg(id), array_agg(version) INTO changed, drawn
        FROM (SELECT id, nextval('holdfast.version_seq') AS version FROM erased LIMIT keys_max + 1) AS gone;
    ELSIF TG_OP <> 'TRUNCATE' THEN
        SELECT array_agg(id), array_agg(version) INTO changed, drawn
        FROM (SELECT id, version FROM written LIMIT keys_max + 1) AS put;
    END IF;
    IF changed IS NULL THEN
        RETURN NULL;
    END IF;
    IF cardinality(changed) > keys_max THEN
        op := 'm';
        changed := ARRAY[''];
    END IF;
    IF op IN ('m', 't') THEN
        drawn := ARRAY[nextval('holdfast.version_seq')];
    END IF;
    INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
    VALUES (holdfast.outbox_leaf(clock_timestamp()), TG_ARGV[0], op, cardinality(changed), changed, drawn);
    kinds := holdfast.note_kind(TG_ARGV[0]);  -- PERFORM would be five times as slow
    RETURN NULL;
END $$;

SELECT holdfast.watch_relation(name, root) FROM holdfast.kinds, to_regclass(format('holdfast.%I', table_name)) AS root
WHERE root IS NOT NULL AND NOT append_only ORDER BY name;
-- What partitions have from their parent was made anew with it, and is to be enabled always again.
SELECT holdfast.watch_relation(name, relation) FROM holdfast.kinds, holdfast.relations(name) AS relation
WHERE NOT append_only ORDER BY name, relation;
