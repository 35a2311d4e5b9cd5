-- What a training says of the samples is a set of its own. It is written before the version is published
-- and removed after another one is, a piece at a time, so that neither keeps others waiting.
CREATE TABLE prediction_sets (
    -- The token of the lease under which it is written.
    id UUID PRIMARY KEY,
    model_id UUID NOT NULL REFERENCES models (id)
);
CREATE INDEX prediction_sets_model ON prediction_sets (model_id);
INSERT INTO prediction_sets (id, model_id) SELECT id, id FROM models WHERE current_epoch IS NOT NULL;

ALTER TABLE sample_predictions
    DROP CONSTRAINT sample_predictions_pkey,
    ADD COLUMN set_id UUID;
UPDATE sample_predictions p SET set_id = s.model_id FROM samples s WHERE s.id = p.sample_id;
ALTER TABLE sample_predictions
    ADD PRIMARY KEY (set_id, sample_id),
    ADD FOREIGN KEY (set_id) REFERENCES prediction_sets (id);

-- The set of the last exactly trained version. Last, for all else waits for the models meanwhile.
ALTER TABLE models ADD COLUMN prediction_set_id UUID REFERENCES prediction_sets (id);
UPDATE models SET prediction_set_id = id WHERE current_epoch IS NOT NULL;
