-- The outbox: what was committed, written by triggers in the writer's own transaction. Rules F1, F3, F4 and C4 of the
-- protocol.

-- Drawn under the lock of the row it tells of, so it orders the changes of one key.
CREATE SEQUENCE holdfast.outbox_seq AS bigint CACHE 1;

-- A ring of leaves, each written for five minutes and emptied before its next turn. Logged, unlike the identity: a prepared
-- transaction may commit after a crash. An empty id tells that any number of the kind's keys changed. op: i, u, d as
-- INSERT, UPDATE, DELETE; t TRUNCATE; m more keys than are told apart.
CREATE TABLE holdfast.outbox (
    leaf smallint NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq bigint NOT NULL DEFAULT nextval('holdfast.outbox_seq'),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    op "char" NOT NULL
) PARTITION BY LIST (leaf);
CREATE INDEX outbox_xid_seq ON holdfast.outbox (xid, seq);

-- Rows are never changed, and a leaf is emptied whole: vacuum would find nothing, and be in the way of who empties it.
DO $$
BEGIN
    FOR leaf IN 0..5 LOOP
        EXECUTE format('CREATE TABLE holdfast.%I PARTITION OF holdfast.outbox FOR VALUES IN (%s)
            WITH (autovacuum_enabled = false)', 'outbox_' || leaf, leaf);
    END LOOP;
END $$;
-- A leaf that is missing fails no write.
CREATE TABLE holdfast.outbox_default PARTITION OF holdfast.outbox DEFAULT WITH (autovacuum_enabled = false);

CREATE FUNCTION holdfast.outbox_leaf(moment timestamptz) RETURNS smallint LANGUAGE sql STABLE
    RETURN (date_part('epoch', moment)::bigint / 300 % 6)::smallint;

-- Any number of the kind's keys changed.
CREATE FUNCTION holdfast.note_kind(kind text, op "char") RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO holdfast.outbox (leaf, kind, id, version, op)
    VALUES (holdfast.outbox_leaf(clock_timestamp()), kind, '', nextval('holdfast.version_seq'), op)
$$;

CREATE FUNCTION holdfast.note() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leaf smallint := holdfast.outbox_leaf(clock_timestamp());
    keys bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT count(*) INTO keys FROM written;
        IF keys BETWEEN 1 AND 5000 THEN
            INSERT INTO holdfast.outbox (leaf, kind, id, version, op)
            SELECT leaf, TG_ARGV[0], id, version, 'i' FROM written;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT count(*) INTO keys FROM written;
        IF keys BETWEEN 1 AND 5000 THEN
            INSERT INTO holdfast.outbox (leaf, kind, id, version, op)
            SELECT leaf, TG_ARGV[0], id, version, 'u' FROM written;
            INSERT INTO holdfast.outbox (leaf, kind, id, version, op)
            SELECT leaf, TG_ARGV[0], id, nextval('holdfast.version_seq'), 'd'
            FROM (SELECT id FROM erased EXCEPT SELECT id FROM written) vanished;
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT count(*) INTO keys FROM erased;
        IF keys BETWEEN 1 AND 5000 THEN
            INSERT INTO holdfast.outbox (leaf, kind, id, version, op)
            SELECT leaf, TG_ARGV[0], id, nextval('holdfast.version_seq'), 'd' FROM erased;
        END IF;
    ELSE
        PERFORM holdfast.note_kind(TG_ARGV[0], 't');
    END IF;
    IF keys > 5000 THEN
        PERFORM holdfast.note_kind(TG_ARGV[0], 'm');
    END IF;
    RETURN NULL;
END $$;
