-- What else the subjects of a model are known by. migrations/postgres holds the same tables and columns.

-- HMACs of both. A row outlives its subject's samples: where the subject has a tombstone, the alias
-- is one too.
CREATE TABLE aliases (
    model_id BLOB NOT NULL REFERENCES models (id),
    alias_key BLOB NOT NULL CHECK (length(alias_key) = 32),
    subject_key BLOB NOT NULL CHECK (length(subject_key) = 32),
    PRIMARY KEY (model_id, alias_key, subject_key)
) STRICT;
CREATE INDEX aliases_subject ON aliases (model_id, subject_key, alias_key);

-- Which requests named a subject.
CREATE INDEX deletion_targets_key ON deletion_targets (key, deletion_id);
