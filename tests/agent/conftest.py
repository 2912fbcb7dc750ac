"""Real agents against a scripted coordinator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.agent_process import AgentProcess
from support.scripted_coordinator import ScriptedCoordinator

AgentMaker = Callable[..., AgentProcess]


@pytest.fixture
def coordinator() -> Iterator[ScriptedCoordinator]:
    """A coordinator that does what the test says."""
    with ScriptedCoordinator() as scripted:
        yield scripted


@pytest.fixture
def start_agent(tmp_path: Path, coordinator: ScriptedCoordinator) -> Iterator[AgentMaker]:
    """Starts agents in the test's folder; modules under tests/support can be tasks."""
    tests = str(Path(__file__).parents[1])
    with ExitStack() as stack:

        def start(*flags: str, address: str = "", name: str = "a", **environment: str) -> AgentProcess:
            inherited = environment.pop("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
            path = os.pathsep.join([tests, inherited]).rstrip(os.pathsep)
            agent = AgentProcess(
                tmp_path,
                address or coordinator.address,
                *flags,
                name=name,
                environment={"PYTHONPATH": path, "OUTRIDER_AGENT_KILL_GRACE_S": "1", **environment},
            )
            return stack.enter_context(agent)

        yield start
