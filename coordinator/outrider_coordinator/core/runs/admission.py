"""Runs and additions to them, taken in: whole or not at all, in slices however large they are.

Tasks and rows are made a slice at a time, outside the state. The last part puts everything in at once: the run's row,
its members, their events, one transaction; what of it can start is made ready by the errand after that. So a crash
before that leaves nothing, one after it leaves all of it.

Invariants: nothing is offered or can be seen of a run before its reply may go; an addition never makes a cycle, as
tasks that were there before never come after its own; keys are unique in a run (I18).
"""

from __future__ import annotations

from functools import partial
from itertools import count, repeat

from outrider_coordinator.core.attempts import deadlines, outcome
from outrider_coordinator.core.effects import Accepted, Effects, NeedTasks, Refused, Reply
from outrider_coordinator.core.events import RunMember, RunSubmitted, TasksAdded
from outrider_coordinator.core.model import Run, Task
from outrider_coordinator.core.records import InsertEvent, InsertRunPart
from outrider_coordinator.core.runs import lifecycle
from outrider_coordinator.core.runs.errands import Admission, Decision, Edges
from outrider_coordinator.core.runs.submission import again, full
from outrider_coordinator.core.snapshots import inserted
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import EventType, Reason, TaskState

#: Tasks of one run, ended ones too.
MEMBERS_MAX = 10_000
#: Edges of one graph, or of one addition.
EDGES_MAX = 100_000
#: Tasks of one addition.
ADDED_MAX = 1_000
#: So many edges cost as much as one task.
_EDGES_PER_UNIT = 8

_new_event = partial(tuple.__new__, InsertEvent)


def run_submitted(state: State, effects: Effects, event: RunSubmitted) -> None:
    """A graph arrived: begin to take it in, or refuse it whole."""
    answer = _known_or_full(state, event)
    if answer is not None:
        effects.sends.append(Reply(event.reply, answer))
        return
    run = Run(
        event.run_id,
        event.namespace,
        event.title,
        event.description,
        state.now_us,
        request_id=event.request_id,
        digest=event.digest,
        client_id=event.client_id,
        trace=event.trace,
        submitter=event.submitter,
        retry_of_run_id=event.retry_of_run_id,
        fails_fast=event.fails_fast,
        max_parallel=event.max_parallel,
        is_sequential=event.is_sequential,
    )
    _begin(state, event, run)


def tasks_added(state: State, effects: Effects, event: TasksAdded) -> None:
    """Tasks for a run arrived: begin to take them in, or refuse all of them."""
    run = state.runs.get(event.run_id)
    answer = _known_or_full(state, event) or _closed(state, event, run)
    if answer is not None or run is None:
        effects.sends.append(Reply(event.reply, answer))
        return
    _begin(state, event, run)


def submitted_at_once(state: State, effects: Effects, event: RunSubmitted) -> None:
    """Take a graph in within this step, for one that is small and was checked against the room there is."""
    run_submitted(state, effects, event)
    if state.errands and isinstance(errand := state.errands[-1], Admission) and errand.event is event:
        state.errands.pop()
        advance(state, effects, errand, units=len(event.members) * (1 + EDGES_MAX))


def is_under_way(state: State, run_id: str) -> bool:
    """Whether a run that was submitted is still being taken in."""
    return any(isinstance(errand, Admission) and errand.run.id == run_id for errand in state.errands)


def abandon(state: State, run_id: str) -> None:
    """Take a run in no further: nothing of it is in the state yet, and nobody waits for an answer."""
    kept = [errand for errand in state.errands if not (isinstance(errand, Admission) and errand.run.id == run_id)]
    state.errands.clear()
    state.errands.extend(kept)


