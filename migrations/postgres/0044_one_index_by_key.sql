-- One index by sample key instead of two, and none that a deletion changes: of the samples that ever had
-- a key, one at most was not let in again.
--
-- What came in a second time had been let in again, whatever earlier migrations made of its tombstone.
UPDATE samples SET readmitted_at = deleted_at
WHERE deleted_at IS NOT NULL AND readmitted_at IS NULL AND EXISTS (
    SELECT 1 FROM samples later
    WHERE later.model_id = samples.model_id AND later.sample_key = samples.sample_key
        AND later.ordinal > samples.ordinal);
DROP INDEX samples_live;
DROP INDEX samples_key;
CREATE UNIQUE INDEX samples_key ON samples
    (model_id, sample_key, (CASE WHEN readmitted_at IS NULL THEN -1 ELSE ordinal END));
