"""Offers of which nothing is heard though their agent is there: "sent" is never "running".

Accepted, or a later state, must come within the accept timeout; otherwise the offer is asked back, and goes elsewhere
once the agent says that it did not start. What an agent has, while it is out of contact, is not decided here.
"""

from __future__ import annotations

from outrider_coordinator.core.attempts.retry import attempt_returned
from outrider_coordinator.core.effects import Effects, PushCancel, PushRevoke
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState


def accept_timed_out(state: State, effects: Effects, attempt: Attempt) -> None:
    """An offer was not accepted in time: ask for it back, and again until the agent says what became of it.

    The second time a plain task goes elsewhere, and the offer is fenced: whatever became of it, it decides nothing.
    """
    task, agent = state.tasks[attempt.task_id], state.agents[attempt.agent_id]  # what is OFFERED is live
    if not agent.is_online:
        return
    if attempt.is_doubted and task.is_plain:
        _go_elsewhere(state, effects, agent, task, attempt)
        return
    attempt.is_doubted = True
    effects.sends.append(PushRevoke(agent.epoch, agent.id, *attempt.key, attempt.fence))
    state.offered(attempt)


def _go_elsewhere(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt) -> None:
    message = "was offered and never accepted"
    effects.sends.append(PushCancel(agent.epoch, agent.id, *attempt.key, attempt.fence, message, fenced=True))
    attempt_returned(state, effects, agent, task, attempt, AttemptState.FENCED, message)
