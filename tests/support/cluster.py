"""A whole cluster for tests of clients: a coordinator and agents that share the tests' modules, ready to be used.

Starting one takes about a second, so a test file has one fixture of module scope around `cluster`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import outrider
from outrider.v1 import fleet_service_pb2, task_pb2, task_service_pb2
from support.daemons import Daemons
from support.waiting import eventually


class Cluster(Daemons):
    """`Daemons` that SDK clients connect to; ``address`` survives a restart of the coordinator."""

    def connect(self, namespace: str = "default") -> outrider.Client:
        """A client of it; close it."""
        return outrider.Client(self.address, namespace=namespace)

    def online(self) -> int:
        """How many agents have a session."""
        listed = self.coordinator.fleet.ListAgents(fleet_service_pb2.ListAgentsRequest(), timeout=20).agents
        return sum(agent.connectivity == fleet_service_pb2.AGENT_CONNECTIVITY_ONLINE for agent in listed)

    def all_tasks(self, namespace: str = "default") -> list[task_pb2.Task]:
        """Every task of a namespace, newest first."""
        found: list[task_pb2.Task] = []
        token = ""
        while True:
            request = task_service_pb2.ListRequest(namespace=namespace, page_size=1000, page_token=token)
            page = self.coordinator.tasks.List(request, timeout=20)
            found += page.tasks
            token = page.next_page_token
            if not token:
                return found


@contextmanager
def cluster(folder: Path, *coordinator_flags: str, agents: int = 1, slots: int = 2) -> Iterator[Cluster]:
    """Run a coordinator and ``agents`` named ``a1``, ``a2``, ... with ``slots`` each; yields once all are online."""
    with Cluster(folder, *coordinator_flags) as running:
        for number in range(1, agents + 1):
            running.agent(f"a{number}", slots, "--label", f"name=a{number}")
        eventually(lambda: running.online() == agents, 30, what="agents online")
        yield running
