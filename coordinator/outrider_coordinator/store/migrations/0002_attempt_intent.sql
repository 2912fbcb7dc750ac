-- Why an agent was asked to stop an attempt; 0 while nobody has.
ALTER TABLE attempts ADD COLUMN intent INTEGER NOT NULL DEFAULT 0;
