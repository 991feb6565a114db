-- The audit log: who did what to what, why and when. Rows are only ever added, and each is chained to the one before by a
-- hash, so that what is edited, dropped, swapped or slipped in later is found, and where.

CREATE TABLE holdfast.audit (
    number bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    detail json NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL
);

-- The newest entry. Who appends locks this row until the commit: entries are numbered and chained in the order in which
-- they are committed, and one that is rolled back leaves no gap. It also tells when the end of the log was cut off.
CREATE TABLE holdfast.audit_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    number bigint NOT NULL,
    hash bytea NOT NULL
);
INSERT INTO holdfast.audit_head (number, hash) VALUES (0, decode(repeat('00', 32), 'hex'));

-- A part of what is hashed, with its length in front: no two entries have the same bytes.
CREATE FUNCTION holdfast.audit_part(part bytea) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN pg_catalog.convert_to(pg_catalog.octet_length(part)::text OPERATOR(pg_catalog.||) ':', 'UTF8')
        OPERATOR(pg_catalog.||) part OPERATOR(pg_catalog.||) '\x2c'::bytea;

-- The hash of an entry: `audit/chain.py` makes the same.
CREATE FUNCTION holdfast.audit_hash(entry holdfast.audit) RETURNS bytea
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(string_agg(holdfast.audit_part(part), ''::bytea ORDER BY place))
    FROM unnest(ARRAY[
        convert_to(entry.number::text, 'UTF8'),
        convert_to(((extract(epoch FROM entry.at) * 1000000)::bigint)::text, 'UTF8'),
        convert_to(entry.action, 'UTF8'), convert_to(entry.subject, 'UTF8'), convert_to(entry.actor, 'UTF8'),
        convert_to(entry.reason, 'UTF8'), convert_to(entry.detail::text, 'UTF8'), entry.previous
    ]) WITH ORDINALITY AS parts (part, place)
$$;

-- Number, time and hashes are L3's own, whatever an INSERT says.
CREATE FUNCTION holdfast.chain_audit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT head.number + 1, head.hash INTO NEW.number, NEW.previous FROM holdfast.audit_head AS head FOR UPDATE;
    NEW.at := clock_timestamp();
    NEW.hash := holdfast.audit_hash(NEW);
    UPDATE holdfast.audit_head SET number = NEW.number, hash = NEW.hash;
    RETURN NEW;
END $$;

CREATE FUNCTION holdfast.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'object_not_in_prerequisite_state';
END $$;

-- The head follows the log and nobody else.
CREATE FUNCTION holdfast.follow_audit() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_trigger_depth() < 2 OR NEW.number <> OLD.number + 1 THEN
        RAISE EXCEPTION 'table % follows the audit log', TG_TABLE_NAME
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER holdfast_chain BEFORE INSERT ON holdfast.audit FOR EACH ROW EXECUTE FUNCTION holdfast.chain_audit();
CREATE TRIGGER holdfast_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON holdfast.audit
    FOR EACH STATEMENT EXECUTE FUNCTION holdfast.refuse_change();
CREATE TRIGGER holdfast_follow BEFORE UPDATE ON holdfast.audit_head
    FOR EACH ROW EXECUTE FUNCTION holdfast.follow_audit();
CREATE TRIGGER holdfast_refuse BEFORE INSERT OR DELETE OR TRUNCATE ON holdfast.audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION holdfast.refuse_change();

-- Always: session_replication_role must not be a way around them.
ALTER TABLE holdfast.audit ENABLE ALWAYS TRIGGER holdfast_chain, ENABLE ALWAYS TRIGGER holdfast_refuse;
ALTER TABLE holdfast.audit_head ENABLE ALWAYS TRIGGER holdfast_follow, ENABLE ALWAYS TRIGGER holdfast_refuse;

-- All of it is the keeper's, as in 0003. Whoever may read the generations may read the log; whoever may write them runs
-- servers, which append to it: the head is written for them.
DO $$
DECLARE
    made text;
    granted record;
    keeper CONSTANT regrole := holdfast.keeper();
BEGIN
    FOREACH made IN ARRAY ARRAY['audit', 'audit_head'] LOOP
        EXECUTE format('ALTER TABLE holdfast.%I OWNER TO %s', made, keeper);
    END LOOP;
    FOREACH made IN ARRAY ARRAY['audit_part(bytea)', 'audit_hash(holdfast.audit)', 'chain_audit()', 'refuse_change()',
                               'follow_audit()'] LOOP
        EXECUTE format('ALTER FUNCTION holdfast.%s OWNER TO %s', made, keeper);
    END LOOP;
    FOR granted IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl) AS acl WHERE pg_class.oid = 'holdfast.generations'::regclass
            AND acl.grantee <> relowner AND privilege_type IN ('SELECT', 'INSERT')
    LOOP
        EXECUTE format('GRANT %s ON holdfast.audit TO %s', granted.privilege_type, granted.grantee);
        IF granted.privilege_type = 'SELECT' THEN
            EXECUTE format('GRANT SELECT ON holdfast.audit_head TO %s', granted.grantee);
        END IF;
    END LOOP;
END $$;