def advance(state: State, effects: Effects, errand: Admission, units: int) -> int:
    """Make the next members, or put everything in once all are made; returns the units used."""
    members, used = errand.members, 0
    while errand.position < len(members) and used < units:
        member = members[errand.position]
        edges_left = (units - used) * _EDGES_PER_UNIT
        used += 1 + min(edges_left, len(member.after_keys) - len(errand.edges.keys)) // _EDGES_PER_UNIT
        refused = _follow(errand, member, edges_left)
        if refused is None:
            if len(errand.edges.keys) < len(member.after_keys):
                return used
            refused = _close_ranks(errand, member)
        if refused is not None:
            errand.position = len(members) + 1
            effects.sends.append(Reply(errand.event.reply, refused))
            return used
        _make(state, errand, member)
        errand.position += 1
    if errand.position == len(members) and (used == 0 or len(members) <= units):
        if errand.run.is_sequential and errand.run.part_count != errand.part_number:
            _begin(state, errand.event, errand.run)  # others came in between: these come after them
        else:
            effects.sends.append(Reply(errand.event.reply, _enter(state, effects, errand)))
        errand.position += 1
        return len(members)
    return used


def _begin(state: State, event: RunSubmitted | TasksAdded, run: Run) -> None:
    members = event.members
    ids = {member.key: member.task_id for member in members}
    first_phase = min(member.phase for member in members)  # an addition learns on entering which phase is on
    state.errands.append(Admission(event, run, state.now_us, ids, run.part_count, first_phase))


def _known_or_full(state: State, event: RunSubmitted | TasksAdded) -> Accepted | Refused | None:
    known = event.known_request or state.requests.find(event.namespace, event.request_id)
    if event.request_id and known is not None:
        return again(known, event.digest, event.request_id)
    run = state.runs.get(event.run_id)
    submitter = event.submitter if isinstance(event, RunSubmitted) else run.submitter if run is not None else ""
    return full(state, submitter) if len(event.members) > state.room_of(submitter) else None


def _closed(state: State, event: TasksAdded, run: Run | None) -> Refused | None:
    """Why nothing can be added to this run, or not this."""
    if run is None or run.ended_us:
        return Refused("ILLEGAL_TRANSITION", f"run {event.run_id} is over; submit a new one, or retry it")
    if run.stop_reason:
        return Refused("ILLEGAL_TRANSITION", f"run {event.run_id} is being cancelled; submit a new one")
    if len(event.members) > ADDED_MAX:
        return Refused(
            "TOO_LARGE", f"{len(event.members)} tasks in one addition, at most {ADDED_MAX}; add them in parts"
        )
    if len(run.members) + len(event.members) > MEMBERS_MAX:
        message = f"run {run.id} has {len(run.members)} tasks, and {MEMBERS_MAX} are the most; submit another run"
        return Refused("TOO_LARGE", message)
    parent = state.tasks.get(event.parent_task_id)
    if event.parent_task_id and (parent is None or parent.run_id != run.id or parent.attempt is None):
        message = f"task {event.parent_task_id} is no running task of run {run.id}"
        return Refused("ILLEGAL_TRANSITION", message, "parent_task_id")
    for position, member in enumerate(event.members):
        if member.key in run.members:
            return Refused("INVALID_REQUEST", f"the run has a task {member.key!r} already", f"tasks[{position}].key")
    return None


def _follow(errand: Admission, member: RunMember, most: int) -> Refused | None:
    """Read the next edges of a member, at most so many: one that comes after thousands takes several slices."""
    done = len(errand.edges.keys)
    until = done + most
    ids = member.after_ids[done:until] or repeat("")
    conditions = member.conditions[done:until] or repeat(Condition.SUCCESS)
    for key, given_id, condition in zip(member.after_keys[done:until], ids, conditions, strict=False):
        refused = _tie(errand, member, key, given_id, condition)
        if refused is not None:
            return refused
    return None


