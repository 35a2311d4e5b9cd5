-- A sample is of its ingestion's model, which one foreign key says: half the checks of a sample that
-- comes in. SQLite's checks cost next to nothing, and it cannot change them in place.
ALTER TABLE ingestions ADD UNIQUE (id, model_id);
ALTER TABLE samples
    DROP CONSTRAINT samples_model_id_fkey,
    DROP CONSTRAINT samples_ingestion_id_fkey,
    ADD FOREIGN KEY (ingestion_id, model_id) REFERENCES ingestions (id, model_id);
