"""RunProgress from what is committed and, while the run is active, from memory."""

from __future__ import annotations

import asyncio
from itertools import islice

from outrider.v1 import run_service_pb2, task_pb2
from outrider_coordinator.core.model import Run
from outrider_coordinator.core.runs import progress
from outrider_coordinator.core.runs.progress import Sight
from outrider_coordinator.core.states import TaskState
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc import render
from outrider_coordinator.store.reader import RunRecord

#: Tasks that are looked at before the loop has its turn; above so many open ones the estimate is made beside it.
_TASKS_AT_ONCE = 500
_IN_PROGRESS = (TaskState.ASSIGNED, TaskState.RUNNING, TaskState.CANCELLING)
_PENDING = (TaskState.PENDING, TaskState.QUEUED)


async def of(engine: Engine, record: RunRecord) -> run_service_pb2.RunProgress:
    """How far a run is."""
    counts = dict(record.counts)
    message = run_service_pb2.RunProgress(
        completed_count=sum(count for state, count in counts.items() if state >= TaskState.SUCCEEDED),
        in_progress_count=sum(counts.get(state, 0) for state in _IN_PROGRESS),
        pending_count=sum(counts.get(state, 0) for state in _PENDING),
        blocked_count=counts.get(TaskState.BLOCKED, 0),
        fraction=1.0,
    )
    run, sight, now_us = engine.state.runs.get(record.run.id), Sight(), engine.clock.now_us()
    if run is not None and not record.run.ended_us:
        sight = await _seen(engine, run, now_us)
        message.fraction = _fraction(run, sight)
        message.agents_active = len(sight.agents)
        lane_count = progress.lanes(engine.state, run, sight)
        left_us = await _estimate(sight, lane_count)
        if left_us is not None:
            message.estimated_end_time.CopyFrom(render.timestamp(now_us + left_us))
    message.speedup = _speedup(record, sight, record.run.ended_us or now_us)
    message.milestones.extend(await _milestones(engine, record))
    return message


async def _seen(engine: Engine, run: Run, now_us: int) -> Sight:
    sight, task_ids = Sight(), iter(list(run.members.values()))
    while some := list(islice(task_ids, _TASKS_AT_ONCE)):
        progress.look(engine.state, run, some, now_us, sight)
        await asyncio.sleep(0)
    return sight


async def _estimate(sight: Sight, lane_count: int) -> int | None:
    if len(sight.open) <= _TASKS_AT_ONCE:
        return progress.estimate_us(sight, lane_count)
    return await asyncio.to_thread(progress.estimate_us, sight, lane_count)


def _fraction(run: Run, sight: Sight) -> float:
    """Share of the weights that is done; what is under way counts with what it reported."""
    done = run.weight_done
    for weight, body in sight.reports:
        report = task_pb2.Progress.FromString(body)
        if report.total > 0:
            done += weight * min(1.0, max(0.0, report.completed / report.total))
    return min(1.0, done / run.weight_total) if run.weight_total else 0.0


def _speedup(record: RunRecord, sight: Sight, until_us: int) -> float:
    starts = [start_us for start_us in (record.start_us, sight.first_start_us) if start_us]
    wall_us = until_us - min(starts) if starts else 0
    return (record.busy_us + sight.busy_us) / wall_us if wall_us > 0 else 0.0


async def _milestones(engine: Engine, record: RunRecord) -> list[run_service_pb2.Milestone]:
    names = {
        task_id: name
        for part in record.parts
        for task_id, name in zip(part.task_ids, part.milestones, strict=False)
        if name
    }
    if not names:
        return []
    ends = await engine.read(lambda: engine.store.reader.task_ends(list(names)))
    reached = dict(record.run.milestones)
    found = {name: run_service_pb2.Milestone(name=name) for name in names.values()}
    for task_id, name in names.items():
        found[name].task_count += 1
        found[name].succeeded_count += task_id in ends and ends[task_id][0] is TaskState.SUCCEEDED
    for name, milestone in found.items():
        if reached.get(name):
            milestone.reach_time.CopyFrom(render.timestamp(reached[name]))
    return list(found.values())
