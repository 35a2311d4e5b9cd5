-- What an agent has asked for within a day, for its quota.
CREATE INDEX intakes_by_agent ON intakes (agent_id, received_at) WHERE agent_id IS NOT NULL;
