-- The ledger. Times are microseconds since 1970 (UTC); digests and pseudonyms are 32 bytes.
-- migrations/sqlite holds the same tables and columns.

CREATE TABLE models (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    architecture JSONB NOT NULL,
    input_schema JSONB NOT NULL,
    recipe JSONB NOT NULL,
    policy JSONB NOT NULL,
    created_at BIGINT NOT NULL,
    -- Repeats MAX(versions.epoch), so that replicas can poll it.
    current_epoch BIGINT CHECK (current_epoch >= 1)
);

-- Locked by a running ingestion instead of the model, so that deletions need not wait for it.
CREATE TABLE ordinals (
    model_id UUID PRIMARY KEY REFERENCES models (id),
    next_ordinal BIGINT NOT NULL CHECK (next_ordinal >= 0)
);

-- One row: which master key wraps the data keys. A running ingestion shares its lock, a rotation
-- takes it.
CREATE TABLE master_key (
    id BIGINT PRIMARY KEY CHECK (id = 0),
    fingerprint BYTEA NOT NULL CHECK (octet_length(fingerprint) = 32)
);

CREATE TABLE ingestions (
    id UUID PRIMARY KEY,
    model_id UUID NOT NULL REFERENCES models (id),
    -- Set as the ingestion commits.
    ingested_at BIGINT
);

CREATE TABLE deletion_requests (
    id UUID PRIMARY KEY,
    model_id UUID NOT NULL REFERENCES models (id),
    state TEXT NOT NULL
        CHECK (state IN ('suspended', 'queued', 'unlearning', 'completed', 'failed', 'rejected',
            'cancelled')),
    reason TEXT,
    guarantee TEXT CHECK (guarantee IN ('approximate', 'exact')),
    samples BIGINT NOT NULL CHECK (samples >= 0),
    batch_id UUID,
    excluded_from_epoch BIGINT,
    attempts BIGINT NOT NULL CHECK (attempts >= 0),
    not_before BIGINT NOT NULL,
    -- Who asked; absent where the service runs without keys.
    api_key_id UUID,
    received_at BIGINT NOT NULL,
    due_by BIGINT NOT NULL,
    completed_at BIGINT,
    settled_at BIGINT,
    CHECK ((state = 'completed') = (completed_at IS NOT NULL)),
    CHECK ((state = 'completed') = (guarantee IS NOT NULL)),
    CHECK ((settled_at IS NOT NULL) = (guarantee IS NOT NULL AND guarantee = 'exact')),
    CHECK (state NOT IN ('unlearning', 'completed') OR batch_id IS NOT NULL),
    CHECK (state NOT IN ('suspended', 'queued') OR batch_id IS NULL),
    CHECK (state <> 'rejected' OR samples = 0)
);
CREATE INDEX deletion_requests_due ON deletion_requests (due_by, id, model_id) WHERE state = 'queued';
CREATE INDEX deletion_requests_queued ON deletion_requests (model_id, due_by, id) WHERE state = 'queued';
CREATE INDEX deletion_requests_unsettled ON deletion_requests (model_id, completed_at)
    WHERE state = 'completed' AND settled_at IS NULL;
