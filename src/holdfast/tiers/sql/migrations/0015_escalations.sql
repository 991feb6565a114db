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

-- Who may use swarms may use escalations.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl) AS acl
        WHERE pg_class.oid = to_regclass('holdfast."Chat"') AND acl.grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON holdfast."Escalation" TO %s', granted.privilege_type, granted.grantee);
    END LOOP;
END $$;
