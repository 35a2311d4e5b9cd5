-- One place to write to for each row, not two: tables that are asked by their primary key lie in its
-- order, instead of beside an index on it. What is large stays where it is (`sample_contents`), and
-- what many indexes point to (`samples`, `deletion_requests`). On PostgreSQL tables are heaps.

-- Each model's queue has an index of its own.
DROP INDEX deletion_requests_due;

CREATE TABLE clustered_data_keys (
    sample_id BLOB PRIMARY KEY REFERENCES samples (id),
    wrapped BLOB NOT NULL CHECK (length(wrapped) = 60)
) STRICT, WITHOUT ROWID;
INSERT INTO clustered_data_keys
SELECT sample_id, wrapped FROM data_keys ORDER BY sample_id;
DROP TABLE data_keys;
ALTER TABLE clustered_data_keys RENAME TO data_keys;

CREATE TABLE clustered_sample_predictions (
    sample_id BLOB PRIMARY KEY REFERENCES samples (id),
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO clustered_sample_predictions
SELECT sample_id, sealed FROM sample_predictions ORDER BY sample_id;
DROP TABLE sample_predictions;
ALTER TABLE clustered_sample_predictions RENAME TO sample_predictions;

CREATE TABLE clustered_contributions (
    model_id BLOB NOT NULL REFERENCES models (id),
    sample_id BLOB NOT NULL REFERENCES samples (id),
    from_epoch INTEGER NOT NULL CHECK (from_epoch >= 1),
    until_epoch INTEGER CHECK (until_epoch > from_epoch),
    PRIMARY KEY (model_id, sample_id, from_epoch)
) STRICT, WITHOUT ROWID;
INSERT INTO clustered_contributions
SELECT model_id, sample_id, from_epoch, until_epoch FROM contributions
ORDER BY model_id, sample_id, from_epoch;
DROP TABLE contributions;
ALTER TABLE clustered_contributions RENAME TO contributions;
CREATE UNIQUE INDEX contributions_open ON contributions (sample_id) WHERE until_epoch IS NULL;

CREATE TABLE clustered_deletion_targets (
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id),
    position INTEGER NOT NULL CHECK (position >= 0),
    kind TEXT NOT NULL CHECK (kind IN ('sample', 'subject')),
    key BLOB NOT NULL CHECK (length(key) = 32),
    samples INTEGER NOT NULL CHECK (samples >= 0),
    rejection TEXT CHECK (rejection IN ('unknown_subject', 'unknown_sample', 'already_deleted', 'refused')),
    PRIMARY KEY (deletion_id, position),
    CHECK (rejection IS NULL OR samples = 0)
) STRICT, WITHOUT ROWID;
INSERT INTO clustered_deletion_targets
SELECT deletion_id, position, kind, key, samples, rejection FROM deletion_targets
ORDER BY deletion_id, position;
DROP TABLE deletion_targets;
ALTER TABLE clustered_deletion_targets RENAME TO deletion_targets;
CREATE INDEX deletion_targets_key ON deletion_targets (key, deletion_id);

CREATE TABLE clustered_deletion_samples (
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id),
    sample_id BLOB NOT NULL REFERENCES samples (id),
    PRIMARY KEY (deletion_id, sample_id)
) STRICT, WITHOUT ROWID;
INSERT INTO clustered_deletion_samples
SELECT deletion_id, sample_id FROM deletion_samples ORDER BY deletion_id, sample_id;
DROP TABLE deletion_samples;
ALTER TABLE clustered_deletion_samples RENAME TO deletion_samples;

-- A deleted sample is its own tombstone, until that is lifted: then it is let in again.
ALTER TABLE samples ADD COLUMN readmitted_at INTEGER
    CHECK (readmitted_at IS NULL OR deletion_id IS NOT NULL);
UPDATE samples SET readmitted_at = deleted_at WHERE deleted_at IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM tombstones t
    WHERE t.model_id = samples.model_id AND t.kind = 'sample' AND t.key = samples.sample_key);
CREATE TABLE subject_tombstones (
    model_id BLOB NOT NULL REFERENCES models (id),
    subject_key BLOB NOT NULL CHECK (length(subject_key) = 32),
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id),
    PRIMARY KEY (model_id, subject_key)
) STRICT, WITHOUT ROWID;
INSERT INTO subject_tombstones
SELECT model_id, key, deletion_id FROM tombstones WHERE kind = 'subject' ORDER BY model_id, key;
DROP TABLE tombstones;
ALTER TABLE subject_tombstones RENAME TO tombstones;
CREATE INDEX tombstones_deletion ON tombstones (deletion_id);
