-- The ledger. Times are microseconds since 1970 (UTC); digests and pseudonyms are 32 bytes.
-- migrations/postgres holds the same tables and columns.

CREATE TABLE models (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    architecture TEXT NOT NULL,
    input_schema TEXT NOT NULL,
    recipe TEXT NOT NULL,
    policy TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- Repeats MAX(versions.epoch), so that replicas can poll it.
    current_epoch INTEGER CHECK (current_epoch >= 1)
) STRICT;

-- Locked by a running ingestion instead of the model, so that deletions need not wait for it.
CREATE TABLE ordinals (
    model_id BLOB PRIMARY KEY REFERENCES models (id),
    next_ordinal INTEGER NOT NULL CHECK (next_ordinal >= 0)
) STRICT;

-- One row: which master key wraps the data keys. A running ingestion shares its lock, a rotation
-- takes it.
CREATE TABLE master_key (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32)
) STRICT;

CREATE TABLE ingestions (
    id BLOB PRIMARY KEY,
    model_id BLOB NOT NULL REFERENCES models (id),
    -- Set as the ingestion commits.
    ingested_at INTEGER
) STRICT;

CREATE TABLE deletion_requests (
    id BLOB PRIMARY KEY,
    model_id BLOB NOT NULL REFERENCES models (id),
    state TEXT NOT NULL
        CHECK (state IN ('suspended', 'queued', 'unlearning', 'completed', 'failed', 'rejected',
            'cancelled')),
    reason TEXT,
    guarantee TEXT CHECK (guarantee IN ('approximate', 'exact')),
    samples INTEGER NOT NULL CHECK (samples >= 0),
    batch_id BLOB REFERENCES jobs (id),
    excluded_from_epoch INTEGER,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    not_before INTEGER NOT NULL,
    -- Who asked; absent where the service runs without keys.
    api_key_id BLOB,
    received_at INTEGER NOT NULL,
    due_by INTEGER NOT NULL,
    completed_at INTEGER,
    settled_at INTEGER,
    CHECK ((state = 'completed') = (completed_at IS NOT NULL)),
    CHECK ((state = 'completed') = (guarantee IS NOT NULL)),
    CHECK ((settled_at IS NOT NULL) = (guarantee IS NOT NULL AND guarantee = 'exact')),
    CHECK (state NOT IN ('unlearning', 'completed') OR batch_id IS NOT NULL),
    CHECK (state NOT IN ('suspended', 'queued') OR batch_id IS NULL),
    CHECK (state <> 'rejected' OR samples = 0)
) STRICT;
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
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id),
    position INTEGER NOT NULL CHECK (position >= 0),
    kind TEXT NOT NULL CHECK (kind IN ('sample', 'subject')),
    key BLOB NOT NULL CHECK (length(key) = 32),
    samples INTEGER NOT NULL CHECK (samples >= 0),
    rejection TEXT CHECK (rejection IN ('unknown_subject', 'unknown_sample', 'already_deleted', 'refused')),
    PRIMARY KEY (deletion_id, position),
    CHECK (rejection IS NULL OR samples = 0)
) STRICT;

CREATE TABLE samples (
    id BLOB PRIMARY KEY,
    model_id BLOB NOT NULL REFERENCES models (id),
    ordinal INTEGER NOT NULL CHECK (ordinal >= 0),
    sample_key BLOB NOT NULL CHECK (length(sample_key) = 32),
    subject_key BLOB NOT NULL CHECK (length(subject_key) = 32),
    split TEXT NOT NULL CHECK (split IN ('train', 'holdout')),
    ingestion_id BLOB NOT NULL REFERENCES ingestions (id),
    -- The open or completed request that deletes it.
    deletion_id BLOB REFERENCES deletion_requests (id),
    deleted_at INTEGER,
    CHECK (deleted_at IS NULL OR deletion_id IS NOT NULL)
) STRICT;
CREATE UNIQUE INDEX samples_ordinal ON samples (model_id, ordinal);
CREATE UNIQUE INDEX samples_live ON samples (model_id, sample_key) WHERE deleted_at IS NULL;
CREATE INDEX samples_key ON samples (model_id, sample_key);
CREATE INDEX samples_subject ON samples (model_id, subject_key);
CREATE INDEX samples_usable ON samples (model_id, split, ordinal)
    WHERE deleted_at IS NULL AND deletion_id IS NULL;

-- What erasure removes. The data keys, each wrapped under the master key, are a table of their own,
-- so that they can be backed up apart; whose key is gone, that is gone.
CREATE TABLE data_keys (
    sample_id BLOB PRIMARY KEY REFERENCES samples (id),
    wrapped BLOB NOT NULL CHECK (length(wrapped) = 60)
) STRICT;

-- Features and label, sealed under the sample's data key.
CREATE TABLE sample_contents (
    sample_id BLOB PRIMARY KEY REFERENCES samples (id),
    sealed BLOB NOT NULL
) STRICT;

-- Out-of-fold and anchor predictions, sealed likewise.
CREATE TABLE sample_predictions (
    sample_id BLOB PRIMARY KEY REFERENCES samples (id),
    sealed BLOB NOT NULL
) STRICT;

