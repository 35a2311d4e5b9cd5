-- How often a model was retrained within a day, however many versions and batches it has.
CREATE INDEX versions_settled ON versions (model_id, created_at) WHERE cause = 'settled';
CREATE INDEX jobs_settlements ON jobs (model_id, created_at) WHERE kind = 'settlement';
