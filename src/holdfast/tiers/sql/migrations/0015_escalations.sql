-- Escalations: faults that a person is asked about, found by run and state, and by their deadline while they are open.
-- They are decided once, as reviews are, and looked up by the same: the functions of 0011 say by what.

SELECT holdfast.manage_kind('escalation', 'Escalation', false);

ALTER TABLE holdfast."Escalation"
    ADD fields text[] COLLATE "C" GENERATED ALWAYS AS (holdfast.review_fields(document)) STORED,
    ADD deadline timestamptz
        GENERATED ALWAYS AS (holdfast.review_deadline(document, holdfast.review_fields(document))) STORED;

-- Each in the order in which escalations are listed.
CREATE INDEX escalation_run ON holdfast."Escalation" ((fields[1]), birth);
CREATE INDEX escalation_status ON holdfast."Escalation" ((fields[2]), birth);
CREATE INDEX escalation_all ON holdfast."Escalation" (birth);
CREATE INDEX escalation_due ON holdfast."Escalation" (deadline, id) WHERE deadline IS NOT NULL;

-- When what is decided was, so that it can be removed once that is long ago; NULL of what is open, and of what does not
-- say. As `review_deadline` in 0011.
CREATE FUNCTION holdfast.settled_at(document json, fields text[]) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD' AS $$
DECLARE
    settled CONSTANT text := CASE WHEN fields[2] <> 'open' THEN holdfast.without_nul(document) ->> 'resolvedAt' END;
BEGIN
    RETURN CASE WHEN settled ~ '^\d{4}-\d\d-\d\dT' THEN settled::timestamptz END;
EXCEPTION
    WHEN data_exception THEN RETURN NULL;
END $$;

ALTER TABLE holdfast."Escalation"
    ADD settled timestamptz GENERATED ALWAYS AS (holdfast.settled_at(document, holdfast.review_fields(document))) STORED;
ALTER TABLE holdfast."Review"
    ADD settled timestamptz GENERATED ALWAYS AS (holdfast.settled_at(document, holdfast.review_fields(document))) STORED;
CREATE INDEX escalation_settled ON holdfast."Escalation" (settled) WHERE settled IS NOT NULL;
CREATE INDEX review_settled ON holdfast."Review" (settled) WHERE settled IS NOT NULL;

-- The function is the keeper's, as in 0003, and who may use swarms may use escalations.
DO $$
DECLARE
    granted record;
BEGIN
    EXECUTE format('ALTER FUNCTION holdfast.settled_at(json, text[]) OWNER TO %s', holdfast.keeper());
    FOR granted IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl) AS acl
        WHERE pg_class.oid = to_regclass('holdfast."Chat"') AND acl.grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON holdfast."Escalation" TO %s', granted.privilege_type, granted.grantee);
    END LOOP;
END $$;
