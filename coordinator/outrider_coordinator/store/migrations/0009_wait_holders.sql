-- Which attempt holds the limit that a wait was for; 0 while none does.
ALTER TABLE waits ADD COLUMN held_by INTEGER NOT NULL DEFAULT 0;
