"""Typed waits of running tasks: opened by the attempt, resolved by a person, another task, a task's end, a limit, an
outside system or a time, each once.

A wait belongs to the task and its key: a later attempt that asks the same thing gets the same answer. It must not know
how limits are shared nor which systems are trusted: their modules call `resource_granted`, `deadlocked` and
`system_recovered` or `system_tried`. Invariants: an open wait has an attempt; what is indexed for a wake is pending; an
attempt has at most `OPEN_MAX` open waits, and a task remembers at most `REMEMBERED_MAX` (I16).
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects, LoadOutcomes, PushAnswer, Refused, Reply
from outrider_coordinator.core.events import Answered, End, GivenAnswer, Report, WaitFacts
from outrider_coordinator.core.failure import encode_error
from outrider_coordinator.core.limits import holdings
from outrider_coordinator.core.model import Agent, Attempt, Task, Wait
from outrider_coordinator.core.placement import slots
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import AttemptState, EventType, Intent, Reason, TaskState
from outrider_coordinator.core.transitions import move_attempt
from outrider_coordinator.core.waits import budgets
from outrider_coordinator.core.waits.budgets import encode_resolution

#: Open waits of one attempt; a further one is refused. Waits that a task remembers; the oldest are forgotten.
OPEN_MAX, REMEMBERED_MAX = 256, 1000

# --- opened and closed by the attempt --------------------------------------------------------------------------------


def blocked(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    """The attempt opened a wait. It is parked unless it goes on meanwhile or the answer is known already."""
    assert report.wait is not None
    wait = _open(state, task, report.wait, report.body)
    effects.waits[task.id, wait.key] = wait
    if not wait.keeps_running and not wait.is_resolved:
        _stop(state, effects, agent, task, attempt)
    state.event(effects, EventType.TASK_BLOCKED, task, attempt=attempt, body=report.body)
    if wait.is_resolved:
        push_answer(state, effects, task, wait)
        return
    watch(state, effects, task, wait)


def unblocked(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    """The attempt goes on."""
    wait = task.wait(report.text)
    if wait is not None and wait.is_open and attempt is task.attempt:
        _close(state, effects, task, wait)
        forget(task)
    stopped = any(other.is_open and not other.keeps_running for other in task.waits)
    if attempt.state is AttemptState.BLOCKED and not stopped:
        move_attempt(attempt, AttemptState.STARTED)
        slots.unpark(state, effects, agent, attempt)
        effects.attempts[attempt.key] = attempt
        if task.state is TaskState.BLOCKED:
            state.move(task, TaskState.RUNNING, effects)
    elif attempt.state is AttemptState.BLOCKED and attempt.holds_slot:
        slots.park(state, effects, agent, attempt)
        effects.attempts[attempt.key] = attempt
    state.event(effects, EventType.TASK_UNBLOCKED, task, attempt=attempt, body=report.body)


def attempt_ended(state: State, effects: Effects, task: Task) -> None:
    """The attempt is over, and its waits are too; what the next one should know stays."""
    if task.waits:
        close_all(state, effects, task)
        forget(task)


def stray_gone(state: State, effects: Effects, task: Task) -> None:
    """An earlier try will not come back: its waits were left open for it, and are over when it was the last."""
    if task.attempt is None and not task.strays:
        attempt_ended(state, effects, task)


def close_all(state: State, effects: Effects, task: Task) -> None:
    """Nobody waits for anything any more."""
    for wait in task.waits:
        if wait.is_open:
            _close(state, effects, task, wait)


def is_remembered(wait: Wait) -> bool:
    """Whether a wait still matters: it is open, its answer holds for later attempts, it got a limit, or it ran out."""
    if wait.is_open or wait.expired_on or wait.moved_from or wait.held_by:
        return True
    if wait.kind == "complexity":
        return wait.granted_us > 0
    return wait.dependency_state != 0 or (wait.kind == "clarification" and wait.is_resolved)


# --- resolved --------------------------------------------------------------------------------------------------------


def answered(state: State, effects: Effects, event: Answered) -> None:
    """Somebody resolves a wait. Answering what is resolved already changes nothing and is no error."""
    task = state.tasks.get(event.task_id)
    wait = _meant(task, event.key) if task else None
    if task is None or wait is None:
        effects.sends.append(Reply(event.reply, _nothing_to_answer(event, task)))
        return
    if not wait.is_resolved:
        refused = _no_answer_helps(task, wait, event)
        if refused is not None:
            effects.sends.append(Reply(event.reply, refused))
            return
        _answer(task, wait, event)
        _resolved(state, effects, task, wait)
    effects.sends.append(Reply(event.reply, wait.key))


def answer_given(state: State, effects: Effects, by: Task, given: GivenAnswer) -> None:
    """A task answers what another one of its namespace asks; one that does not wait for it hears nothing."""
    task = state.tasks.get(given.task_id)
    wait = _meant(task, given.key) if task is not None and task.namespace == by.namespace else None
    if task is None or wait is None or wait.is_resolved:
        return
    event = Answered(task.id, given.key, given.payload, _nobody, f"task:{by.id}", agrees=given.agrees)
    if _no_answer_helps(task, wait, event) is None:
        _answer(task, wait, event)
        _resolved(state, effects, task, wait)


def dependency_ended(state: State, effects: Effects, task_id: str, key: str, ended: End | None) -> None:
    """The task that a wait named has ended. One of another namespace is not there for it, as one that is unknown."""
    task, wait = _indexed(state, task_id, key)
    if ended is None or ended.namespace != task.namespace:
        text = f"there is no task {wait.required_task_id!r} in namespace {task.namespace!r}"
        _resolve(state, effects, task, wait, "", error=encode_error(Reason.WAIT_REFUSED, text))
        return
    wait.dependency_state = int(ended.state)
    _resolved(state, effects, task, wait)


def outcomes_loaded(state: State, effects: Effects, ends: dict[str, End | None]) -> None:
    """The store answered a `LoadOutcomes`."""
    for task_id, ended in ends.items():
        if task_id in state.tasks:
            continue
        for waiter_id, key in state.waiters.pop(task_id, ()):
            dependency_ended(state, effects, waiter_id, key, ended)


def time_came(state: State, effects: Effects, task_id: str, key: str) -> None:
    """An external wait's retry time is over: the attempt tries again. A task of another namespace is not waited for."""
    task, wait = _pending(state, task_id, key)
    if task is None or wait is None:
        return
    if 0 < wait.retry_us <= state.now_us:
        _resolve(state, effects, task, wait, "timer")
    elif wait.kind == "dependency" and _is_foreign(state, task, wait):
        dependency_ended(state, effects, task_id, key, None)


