-- Invalidation on demand: by key, kind, tag and everything. Rule C4 of the protocol.

-- The tags of a document, by which caches can be told to drop it; whoever writes it writes them. A constant default:
-- no table is rewritten. No index: they are counted by hand, and an index would cost every write.
DO $$
DECLARE
    managed text;
BEGIN
    FOR managed IN SELECT table_name FROM holdfast.kinds WHERE to_regclass(format('holdfast.%I', table_name)) IS NOT NULL
                   ORDER BY table_name LOOP
        EXECUTE format('ALTER TABLE holdfast.%I ADD tags text[] COLLATE "C" NOT NULL DEFAULT ''{}''', managed);
    END LOOP;
END $$;

-- As in 0003, and a new table has tags.
CREATE OR REPLACE FUNCTION holdfast.manage_kind(kind text, wanted_table text, once boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_new CONSTANT boolean := NOT EXISTS (SELECT FROM holdfast.kinds WHERE name = kind);
BEGIN
    PERFORM holdfast.make_table(kind, wanted_table, once);
    IF is_new THEN
        EXECUTE format('ALTER TABLE holdfast.%I ADD tags text[] COLLATE "C" NOT NULL DEFAULT ''{}''', wanted_table);
    END IF;
    PERFORM holdfast.watch_table(kind);
END $$;

-- The generations of tags, apart from those that every load tells: there may be many. When there are more than 10,000
-- the older half is forgotten, and the scope 'tagged' takes the highest of them: whatever has tags and is older is void.
CREATE TABLE holdfast.tag_generations (
    tag text COLLATE "C" PRIMARY KEY CHECK (octet_length(tag) BETWEEN 1 AND 553),
    generation bigint NOT NULL
);
CREATE UNIQUE INDEX tag_generations_generation ON holdfast.tag_generations (generation);

-- How many there are: counting them each time would cost more than all the rest.
CREATE TABLE holdfast.tag_count (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    tags integer NOT NULL
);
INSERT INTO holdfast.tag_count (tags) VALUES (0);

-- Forget the older half of the tags.
CREATE FUNCTION holdfast.forget_tags() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    highest CONSTANT bigint := (SELECT generation FROM holdfast.tag_generations ORDER BY generation DESC OFFSET 5000 LIMIT 1);
BEGIN
    DELETE FROM holdfast.tag_generations WHERE generation <= highest;
    UPDATE holdfast.tag_count SET tags = (SELECT count(*) FROM holdfast.tag_generations);
    INSERT INTO holdfast.generations VALUES ('tagged', highest)
    ON CONFLICT (scope) DO UPDATE SET generation = greatest(generations.generation, EXCLUDED.generation);
END $$;

-- As raise_generation, for a tag. The scope 'tag' says that there is something new among the tags.
CREATE FUNCTION holdfast.raise_tag(raised text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tags_max CONSTANT integer := 10000;
    drawn CONSTANT bigint := holdfast.raise_generation('tag');  -- has the lock, under which all that follows is alone
    known integer;
BEGIN
    UPDATE holdfast.tag_generations SET generation = drawn WHERE tag = raised;
    IF NOT FOUND THEN
        INSERT INTO holdfast.tag_generations VALUES (raised, drawn);
        UPDATE holdfast.tag_count SET tags = tags + 1 RETURNING tags INTO known;
        IF known > tags_max THEN
            PERFORM holdfast.forget_tags();
        END IF;
    END IF;
    RETURN drawn;
END $$;

-- Tell a key as changed: whatever any cache holds of it is refused, and L3 is asked. The row is not touched, so its
-- version stays below that of the fence, and L2 holds the key again when the fence has had its time.
CREATE FUNCTION holdfast.void_key(kind text, id text) RETURNS bigint
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
    VALUES (holdfast.outbox_leaf(clock_timestamp()), $1, 'v', 1, ARRAY[$2], ARRAY[nextval('holdfast.version_seq')])
    RETURNING versions[1]
$$;

-- Who made what void, and why: a ring of the newest 10,000, so that nothing is ever searched for what is old. The number
-- is the generation; of a key, the version of its fence.
CREATE SEQUENCE holdfast.invalidation_seq AS bigint;
CREATE TABLE holdfast.invalidations (
    place integer PRIMARY KEY,
    entry bigint NOT NULL,
    at timestamptz NOT NULL,
    scope text NOT NULL,
    number bigint NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL
);

CREATE FUNCTION holdfast.record_invalidation(entry bigint, scope text, number bigint, reason text, actor text)
    RETURNS holdfast.invalidations LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO holdfast.invalidations VALUES ($1 % 10000, $1, clock_timestamp(), $2, $3, $4, $5)
    ON CONFLICT (place) DO UPDATE SET entry = EXCLUDED.entry, at = EXCLUDED.at, scope = EXCLUDED.scope,
        number = EXCLUDED.number, reason = EXCLUDED.reason, actor = EXCLUDED.actor
    RETURNING *
$$;

CREATE FUNCTION holdfast.check_kind(kind text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF kind IS NOT NULL AND NOT EXISTS (SELECT FROM holdfast.kinds WHERE name = kind) THEN
        RAISE EXCEPTION 'there is no kind %: L3 has %', kind, (SELECT string_agg(name, ', ' ORDER BY name) FROM holdfast.kinds)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;

-- Make void what caches hold of a tag; or of a kind, or of one of its keys; or, where all three are NULL, everything.
CREATE FUNCTION holdfast.invalidate(kind text, id text, tag text, reason text, actor text)
    RETURNS holdfast.invalidations
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    drawn bigint;
    told text;
BEGIN
    PERFORM holdfast.check_kind(kind);
    IF tag IS NOT NULL THEN
        told := 'tag:' || tag;
        drawn := holdfast.raise_tag(tag);
    ELSIF id IS NOT NULL THEN
        told := kind || ':' || id;
        -- An empty one would stand for any number of keys.
        IF (octet_length(id) BETWEEN 1 AND 512) IS NOT TRUE THEN
            RAISE EXCEPTION 'an id has 1 to 512 bytes' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        drawn := holdfast.void_key(kind, id);
    ELSE
        told := coalesce('kind:' || kind, 'all');
        drawn := holdfast.raise_generation(told);
    END IF;
    RETURN holdfast.record_invalidation(nextval('holdfast.invalidation_seq'), told, drawn, reason, actor);
END $$;

-- How many rows these name now, by the tags that were written with them. What is NULL restricts nothing.
CREATE FUNCTION holdfast.count_rows(kind text, id text, tag text) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    managed text;
    found bigint;
    total bigint := 0;
BEGIN
    PERFORM holdfast.check_kind(kind);
    FOR managed IN SELECT table_name FROM holdfast.kinds WHERE name = kind OR kind IS NULL LOOP
        EXECUTE format('SELECT count(*) FROM holdfast.%I WHERE ($1 IS NULL OR id = $1) AND ($2 IS NULL OR tags @> ARRAY[$2])',
                       managed) INTO found USING id, tag;
        total := total + found;
    END LOOP;
    RETURN total;
END $$;

-- All of it is the keeper's, as in 0003, and whoever may use the generations may use those of tags.
DO $$
DECLARE
    made text;
    granted record;
BEGIN
    EXECUTE format('ALTER SEQUENCE holdfast.invalidation_seq OWNER TO %s', holdfast.keeper());
    FOREACH made IN ARRAY ARRAY['tag_generations', 'tag_count', 'invalidations'] LOOP
        EXECUTE format('ALTER TABLE holdfast.%I OWNER TO %s', made, holdfast.keeper());
        FOR granted IN
            SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
            FROM pg_class, aclexplode(relacl) AS acl WHERE pg_class.oid = 'holdfast.generations'::regclass
                AND acl.grantee <> relowner
        LOOP
            EXECUTE format('GRANT %s ON holdfast.%I TO %s', granted.privilege_type, made, granted.grantee);
            IF granted.privilege_type = 'INSERT' THEN
                EXECUTE format('GRANT USAGE ON SEQUENCE holdfast.invalidation_seq TO %s', granted.grantee);
            END IF;
        END LOOP;
    END LOOP;
    FOREACH made IN ARRAY ARRAY['forget_tags()', 'raise_tag(text)', 'void_key(text, text)', 'check_kind(text)',
                               'record_invalidation(bigint, text, bigint, text, text)',
                               'invalidate(text, text, text, text, text)', 'count_rows(text, text, text)'] LOOP
        EXECUTE format('ALTER FUNCTION holdfast.%s OWNER TO %s', made, holdfast.keeper());
    END LOOP;
END $$;
