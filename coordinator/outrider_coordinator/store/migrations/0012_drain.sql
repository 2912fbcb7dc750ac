-- Until when a draining agent may let its attempts run; 0 for as long as they take.
ALTER TABLE agents ADD COLUMN drain_us INTEGER NOT NULL DEFAULT 0;
