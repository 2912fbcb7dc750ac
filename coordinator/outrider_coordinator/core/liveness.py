"""Who is still there: what may be said of an agent that is not heard, and when."""

from __future__ import annotations

from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.state import State

#: So many heartbeats a second are enough for one coordinator: a larger fleet reports less often.
HEARTBEATS_PER_S = 500
MISSED_MAX = 3


def heartbeat_us(state: State) -> int:
    """How often an agent that opens a session now is to report: less often in a large fleet."""
    return max(state.settings.heartbeat_interval_us, len(state.agents) * SECOND_US // HEARTBEATS_PER_S)


def patience_us(state: State, agent: Agent) -> int:
    """How long an agent with a session may be silent: three of its own heartbeats, at least the setting."""
    return max(state.settings.suspect_after_us, MISSED_MAX * agent.heartbeat_us)


def is_awaited(state: State, agent: Agent) -> bool:
    """Whether this start of the coordinator still has to give the agent time to say hello."""
    return (
        agent.session_start_us < state.started_us and state.now_us < state.started_us + state.settings.startup_hold_us
    )
