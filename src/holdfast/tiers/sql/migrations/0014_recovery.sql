-- What recovery has done about faults of state, and what did not verify.

-- A line is added once, whoever repeats it. It may come late: with L3 away lines are kept by the server that made them, so
-- `at` tells when it was done, by that server's clock, and `number` in which order lines came here.
CREATE TABLE holdfast.recovery_log (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    recovery_id text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    server text NOT NULL,
    error_type text NOT NULL,
    severity text NOT NULL,
    subject text NOT NULL,
    step text NOT NULL,
    outcome text NOT NULL,
    detail text NOT NULL,
    millis bigint NOT NULL
);

-- The same bytes of one document in one tier are one row: who floods a cache with a damaged entry fills no disk.
CREATE TABLE holdfast.quarantine (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tier text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    version bigint,
    fault text NOT NULL,
    evidence bytea NOT NULL CHECK (octet_length(evidence) <= 65536),
    digest bytea GENERATED ALWAYS AS (sha256(evidence)) STORED,
    size bigint NOT NULL,
    server text NOT NULL,
    at timestamptz NOT NULL,
    count bigint NOT NULL DEFAULT 1,
    met text[] COLLATE "C" NOT NULL DEFAULT '{}',  -- names what is counted: who repeats it counts nothing twice
    UNIQUE (tier, kind, id, digest)
);

-- All of it is the keeper's, as in 0003. Whoever may write the generations runs servers, and these record.
DO $$
DECLARE
    made text;
    granted text;
BEGIN
    FOREACH made IN ARRAY ARRAY['recovery_log', 'quarantine'] LOOP
        EXECUTE format('ALTER TABLE holdfast.%I OWNER TO %s', made, holdfast.keeper());
        FOR granted IN
            SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
            FROM pg_class, aclexplode(relacl) AS acl WHERE pg_class.oid = 'holdfast.generations'::regclass
                AND acl.grantee <> relowner AND privilege_type = 'INSERT'
        LOOP
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON holdfast.%I TO %s', made, granted);
        END LOOP;
    END LOOP;
END $$;
