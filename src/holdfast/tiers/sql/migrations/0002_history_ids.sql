-- Ids of history in tables of their own, in place of an advisory lock for each new id.
--
-- A table of history is partitioned by month, so no unique index of its own covers the id alone. "<Table>_ids" has that
-- index: the trigger enters the id there first, and whoever comes second waits for the first one's end and is refused
-- with unique_violation. That holds at every isolation level, since a unique index looks past the snapshot, and takes
-- no place in the server's lock table, however many ids one transaction brings.
--
-- The trigger is one per row: PostgreSQL clones it to every partition, also to those made by hand, so that DML straight
-- on a partition enters its ids too. One per statement would be faster for many rows, but partitions do not inherit it.
--
-- Ids stay when their month is detached or dropped: an id of history is never used twice, or caches and readers would
-- take another document for the one they know. The price of a dropped document is one short row.

-- Roles that may write history need no right on the table of ids, so the function acts for its owner.
CREATE OR REPLACE FUNCTION holdfast.stamp_once() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('INSERT INTO holdfast.%I (id) VALUES ($1)', TG_ARGV[0] || '_ids') USING NEW.id;
    NEW.version := nextval('holdfast.version_seq');
    NEW.birth := NEW.version;
    NEW.updated_at := NEW.created_at;
    RETURN NEW;
END $$;
-- Or anybody could hang it on a table of theirs, and use up ids of history. Firing it takes no right to execute it.
REVOKE EXECUTE ON FUNCTION holdfast.stamp_once() FROM PUBLIC;

-- The role that stamp_once and ensure_month act for: tables of history and of ids are its own, whoever migrates.
CREATE FUNCTION holdfast.keeper() RETURNS regrole LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT proowner FROM pg_proc WHERE oid = 'holdfast.stamp_once()'::regprocedure
$$;

-- The ids of a table of history, those it has included. DISTINCT: without the index, raw SQL at REPEATABLE READ could
-- write an id twice.
CREATE FUNCTION holdfast.keep_ids(history text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids text := history || '_ids';
    keeper regrole := holdfast.keeper();
BEGIN
    EXECUTE format('CREATE TABLE holdfast.%I AS SELECT DISTINCT id FROM holdfast.%I', ids, history);
    EXECUTE format('ALTER TABLE holdfast.%I ADD PRIMARY KEY (id)', ids);
    EXECUTE format('ALTER TABLE holdfast.%I OWNER TO %s', ids, keeper);
END $$;

-- The month's partition; as in 0001, but for roles without the right to create. What it can be made to do for them is
-- bounded: tables of history only, and months that somebody may still write or bring along. Months are UTC's, whatever
-- the caller's time zone is.
CREATE OR REPLACE FUNCTION holdfast.ensure_month(parent text, moment timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    first_day timestamptz := date_trunc('month', moment);
    next_day timestamptz := first_day + interval '1 month';
    part text := parent || to_char(first_day, '_YYYY_MM');
BEGIN
    IF NOT EXISTS (SELECT FROM holdfast.kinds WHERE table_name = parent AND append_only) THEN
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
    EXECUTE format('ALTER TABLE holdfast.%I ATTACH PARTITION holdfast.%I FOR VALUES FROM (%L) TO (%L)',
                   parent, part, first_day, next_day);
END $$;

-- As in 0001, and history gets its table of ids. The kind is entered before its months are made: ensure_month asks.
CREATE OR REPLACE FUNCTION holdfast.manage_kind(kind text, wanted_table text, once boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present holdfast.kinds;
BEGIN
    SELECT * INTO present FROM holdfast.kinds WHERE name = kind;
    IF FOUND THEN
        IF present.table_name <> wanted_table OR present.append_only <> once THEN
            RAISE EXCEPTION 'kind % is kept in table % (append_only %), not in % (append_only %)',
                kind, present.table_name, present.append_only, wanted_table, once
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE holdfast.%I (
        id text COLLATE "C" NOT NULL CHECK (octet_length(id) BETWEEN 1 AND 512),
        document json NOT NULL,
        schema smallint NOT NULL DEFAULT 1,
        version bigint NOT NULL,
        birth bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()) %s',
        wanted_table, CASE WHEN once THEN 'PARTITION BY RANGE (created_at)' ELSE '' END);
    INSERT INTO holdfast.kinds VALUES (kind, wanted_table, once);
    IF once THEN
        EXECUTE format('ALTER TABLE holdfast.%I ADD PRIMARY KEY (id, created_at)', wanted_table);
        EXECUTE format('CREATE TRIGGER holdfast_stamp BEFORE INSERT OR UPDATE OR DELETE ON holdfast.%I
            FOR EACH ROW EXECUTE FUNCTION holdfast.stamp_once(%L)', wanted_table, wanted_table);
        EXECUTE format('ALTER TABLE holdfast.%I OWNER TO %s', wanted_table, holdfast.keeper());
        PERFORM holdfast.keep_ids(wanted_table);
        PERFORM holdfast.ensure_month(wanted_table, now() + month * interval '1 month') FROM generate_series(0, 2) month;
    ELSE
        EXECUTE format('ALTER TABLE holdfast.%I ADD PRIMARY KEY (id)', wanted_table);
        EXECUTE format('CREATE TRIGGER holdfast_stamp BEFORE INSERT OR UPDATE ON holdfast.%I
            FOR EACH ROW EXECUTE FUNCTION holdfast.stamp()', wanted_table);
    END IF;
    EXECUTE format('ALTER TABLE holdfast.%I ENABLE ALWAYS TRIGGER holdfast_stamp', wanted_table);
END $$;

-- The history there is. The lock keeps writers out from before its ids are read until the new trigger function counts.
DO $$
DECLARE
    history text;
    owner regrole;
BEGIN
    FOR history, owner IN SELECT table_name, relowner FROM holdfast.kinds
            JOIN pg_catalog.pg_class ON pg_class.oid = format('holdfast.%I', table_name)::regclass
            WHERE append_only ORDER BY table_name LOOP
        IF owner <> holdfast.keeper() THEN  -- not changed here: its owner would lose the right to use it
            RAISE EXCEPTION 'table holdfast.% belongs to %: it must belong to %, whom the functions of history act for',
                history, owner, holdfast.keeper() USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        EXECUTE format('LOCK TABLE holdfast.%I IN SHARE ROW EXCLUSIVE MODE', history);
        PERFORM holdfast.keep_ids(history);
    END LOOP;
END $$;
