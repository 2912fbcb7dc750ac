-- Work by the clock; body is the ScheduleSpec, times are microseconds, 0 for none.
CREATE TABLE schedules (
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    submitter TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    is_paused INTEGER NOT NULL,
    next_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    last_id TEXT NOT NULL,
    queued_us INTEGER NOT NULL,
    fired_count INTEGER NOT NULL,
    skipped_count INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;
