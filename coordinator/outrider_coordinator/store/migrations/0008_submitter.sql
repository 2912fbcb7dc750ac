-- On whose behalf a task was submitted: shares are fair between submitters.
ALTER TABLE tasks ADD COLUMN submitter TEXT NOT NULL DEFAULT '';
