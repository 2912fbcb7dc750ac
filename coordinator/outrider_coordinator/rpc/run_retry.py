"""What ended, as new work: a task again, and a run again where it did not succeed. Pure: rows in, facts out.

Results that are there are inputs as before, under the names they had. A task again asks nothing of its dependencies
any more: those that succeeded give it their results, the others are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from outrider.errors import IllegalTransition
from outrider_coordinator.core.events import ReplyTo, RunMember, RunSubmitted, Submission
from outrider_coordinator.core.model import Trace
from outrider_coordinator.core.records import InsertTask
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.states import Reason, TaskState
from outrider_coordinator.rpc.ids import IdMaker
from outrider_coordinator.rpc.specs import repeated_spec
from outrider_coordinator.store.reader import RunRecord


def task_again(
    row: InsertTask, ends: Mapping[str, tuple[TaskState, Reason]], task_id: str, request_id: str
) -> Submission:
    """The work of an ended task as a new one; ``ends`` says how its dependencies ended."""
    keys = row.dependency_keys or row.dependency_ids
    kept = [
        (other, key)
        for other, key in zip(row.dependency_ids, keys, strict=True)
        if other in ends and ends[other][0] is TaskState.SUCCEEDED
    ]
    return Submission(
        task_id,
        row.namespace,
        repeated_spec(row),
        request_id,
        hashlib.blake2b(b"retry" + row.id.encode(), digest_size=16).digest(),
        row.client_id,
        Trace(row.trace_parent, row.trace_state),
        tuple(other for other, _ in kept),
        dependency_keys=tuple(key for _, key in kept),
        retry_of_task_id=row.id,
        submitter=row.submitter,
    )


def again(record: RunRecord, tasks: list[InsertTask], ids: IdMaker, reply: ReplyTo) -> RunSubmitted:
    """A new run of what did not succeed. Raises IllegalTransition when all of it did.

    A task whose condition was not met is not done again: what it asked about is decided.
    """
    rows = {row.id: row for row in tasks if not _is_settled(row)}
    if not rows:
        raise IllegalTransition(f"all of run {record.run.id} succeeded; there is nothing to do again")
    new_ids = {task_id: ids.next() for part in record.parts for task_id in part.task_ids if task_id in rows}
    run = record.run
    return RunSubmitted(
        ids.next(),
        run.namespace,
        run.title,
        run.description,
        [
            _member(rows[old_id], new_ids, phase, milestone)
            for old_id, phase, milestone in _places(record)
            if old_id in rows
        ],
        reply,
        client_id=run.client_id,
        trace=Trace(run.trace_parent, run.trace_state),
        fails_fast=bool(run.fails_fast),
        max_parallel=run.max_parallel,
        is_sequential=bool(run.is_sequential),
        retry_of_run_id=run.id,
        submitter=tasks[0].submitter,
    )


def _is_settled(row: InsertTask) -> bool:
    return row.state == TaskState.SUCCEEDED or row.reason == Reason.CONDITION_NOT_MET


def _places(record: RunRecord) -> list[tuple[str, int, str]]:
    """(task id, phase, milestone) of every task, in the order of the run."""
    places = []
    for part in record.parts:
        count = len(part.task_ids)
        phases, milestones = part.phases or (0,) * count, part.milestones or ("",) * count
        places += list(zip(part.task_ids, phases, milestones, strict=True))
    return places


def _member(row: InsertTask, new_ids: Mapping[str, str], phase: int, milestone: str) -> RunMember:
    return RunMember(
        new_ids[row.id],
        row.run_key,
        repeated_spec(row),
        row.dependency_keys,
        tuple(map(Condition, row.dependency_conditions)),
        tuple("" if other in new_ids else other for other in row.dependency_ids),
        phase,
        milestone,
    )
