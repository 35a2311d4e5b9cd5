-- Callers choose idempotency keys, and may make them of what names a person: they are kept as pseudonyms
-- under the service key. Those of before cannot be told any more.
DROP TABLE idempotency_keys;

CREATE TABLE idempotency_keys (
    -- Nil where the service runs without keys.
    api_key_id BLOB NOT NULL,
    key BLOB NOT NULL CHECK (length(key) = 32),
    body BLOB NOT NULL CHECK (length(body) = 32),
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (api_key_id, key)
) STRICT;
-- The deferred reference is checked from its other end too.
CREATE INDEX idempotency_keys_deletion ON idempotency_keys (deletion_id);
