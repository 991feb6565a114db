-- What completed runs leave in the persistent store, and what is to be brought to external systems.

SELECT holdfast.manage_kind('export', 'Export', false);
SELECT holdfast.manage_kind('delivery', 'Delivery', false);

-- Who brings a delivery out. As in 0007 a NUL in the value must not keep PostgreSQL from looking for it.
CREATE FUNCTION holdfast.delivery_exporter(document json) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN pg_catalog.left(holdfast.without_nul(document) OPERATOR(pg_catalog.->>) 'exporter', 512);

-- How far a delivery is stands beside its document, which never changes: so nobody who notes an attempt reads or writes
-- the value. `due` is until when it is left alone: by a lease, or before it is tried again.
ALTER TABLE holdfast."Delivery"
    ADD exporter text COLLATE "C" GENERATED ALWAYS AS (holdfast.delivery_exporter(document)) STORED,
    ADD attempts integer NOT NULL DEFAULT 0,
    ADD due timestamptz NOT NULL DEFAULT now(),
    ADD dead boolean NOT NULL DEFAULT false,
    ADD error text;
CREATE INDEX delivery_due ON holdfast."Delivery" (exporter, due) WHERE NOT dead;

-- Who may use swarms may use what their runs export.
DO $$
DECLARE
    granted record;
BEGIN
    EXECUTE format('ALTER FUNCTION holdfast.delivery_exporter(json) OWNER TO %s', holdfast.keeper());
    FOR granted IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl) AS acl
        WHERE oid = to_regclass('holdfast."Chat"') AND acl.grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON holdfast."Export", holdfast."Delivery" TO %s',
                       granted.privilege_type, granted.grantee);
    END LOOP;
END $$;
