-- Which data keys are older than the last rotation: told by their numbers, since the clocks of L3 and its replicas differ.

ALTER TABLE holdfast.master_keys ADD COLUMN retired_behind bigint;  -- the number of the newest data key there was then
UPDATE holdfast.master_keys SET retired_behind = (SELECT coalesce(max(number), 0) FROM holdfast.data_keys)
    WHERE retired_at IS NOT NULL;

-- As in 0008, and notes how far data keys had come. What one of these master keys wrapped is among them: either its
-- transaction ended before the lock was had, or it finds the key retired.
CREATE OR REPLACE FUNCTION holdfast.retire_master_keys(master_ids text[], first_id text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO holdfast.master_keys (id) SELECT DISTINCT each FROM unnest(master_ids || first_id) AS each ORDER BY each
        ON CONFLICT DO NOTHING;
    PERFORM FROM holdfast.master_keys WHERE id = ANY (master_ids || first_id) ORDER BY id FOR UPDATE;
    IF EXISTS (SELECT FROM holdfast.master_keys WHERE id = first_id AND retired_at IS NOT NULL) THEN
        RAISE EXCEPTION 'the master key % is retired', first_id USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    UPDATE holdfast.master_keys
        SET retired_at = clock_timestamp(), retired_behind = (SELECT coalesce(max(number), 0) FROM holdfast.data_keys)
        WHERE id = ANY (master_ids) AND id <> first_id AND retired_at IS NULL;
END $$;
