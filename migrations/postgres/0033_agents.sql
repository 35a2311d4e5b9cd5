-- Agents of the Data Rights Protocol. migrations/sqlite holds the same tables and columns.

-- One token for each agent.
CREATE TABLE agent_tokens (
    agent_id TEXT PRIMARY KEY,
    -- SHA-256 of the token.
    hash BYTEA NOT NULL UNIQUE CHECK (length(hash) = 32),
    -- When the agent signed that it wants one, by its clock. It rises with every token.
    asked_at BIGINT NOT NULL,
    issued_at BIGINT NOT NULL
);

-- The agent that brought an intake; absent where a controller of OpenDSR did.
ALTER TABLE intakes ADD COLUMN agent_id TEXT;
-- What the agent calls it.
ALTER TABLE intakes ADD COLUMN agent_request_id TEXT;

-- Why the deadline was extended last.
ALTER TABLE deletion_requests ADD COLUMN extension_reason TEXT
    CHECK (extension_reason IN ('complexity', 'number_of_requests', 'reasonably_necessary'));
