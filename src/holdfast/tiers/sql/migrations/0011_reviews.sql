-- Reviews: conflicts of runs that a person decides, found by run and state, and by their deadline while they are open.

SELECT holdfast.manage_kind('review', 'Review', false);

-- What reviews are looked up by: run and status. As `run_fields` in 0007.
CREATE FUNCTION holdfast.review_fields(document json) RETURNS text[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    looked_into json := document;
    fields text[];
BEGIN
    IF pg_catalog.strpos(document::pg_catalog.text, '\u0000') OPERATOR(pg_catalog.>) 0 THEN
        looked_into := holdfast.without_nul(document);
    END IF;
    IF pg_catalog.json_typeof(looked_into) OPERATOR(pg_catalog.=) 'object' THEN
        SELECT ARRAY[pg_catalog.left("runId", 512), pg_catalog.left(coalesce(status, 'open'), 512)]
        INTO fields FROM pg_catalog.json_to_record(looked_into) AS review ("runId" text, status text);
    END IF;
    RETURN fields;
END $$;

-- The deadline of an open review; NULL of any other, of one without, and of what is no time: a row must not be refused for
-- its index. What the settings of a session mean by a text is fixed here, and words such as 'tomorrow' are none, so the
-- same text is always the same moment.
CREATE FUNCTION holdfast.review_deadline(document json, fields text[]) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD' AS $$
DECLARE
    deadline CONSTANT text := CASE WHEN fields[2] = 'open' THEN holdfast.without_nul(document) ->> 'deadline' END;
BEGIN
    RETURN CASE WHEN deadline ~ '^\d{4}-\d\d-\d\dT' THEN deadline::timestamptz END;
EXCEPTION
    WHEN data_exception THEN RETURN NULL;
END $$;

-- In one go, as the table is new; a generated column cannot be made of another one.
ALTER TABLE holdfast."Review"
    ADD fields text[] COLLATE "C" GENERATED ALWAYS AS (holdfast.review_fields(document)) STORED,
    ADD deadline timestamptz
        GENERATED ALWAYS AS (holdfast.review_deadline(document, holdfast.review_fields(document))) STORED;

-- Each in the order in which reviews are listed.
CREATE INDEX review_run ON holdfast."Review" ((fields[1]), birth);
CREATE INDEX review_status ON holdfast."Review" ((fields[2]), birth);
CREATE INDEX review_all ON holdfast."Review" (birth);
CREATE INDEX review_due ON holdfast."Review" (deadline, id) WHERE deadline IS NOT NULL;

-- All of it is the keeper's, as in 0003, and who may use swarms may use reviews.
DO $$
DECLARE
    made text;
    granted record;
BEGIN
    FOREACH made IN ARRAY ARRAY['review_fields(json)', 'review_deadline(json, text[])'] LOOP
        EXECUTE format('ALTER FUNCTION holdfast.%s OWNER TO %s', made, holdfast.keeper());
    END LOOP;
    FOR granted IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl) AS acl
        WHERE pg_class.oid = to_regclass('holdfast."Chat"') AND acl.grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON holdfast."Review" TO %s', granted.privilege_type, granted.grantee);
    END LOOP;
END $$;
