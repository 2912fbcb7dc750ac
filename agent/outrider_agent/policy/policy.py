"""The policy of one agent, put together: the gate in front of its work, and how its workers are confined."""

from __future__ import annotations

from outrider_agent.policy.confinement import Confinement
from outrider_agent.policy.gate import Gate
from outrider_agent.policy.settings import PolicySettings
from outrider_agent.state_directory import StateDirectory


class Policy:
    """Raises `InvalidRequest` for a policy that means nothing, or that cannot be kept on this machine."""

    def __init__(self, settings: PolicySettings, working_directory: str, state: StateDirectory) -> None:
        self.confinement = Confinement(settings, working_directory, state)
        self.gate = Gate(settings, state.path)
