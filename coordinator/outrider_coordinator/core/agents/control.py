"""What people order: cancel a task; pause, resume, drain, remove or trust an agent."""

from __future__ import annotations

from outrider_coordinator.core.agents import drain, sessions
from outrider_coordinator.core.attempts import refusals
from outrider_coordinator.core.attempts.outcome import end_task
from outrider_coordinator.core.attempts.retry import attempt_returned
from outrider_coordinator.core.effects import CancelVerdict, Effects, PushCancel, PushControl, Refused, Reply
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsAccepted,
    AttemptsReturned,
    RunCancelRequested,
)
from outrider_coordinator.core.failure import encode_error
from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.placement import strategies
from outrider_coordinator.core.runs import lifecycle
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Admin, AttemptState, Blame, EventType, Reason, TaskState
from outrider_coordinator.core.transitions import move_admin, move_attempt
from outrider_coordinator.core.trust import blame

_OFFERED, _ACCEPTED = AttemptState.OFFERED, AttemptState.ACCEPTED


def cancel(state: State, effects: Effects, task_id: str, message: str) -> CancelVerdict:
    """Cancel one task: at once when nobody runs it, otherwise the agent is told and its end decides (I14)."""
    task = state.tasks.get(task_id)
    if task is None or task.is_terminal:
        return CancelVerdict(task_id, task.state if task else None, cancelled=False)
    if task.cancel_requested:
        return CancelVerdict(task_id, task.state, cancelled=True)
    task.error = encode_error(Reason.CANCEL_REQUESTED, message) if message else b""
    if task.attempt is None:
        end_task(state, effects, task, TaskState.CANCELLED, reason=Reason.CANCEL_REQUESTED)
        return CancelVerdict(task_id, task.state, cancelled=True)
    state.move(task, TaskState.CANCELLING, effects, Reason.CANCEL_REQUESTED)
    state.event(effects, EventType.TASK_CANCELLING, task, attempt=task.attempt, text=message)
    agent = state.agents.get(task.attempt.agent_id)
    if agent is not None and agent.is_online:
        attempt = task.attempt
        effects.sends.append(
            PushCancel(agent.epoch, agent.id, task.id, attempt.number, attempt.fence, message or "cancel requested")
        )
    return CancelVerdict(task_id, task.state, cancelled=True)


def cancel_run(state: State, effects: Effects, event: RunCancelRequested) -> None:
    """Cancel what is open of a run; nothing when it is over."""
    run = state.runs.get(event.run_id)
    if run is None or run.ended_us:
        effects.sends.append(Reply(event.reply, 0))
        return
    lifecycle.stop(state, effects, run, Reason.CANCEL_REQUESTED, event.message, event.reply)


def attempts_accepted(state: State, effects: Effects, event: AttemptsAccepted) -> None:
    """The agent has these attempts. Not made durable: a report or the next Hello says it again."""
    agent = _session(state, event.agent_id, event.epoch)
    if agent is None:
        return
    agent.last_heard_us = state.now_us
    for ref in event.refs:
        task_id, number, fence = ref
        attempt = agent.attempts.get((task_id, number))
        if attempt is not None and attempt.fence == fence and attempt.state is _OFFERED:
            move_attempt(attempt, _ACCEPTED)
            strategies.first_word(state, agent, attempt)


def attempts_returned(state: State, effects: Effects, event: AttemptsReturned) -> None:
    """The agent gives attempts back unstarted: offer the tasks again."""
    agent = _session(state, event.agent_id, event.epoch)
    if agent is None:
        return
    agent.last_heard_us = state.now_us
    to = AttemptState.REVOKED if event.revoked else AttemptState.REJECTED
    refused = False
    for ref in event.refs:
        attempt = agent.attempts.get((ref.task_id, ref.attempt))
        if attempt is None or attempt.fence != ref.fence:
            continue
        if event.by_policy and attempt.state in (AttemptState.OFFERED, AttemptState.ACCEPTED):
            refusals.refused(state, effects, agent, state.tasks[ref.task_id], attempt, event.message)
        elif attempt.state in (AttemptState.OFFERED, AttemptState.ACCEPTED):
            refused = not event.revoked and not agent.facts.is_leaving
            attempt.blame = Blame.AGENT if refused else Blame.NONE
            attempt_returned(state, effects, agent, state.tasks[ref.task_id], attempt, to, event.message)
    if refused:
        blame.rejected(state, effects, agent)


def agent_ordered(state: State, effects: Effects, event: AgentOrdered) -> None:
    """Carry out an operator's order and pass on what the agent itself must know."""
    agent = state.agents.get(event.agent_id)
    if agent is None:
        refused = Refused("NOT_FOUND", f"no agent {event.agent_id!r}; `outrider agent list` shows those there are")
        effects.sends.append(Reply(event.reply, refused))
        return
    if event.order == AgentOrder.REMOVE:
        effects.sends.append(Reply(event.reply, _remove(state, effects, agent, force=event.force)))
        return
    _set_admin(state, effects, agent, event)
    state.placement_is_due = True
    effects.sends.append(Reply(event.reply, True))


_ADMIN = {
    AgentOrder.PAUSE: (Admin.PAUSED, EventType.AGENT_PAUSED),
    AgentOrder.RESUME: (Admin.ACTIVE, EventType.AGENT_RESUMED),
    AgentOrder.DRAIN: (Admin.DRAINING, EventType.AGENT_DRAINING),
}


def _set_admin(state: State, effects: Effects, agent: Agent, event: AgentOrdered) -> None:
    admin, kind = _ADMIN[event.order]
    changes = agent.admin is not admin
    if admin is Admin.ACTIVE:
        changes |= agent.is_quarantined
        agent.is_quarantined, agent.takeovers = False, []
        agent.settle()
    agent.drain_us = 0
    effects.agents[agent.id] = agent
    if agent.admin is not admin:
        move_admin(agent, admin)
    if changes:
        state.agent_event(effects, kind, agent.id)
        state.fleet.changed(agent)
    if admin is Admin.DRAINING:
        drain.ordered(state, agent, event.timeout_us)
    if agent.is_online and admin is Admin.DRAINING:
        drain.push(state, effects, agent)
    elif agent.is_online:
        effects.sends.append(PushControl(agent.epoch, agent.id, event.order))


def _remove(state: State, effects: Effects, agent: Agent, *, force: bool) -> Refused | bool:
    if agent.is_online and not force:
        return Refused(
            "ILLEGAL_TRANSITION",
            f"agent {agent.id!r} is online; drain or stop it first, or remove it with force",
        )
    sessions.removed(state, effects, agent)
    state.placement_is_due = True
    return True


def _session(state: State, agent_id: str, epoch: int) -> Agent | None:
    agent = state.agents.get(agent_id)
    return agent if agent is not None and agent.epoch == epoch else None