def _is_foreign(state: State, task: Task, wait: Wait) -> bool:
    required = state.tasks.get(wait.required_task_id)
    return required is not None and required.namespace != task.namespace


def system_recovered(state: State, effects: Effects, system: str) -> None:
    """An outside system works again: everybody who waits for it tries again, in order of task and key."""
    for task_id, key in sorted(state.system_waiters.get(system, ())):
        task, wait = _indexed(state, task_id, key)
        _resolve(state, effects, task, wait, f"system:{system}")


def system_tried(state: State, effects: Effects, system: str) -> Task | None:
    """The first that waits for an outside system tries whether it works again; None when nobody waits for it."""
    first = min(state.system_waiters.get(system, ()), default=None)
    if first is None:
        return None
    task, wait = _indexed(state, *first)
    _resolve(state, effects, task, wait, f"system:{system}")
    return task


def resource_granted(state: State, effects: Effects, task_id: str, key: str) -> None:
    """The attempt holds what its wait claims."""
    task, wait = _indexed(state, task_id, key)
    assert wait.claim is not None, f"wait {key!r} of task {task_id} claims nothing"
    _resolve(state, effects, task, wait, f"limit:{wait.claim.key}")


def deadlocked(state: State, effects: Effects, task_id: str, key: str, cycle: str) -> None:
    """The wait could never end: the attempt is told, with the cycle."""
    task, wait = _indexed(state, task_id, key)
    _resolve(state, effects, task, wait, "coordinator", error=encode_error(Reason.DEADLOCK, cycle))


def push_answer(state: State, effects: Effects, task: Task, wait: Wait) -> None:
    """Send a resolution to the attempt that waits, when its agent is there; a new session sends it again."""
    attempt = task.attempt
    agent = state.agents.get(attempt.agent_id) if attempt else None
    if attempt is None or agent is None or not agent.is_online or task.cancel_requested or not wait.is_open:
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


