-- Deadlines of open requests. migrations/sqlite has the same columns.

-- The deadline before it was extended first.
ALTER TABLE deletion_requests ADD COLUMN first_due_by BIGINT;
ALTER TABLE deletion_requests ADD COLUMN extensions BIGINT NOT NULL DEFAULT 0 CHECK (extensions >= 0);
-- When it was warned that the present deadline is near.
ALTER TABLE deletion_requests ADD COLUMN warned_at BIGINT;
CREATE INDEX deletion_requests_deadline ON deletion_requests (model_id, due_by)
    WHERE state IN ('suspended', 'queued', 'unlearning');