def _tie(errand: Admission, member: RunMember, key: str, given_id: str, condition: Condition) -> Refused | None:
    """One edge, from a task of the same admission or one that was there before."""
    edges = errand.edges
    inside_id = "" if given_id else errand.ids.get(key, "")
    other_id = given_id or inside_id or errand.run.members.get(key, "")
    if not other_id:
        message = f"task {member.key!r} comes after {key!r}, which is no key of this run"
        return Refused("INVALID_REQUEST", message, f"tasks[{errand.position}].after_keys")
    edges.ids.append(other_id)
    edges.keys.append(key)
    edges.conditions.append(condition)
    if inside_id:
        edges.inside[other_id] = condition
        errand.dependents.setdefault(other_id, []).append(member.task_id)
    else:
        edges.outside.append((other_id, condition))
    return None


def _close_ranks(errand: Admission, member: RunMember) -> Refused | None:
    """In a sequential run a task also comes after the one before it, however that ends."""
    if not errand.run.is_sequential:
        return None
    position = errand.position
    before = errand.members[position - 1].key if position else next(reversed(errand.run.members), "")
    if not before or before in member.after_keys:
        return None
    return _tie(errand, member, before, "", Condition.ALWAYS)


def _make(state: State, errand: Admission, member: RunMember) -> None:
    """One task with its row, once its edges are known; it is in no table of the state yet."""
    edges, errand.edges = errand.edges, Edges()
    task = _task(state, errand, member, edges)
    errand.tasks[task.id] = task
    errand.rows.append(inserted(task))
    if not task.waiting_for or edges.outside:
        errand.roots.append(task.id)
    errand.phases.append(member.phase)
    errand.milestones.append(member.milestone)
    errand.weights.append(member.spec.weight)
    if not errand.run.part_count:  # nobody sees the run yet, so it can be counted piece by piece
        _count(errand, task, member.phase, member.milestone)
    errand.outside += [(task, other_id, condition) for other_id, condition in edges.outside]
    if task.spec.queue_timeout_us or task.spec.deadline_us:
        deadlines.watch(state, task)


def _count(errand: Admission, task: Task, phase: int, milestone: str) -> None:
    """Count one member in its run."""
    run = errand.run
    lifecycle.enter(run, task.id, phase, milestone, task.spec.weight)
    if phase > errand.first_phase:
        lifecycle.hold(run, task)


def _task(state: State, errand: Admission, member: RunMember, edges: Edges) -> Task:
    run = errand.run
    is_plain = edges.conditions.count(Condition.SUCCESS) == len(edges.conditions)
    task = Task(
        member.task_id,
        run.namespace,
        member.spec,
        state.order_next,
        errand.created_us,
        TaskState.PENDING,
        run_id=run.id,
        run_key=member.key,
        client_id=run.client_id,
        submitter=run.submitter,
        trace=run.trace,
        dependency_ids=tuple(edges.ids),
        dependency_conditions=() if is_plain else tuple(edges.conditions),
        dependency_keys=tuple(edges.keys),
        waiting_for=edges.inside or None,
        ready_us=member.spec.not_before_us,
    )
    state.order_next += 1
    state.give_caps(task, run)
    return task


def _enter(state: State, effects: Effects, errand: Admission) -> Accepted | Refused | NeedTasks:
    """Put everything in, unless that cannot be any more."""
    run, event = errand.run, errand.event
    refused = _known_or_full(state, event)
    if refused is None and isinstance(event, TasksAdded):
        refused = _closed(state, event, state.runs.get(run.id))
    if refused is not None:
        return refused
    missing = {other_id: None for _, other_id, _ in errand.outside if other_id not in state.tasks}
    unknown = tuple(other_id for other_id in missing if other_id not in event.ended)
    if unknown:
        return NeedTasks(unknown)
    if run.part_count:
        errand.first_phase = run.phase
        errand.phases = [max(phase, run.phase) for phase in errand.phases]
    refused = _wrong_phase(errand)
    if refused is not None:
        return refused
    return _entered(state, effects, errand)


