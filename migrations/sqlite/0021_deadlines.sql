-- Deadlines of open requests. migrations/postgres has the same columns.

-- The deadline before it was extended first.
ALTER TABLE deletion_requests ADD COLUMN first_due_by INTEGER;
ALTER TABLE deletion_requests ADD COLUMN extensions INTEGER NOT NULL DEFAULT 0 CHECK (extensions >= 0);
-- When it was warned that the present deadline is near.
ALTER TABLE deletion_requests ADD COLUMN warned_at INTEGER;
CREATE INDEX deletion_requests_deadline ON deletion_requests (model_id, due_by)
    WHERE state IN ('suspended', 'queued', 'unlearning');
