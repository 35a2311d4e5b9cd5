-- What a training says of the samples is a set of its own. It is written before the version is published
-- and removed after another one is, a piece at a time, so that neither keeps others waiting.
CREATE TABLE prediction_sets (
    -- The token of the lease under which it is written.
    id BLOB PRIMARY KEY,
    model_id BLOB NOT NULL REFERENCES models (id)
) STRICT, WITHOUT ROWID;
CREATE INDEX prediction_sets_model ON prediction_sets (model_id);
INSERT INTO prediction_sets (id, model_id) SELECT id, id FROM models WHERE current_epoch IS NOT NULL;

-- The set of the last exactly trained version.
ALTER TABLE models ADD COLUMN prediction_set_id BLOB REFERENCES prediction_sets (id);
UPDATE models SET prediction_set_id = id WHERE current_epoch IS NOT NULL;

CREATE TABLE predictions_by_set (
    set_id BLOB NOT NULL REFERENCES prediction_sets (id),
    sample_id BLOB NOT NULL REFERENCES samples (id),
    sealed BLOB NOT NULL,
    PRIMARY KEY (set_id, sample_id)
) STRICT, WITHOUT ROWID;
INSERT INTO predictions_by_set (set_id, sample_id, sealed)
SELECT s.model_id, p.sample_id, p.sealed
FROM sample_predictions p JOIN samples s ON s.id = p.sample_id
ORDER BY s.model_id, p.sample_id;
DROP TABLE sample_predictions;
ALTER TABLE predictions_by_set RENAME TO sample_predictions;
