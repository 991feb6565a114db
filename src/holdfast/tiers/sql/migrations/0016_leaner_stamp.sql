-- The trigger of 0001 that draws versions, at a lower price: an upsert of a row that exists runs it twice, and each
-- statement in it costs as much as drawing the number. OLD has no fields in an INSERT: they are NULL.
CREATE OR REPLACE FUNCTION holdfast.stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := pg_catalog.nextval('holdfast.version_seq'::pg_catalog.regclass);
    NEW.birth := COALESCE(OLD.birth, NEW.version);
    NEW.updated_at := pg_catalog.clock_timestamp();
    RETURN NEW;
END $$;
