"""Draining an agent: no new work, what runs may end until a deadline, what still runs then goes elsewhere uncounted.

The order and its deadline are durable: an agent that comes back before it has left is told again, with the time that is
left. The agent keeps the deadline too, `MARGIN_US` later, in case it cannot hear us then.
"""

from __future__ import annotations

from outrider_coordinator.core.attempts.stopping import stop_attempt
from outrider_coordinator.core.effects import Effects, PushControl
from outrider_coordinator.core.events import AgentOrder
from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import Admin, Intent

MARGIN_US = 5 * SECOND_US


def ordered(state: State, agent: Agent, timeout_us: int) -> None:
    """An operator drains the agent; 0 lets its attempts run for as long as they take."""
    agent.drain_us = state.now_us + timeout_us if timeout_us else 0
    watch(state, agent)


def watch(state: State, agent: Agent) -> None:
    """Set the timer of a drain, new or read back from the store."""
    if agent.admin is Admin.DRAINING and agent.drain_us:
        state.set_timer(agent.drain_us, TimerKind.DRAIN, agent.id)


def push(state: State, effects: Effects, agent: Agent) -> None:
    """Tell the agent that it is to leave, and when it must."""
    left_us = max(1, agent.drain_us + MARGIN_US - state.now_us) if agent.drain_us else 0
    effects.sends.append(PushControl(agent.epoch, agent.id, AgentOrder.DRAIN, left_us))


def deadline_passed(state: State, effects: Effects, agent: Agent) -> None:
    """What still runs goes on elsewhere."""
    if agent.admin is not Admin.DRAINING or not agent.drain_us or agent.drain_us > state.now_us:
        return
    for key, attempt in sorted(agent.attempts.items()):
        text = f"agent {agent.id} is drained and its time is over"
        stop_attempt(state, effects, state.tasks[key[0]], attempt, Intent.MOVE, text)