def resume_answered(state: State, effects: Effects, task: Task) -> None:
    """After a start: an attempt that is parked and was answered takes a slot, as it did before."""
    attempt = task.attempt
    agent = state.agents.get(attempt.agent_id) if attempt is not None else None
    answered = any(wait.is_open and wait.is_resolved and not wait.keeps_running for wait in task.waits)
    if attempt is not None and agent is not None and answered:
        slots.resume(state, effects, agent, attempt)


def watch(state: State, effects: Effects, task: Task, wait: Wait) -> None:
    """See to it that a pending wait is found by what wakes it."""
    entry = (task.id, wait.key)
    if wait.kind in ("dependency", "resource"):
        state.opened_waits.append(task.id)
    if wait.kind == "dependency":
        state.waiters.setdefault(wait.required_task_id, {})[entry] = None
        required = state.tasks.get(wait.required_task_id)
        # One that ended earlier in this step is still in memory, and nobody will hear of its end again.
        if required is None or required.is_terminal:
            effects.sends.append(LoadOutcomes((wait.required_task_id,)))
        elif _is_foreign(state, task, wait):
            state.set_timer(state.now_us, TimerKind.WAIT, *entry)
    elif wait.kind == "resource":
        state.limits.waits[entry] = None
        holdings.changed(state)
    elif wait.kind == "external" and wait.system:
        state.system_waiters.setdefault(wait.system, {})[entry] = None
    if wait.retry_us:
        state.set_timer(wait.retry_us, TimerKind.WAIT, *entry)
    if wait.expires_us:
        state.set_timer(wait.expires_us, TimerKind.WAIT_BUDGET, *entry)


# --- parts -----------------------------------------------------------------------------------------------------------


def _open(state: State, task: Task, facts: WaitFacts, body: bytes) -> Wait:
    known = task.wait(facts.key)
    wait = Wait(
        facts.key,
        facts.kind,
        body,
        facts.keeps_running,
        facts.required_task_id,
        facts.retry_us,
        system=facts.system,
        claim=facts.claim,
        additional_us=facts.additional_us,
    )
    budgets.open_budget(state, task, wait)
    if known is not None:
        wait.moved_from = budgets.expired_on(known)
    if known is not None and known.kind == wait.kind:
        if known.is_pending:
            _unwatch(state, task, known)
        if is_remembered(known) and facts.kind in ("clarification", "dependency"):
            wait.resolution, wait.dependency_state = known.resolution, known.dependency_state
        if known.held_by and task.attempt is not None and known.held_by == task.attempt.number:
            wait.resolution, wait.claim, wait.held_by = known.resolution, known.claim, known.held_by
    if facts.kind == "complexity":
        budgets.grant_by_policy(task, wait)
    if len(task.waits) >= OPEN_MAX:
        _bound(task, wait)
    task.set_wait(wait)
    return wait


def _bound(task: Task, wait: Wait) -> None:
    """Refuse a wait beside too many open ones, and forget answers of long ago."""
    forget(task)
    if sum(other.is_open for other in task.waits) >= OPEN_MAX and not wait.is_resolved:
        text = f"the attempt has {OPEN_MAX} open waits already; wait for some of them to end"
        error = encode_error(Reason.WAIT_REFUSED, text)
        wait.resolution = encode_resolution(wait.key, by="coordinator", error=error)


def _stop(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt) -> None:
    if attempt.state is not AttemptState.BLOCKED:
        move_attempt(attempt, AttemptState.BLOCKED)
        state.placement_is_due = True
    slots.park(state, effects, agent, attempt)
    effects.attempts[attempt.key] = attempt
    state.move(task, TaskState.BLOCKED, effects)


def _close(state: State, effects: Effects, task: Task, wait: Wait) -> None:
    _unwatch(state, task, wait)
    wait.is_open = False
    effects.waits[task.id, wait.key] = wait


def forget(task: Task) -> None:
    """Keep of closed waits what matters; of the grants the latest, which names their sum; of too many the newest."""
    total_us = budgets.granted_us(task)
    task.waits = tuple(
        wait
        for wait in task.waits
        if is_remembered(wait) and (wait.is_open or wait.kind != "complexity" or wait.granted_us == total_us)
    )
    if len(task.waits) > REMEMBERED_MAX:
        closed = sorted((wait for wait in task.waits if not wait.is_open), key=lambda wait: (wait.opened_us, wait.key))
        dropped = {wait.key for wait in closed[: len(task.waits) - REMEMBERED_MAX]}
        task.waits = tuple(wait for wait in task.waits if wait.is_open or wait.key not in dropped)


