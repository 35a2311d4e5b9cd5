-- Who is told, and what is on its way to them. migrations/postgres holds the same tables and columns.

CREATE TABLE webhooks (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    -- All where absent.
    event_types TEXT,
    models TEXT,
    -- Sealed under the master key, like the one before the last rotation.
    secret BLOB NOT NULL CHECK (length(secret) = 60),
    previous_secret BLOB CHECK (length(previous_secret) = 60),
    previous_secret_until INTEGER,
    created_at INTEGER NOT NULL,
    -- Since when it has not been disabled.
    active_since INTEGER NOT NULL,
    delivered_at INTEGER,
    disabled_reason TEXT CHECK (disabled_reason IN ('gone', 'unreachable')),
    disabled_at INTEGER,
    CHECK ((previous_secret IS NULL) = (previous_secret_until IS NULL)),
    CHECK ((disabled_reason IS NULL) = (disabled_at IS NULL))
) STRICT;

-- One row for each webhook that an event is told. `webhook_id` is no reference: removing a webhook
-- must not fail, nor wait for, the transactions that tell it something at the same moment. What they
-- leave is pruned.
CREATE TABLE webhook_messages (
    id BLOB PRIMARY KEY,
    webhook_id BLOB NOT NULL,
    event_type TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'given_up')),
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    -- When it may be claimed: for its next attempt, or because the claim that it is under has ended.
    not_before INTEGER NOT NULL,
    claim_token BLOB,
    last_attempt_at INTEGER,
    last_status INTEGER,
    last_failure TEXT CHECK (last_failure IN ('refused', 'unreachable', 'timed_out', 'out_of_reach')),
    created_at INTEGER NOT NULL,
    ended_at INTEGER,
    CHECK ((state = 'pending') = (ended_at IS NULL)),
    CHECK (state = 'pending' OR claim_token IS NULL)
) STRICT;
CREATE INDEX webhook_messages_due ON webhook_messages (webhook_id, not_before, id)
    WHERE state = 'pending';
CREATE INDEX webhook_messages_ended ON webhook_messages (ended_at) WHERE state <> 'pending';
CREATE INDEX webhook_messages_webhook ON webhook_messages (webhook_id, id);
CREATE INDEX webhook_messages_state ON webhook_messages (webhook_id, state, id);