-- A sample made the versions [from_epoch, until_epoch); open while it is still in.
CREATE TABLE contributions (
    model_id BLOB NOT NULL REFERENCES models (id),
    sample_id BLOB NOT NULL REFERENCES samples (id),
    from_epoch INTEGER NOT NULL CHECK (from_epoch >= 1),
    until_epoch INTEGER CHECK (until_epoch > from_epoch),
    PRIMARY KEY (model_id, sample_id, from_epoch)
) STRICT;
CREATE UNIQUE INDEX contributions_open ON contributions (sample_id) WHERE until_epoch IS NULL;

CREATE TABLE jobs (
    id BLOB PRIMARY KEY,
    model_id BLOB NOT NULL REFERENCES models (id),
    kind TEXT NOT NULL CHECK (kind IN ('training', 'unlearning', 'settlement')),
    state TEXT NOT NULL
        CHECK (state IN ('queued', 'running', 'published', 'completed', 'failed', 'cancelled')),
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    preemptions INTEGER NOT NULL CHECK (preemptions >= 0),
    epoch INTEGER,
    progress TEXT,
    reason TEXT,
    evidence TEXT,
    cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
    not_before INTEGER NOT NULL,
    lease_token BLOB,
    lease_expires_at INTEGER,
    worker_id BLOB,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    CHECK ((state = 'running') = (lease_token IS NOT NULL)),
    CHECK ((state = 'running') = (lease_expires_at IS NOT NULL)),
    -- A batch exists only in a worker's hands, and only a batch waits for the replicas.
    CHECK (kind <> 'unlearning' OR state <> 'queued'),
    CHECK (kind = 'unlearning' OR state <> 'published'),
    CHECK (kind <> 'unlearning' OR NOT cancel_requested),
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX jobs_running ON jobs (model_id) WHERE state = 'running';
CREATE UNIQUE INDEX jobs_queued_once ON jobs (model_id, kind) WHERE state = 'queued';
CREATE INDEX jobs_queued ON jobs (id) WHERE state = 'queued';
CREATE INDEX jobs_published ON jobs (id) WHERE state = 'published';
CREATE INDEX jobs_lease ON jobs (lease_expires_at) WHERE state = 'running';
CREATE INDEX jobs_model ON jobs (model_id, id);

CREATE TABLE versions (
    model_id BLOB NOT NULL REFERENCES models (id),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    cause TEXT NOT NULL CHECK (cause IN ('trained', 'unlearned', 'settled')),
    parent_epoch INTEGER,
    job_id BLOB NOT NULL UNIQUE REFERENCES jobs (id),
    weights BLOB NOT NULL CHECK (length(weights) = 32),
    network TEXT NOT NULL,
    encoder TEXT NOT NULL,
    classes TEXT NOT NULL,
    metrics TEXT NOT NULL,
    method TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    weights_removed_at INTEGER,
    PRIMARY KEY (model_id, epoch),
    CHECK ((epoch = 1) = (parent_epoch IS NULL)),
    CHECK (parent_epoch = epoch - 1)
) STRICT;
CREATE INDEX versions_kept ON versions (model_id, epoch) WHERE weights_removed_at IS NULL;

CREATE TABLE deletion_samples (
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id),
    sample_id BLOB NOT NULL REFERENCES samples (id),
    PRIMARY KEY (deletion_id, sample_id)
) STRICT;

CREATE TABLE tombstones (
    model_id BLOB NOT NULL REFERENCES models (id),
    kind TEXT NOT NULL CHECK (kind IN ('sample', 'subject')),
    key BLOB NOT NULL CHECK (length(key) = 32),
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id),
    PRIMARY KEY (model_id, kind, key)
) STRICT;
CREATE INDEX tombstones_deletion ON tombstones (deletion_id);

CREATE TABLE idempotency_keys (
    -- Nil where the service runs without keys.
    api_key_id BLOB NOT NULL,
    key TEXT NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    body BLOB NOT NULL CHECK (length(body) = 32),
    deletion_id BLOB NOT NULL REFERENCES deletion_requests (id) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (api_key_id, key)
) STRICT;
-- The deferred reference is checked from its other end too.
CREATE INDEX idempotency_keys_deletion ON idempotency_keys (deletion_id);

CREATE TABLE api_keys (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    requests_per_minute INTEGER CHECK (requests_per_minute > 0),
    samples_per_day INTEGER CHECK (samples_per_day > 0),
    revoked_at INTEGER
) STRICT;

CREATE TABLE replicas (
    id BLOB PRIMARY KEY,
    lease_expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE replica_epochs (
    replica_id BLOB NOT NULL REFERENCES replicas (id) ON DELETE CASCADE,
    model_id BLOB NOT NULL REFERENCES models (id),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    PRIMARY KEY (replica_id, model_id)
) STRICT;
CREATE INDEX replica_epochs_model ON replica_epochs (model_id, epoch);

CREATE TABLE audit_events (
    idx INTEGER PRIMARY KEY CHECK (idx >= 0),
    kind TEXT NOT NULL,
    model_id BLOB,
    about BLOB,
    -- The leaf: exactly these bytes were hashed.
    entry TEXT NOT NULL,
    leaf_hash BLOB NOT NULL CHECK (length(leaf_hash) = 32),
    occurred_at INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_events_model ON audit_events (model_id, idx);
CREATE INDEX audit_events_about ON audit_events (about, idx);

-- One row; its lock puts the log's writers in order.
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    next_idx INTEGER NOT NULL CHECK (next_idx >= 0)
) STRICT;
INSERT INTO audit_head (id, next_idx) VALUES (0, 0);
