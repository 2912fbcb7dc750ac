"""Typed waits of running tasks: opened by the attempt, resolved by a person, a task's end or a time, each once.

A wait belongs to the task and its key: a later attempt that asks the same thing gets the same answer.
"""

from __future__ import annotations

from outrider_coordinator.core import slots
from outrider_coordinator.core.effects import Effects, LoadOutcomes, PushAnswer, Refused, Reply
from outrider_coordinator.core.events import Answered, Report, WaitFacts
from outrider_coordinator.core.model import Agent, Attempt, Task, Wait
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import AttemptState, EventType, TaskState
from outrider_coordinator.core.transitions import move_attempt

#: Wire format of Resolution{resolved_by: "timer"} (field 4), preceded by the key (field 1).
_BY_TIMER = b"\x22\x05timer"


def blocked(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    """The attempt opened a wait: park it unless it goes on meanwhile, and resolve at once what is known already."""
    facts = report.wait
    assert facts is not None
    wait = _open(task, facts, report.body)
    effects.waits[task.id, wait.key] = wait
    if not wait.keeps_running:
        _stop(state, effects, agent, task, attempt)
    state.event(effects, EventType.TASK_BLOCKED, task, attempt=attempt, body=report.body)
    if wait.is_resolved:
        push_answer(state, effects, task, wait)
    elif wait.kind == "dependency":
        _await_task(state, effects, task, wait)
    elif wait.kind == "external" and wait.retry_us:
        state.set_timer(wait.retry_us, TimerKind.WAIT, task.id, wait.key)


def unblocked(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    """The attempt goes on."""
    wait = task.wait(report.text)
    if wait is not None and wait.is_open:
        wait.is_open = False
        effects.waits[task.id, wait.key] = wait
    stopped = any(other.is_open and not other.keeps_running for other in task.waits)
    if attempt.state is AttemptState.BLOCKED and not stopped:
        move_attempt(attempt, AttemptState.STARTED)
        slots.unpark(state, agent, attempt)
        effects.attempts[attempt.key] = attempt
        if task.state is TaskState.BLOCKED:
            state.move(task, TaskState.RUNNING, effects)
    state.event(effects, EventType.TASK_UNBLOCKED, task, attempt=attempt, body=report.body)


def answered(state: State, effects: Effects, event: Answered) -> None:
    """Somebody resolves a wait. Answering what is resolved already changes nothing and is no error."""
    task = state.tasks.get(event.task_id)
    open_waits = [wait for wait in task.waits if wait.is_open] if task else []
    wait = next((wait for wait in open_waits if wait.key == event.key), None)
    if not event.key and len(open_waits) == 1:
        wait = open_waits[0]
    if wait is None and task and task.wait(event.key):
        effects.sends.append(Reply(event.reply, event.key))
        return
    if wait is None or task is None:
        effects.sends.append(Reply(event.reply, _nothing_to_answer(event, task, open_waits)))
        return
    if not wait.is_resolved:
        wait.resolution = event.make_resolution(wait.key)
        effects.waits[task.id, wait.key] = wait
        push_answer(state, effects, task, wait)
    effects.sends.append(Reply(event.reply, wait.key))


def dependency_ended(state: State, effects: Effects, task_id: str, key: str, ended: TaskState) -> None:
    """The task that a wait named has ended."""
    task = state.tasks.get(task_id)
    wait = task.wait(key) if task else None
    if task is not None and wait is not None and wait.is_open and not wait.is_resolved:
        wait.dependency_state = int(ended)
        effects.waits[task.id, key] = wait
        push_answer(state, effects, task, wait)


def retry_time_came(state: State, effects: Effects, task_id: str, key: str) -> None:
    """An external wait's retry time is over: the attempt tries again."""
    task = state.tasks.get(task_id)
    wait = task.wait(key) if task else None
    if task is None or wait is None or not wait.is_open or wait.is_resolved or wait.retry_us > state.now_us:
        return
    name = key.encode()
    wait.resolution = b"\x0a" + bytes((len(name),)) + name + _BY_TIMER
    effects.waits[task.id, key] = wait
    push_answer(state, effects, task, wait)


def push_answer(state: State, effects: Effects, task: Task, wait: Wait) -> None:
    """Send a resolution to the attempt that waits, when its agent is there; a new session sends it again."""
    attempt = task.attempt
    agent = state.agents.get(attempt.agent_id) if attempt else None
    if attempt is None or agent is None or not agent.is_online or task.cancel_requested:
        return
    effects.sends.append(
        PushAnswer(
            agent.epoch,
            agent.id,
            task.id,
            attempt.number,
            attempt.fence,
            wait.key,
            wait.resolution,
            wait.required_task_id,
            wait.dependency_state,
        )
    )


def attempt_ended(effects: Effects, task: Task) -> None:
    """The attempt is over: its unresolved waits are too; answers stay for the next attempt."""
    for wait in task.waits:
        if wait.is_open:
            wait.is_open = False
            effects.waits[task.id, wait.key] = wait
    if task.waits:
        task.waits = tuple(wait for wait in task.waits if wait.is_resolved)


def _open(task: Task, facts: WaitFacts, body: bytes) -> Wait:
    known = task.wait(facts.key)
    wait = Wait(facts.key, facts.kind, body, facts.keeps_running, facts.required_task_id, facts.retry_us)
    if known is not None and facts.kind != "external":
        wait.resolution, wait.dependency_state = known.resolution, known.dependency_state
    task.set_wait(wait)
    return wait


def _stop(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt) -> None:
    if attempt.state is not AttemptState.BLOCKED:
        move_attempt(attempt, AttemptState.BLOCKED)
        slots.park(state, agent, attempt)
        effects.attempts[attempt.key] = attempt
        state.placement_is_due = True
    if not task.cancel_requested and attempt is task.attempt:
        state.move(task, TaskState.BLOCKED, effects)


def _await_task(state: State, effects: Effects, task: Task, wait: Wait) -> None:
    waiters = state.waiters.setdefault(wait.required_task_id, [])
    if (task.id, wait.key) not in waiters:
        waiters.append((task.id, wait.key))
    required = state.tasks.get(wait.required_task_id)
    # One that ended earlier in this step is still in memory, and nobody will hear of its end again.
    if required is None or required.is_terminal:
        effects.sends.append(LoadOutcomes((wait.required_task_id,)))


def outcomes_loaded(state: State, effects: Effects, states: dict[str, TaskState | None]) -> None:
    """The store answered a `LoadOutcomes`: an unknown task can never end, so its waiters are told FAILED."""
    for task_id, ended in states.items():
        if task_id in state.tasks:
            continue
        for waiter_id, key in state.waiters.pop(task_id, ()):
            dependency_ended(state, effects, waiter_id, key, ended or TaskState.FAILED)


def _nothing_to_answer(event: Answered, task: Task | None, open_waits: list[Wait]) -> Refused:
    if task is None:
        return Refused("ILLEGAL_TRANSITION", f"task {event.task_id} has ended and waits for nothing")
    if not open_waits:
        return Refused("ILLEGAL_TRANSITION", f"task {task.id} waits for nothing now; it is {task.state.name}")
    keys = ", ".join(wait.key for wait in open_waits)
    if not event.key:
        return Refused("ILLEGAL_TRANSITION", f"task {task.id} has several open waits, name one: {keys}")
    return Refused("ILLEGAL_TRANSITION", f"task {task.id} does not wait for {event.key!r}; it waits for: {keys}")
