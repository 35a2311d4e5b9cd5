-- A claim changes no index: its sample stays among the usable ones until it is deleted. What is left
-- free of a page is for the sample's new version, which other pages would need index entries for.
DROP INDEX samples_usable;
CREATE INDEX samples_usable ON samples (model_id, split, ordinal) WHERE deleted_at IS NULL;
ALTER TABLE samples SET (fillfactor = 90);
