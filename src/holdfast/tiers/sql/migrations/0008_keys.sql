-- Data keys, by which secret values are sealed; each is wrapped by a master key, which is nowhere in here.

CREATE TABLE holdfast.master_keys (
    id text COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 64),
    retired_at timestamptz
);

CREATE TABLE holdfast.data_keys (
    id text COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 64),
    master_id text COLLATE "C" NOT NULL,  -- of a row of master_keys, which the trigger below sees to
    wrapped bytea NOT NULL CHECK (octet_length(wrapped) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    number bigint GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX data_keys_by_master ON holdfast.data_keys (master_id, number);

-- A retired master key wraps nothing. The lock is what makes this true of a row that is written while its master key is
-- being retired: either its transaction ends first, and whoever retires finds the row, or it finds the key retired.
CREATE FUNCTION holdfast.check_master_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO holdfast.master_keys (id) VALUES (NEW.master_id) ON CONFLICT DO NOTHING;
    PERFORM FROM holdfast.master_keys WHERE id = NEW.master_id AND retired_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the master key % is retired', NEW.master_id USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_master_key BEFORE INSERT OR UPDATE ON holdfast.data_keys
    FOR EACH ROW EXECUTE FUNCTION holdfast.check_master_key();
ALTER TABLE holdfast.data_keys ENABLE ALWAYS TRIGGER check_master_key;

-- Retire master keys, all but the first, which must not be retired. Locked in one order, so that two can do it at once.
CREATE FUNCTION holdfast.retire_master_keys(master_ids text[], first_id text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO holdfast.master_keys (id) SELECT DISTINCT each FROM unnest(master_ids || first_id) AS each ORDER BY each
        ON CONFLICT DO NOTHING;
    PERFORM FROM holdfast.master_keys WHERE id = ANY (master_ids || first_id) ORDER BY id FOR UPDATE;
    IF EXISTS (SELECT FROM holdfast.master_keys WHERE id = first_id AND retired_at IS NOT NULL) THEN
        RAISE EXCEPTION 'the master key % is retired', first_id USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    UPDATE holdfast.master_keys SET retired_at = clock_timestamp()
        WHERE id = ANY (master_ids) AND id <> first_id AND retired_at IS NULL;
END $$;

-- All of it is the keeper's, as in 0003. Whoever may write the generations runs servers. Rows are never removed.
DO $$
DECLARE
    granted text;
    keeper CONSTANT regrole := holdfast.keeper();
BEGIN
    EXECUTE format('ALTER TABLE holdfast.master_keys OWNER TO %s', keeper);
    EXECUTE format('ALTER TABLE holdfast.data_keys OWNER TO %s', keeper);
    EXECUTE format('ALTER FUNCTION holdfast.check_master_key() OWNER TO %s', keeper);
    EXECUTE format('ALTER FUNCTION holdfast.retire_master_keys(text[], text) OWNER TO %s', keeper);
    REVOKE EXECUTE ON FUNCTION holdfast.check_master_key() FROM PUBLIC;
    FOR granted IN
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
        FROM pg_class, aclexplode(relacl) AS acl WHERE pg_class.oid = 'holdfast.generations'::regclass
            AND acl.grantee <> relowner AND privilege_type = 'INSERT'
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON holdfast.master_keys, holdfast.data_keys TO %s', granted);
    END LOOP;
END $$;
