"""New tasks: known request ids, dependencies, bounds; accepted whole or not at all where asked."""

from __future__ import annotations

from collections import Counter
from itertools import repeat

from outrider_coordinator.core.attempts import deadlines
from outrider_coordinator.core.attempts.outcome import make_ready, skip, unmet
from outrider_coordinator.core.effects import Accepted, Effects, NeedTasks, Refused, Reply
from outrider_coordinator.core.events import Ends, Submission, TasksSubmitted
from outrider_coordinator.core.model import Task
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import EventType, Reason, TaskState

_PENDING, _NO_REASON, _TASK_SUBMITTED = TaskState.PENDING, Reason.NONE, EventType.TASK_SUBMITTED


def tasks_submitted(state: State, effects: Effects, event: TasksSubmitted) -> None:
    """Accept tasks one by one, or all or none when ``atomic``."""
    missing = _missing(state, event)
    if missing:
        effects.sends.append(Reply(event.reply, NeedTasks(missing)))
        return
    answers: list[Refused | None] | list[Accepted | Refused] = _refusals(state, event) if event.atomic else []
    if not any(answers):
        answers = [_answer(state, effects, event, submission) for submission in event.submissions]
    effects.sends.append(Reply(event.reply, answers))


def _answer(state: State, effects: Effects, event: TasksSubmitted, submission: Submission) -> Accepted | Refused:
    """Take one task, unless it is known or there is no room."""
    known = _known(state, event, submission) if submission.request_id else None
    if known is not None:
        return again(known, submission.digest, submission.request_id)
    if state.room_of(submission.submitter) <= 0:
        return full(state, submission.submitter)
    _accept(state, effects, submission, event.ended)
    return Accepted(submission.task_id)


def _refusals(state: State, event: TasksSubmitted) -> list[Refused | None]:
    """What would be refused, changing nothing: one entry per submission."""
    refusals: list[Refused | None] = []
    taken: Counter[str] = Counter()
    seen: dict[tuple[str, str], tuple[str, bytes]] = {}
    for submission in event.submissions:
        key = (submission.namespace, submission.request_id)
        known = (_known(state, event, submission) or seen.get(key)) if submission.request_id else None
        answer = again(known, submission.digest, submission.request_id) if known is not None else None
        room = min(state.room_of("") - taken.total(), state.room_of(submission.submitter) - taken[submission.submitter])
        if known is None and room <= 0:
            answer = full(state, submission.submitter)
        elif known is None:
            taken[submission.submitter] += 1
            seen[key] = (submission.task_id, submission.digest)
        refusals.append(answer if isinstance(answer, Refused) else None)
    return refusals


def _missing(state: State, event: TasksSubmitted) -> tuple[str, ...]:
    wanted = {
        dependency_id: None
        for submission in event.submissions
        for dependency_id in submission.dependency_ids
        if dependency_id not in state.tasks and dependency_id not in event.ended
    }
    return tuple(wanted)


def _known(state: State, event: TasksSubmitted, submission: Submission) -> tuple[str, bytes] | None:
    """Id and digest of what was accepted under the same request id."""
    known = state.requests.find(submission.namespace, submission.request_id)
    if known is None and event.known_requests:
        known = event.known_requests.get((submission.namespace, submission.request_id))
    return known


def again(known: tuple[str, bytes], digest: bytes, request_id: str) -> Accepted | Refused:
    """The answer to a request id that was used before."""
    if known[1] == digest:
        return Accepted(known[0], created=False)
    return Refused(
        "REQUEST_ID_REUSED",
        f"request id {request_id!r} was used for {known[0]} with another body; use a new request id for new work",
    )


def full(state: State, submitter: str) -> Refused:
    """The answer when there is no room, or none for this submitter."""
    if state.room_of(submitter) < state.room_of(""):
        most = state.settings.submitter_open_max
        return Refused("QUEUE_FULL", f"{submitter!r} may have {most} open tasks; try again when some have ended")
    return Refused("QUEUE_FULL", f"{state.settings.queue_depth_max} tasks are open; try again when some have ended")


def _accept(state: State, effects: Effects, submission: Submission, ended: Ends) -> None:
    task = Task(  # by position, as many are made: names would take as long as the task itself
        submission.task_id,
        submission.namespace,
        submission.spec,
        state.order_next,
        state.now_us,
        _PENDING,
        _NO_REASON,
        "",
        "",
        submission.client_id,
        submission.submitter,
        submission.request_id,
        submission.digest,
        submission.trace,
        submission.dependency_ids,
        submission.dependency_conditions,
        submission.dependency_keys,
        submission.retry_of_task_id,
        None,
        submission.spec.not_before_us,
    )
    state.order_next += 1
    state.requests.add(task.namespace, task.request_id, task.id, task.digest)
    _enter(state, effects, task)
    if task.dependency_ids:
        _link(state, effects, task, ended)
    else:
        make_ready(state, effects, task)


def _enter(state: State, effects: Effects, task: Task) -> None:
    state.add_task(task)
    effects.tasks[task.id] = task
    state.event(effects, _TASK_SUBMITTED, task)
    if task.spec.queue_timeout_us or task.spec.deadline_us:
        deadlines.watch(state, task)


def _link(state: State, effects: Effects, task: Task, ended: Ends) -> None:
    """Wait for open dependencies; one that ended otherwise than asked decides the task at once.

    A dependency that ended earlier in this step is still in memory, and nobody will hear of its end again.
    """
    conditions = task.dependency_conditions or repeat(Condition.SUCCESS)
    for dependency_id, condition in zip(task.dependency_ids, conditions, strict=False):
        dependency = state.tasks.get(dependency_id)
        if dependency is not None and not dependency.is_terminal:
            if task.waiting_for is None:
                task.waiting_for = {}
            task.waiting_for[dependency_id] = condition
            state.dependents.setdefault(dependency_id, []).append(task.id)
            continue
        end, reason = ended[dependency_id] if dependency is None else (dependency.state, dependency.reason)
        against = unmet(condition, end, reason)
        if against:
            skip(state, effects, task, against, dependency_id, end)
            return
    if not task.waiting_for:
        make_ready(state, effects, task)