CREATE INDEX deletion_requests_batch ON deletion_requests (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX deletion_requests_key ON deletion_requests (api_key_id, received_at)
    WHERE api_key_id IS NOT NULL;
CREATE INDEX deletion_requests_state ON deletion_requests (state, id);
CREATE INDEX deletion_requests_model ON deletion_requests (model_id, id);

CREATE TABLE deletion_targets (
    deletion_id UUID NOT NULL REFERENCES deletion_requests (id),
    position BIGINT NOT NULL CHECK (position >= 0),
    kind TEXT NOT NULL CHECK (kind IN ('sample', 'subject')),
    key BYTEA NOT NULL CHECK (octet_length(key) = 32),
    samples BIGINT NOT NULL CHECK (samples >= 0),
    rejection TEXT CHECK (rejection IN ('unknown_subject', 'unknown_sample', 'already_deleted', 'refused')),
    PRIMARY KEY (deletion_id, position),
    CHECK (rejection IS NULL OR samples = 0)
);

CREATE TABLE samples (
    id UUID PRIMARY KEY,
    model_id UUID NOT NULL REFERENCES models (id),
    ordinal BIGINT NOT NULL CHECK (ordinal >= 0),
    sample_key BYTEA NOT NULL CHECK (octet_length(sample_key) = 32),
    subject_key BYTEA NOT NULL CHECK (octet_length(subject_key) = 32),
    split TEXT NOT NULL CHECK (split IN ('train', 'holdout')),
    ingestion_id UUID NOT NULL REFERENCES ingestions (id),
    -- The open or completed request that deletes it.
    deletion_id UUID REFERENCES deletion_requests (id),
    deleted_at BIGINT,
    CHECK (deleted_at IS NULL OR deletion_id IS NOT NULL)
);
CREATE UNIQUE INDEX samples_ordinal ON samples (model_id, ordinal);
CREATE UNIQUE INDEX samples_live ON samples (model_id, sample_key) WHERE deleted_at IS NULL;
CREATE INDEX samples_key ON samples (model_id, sample_key);
CREATE INDEX samples_subject ON samples (model_id, subject_key);
CREATE INDEX samples_usable ON samples (model_id, split, ordinal)
    WHERE deleted_at IS NULL AND deletion_id IS NULL;

-- What erasure removes. The data keys, each wrapped under the master key, are a table of their own,
-- so that they can be backed up apart; whose key is gone, that is gone.
CREATE TABLE data_keys (
    sample_id UUID PRIMARY KEY REFERENCES samples (id),
    wrapped BYTEA NOT NULL CHECK (octet_length(wrapped) = 60)
);

-- Features and label, sealed under the sample's data key.
CREATE TABLE sample_contents (
    sample_id UUID PRIMARY KEY REFERENCES samples (id),
    sealed BYTEA NOT NULL
);

-- Out-of-fold and anchor predictions, sealed likewise.
CREATE TABLE sample_predictions (
    sample_id UUID PRIMARY KEY REFERENCES samples (id),
    sealed BYTEA NOT NULL
);

-- A sample made the versions [from_epoch, until_epoch); open while it is still in.
CREATE TABLE contributions (
    model_id UUID NOT NULL REFERENCES models (id),
    sample_id UUID NOT NULL REFERENCES samples (id),
    from_epoch BIGINT NOT NULL CHECK (from_epoch >= 1),
    until_epoch BIGINT CHECK (until_epoch > from_epoch),
    PRIMARY KEY (model_id, sample_id, from_epoch)
);
CREATE UNIQUE INDEX contributions_open ON contributions (sample_id) WHERE until_epoch IS NULL;

CREATE TABLE jobs (
    id UUID PRIMARY KEY,
    model_id UUID NOT NULL REFERENCES models (id),
    kind TEXT NOT NULL CHECK (kind IN ('training', 'unlearning', 'settlement')),
    state TEXT NOT NULL
        CHECK (state IN ('queued', 'running', 'published', 'completed', 'failed', 'cancelled')),
    attempts BIGINT NOT NULL CHECK (attempts >= 0),
    preemptions BIGINT NOT NULL CHECK (preemptions >= 0),
    epoch BIGINT,
    progress JSONB,
    reason TEXT,
    evidence JSONB,
    cancel_requested BOOLEAN NOT NULL,
    not_before BIGINT NOT NULL,
    lease_token UUID,
    lease_expires_at BIGINT,
    worker_id UUID,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    CHECK ((state = 'running') = (lease_token IS NOT NULL)),
    CHECK ((state = 'running') = (lease_expires_at IS NOT NULL)),
    -- A batch exists only in a worker's hands, and only a batch waits for the replicas.
    CHECK (kind <> 'unlearning' OR state <> 'queued'),
    CHECK (kind = 'unlearning' OR state <> 'published'),
    CHECK (kind <> 'unlearning' OR NOT cancel_requested),
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);
CREATE UNIQUE INDEX jobs_running ON jobs (model_id) WHERE state = 'running';
CREATE UNIQUE INDEX jobs_queued_once ON jobs (model_id, kind) WHERE state = 'queued';
CREATE INDEX jobs_queued ON jobs (id) WHERE state = 'queued';
CREATE INDEX jobs_published ON jobs (id) WHERE state = 'published';
CREATE INDEX jobs_lease ON jobs (lease_expires_at) WHERE state = 'running';
CREATE INDEX jobs_model ON jobs (model_id, id);

ALTER TABLE deletion_requests ADD FOREIGN KEY (batch_id) REFERENCES jobs (id);

CREATE TABLE versions (
    model_id UUID NOT NULL REFERENCES models (id),
    epoch BIGINT NOT NULL CHECK (epoch >= 1),
    cause TEXT NOT NULL CHECK (cause IN ('trained', 'unlearned', 'settled')),
    parent_epoch BIGINT,
    job_id UUID NOT NULL UNIQUE REFERENCES jobs (id),
    weights BYTEA NOT NULL CHECK (octet_length(weights) = 32),
    network JSONB NOT NULL,
    encoder JSONB NOT NULL,
    classes JSONB NOT NULL,
    metrics JSONB NOT NULL,
    method JSONB NOT NULL,
    created_at BIGINT NOT NULL,
    weights_removed_at BIGINT,
    PRIMARY KEY (model_id, epoch),
    CHECK ((epoch = 1) = (parent_epoch IS NULL)),
    CHECK (parent_epoch = epoch - 1)
);
CREATE INDEX versions_kept ON versions (model_id, epoch) WHERE weights_removed_at IS NULL;

CREATE TABLE deletion_samples (
    deletion_id UUID NOT NULL REFERENCES deletion_requests (id),
    sample_id UUID NOT NULL REFERENCES samples (id),
    PRIMARY KEY (deletion_id, sample_id)
);

CREATE TABLE tombstones (
    model_id UUID NOT NULL REFERENCES models (id),
    kind TEXT NOT NULL CHECK (kind IN ('sample', 'subject')),
    key BYTEA NOT NULL CHECK (octet_length(key) = 32),
    deletion_id UUID NOT NULL REFERENCES deletion_requests (id),
    PRIMARY KEY (model_id, kind, key)
);
CREATE INDEX tombstones_deletion ON tombstones (deletion_id);

CREATE TABLE idempotency_keys (
    -- Nil where the service runs without keys.
    api_key_id UUID NOT NULL,
    key TEXT NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    body BYTEA NOT NULL CHECK (octet_length(body) = 32),
    deletion_id UUID NOT NULL REFERENCES deletion_requests (id) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (api_key_id, key)
);
-- The deferred reference is checked from its other end too.
CREATE INDEX idempotency_keys_deletion ON idempotency_keys (deletion_id);

CREATE TABLE api_keys (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    scopes JSONB NOT NULL,
    created_at BIGINT NOT NULL,
    requests_per_minute BIGINT CHECK (requests_per_minute > 0),
    samples_per_day BIGINT CHECK (samples_per_day > 0),
    revoked_at BIGINT
);

CREATE TABLE replicas (
    id UUID PRIMARY KEY,
    lease_expires_at BIGINT NOT NULL
);

CREATE TABLE replica_epochs (
    replica_id UUID NOT NULL REFERENCES replicas (id) ON DELETE CASCADE,
    model_id UUID NOT NULL REFERENCES models (id),
    epoch BIGINT NOT NULL CHECK (epoch >= 1),
    PRIMARY KEY (replica_id, model_id)
);
CREATE INDEX replica_epochs_model ON replica_epochs (model_id, epoch);

CREATE TABLE audit_events (
    idx BIGINT PRIMARY KEY CHECK (idx >= 0),
    kind TEXT NOT NULL,
    model_id UUID,
    about UUID,
    -- The leaf: exactly these bytes were hashed.
    entry TEXT NOT NULL,
    leaf_hash BYTEA NOT NULL CHECK (octet_length(leaf_hash) = 32),
    occurred_at BIGINT NOT NULL
);
CREATE INDEX audit_events_model ON audit_events (model_id, idx);
CREATE INDEX audit_events_about ON audit_events (about, idx);

-- One row; its lock puts the log's writers in order.
CREATE TABLE audit_head (
    id BIGINT PRIMARY KEY CHECK (id = 0),
    next_idx BIGINT NOT NULL CHECK (next_idx >= 0)
);
INSERT INTO audit_head (id, next_idx) VALUES (0, 0);
