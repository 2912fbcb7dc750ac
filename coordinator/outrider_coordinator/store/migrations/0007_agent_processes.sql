-- Which start of its machine an agent belongs to, and from which fence on its process knows what became of attempts.
ALTER TABLE agents ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE agents ADD COLUMN first_fence INTEGER NOT NULL DEFAULT 0;
