-- What is left of a callback can be swept up. migrations/postgres holds the same columns.

-- Whether its intake has ended, so that it is told nothing more: it goes with its last message.
ALTER TABLE intake_callbacks ADD COLUMN is_final INTEGER NOT NULL DEFAULT 0
    CHECK (is_final IN (0, 1));
UPDATE intake_callbacks SET is_final = 1
    WHERE intake_id IN (SELECT id FROM intakes WHERE told_status IN ('completed', 'cancelled'));
CREATE INDEX intake_callbacks_final ON intake_callbacks (id) WHERE is_final;
