"""Who is still there: what may be said of an agent that is not heard, and when."""

from __future__ import annotations

from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.state import State


def is_awaited(state: State, agent: Agent) -> bool:
    """Whether this start of the coordinator still has to give the agent time to say hello."""
    return (
        agent.session_start_us < state.started_us and state.now_us < state.started_us + state.settings.startup_hold_us
    )
