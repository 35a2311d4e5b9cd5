-- A claim changes no index: its sample stays among the usable ones until it is deleted.
DROP INDEX samples_usable;
CREATE INDEX samples_usable ON samples (model_id, split, ordinal) WHERE deleted_at IS NULL;
