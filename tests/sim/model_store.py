"""The coordinator's store as tables of records: what is durable, what a crash keeps, and what a start reads.

Owns rows and nothing else. It must not know what they mean, save their keys. `Tables` answers the questions of
`outrider_coordinator.store.reader.Reader` that a start asks, so that `store.load.restore` runs on it as it is.
Invariant: a batch is in the tables whole or not at all, and batches come in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from outrider_coordinator.core import records
from outrider_coordinator.core.states import AttemptState, Reason, TaskState
from sim.kernel import Kernel

OPEN_MAX = 6
#: Attempts that a start reads: OFFERED, ACCEPTED, STARTED, BLOCKED, LOST.
_OPEN_ATTEMPTS = frozenset((1, 2, 3, 4, 8))
_BLAME_TASK = 1
_OFFERED = 1
_FIXED = len(records.InsertTask._fields) - len(records.UpdateTask._fields) + 1

#: How many of its first fields name a record that is put, where a record that deletes it does not say so.
_KEYS = {"Attempt": 2, "Wait": 2, "Outbox": 2}
#: What goes with a record that is deleted, by the first of its key's fields.
_BELONGINGS = {"Agent": ("Outbox", "Breaker")}


def _key_fields(thing: str) -> int:
    """How many of its first fields name a ``Put`` record; a ``Delete`` record of the thing has just these."""
    delete = getattr(records, f"Delete{thing}", None)
    return _KEYS.get(thing) or (len(delete._fields) if delete is not None else 1)


#: Records that are put: the thing, and how many of its first fields name it.
_PUTS = {
    kind: (name[3:], _key_fields(name[3:])) for name, kind in sorted(vars(records).items()) if name.startswith("Put")
}


class Tables:
    """Everything that is durable. Rows are never changed, so a copy is cheap."""

    def __init__(self) -> None:
        self.tasks: dict[str, records.InsertTask] = {}
        #: Records that are put, by thing ("Agent") and key.
        self.put: dict[str, dict[tuple[Any, ...], Any]] = defaultdict(dict)
        self.events: list[records.InsertEvent] = []
        self.evidence: list[records.InsertEvidence] = []
        self.log_count = 0
        self.coordinator_epoch = 0

    def copy(self) -> Tables:
        """As it is now, for a backup or for what would be if pending batches were in."""
        copy = Tables()
        copy.tasks = dict(self.tasks)
        copy.put.update((name, dict(table)) for name, table in self.put.items())
        copy.events, copy.evidence = list(self.events), list(self.evidence)
        copy.log_count, copy.coordinator_epoch = self.log_count, self.coordinator_epoch
        return copy

    def apply(self, rows: Sequence[Any]) -> None:
        """One transaction."""
        for row in rows:
            kind = type(row)
            if kind is records.InsertEvent:
                self.events.append(row)
            elif kind is records.UpdateTask:
                known = self.tasks[row[0]]
                self.tasks[row[0]] = records.InsertTask._make(known[:_FIXED] + row[1:])
            elif kind is records.InsertTask:
                self.tasks[row[0]] = row
            elif kind in _PUTS:
                thing, key_fields = _PUTS[kind]
                self.put[thing][row[:key_fields]] = row
            else:
                self._other(kind.__name__, row)

    def _other(self, name: str, row: Any) -> None:
        if name.startswith("Delete"):
            self.put[name[6:]].pop(row, None)
            for table in _BELONGINGS.get(name[6:], ()):
                for key in [key for key in self.put[table] if key[0] == row[0]]:
                    del self.put[table][key]
        elif name == "InsertRunPart":
            self.put["RunPart"][row[:2]] = row
        elif name == "InsertEvidence":
            self.evidence.append(row)
        else:
            assert name == "InsertLog", f"tests/sim/model_store.py does not know where {name} belongs"
            self.log_count += 1

    def __getattr__(self, name: str) -> Callable[[], list[Any]]:
        """All records of a thing, as the reader has them by its plural: ``breakers``, ``limits``."""
        thing = name[:-1].capitalize()
        if name.startswith("_") or not hasattr(records, f"Put{thing}"):
            raise AttributeError(name)
        return lambda: sorted(self.put[thing].values())

    # --- what a start reads --------------------------------------------------------------------------------------

    def cursors(self) -> tuple[int, int]:
        """First and last cursor."""
        return (self.events[0].cursor, self.events[-1].cursor) if self.events else (1, 0)

    def last_event_us(self) -> int:
        """When the last entry of the event log was made; 0 when it is empty."""
        return self.events[-1].time_us if self.events else 0

    def last_sequence(self) -> int:
        """Highest order of an open task."""
        return max((row.order for row in self.open_tasks()), default=0)

    def open_tasks(self) -> Iterator[records.InsertTask]:
        """Tasks that are not terminal, in the order accepted."""
        return iter(sorted((row for row in self.tasks.values() if row.state <= OPEN_MAX), key=lambda row: row.order))

    def open_attempts(self) -> Iterator[records.PutAttempt]:
        """Live attempts, strays and refusals by policy of open tasks, by task and number as the database has them."""
        for row in sorted(self.put["Attempt"].values(), key=lambda row: (self.tasks[row[0]].order, row.number)):
            matters = row.state in _OPEN_ATTEMPTS or row.blame == _BLAME_TASK or _is_refusal(row)
            if matters and self.tasks[row.task_id].state <= OPEN_MAX:
                yield row

    def open_waits(self) -> Iterator[records.PutWait]:
        """Waits, answered ones too, of open tasks."""
        for row in self.put["Wait"].values():
            if self.tasks[row.task_id].state <= OPEN_MAX:
                yield row

    def open_runs(self) -> Iterator[records.PutRun]:
        """Runs that are not over."""
        return (row for row in self.put["Run"].values() if not row.ended_us)

    def open_run_parts(self) -> Iterator[records.InsertRunPart]:
        """Parts of runs that are not over, those of a run in order."""
        return (row for key, row in sorted(self.put["RunPart"].items()) if not self.put["Run"][key[:1]].ended_us)

    def agents(self) -> list[records.PutAgent]:
        """All agents, by id."""
        return sorted(self.put["Agent"].values())

    def outboxes(self) -> list[records.PutOutbox]:
        """All outbox positions."""
        return list(self.put["Outbox"].values())

    # --- what a running coordinator reads --------------------------------------------------------------------------

    def task_states(self, task_ids: Sequence[str]) -> dict[str, int | None]:
        """State of each task, None for unknown ones."""
        return {task_id: self.tasks[task_id].state if task_id in self.tasks else None for task_id in task_ids}

    def task_namespaces(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Namespace of each task that there is."""
        return {task_id: self.tasks[task_id].namespace for task_id in task_ids if task_id in self.tasks}

    def task_ends(self, task_ids: Sequence[str]) -> dict[str, tuple[TaskState, Reason]]:
        """How those of these tasks that are over ended, and why."""
        found = (self.tasks[task_id] for task_id in task_ids if task_id in self.tasks)
        return {row.id: (TaskState(row.state), Reason(row.reason)) for row in found if row.state > OPEN_MAX}

    def outcomes(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Serialized Completed of each task that succeeded."""
        found = (self.tasks.get(task_id) for task_id in task_ids)
        return {row.id: row.outcome for row in found if row is not None and row.state == 7}

    def request(self, namespace: str, request_id: str) -> tuple[str, bytes] | None:
        """Id and digest of the task accepted under a request id."""
        for row in self.tasks.values():
            if row.request_id == request_id and row.namespace == namespace:
                return row.id, row.digest
        return None

    def run_request(self, namespace: str, request_id: str) -> tuple[str, bytes] | None:
        """Id and digest of the run accepted under a request id."""
        for row in self.put["Run"].values():
            if row.request_id == request_id and row.namespace == namespace:
                return row.id, row.digest
        return None


class ModelStore:
    """One coordinator's disk: commits take time, fail, or are cut short by a crash.

    ``on_durable`` hears of every batch as it becomes durable, before anybody is told that it did.
    """

    def __init__(self, kernel: Kernel, on_durable: Callable[[Any], None]) -> None:
        self.tables = Tables()
        self.is_slow = False
        self.is_full = False
        #: "" or what happens to the next commit: "unapplied" or "applied", both told as an error.
        self.next_error = ""
        self.backup: Tables | None = None
        #: Called when the next attempt is offered, durably: a moment at which a backup knows least of what follows.
        self.on_offer: Callable[[], None] | None = None
        self._kernel = kernel
        self._random = kernel.stream("store")
        self._on_durable = on_durable
        self._pending: Any = None
        self._number = 0

    def open(self) -> int:
        """A start: returns its epoch, durably one above all before."""
        risen = max((row.epoch for row in self.tables.put["Epoch"].values()), default=0)
        self.tables.coordinator_epoch = max(self.tables.coordinator_epoch, risen) + 1
        return self.tables.coordinator_epoch

    def commit(self, batch: Any, done: Callable[[bool], None]) -> None:
        """Make ``batch.rows`` durable, then call ``done``: True when that is known, False for an error."""
        assert self._pending is None, "two commits at once"
        self._pending = batch
        self._number += 1
        delay_us = self._random.randrange(200, 4_000)
        if self.is_slow:
            delay_us = self._random.randrange(100_000, 3_000_000)
        self._kernel.after(delay_us, self._commit, self._number, done)

    def crash(self) -> None:
        """The process dies: what was being written is there whole or not at all, and nobody is told."""
        self._number += 1
        batch, self._pending = self._pending, None
        if batch is not None and self._random.random() < 0.5:
            self._kernel.tell("store", "kept what was being written", len(batch.rows))
            self._make_durable(batch)

    def take_backup(self) -> None:
        """Keep a copy of everything."""
        self.backup = self.tables.copy()

    def restore_backup(self) -> None:
        """The disk is as it was when the backup was taken."""
        assert self.backup is not None
        self.tables = self.backup.copy()

    def _commit(self, number: int, done: Callable[[bool], None]) -> None:
        if number != self._number:
            return
        batch, self._pending = self._pending, None
        error, self.next_error = self.next_error, ""
        if error:
            self._kernel.tell("store", f"commit failed, {error}", len(batch.rows))
        if error != "unapplied":
            self._make_durable(batch)
        done(not error)

    def _make_durable(self, batch: Any) -> None:
        self._on_durable(batch)
        self.tables.apply(batch.rows)
        if self.on_offer is not None and any(_is_offer(row) for row in batch.rows):
            on_offer, self.on_offer = self.on_offer, None
            on_offer()


def _is_offer(row: Any) -> bool:
    return isinstance(row, records.PutAttempt) and row.state == _OFFERED


def _is_refusal(row: records.PutAttempt) -> bool:
    return row.state == AttemptState.REJECTED and row.reason == Reason.REFUSED_BY_POLICY
