-- Versions, identity and the tables of the seed. Rules V1-V3 and F1 of the protocol.

-- V1: every write of every managed row draws its version here, under the row's lock. One sequence for all rows, so that
-- versions keep rising across delete and re-insert. CACHE 1: a session must not hold numbers back.
CREATE SEQUENCE holdfast.version_seq AS bigint CACHE 1;

-- The identity of the running database. UNLOGGED, so a crash, a failover or a restore empties it and the next connection
-- draws a new one: what caches hold may then come from a history that was lost.
CREATE UNLOGGED TABLE holdfast.incarnation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL DEFAULT gen_random_uuid()
);

-- The number below which cached entries of a scope ('all', 'kind:bot') are void.
CREATE TABLE holdfast.generations (
    scope text COLLATE "C" PRIMARY KEY,
    generation bigint NOT NULL
);
INSERT INTO holdfast.generations VALUES ('all', nextval('holdfast.version_seq'));

-- Which table holds which kind.
CREATE TABLE holdfast.kinds (
    name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,39}$'),
    table_name text NOT NULL UNIQUE,
    append_only boolean NOT NULL
);

-- V1, V3: the version is the sequence's next number, whatever the writer says; the birth version stays for a row's life.
-- No search path is set (that would double the cost per row): every name is qualified.
CREATE FUNCTION holdfast.stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := pg_catalog.nextval('holdfast.version_seq'::pg_catalog.regclass);
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
        NEW.birth := NEW.version;
    ELSE
        NEW.birth := OLD.birth;
    END IF;
    NEW.updated_at := pg_catalog.clock_timestamp();
    RETURN NEW;
END $$;

-- Append-only tables are partitioned by month, so no unique index can cover the id alone: an advisory lock on the id makes
-- two inserts of one id wait for each other, and the second one find the first.
CREATE FUNCTION holdfast.stamp_once() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    taken boolean;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(pg_catalog.concat(TG_ARGV[0], ':', NEW.id), 0));
    EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM holdfast.%I WHERE id = $1)', TG_ARGV[0]) INTO taken USING NEW.id;
    IF taken THEN
        RAISE EXCEPTION 'id % exists', NEW.id USING ERRCODE = 'unique_violation';
    END IF;
    NEW.version := pg_catalog.nextval('holdfast.version_seq'::pg_catalog.regclass);
    NEW.birth := NEW.version;
    NEW.updated_at := NEW.created_at;
    RETURN NEW;
END $$;

-- The month's partition, made apart and then attached: CREATE ... PARTITION OF would stop writers behind any open
-- transaction.
CREATE FUNCTION holdfast.ensure_month(parent text, moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first_day timestamptz := date_trunc('month', moment, 'UTC');
    next_day timestamptz := date_trunc('month', first_day + interval '40 days', 'UTC');
    part text := parent || to_char(first_day AT TIME ZONE 'UTC', '_YYYY_MM');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('holdfast.' || part, 0));
    IF to_regclass(format('holdfast.%I', part)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE holdfast.%I (LIKE holdfast.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
    EXECUTE format('ALTER TABLE holdfast.%I ADD CHECK (created_at >= %L AND created_at < %L)', part, first_day, next_day);
    EXECUTE format('ALTER TABLE holdfast.%I ATTACH PARTITION holdfast.%I FOR VALUES FROM (%L) TO (%L)',
                   parent, part, first_day, next_day);
END $$;

-- The table of a kind with its trigger; nothing happens if it is there. Names reach SQL only through format('%I').
CREATE FUNCTION holdfast.manage_kind(kind text, wanted_table text, once boolean) RETURNS void LANGUAGE plpgsql AS $$
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
    IF once THEN
        EXECUTE format('ALTER TABLE holdfast.%I ADD PRIMARY KEY (id, created_at)', wanted_table);
        EXECUTE format('CREATE TRIGGER holdfast_stamp BEFORE INSERT OR UPDATE OR DELETE ON holdfast.%I
            FOR EACH ROW EXECUTE FUNCTION holdfast.stamp_once(%L)', wanted_table, wanted_table);
        PERFORM holdfast.ensure_month(wanted_table, now() + month * interval '1 month') FROM generate_series(0, 2) month;
    ELSE
        EXECUTE format('ALTER TABLE holdfast.%I ADD PRIMARY KEY (id)', wanted_table);
        EXECUTE format('CREATE TRIGGER holdfast_stamp BEFORE INSERT OR UPDATE ON holdfast.%I
            FOR EACH ROW EXECUTE FUNCTION holdfast.stamp()', wanted_table);
    END IF;
    EXECUTE format('ALTER TABLE holdfast.%I ENABLE ALWAYS TRIGGER holdfast_stamp', wanted_table);
    INSERT INTO holdfast.kinds VALUES (kind, wanted_table, once);
END $$;

-- The seed's five tables. Own kinds come the same way, when a server that declares them migrates.
SELECT holdfast.manage_kind('swarm', 'Chat', false);
SELECT holdfast.manage_kind('bot', 'User', false);
SELECT holdfast.manage_kind('team', 'Teams', false);
SELECT holdfast.manage_kind('routine', 'Routine', false);
SELECT holdfast.manage_kind('run_snapshot', 'RunContextSnapshot', true);
