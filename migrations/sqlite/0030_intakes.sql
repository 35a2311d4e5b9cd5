-- Requests of other protocols. migrations/postgres holds the same tables and columns.

-- One request as another protocol knows it; deletion requests serve it, one for each model.
CREATE TABLE intakes (
    -- OpenDSR's subject_request_id, chosen by its caller.
    id BLOB PRIMARY KEY,
    -- HMAC of the body: tells a repeated request from another one of the same id.
    body BLOB NOT NULL CHECK (length(body) = 32),
    -- Who asked; absent where the service runs without keys.
    api_key_id BLOB,
    received_at INTEGER NOT NULL,
    due_by INTEGER NOT NULL,
    cancelled_at INTEGER
) STRICT;

CREATE TABLE intake_deletions (
    intake_id BLOB NOT NULL REFERENCES intakes (id),
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id),
    -- Made for the intake; otherwise an earlier request that was deleting its subjects already.
    is_own INTEGER NOT NULL CHECK (is_own IN (0, 1)),
    PRIMARY KEY (intake_id, deletion_id)
) STRICT;
CREATE INDEX intake_deletions_deletion ON intake_deletions (deletion_id);
