-- The audit log as a signed tree. migrations/postgres holds the same tables and columns.

-- Roots of complete subtrees of 256^level leaves, which never change: a tile of level L is 256 of
-- them (level 0 are the leaves' hashes). Filled when a checkpoint is signed.
CREATE TABLE audit_nodes (
    level INTEGER NOT NULL CHECK (level >= 1),
    idx INTEGER NOT NULL CHECK (idx >= 0),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, idx)
) STRICT;

-- Every checkpoint that was signed, by the size of its tree.
CREATE TABLE audit_checkpoints (
    size INTEGER PRIMARY KEY CHECK (size >= 0),
    root BLOB NOT NULL CHECK (length(root) = 32),
    -- A signed note, with the log's own signature alone.
    note TEXT NOT NULL,
    signed_at INTEGER NOT NULL
) STRICT;

-- Signature lines of witnesses.
CREATE TABLE audit_cosignatures (
    size INTEGER NOT NULL REFERENCES audit_checkpoints (size),
    -- The witness's key as a signed note's verifier key.
    witness TEXT NOT NULL,
    line TEXT NOT NULL,
    PRIMARY KEY (size, witness)
) STRICT;

-- One row at most: the key that signs checkpoints, as a signed note's verifier key.
CREATE TABLE audit_log_key (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    verifier_key TEXT NOT NULL
) STRICT;
