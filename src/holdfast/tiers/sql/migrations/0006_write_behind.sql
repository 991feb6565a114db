-- What L3 knows of the journals of write-behind. Rules W4, W9 and W10 of the protocol.

-- One row for each journal that is not yet forgotten. Marks commit with the rows they speak of, so nothing here is
-- UNLOGGED. Whoever decides entries has the row's lock until the end. Each flush updates the row: most of a page is left
-- to its next versions, so that no index is touched.
CREATE TABLE holdfast.journals (
    journal text COLLATE "C" PRIMARY KEY CHECK (octet_length(journal) BETWEEN 1 AND 200),
    server text NOT NULL CHECK (octet_length(server) <= 1000),
    epoch bigint NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'released', 'taken', 'drained')),
    taker text CHECK (octet_length(taker) <= 1000),
    decided int8multirange NOT NULL DEFAULT '{}',
    refused int8multirange NOT NULL DEFAULT '{}',
    born timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 20);

-- The signs of life, apart: a server that waits for a row's lock inside a flush must not seem dead.
CREATE TABLE holdfast.journal_beats (
    journal text COLLATE "C" PRIMARY KEY REFERENCES holdfast.journals ON DELETE CASCADE,
    beat bigint NOT NULL DEFAULT 0,
    changed timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 20);

-- Writes that were given up, for a person to look at. They outlive their journal.
CREATE TABLE holdfast.dead_writes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    journal text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    entry bytea NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (journal, seq)
);

-- All of it is the keeper's, as in 0003. Whoever may write the generations runs servers, and these write behind.
DO $$
DECLARE
    made text;
    granted text;
BEGIN
    FOREACH made IN ARRAY ARRAY['journals', 'journal_beats', 'dead_writes'] LOOP
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
