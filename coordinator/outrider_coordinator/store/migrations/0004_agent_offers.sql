-- What an agent offers beside labels and slots: amounts of resources by name, task types and runners, as JSON.
ALTER TABLE agents ADD COLUMN resources TEXT NOT NULL DEFAULT '{}';
ALTER TABLE agents ADD COLUMN task_types TEXT NOT NULL DEFAULT '[]';
ALTER TABLE agents ADD COLUMN runners TEXT NOT NULL DEFAULT '[]';
