-- What a task depends on how, and whose work it does again; a run's policies; its tasks in parts, as they entered.
ALTER TABLE tasks ADD COLUMN dependency_conditions TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tasks ADD COLUMN dependency_keys TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tasks ADD COLUMN retry_of_task_id TEXT NOT NULL DEFAULT '';

CREATE TABLE run_parts (
    run_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    task_ids TEXT NOT NULL,
    task_keys TEXT NOT NULL,
    phases TEXT NOT NULL,
    milestones TEXT NOT NULL,
    weights TEXT NOT NULL,
    parent_task_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_parts_by_request ON run_parts (namespace, request_id) WHERE request_id <> '';
INSERT INTO run_parts
SELECT id, 0, namespace, task_ids, task_keys, '[]', '[]', '[]', '', '', x'', created_us FROM runs;

ALTER TABLE runs DROP COLUMN task_ids;
ALTER TABLE runs DROP COLUMN task_keys;
ALTER TABLE runs DROP COLUMN counts;
ALTER TABLE runs ADD COLUMN milestones TEXT NOT NULL DEFAULT '[]';
ALTER TABLE runs ADD COLUMN retry_of_run_id TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN fails_fast INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN max_parallel INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN is_sequential INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN stop_reason INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN stop_message TEXT NOT NULL DEFAULT '';
