-- Tables of a coordinator's store. Ids are time-ordered text, times are microseconds, bodies are serialized messages.
CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    body BLOB NOT NULL,
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    priority INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    run_key TEXT NOT NULL,
    client_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    trace_parent TEXT NOT NULL,
    trace_state TEXT NOT NULL,
    dependency_ids TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    state INTEGER NOT NULL,
    reason INTEGER NOT NULL,
    ready_us INTEGER NOT NULL,
    attempts_made INTEGER NOT NULL,
    attempts_counted INTEGER NOT NULL,
    worker_deaths INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    progress BLOB NOT NULL,
    outcome BLOB NOT NULL,
    error BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_open ON tasks (sequence) WHERE state <= 6;
-- All open states are 6 here, so that a task's entry changes once, with its end.
CREATE INDEX tasks_by_end ON tasks (namespace, max(state, 6), id);
CREATE INDEX tasks_by_client ON tasks (client_id) WHERE client_id <> '';
CREATE INDEX tasks_by_run ON tasks (run_id) WHERE run_id <> '';
CREATE INDEX tasks_by_request ON tasks (namespace, request_id) WHERE request_id <> '';

CREATE TABLE attempts (
    task_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    state INTEGER NOT NULL,
    prefetched INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    offered_us INTEGER NOT NULL,
    started_us INTEGER NOT NULL,
    ended_us INTEGER NOT NULL,
    reason INTEGER NOT NULL,
    error BLOB NOT NULL,
    holds_slot INTEGER NOT NULL,
    is_probe INTEGER NOT NULL,
    last_number INTEGER NOT NULL,
    PRIMARY KEY (task_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE waits (
    task_id TEXT NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    keeps_running INTEGER NOT NULL,
    required_task_id TEXT NOT NULL,
    retry_us INTEGER NOT NULL,
    resolution BLOB NOT NULL,
    dependency_state INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    PRIMARY KEY (task_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX waits_open ON waits (task_id) WHERE is_open = 1;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    ended_us INTEGER NOT NULL,
    task_ids TEXT NOT NULL,
    task_keys TEXT NOT NULL,
    counts TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    client_id TEXT NOT NULL,
    trace_parent TEXT NOT NULL,
    trace_state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_open ON runs (id) WHERE ended_us = 0;
CREATE INDEX runs_by_namespace ON runs (namespace, id);
CREATE INDEX runs_by_request ON runs (namespace, request_id) WHERE request_id <> '';

CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    connectivity INTEGER NOT NULL,
    admin INTEGER NOT NULL,
    breaker_state INTEGER NOT NULL,
    breaker_opened_count INTEGER NOT NULL,
    breaker_reset_us INTEGER NOT NULL,
    labels TEXT NOT NULL,
    slots INTEGER NOT NULL,
    prefetch_credit INTEGER NOT NULL,
    parked_max INTEGER NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    instance_start_ms INTEGER NOT NULL,
    last_heard_us INTEGER NOT NULL,
    session_start_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE outboxes (
    agent_id TEXT NOT NULL,
    outbox_id TEXT NOT NULL,
    applied_seq INTEGER NOT NULL,
    PRIMARY KEY (agent_id, outbox_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (
    task_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    number INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (task_id, attempt, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE evidence (
    agent_id TEXT NOT NULL,
    outbox_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    cause TEXT NOT NULL,
    task_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- The event log, many neighbours a row: a row for each event and for its place in an index costs more than all else
-- that a short task writes. The other two say in which chunks a task's and a run's events are.
CREATE TABLE event_chunks (
    first_cursor INTEGER PRIMARY KEY,
    last_cursor INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE task_chunks (
    task_id TEXT NOT NULL,
    first_cursor INTEGER NOT NULL,
    PRIMARY KEY (task_id, first_cursor)
) STRICT, WITHOUT ROWID;

CREATE TABLE run_chunks (
    run_id TEXT NOT NULL,
    first_cursor INTEGER NOT NULL,
    PRIMARY KEY (run_id, first_cursor)
) STRICT, WITHOUT ROWID;