def _unwatch(state: State, task: Task, wait: Wait) -> None:
    """A wait that is over is looked for no more. Timers are left to fire: they look whether they still matter."""
    entry = (task.id, wait.key)
    if entry in state.limits.waits:
        del state.limits.waits[entry]
        holdings.changed(state)
    for index, name in ((state.waiters, wait.required_task_id), (state.system_waiters, wait.system)):
        entries = index.get(name)
        if entries is not None:
            entries.pop(entry, None)
            if not entries:
                del index[name]


def _pending(state: State, task_id: str, key: str) -> tuple[Task | None, Wait | None]:
    task = state.tasks.get(task_id)
    wait = task.wait(key) if task else None
    return task, wait if wait is not None and wait.is_pending else None


def _indexed(state: State, task_id: str, key: str) -> tuple[Task, Wait]:
    """What is indexed for a wake is pending."""
    task = state.tasks[task_id]
    wait = task.wait(key)
    assert wait is not None, f"task {task_id} has no wait {key!r}"
    assert wait.is_pending, f"wait {key!r} of task {task_id} is resolved and still looked for"
    return task, wait


def _resolve(state: State, effects: Effects, task: Task, wait: Wait, by: str, *, error: bytes = b"") -> None:
    wait.resolution = encode_resolution(wait.key, by=by, error=error)
    _resolved(state, effects, task, wait)


def _resolved(state: State, effects: Effects, task: Task, wait: Wait) -> None:
    _unwatch(state, task, wait)
    effects.waits[task.id, wait.key] = wait
    attempt = task.attempt
    if attempt is not None and wait.is_open and not wait.keeps_running and attempt.agent_id in state.agents:
        slots.resume(state, effects, state.agents[attempt.agent_id], attempt)
    push_answer(state, effects, task, wait)


def _meant(task: Task, key: str) -> Wait | None:
    """The wait that an answer is for. Without a key: the only one that nobody has answered, or that is open."""
    if key:
        return task.wait(key)
    unanswered = [wait for wait in task.waits if not wait.is_resolved]
    found = unanswered or [wait for wait in task.waits if wait.is_open]
    return found[0] if len(found) == 1 else None


def _nobody(value: object) -> None:
    """Nobody asked to hear what became of it."""


def _answer(task: Task, wait: Wait, event: Answered) -> None:
    if wait.kind == "complexity" and not event.refuses:
        amount_us = event.granted_us or (wait.additional_us if event.agrees else 0)
        if amount_us:
            budgets.grant(task, wait, amount_us, event.by)
            return
    refused = encode_error(Reason.WAIT_REFUSED, event.text) if event.refuses else b""
    wait.resolution = encode_resolution(wait.key, by=event.by, payload=event.payload, error=refused)


def _no_answer_helps(task: Task, wait: Wait, event: Answered) -> Refused | None:
    attempt = task.attempt
    if wait.is_open and wait.expired_on and attempt is not None and attempt.intent is Intent.WAIT_EXPIRED:
        text = f"task {task.id} has waited for {wait.key!r} for longer than it may and is being stopped"
        return Refused("ILLEGAL_TRANSITION", text)
    if event.granted_us and wait.kind != "complexity":
        text = f"{wait.key!r} is no request for more time but a {wait.kind} wait; answer it without one"
        return Refused("INVALID_REQUEST", text, "granted_duration")
    if wait.kind in ("dependency", "resource") and not event.refuses:
        target = f"limit {wait.claim.key!r}" if wait.claim else f"task {wait.required_task_id}"
        text = f"{wait.key!r} waits for {target}, which no answer can stand for; refuse it to end the wait"
        return Refused("ILLEGAL_TRANSITION", text)
    return None


def _nothing_to_answer(event: Answered, task: Task | None) -> Refused:
    if task is None:
        return Refused("ILLEGAL_TRANSITION", f"task {event.task_id} has ended and waits for nothing")
    open_waits = [wait for wait in task.waits if not wait.is_resolved]
    if not open_waits:
        return Refused("ILLEGAL_TRANSITION", f"task {task.id} waits for nothing now; it is {task.state.name}")
    keys = ", ".join(wait.key for wait in open_waits)
    if not event.key:
        return Refused("ILLEGAL_TRANSITION", f"task {task.id} has several open waits, name one: {keys}")
    return Refused("ILLEGAL_TRANSITION", f"task {task.id} does not wait for {event.key!r}; it waits for: {keys}")
