-- Whether an agent is held back because two processes fight for its name.
ALTER TABLE agents ADD COLUMN is_quarantined INTEGER NOT NULL DEFAULT 0;
