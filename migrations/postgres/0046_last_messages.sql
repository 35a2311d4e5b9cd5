-- What is left of a callback can be swept up. migrations/sqlite holds the same columns.

-- Whether its intake has ended, so that it is told nothing more: it goes with its last message.
ALTER TABLE intake_callbacks ADD COLUMN is_final BOOLEAN NOT NULL DEFAULT false;
UPDATE intake_callbacks SET is_final = true
    WHERE intake_id IN (SELECT id FROM intakes WHERE told_status IN ('completed', 'cancelled'));
CREATE INDEX intake_callbacks_final ON intake_callbacks (id) WHERE is_final;
