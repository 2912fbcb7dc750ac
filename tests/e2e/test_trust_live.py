"""Trust with real daemons: an agent loses the type of work that it cannot do, and an outage holds everybody back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import outrider
from outrider.v1 import fleet_service_pb2, task_pb2
from support.cluster import Cluster
from support.command_line import CommandLine
from support.trust_tasks import MODULE, SYSTEM
from support.waiting import eventually

OPEN = fleet_service_pb2.BREAKER_STATE_OPEN


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator whose breakers try again after two seconds, and two agents, for all tests of this file."""
    folder = tmp_path_factory.mktemp("trust")
    with Cluster(
        folder, OUTRIDER_COORDINATOR_BREAKER_RESET_S="2", OUTRIDER_COORDINATOR_BREAKER_RESET_MAX_S="2"
    ) as made:
        for name in ("a1", "a2"):
            made.agent(name, 2, "--label", f"name={name}")
        eventually(lambda: made.online() == 2, 30, what="agents online")
        yield made


@pytest.fixture
def client(running: Cluster) -> Iterator[outrider.Client]:
    """A client of it."""
    with running.connect() as made:
        yield made


@pytest.fixture
def commands(running: Cluster, alone: CommandLine) -> CommandLine:
    """The command line against it."""
    alone.environment["OUTRIDER_COORDINATOR"] = running.address
    return alone


def agent_of(running: Cluster, name: str) -> fleet_service_pb2.Agent:
    """An agent as operators see it."""
    return running.coordinator.fleet.GetAgent(fleet_service_pb2.GetAgentRequest(agent_id=name), timeout=20).agent


def systems(running: Cluster) -> list[fleet_service_pb2.SystemBreaker]:
    """Outside systems that tasks complain of."""
    return list(running.coordinator.fleet.ListSystems(fleet_service_pb2.ListSystemsRequest(), timeout=20).systems)


def test_an_agent_loses_the_type_that_fails_there_and_passes_elsewhere(
    running: Cluster, client: outrider.Client, commands: CommandLine
) -> None:
    """Every task of the type succeeds in the end; the bad agent is left out of that type, and goes on with others."""
    build = client.with_options(type="build", attempts=9, backoff=0.01)
    seen: list[bool] = []
    for _ in range(10):
        handles = [build.submit(f"{MODULE}:works_only_on", "a1") for _ in range(8)]
        assert {handle.result(timeout=60) for handle in handles} == {"a1"}
        seen.append(any(one.task_type == "build" for one in agent_of(running, "a2").type_breakers))
        if seen[-1]:
            break
    assert seen[-1]
    bad, good = agent_of(running, "a2"), agent_of(running, "a1")
    assert bad.breaker == good.breaker == fleet_service_pb2.BREAKER_STATE_CLOSED
    assert not good.type_breakers
    assert "for build" in commands.run("agent", "show", "a2").out
    assert "1 for types of work" in commands.run("agent", "list").out
    other = client.with_options(labels={"name": "a2"})
    assert other.submit(f"{MODULE}:works_only_on", "a2").result(timeout=60) == "a2"
    assert commands.run("agent", "reset-breaker", "a2", "--type", "build").code == 0
    assert not agent_of(running, "a2").type_breakers
    unknown = commands.run("agent", "reset-breaker", "a2", "--type", "nothing")
    assert (unknown.code, "outrider agent show a2" in unknown.err) == (3, True)


def test_an_outage_holds_everybody_back_and_ends_by_itself(
    running: Cluster, client: outrider.Client, commands: CommandLine, tmp_path: Path
) -> None:
    """Three tasks complain and the others wait; once the system is back a canary lets all of them go."""
    there = tmp_path / "there"
    needs = client.with_options(systems=[SYSTEM], type="needs", attempts=9, backoff=0.1)
    waiting = [needs.submit(f"{MODULE}:waits", str(there)) for _ in range(3)]
    eventually(lambda: [system.system for system in systems(running) if system.state == OPEN] == [SYSTEM], 30)
    held = [needs.submit(f"{MODULE}:needs", str(there)) for _ in range(6)]
    listed = eventually(lambda: next((row for row in commands.run("system", "list").rows if row[0] == SYSTEM), None))
    eventually(lambda: f"system {SYSTEM!r}" in commands.run("task", "explain", held[-1].id).out, 30)
    assert listed[1] in ("open", "half_open")
    there.touch()
    for handle in held:
        assert handle.result(timeout=60) in ("a1", "a2")
    for handle in waiting:
        assert handle.result(timeout=60) >= 1
    eventually(lambda: not systems(running), 30)


def test_an_operator_ends_an_outage(
    running: Cluster, client: outrider.Client, commands: CommandLine, tmp_path: Path
) -> None:
    """A reset from the command line lets everything go at once; of a system nobody knows it says where to look."""
    there = tmp_path / "there"
    once = client.with_options(systems=["other"], attempts=1)
    for handle in [once.submit(f"{MODULE}:needs", str(there)) for _ in range(3)]:
        with pytest.raises(outrider.errors.TaskFailed):
            handle.result(timeout=60)
    there.touch()
    held = once.submit(f"{MODULE}:needs", str(there))
    assert commands.run("system", "reset", "other").out == "other is trusted again\n"
    assert held.result(timeout=60) in ("a1", "a2")
    unknown = commands.run("system", "reset", "nobody")
    assert (unknown.code, "outrider system list" in unknown.err) == (3, True)
    assert running.get(held.id).state == task_pb2.TASK_STATE_SUCCEEDED
