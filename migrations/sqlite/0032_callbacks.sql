-- Who is told of an intake's status. migrations/postgres holds the same tables and columns.

-- The status that the caller knows: a request that was answered is pending.
ALTER TABLE intakes ADD COLUMN told_status TEXT NOT NULL DEFAULT 'pending'
    CHECK (told_status IN ('pending', 'in_progress', 'completed', 'cancelled'));

-- A receiver of the outbox, in a webhook's place: its messages are webhook_messages with this id.
-- Removed once its intake's last status was delivered or given up.
CREATE TABLE intake_callbacks (
    id BLOB PRIMARY KEY,
    intake_id BLOB NOT NULL REFERENCES intakes (id),
    url TEXT NOT NULL
) STRICT;
CREATE INDEX intake_callbacks_intake ON intake_callbacks (intake_id);
