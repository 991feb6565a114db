-- Runs, and the pruning of their snapshots. Rules F3 and S3 of the protocol.

SELECT holdfast.manage_kind('run', 'Run', false);

-- A NUL in any value would make PostgreSQL refuse to look into a document at all, so another character stands for it while
-- it looks: a row must not be refused for its index. Each escaped backslash is first written in another way, so that none
-- is left before a `u` that is only text.
CREATE FUNCTION holdfast.without_nul(document json) RETURNS json LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN pg_catalog.replace(pg_catalog.replace(document::text, '\\', '\u005c'), '\u0000', '\u0001')::json;

-- What runs are looked up by: swarm, parent, routine and status. All from one parse, since a row may have 64 KB. No id is
-- longer than what is kept, and an index takes no text of any length.
CREATE FUNCTION holdfast.run_fields(document json) RETURNS text[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    looked_into json := document;
    fields text[];
BEGIN
    IF pg_catalog.strpos(document::pg_catalog.text, '\u0000') OPERATOR(pg_catalog.>) 0 THEN
        looked_into := holdfast.without_nul(document);
    END IF;
    IF pg_catalog.json_typeof(looked_into) OPERATOR(pg_catalog.=) 'object' THEN
        SELECT ARRAY[pg_catalog.left("swarmId", 512), pg_catalog.left("parentRunId", 512),
                     pg_catalog.left("routineId", 512), pg_catalog.left(coalesce(status, 'running'), 512)]
        INTO fields FROM pg_catalog.json_to_record(looked_into)
            AS run ("swarmId" text, "parentRunId" text, "routineId" text, status text);
    END IF;
    RETURN fields;
END $$;

-- A column, and not expressions in the indexes: the row is written with every flush of its run, and where no column of an
-- index has changed PostgreSQL leaves all of them alone, if the page has room.
ALTER TABLE holdfast."Run"
    ADD fields text[] COLLATE "C" GENERATED ALWAYS AS (holdfast.run_fields(document)) STORED, SET (fillfactor = 70);

-- Each in the order in which runs are listed: the birth version is unique and never changes. That of all runs is by
-- another expression, so that no plan comes to look for some runs among all of them: of the runs of a rare state, say,
-- PostgreSQL would expect the first ones soon.
CREATE INDEX run_swarm ON holdfast."Run" ((fields[1]), birth) WHERE fields[1] IS NOT NULL;
CREATE INDEX run_parent ON holdfast."Run" ((fields[2]), birth) WHERE fields[2] IS NOT NULL;
CREATE INDEX run_routine ON holdfast."Run" ((fields[3]), birth);
CREATE INDEX run_status ON holdfast."Run" ((fields[4]), birth);
CREATE INDEX run_all ON holdfast."Run" ((-birth));
CREATE INDEX run_open ON holdfast."Run" (birth) WHERE fields[4] NOT IN ('completed', 'failed', 'cancelled');

-- What is compared with a run's journal.
CREATE FUNCTION holdfast.run_journal(document json) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN holdfast.without_nul(document) OPERATOR(pg_catalog.->>) 'journal';

-- As in 0002, but for what `erase_history` deletes: for the time of its one statement a setting names the table. Nobody
-- comes by it by mistake, and who deletes by hand needs the right to.
CREATE OR REPLACE FUNCTION holdfast.stamp_once() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        IF TG_OP = 'DELETE' AND current_setting('holdfast.erasing', true) = TG_ARGV[0] THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('INSERT INTO holdfast.%I (id) VALUES ($1)', TG_ARGV[0] || '_ids') USING NEW.id;
    NEW.version := nextval('holdfast.version_seq');
    NEW.birth := NEW.version;
    NEW.updated_at := NEW.created_at;
    RETURN NEW;
END $$;

-- Erase documents of history, and return how many there were. It is told to caches like any DELETE, by the statement on
-- the kind's own table. Their ids stay taken: caches and readers would take another document for the one they know. No
-- more than are told apart.
CREATE FUNCTION holdfast.erase_history(history text, erased text[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    ids_max CONSTANT integer := 5000;
    gone integer;
BEGIN
    IF NOT EXISTS (SELECT FROM holdfast.kinds WHERE table_name = history AND append_only) THEN
        RAISE EXCEPTION 'no kind keeps its history in table %', history USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF cardinality(erased) > ids_max THEN
        RAISE EXCEPTION 'at most % documents are erased at once', ids_max USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM set_config('holdfast.erasing', history, true);
    EXECUTE format('DELETE FROM holdfast.%I WHERE id = ANY ($1)', history) USING erased;
    GET DIAGNOSTICS gone = ROW_COUNT;
    PERFORM set_config('holdfast.erasing', '', true);
    RETURN gone;
END $$;

-- Erase the oldest snapshots of a run that are numbered below a base, at most so many, and return how many there were.
-- The base must be there; whether it is intact the caller has found out. No lock is waited for or kept but those of the
-- rows that go: nobody who writes is stopped, and who prunes the same at the same time takes others. In order of the index:
-- a plan that sorts would read all of the run's for each call.
CREATE FUNCTION holdfast.prune_snapshots(run text, below integer, most integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
    beyond CONSTANT text := run || '/' || to_char(below, 'FM00000000');
BEGIN
    IF NOT EXISTS (SELECT FROM holdfast."RunContextSnapshot" WHERE id = beyond || '.base') THEN
        RAISE EXCEPTION 'run % has no base %', run, below USING ERRCODE = 'no_data_found';
    END IF;
    RETURN holdfast.erase_history('RunContextSnapshot', ARRAY(
        SELECT id FROM holdfast."RunContextSnapshot"
        WHERE id >= run || '/0' AND id < beyond AND substr(id, length(run) + 2) ~ '^[0-9]{8}(\.base)?$'
        ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED));
END $$;

-- The months of a table of history, by the bounds of its partitions.
CREATE FUNCTION holdfast.history_months(history text)
    RETURNS TABLE (part regclass, first_day timestamptz, next_day timestamptz)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT inhrelid::regclass, substring(bound FROM $re$FROM \('([^']+)'\)$re$)::timestamptz,
           substring(bound FROM $re$TO \('([^']+)'\)$re$)::timestamptz
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid, pg_get_expr(relpartbound, inhrelid) AS bound
    WHERE inhparent = to_regclass(format('holdfast.%I', history))
    ORDER BY 2
$$;

-- Months of snapshots that are over since so many whole months, the oldest first.
CREATE FUNCTION holdfast.old_snapshots(months integer) RETURNS TABLE (part regclass, first_day timestamptz)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT part, first_day FROM holdfast.history_months('RunContextSnapshot')
    WHERE next_day <= date_trunc('month', now()) - months * interval '1 month' ORDER BY first_day
$$;

-- Drop a month of snapshots, if all runs that have any there are ended, or are not known; otherwise say what is in the
-- way. F3: no lock is waited for long, since others wait behind: what is in use is left for the next time. The month is
-- first shut to writers, who have long gone on to others, so that what was looked at is what is dropped. TRUNCATE tells
-- caches. A run that is taken up again after it had ended, in that moment, is not waited for.
CREATE FUNCTION holdfast.drop_snapshots(part regclass) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '20ms' SET enable_seqscan = off AS $$
DECLARE
    needed text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a month can be dropped at READ COMMITTED only' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    IF NOT EXISTS (SELECT FROM holdfast.history_months('RunContextSnapshot') AS m WHERE m.part = $1 AND next_day <= now())
    THEN
        RAISE EXCEPTION '% is no month of snapshots that is over', part USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE MODE', part);
    EXECUTE format('SELECT r.id FROM holdfast."Run" AS r
        WHERE r.fields[4] NOT IN (''completed'', ''failed'', ''cancelled'') AND EXISTS (
            SELECT FROM %s AS s WHERE s.id >= r.id || ''/0'' AND s.id < r.id || ''/:'')
        ORDER BY r.birth LIMIT 1', part) INTO needed;
    IF needed IS NOT NULL THEN
        RETURN format('run %s is not ended', needed);
    END IF;
    LOCK TABLE ONLY holdfast."RunContextSnapshot" IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('TRUNCATE %s', part);
    EXECUTE format('ALTER TABLE holdfast."RunContextSnapshot" DETACH PARTITION %s', part);
    EXECUTE format('DROP TABLE %s', part);
    RETURN NULL;
EXCEPTION
    WHEN lock_not_available THEN RETURN 'it is in use';
    WHEN insufficient_privilege THEN RETURN SQLERRM;  -- somebody made it by hand
END $$;

-- Make the partitions of all history for this month and so many ahead, and return how many were missing.
CREATE FUNCTION holdfast.make_months(ahead integer) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    missing record;
    made integer := 0;
BEGIN
    FOR missing IN
        SELECT table_name, moment FROM holdfast.kinds, generate_series(0, ahead) AS month,
            LATERAL (SELECT date_trunc('month', now()) + month * interval '1 month') AS m (moment)
        WHERE append_only
            AND to_regclass(format('holdfast.%I', table_name || to_char(moment, '_YYYY_MM'))) IS NULL
        ORDER BY table_name, moment
    LOOP
        PERFORM holdfast.ensure_month(missing.table_name, greatest(missing.moment, now()));
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- All of it is the keeper's, as in 0003, who looks for runs that are not ended. Whoever may write the generations runs
-- servers, which prune and drop; others cannot. Who may use swarms may use runs.
DO $$
DECLARE
    made text;
    granted record;
    keeper CONSTANT regrole := holdfast.keeper();
BEGIN
    EXECUTE format('GRANT SELECT ON holdfast."Run" TO %s', keeper);
    FOREACH made IN ARRAY ARRAY['without_nul(json)', 'run_fields(json)', 'run_journal(json)',
                               'erase_history(text, text[])', 'drop_snapshots(regclass)', 'prune_snapshots(text, integer, integer)', 'history_months(text)',
                               'old_snapshots(integer)', 'make_months(integer)'] LOOP
        EXECUTE format('ALTER FUNCTION holdfast.%s OWNER TO %s', made, keeper);
    END LOOP;
    REVOKE EXECUTE ON FUNCTION holdfast.erase_history(text, text[]), holdfast.drop_snapshots(regclass),
        holdfast.prune_snapshots(text, integer, integer) FROM PUBLIC;
    FOR granted IN
        SELECT oid::regclass = 'holdfast.generations'::regclass AS serves, privilege_type,
               CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl) AS acl
        WHERE oid IN ('holdfast.generations'::regclass, to_regclass('holdfast."Chat"')) AND acl.grantee <> relowner
    LOOP
        IF NOT granted.serves THEN
            EXECUTE format('GRANT %s ON holdfast."Run" TO %s', granted.privilege_type, granted.grantee);
        ELSIF granted.privilege_type = 'INSERT' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION holdfast.erase_history(text, text[]),
                holdfast.drop_snapshots(regclass), holdfast.prune_snapshots(text, integer, integer) TO %s',
                granted.grantee);
        END IF;
    END LOOP;
END $$;
