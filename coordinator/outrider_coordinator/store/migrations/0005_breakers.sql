-- Who is held responsible for the end of an attempt; 0 is nobody.
ALTER TABLE attempts ADD COLUMN blame INTEGER NOT NULL DEFAULT 0;

-- Circuit breakers that are not CLOSED: of an agent, of an agent for a kind of work, of an outside system.
CREATE TABLE breakers (
    agent_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    system TEXT NOT NULL,
    state INTEGER NOT NULL,
    opened_count INTEGER NOT NULL,
    reset_us INTEGER NOT NULL,
    opened_fence INTEGER NOT NULL,
    culprit TEXT NOT NULL,
    probe_task_id TEXT NOT NULL,
    probe_attempt INTEGER NOT NULL,
    PRIMARY KEY (agent_id, kind, system)
) STRICT, WITHOUT ROWID;
INSERT INTO breakers
SELECT id, '', '', breaker_state, breaker_opened_count, breaker_reset_us, 0, '', '', 0 FROM agents WHERE breaker_state <> 1;
ALTER TABLE agents DROP COLUMN breaker_state;
ALTER TABLE agents DROP COLUMN breaker_opened_count;
ALTER TABLE agents DROP COLUMN breaker_reset_us;
