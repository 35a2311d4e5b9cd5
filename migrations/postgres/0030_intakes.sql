-- Requests of other protocols. migrations/sqlite holds the same tables and columns.

-- One request as another protocol knows it; deletion requests serve it, one for each model.
CREATE TABLE intakes (
    -- OpenDSR's subject_request_id, chosen by its caller.
    id UUID PRIMARY KEY,
    -- HMAC of the body: tells a repeated request from another one of the same id.
    body BYTEA NOT NULL CHECK (length(body) = 32),
    -- Who asked; absent where the service runs without keys.
    api_key_id UUID,
    received_at BIGINT NOT NULL,
    due_by BIGINT NOT NULL,
    cancelled_at BIGINT
);

CREATE TABLE intake_deletions (
    intake_id UUID NOT NULL REFERENCES intakes (id),
    deletion_id UUID NOT NULL REFERENCES deletion_requests (id),
    -- Made for the intake; otherwise an earlier request that was deleting its subjects already.
    is_own BOOLEAN NOT NULL,
    PRIMARY KEY (intake_id, deletion_id)
);
CREATE INDEX intake_deletions_deletion ON intake_deletions (deletion_id);
