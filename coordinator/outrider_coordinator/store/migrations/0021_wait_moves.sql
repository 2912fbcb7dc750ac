-- On which agents the time of a wait ran out before, as JSON: it moves to none of them again.
ALTER TABLE waits ADD COLUMN moved_from TEXT NOT NULL DEFAULT '[]';
