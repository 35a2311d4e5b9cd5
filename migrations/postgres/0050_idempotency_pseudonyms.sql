-- Callers choose idempotency keys, and may make them of what names a person: they are kept as pseudonyms
-- under the service key. Those of before cannot be told any more.
DROP TABLE idempotency_keys;

CREATE TABLE idempotency_keys (
    -- Nil where the service runs without keys.
    api_key_id UUID NOT NULL,
    key BYTEA NOT NULL CHECK (octet_length(key) = 32),
    body BYTEA NOT NULL CHECK (octet_length(body) = 32),
    deletion_id UUID NOT NULL REFERENCES deletion_requests (id) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (api_key_id, key)
);
-- The deferred reference is checked from its other end too.
CREATE INDEX idempotency_keys_deletion ON idempotency_keys (deletion_id);