def _wrong_phase(errand: Admission) -> Refused | None:
    """An addition must not wait for a task of a later phase than its own."""
    run = errand.run
    if not run.phases:
        return None
    phases = dict(zip(errand.tasks, errand.phases, strict=True))
    for task, other_id, _ in errand.outside:
        if run.phase_of(other_id) > phases[task.id]:
            message = f"task {task.run_key!r} comes after a task of phase {run.phase_of(other_id)}, a later one"
            return Refused("INVALID_REQUEST", message, "tasks")
    return None


def _entered(state: State, effects: Effects, errand: Admission) -> Accepted:
    run, event, tasks = errand.run, errand.event, errand.tasks
    unmet = _link_outside(state, errand)
    part = _part(errand)
    if isinstance(event, RunSubmitted):
        accepted = Accepted(run.id)
        state.runs[run.id] = run
        effects.runs[run.id] = run
        state.run_event(effects, EventType.RUN_SUBMITTED, run)
    else:
        accepted = Accepted(f"{run.id}/{run.part_count}")
        text = f"{len(tasks)} tasks"
        state.run_event(effects, EventType.RUN_EXTENDED, run, text, event.parent_task_id)
    state.requests.add(run.namespace, event.request_id, accepted.id, event.digest)
    effects.inserts.append(part)
    effects.inserts.extend(errand.rows)
    if run.part_count:
        for task, phase, milestone in zip(tasks.values(), errand.phases, errand.milestones, strict=True):
            _count(errand, task, phase, milestone)
        run.members.update(errand.ids)
    else:
        run.members = errand.ids
    run.part_count += 1
    state.tasks.update(tasks)
    state.counts[TaskState.PENDING] += len(tasks)
    if run.submitter:
        state.count_of(run.submitter, len(tasks))
    state.dependents.update(errand.dependents)
    _announce(state, effects, errand)
    ready = [task_id for task_id in errand.roots if not tasks[task_id].waiting_for or task_id in unmet]
    state.errands.append(Decision(ready, unmet))
    return accepted


def _link_outside(state: State, errand: Admission) -> dict[str, tuple[str, TaskState, Reason]]:
    """Wait for tasks that were there before; what decided against which task already."""
    unmet: dict[str, tuple[str, TaskState, Reason]] = {}
    for task, other_id, condition in errand.outside:
        other, against = state.tasks.get(other_id), Reason.NONE
        if other is not None and not other.is_terminal:
            state.dependents.setdefault(other_id, []).append(task.id)
        else:
            end, reason = (other.state, other.reason) if other else errand.event.ended[other_id]
            against = outcome.unmet(condition, end, reason)
            if not against:
                continue
            unmet.setdefault(task.id, (other_id, end, against))
        if task.waiting_for is None:
            task.waiting_for = {}
        task.waiting_for[other_id] = condition
    return unmet


def _part(errand: Admission) -> InsertRunPart:
    run, event = errand.run, errand.event
    is_addition = isinstance(event, TasksAdded)
    return InsertRunPart(
        run.id,
        run.part_count,
        run.namespace,
        tuple(errand.tasks),
        tuple(errand.ids),
        tuple(errand.phases) if any(errand.phases) else (),
        tuple(errand.milestones) if any(errand.milestones) else (),
        tuple(errand.weights) if set(errand.weights) != {1.0} else (),
        event.parent_task_id if isinstance(event, TasksAdded) else "",
        event.request_id if is_addition else "",
        event.digest if is_addition else b"",
        errand.created_us,
    )


def _announce(state: State, effects: Effects, errand: Admission) -> None:
    """TASK_SUBMITTED for every member, made without a call of ours for each."""
    run, total = errand.run, len(errand.tasks)
    fields = (
        count(state.cursor_next),
        repeat(int(EventType.TASK_SUBMITTED)),
        repeat(state.now_us),
        repeat(run.namespace),
        errand.tasks,
        repeat(run.id),
        repeat(run.client_id),
        *map(repeat, InsertEvent("", "", "")[7:]),  # type: ignore[arg-type]  # only for its defaults
    )
    effects.events.extend(map(_new_event, zip(*fields, strict=False)))
    state.cursor_next += total
