-- migrations/sqlite/0040 makes the same of it, and lays out some tables anew.

-- Each model's queue has an index of its own.
DROP INDEX deletion_requests_due;

-- A deleted sample is its own tombstone, until that is lifted: then it is let in again.
ALTER TABLE samples ADD COLUMN readmitted_at BIGINT
    CHECK (readmitted_at IS NULL OR deletion_id IS NOT NULL);
UPDATE samples SET readmitted_at = deleted_at WHERE deleted_at IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM tombstones t
    WHERE t.model_id = samples.model_id AND t.kind = 'sample' AND t.key = samples.sample_key);
DELETE FROM tombstones WHERE kind = 'sample';
ALTER TABLE tombstones DROP COLUMN kind;
ALTER TABLE tombstones RENAME COLUMN key TO subject_key;
ALTER TABLE tombstones ADD PRIMARY KEY (model_id, subject_key);
