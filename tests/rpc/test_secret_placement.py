"""Secrets at a real coordinator's doors: what agents may offer, what tasks may ask for, and who gets what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from outrider import errors
from outrider.v1 import agent_service_pb2, fleet_service_pb2, run_service_pb2, task_pb2, task_service_pb2
from support.coordinator_process import CoordinatorProcess, ScriptedAgent
from support.daemons import command, refusal

TIMEOUT_S = 20


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """A running coordinator, gone afterwards."""
    process = CoordinatorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


def offer(name: str = "token", **rules: Any) -> agent_service_pb2.SecretOffer:
    """What an agent offers."""
    return agent_service_pb2.SecretOffer(name=name, **rules)


def asking(*names: str, argv: tuple[str, ...] = ("/bin/deploy",)) -> task_pb2.TaskSpec:
    """A command that asks for these secrets."""
    spec = command(argv)
    for number, name in enumerate(names):
        spec.secrets.add(variable=f"V{number}", secret=name)
    return spec


def submit(coordinator: CoordinatorProcess, spec: task_pb2.TaskSpec, namespace: str = "") -> str:
    """The task's id."""
    request = task_service_pb2.SubmitRequest(spec=spec, namespace=namespace)
    return str(coordinator.tasks.Submit(request, timeout=TIMEOUT_S).task_id)


def shown(coordinator: CoordinatorProcess, name: str) -> fleet_service_pb2.Agent:
    """An agent as operators see it."""
    request = fleet_service_pb2.GetAgentRequest(agent_id=name)
    agent: fleet_service_pb2.Agent = coordinator.fleet.GetAgent(request, timeout=TIMEOUT_S).agent
    return agent


def test_a_task_goes_to_the_agent_that_has_all_its_secrets(coordinator: CoordinatorProcess) -> None:
    """By name, namespace and work; references travel to the agent, which knows the values."""
    ScriptedAgent(coordinator, "none", 4, labels={"secret:token": "*/*"})
    ScriptedAgent(coordinator, "one", 4, secrets=[offer()])
    both = ScriptedAgent(
        coordinator, "both", 4, secrets=[offer(), offer("key", namespaces=["ops"], work=["/bin/deploy"])]
    )
    waiting = [submit(coordinator, asking("token", "key")), submit(coordinator, asking("key", argv=("sh",)), "ops")]
    wanted = submit(coordinator, asking("token", "key"), "ops")
    (assignment,) = both.next("assign").assignments
    assert assignment.ref.task_id == wanted
    assert [(one.variable, one.secret) for one in assignment.spec.secrets] == [("V0", "token"), ("V1", "key")]
    for task_id, namespace in zip(waiting, ("default", "ops"), strict=True):
        request = task_service_pb2.ExplainRequest(namespace=namespace, task_id=task_id)
        reply = coordinator.tasks.Explain(request, timeout=TIMEOUT_S)
        texts = {verdict.agent_id: verdict.text for verdict in reply.agents}
        assert texts["both"] == "its secret key is not for such work"
        assert texts["one"] == "it has no secret key"
        assert {verdict.rule for verdict in reply.agents} == {"SECRET"}


def test_names_outlive_a_restart_and_are_no_labels(coordinator: CoordinatorProcess) -> None:
    """A coordinator that starts knows those of agents that are not back yet; labels made by hand are dropped."""
    ScriptedAgent(coordinator, "a", labels={"zone": "x", "secret:forged": "*/*"}, secrets=[offer(), offer("key")])
    for _ in range(2):
        agent = shown(coordinator, "a")
        assert (list(agent.secrets), dict(agent.labels)) == (["key", "token"], {"zone": "x"})
        coordinator.kill()
        coordinator.start()
    task_id = submit(coordinator, asking("forged"))
    reply = coordinator.tasks.Explain(task_service_pb2.ExplainRequest(task_id=task_id), timeout=TIMEOUT_S)
    assert [verdict.text for verdict in reply.agents] == ["it has no secret forged"]


def test_a_restart_still_knows_what_a_waiting_task_asks_for(coordinator: CoordinatorProcess) -> None:
    """In its own namespace, tasks of a run too."""
    task = run_service_pb2.RunTask(key="a", spec=asking("token"))
    run = run_service_pb2.RunSpec(tasks=[task])
    coordinator.runs.SubmitRun(run_service_pb2.SubmitRunRequest(namespace="ops", run=run), timeout=TIMEOUT_S)
    first = submit(coordinator, asking("token"))
    coordinator.kill()
    coordinator.start()
    dev = ScriptedAgent(coordinator, "dev", 4, secrets=[offer(namespaces=["default"])])
    assert [one.ref.task_id for one in dev.next("assign").assignments] == [first]
    ops = ScriptedAgent(coordinator, "ops", 4, secrets=[offer(namespaces=["ops"])])
    assert [one.namespace for one in ops.next("assign").assignments] == ["ops"]


@pytest.mark.parametrize(
    "use",
    [
        {"variable": "A B", "secret": "token"},
        {"variable": "PATH_", "secret": "../token"},
        {"variable": "OUTRIDER_TASK_ID", "secret": "token"},
        {"variable": "A", "secret": "token", "delivery": 99},
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(coordinator: CoordinatorProcess, use: dict[str, Any]) -> None:
    """Whoever the caller is."""
    spec = command(["true"])
    spec.secrets.add(**use)
    with pytest.raises(grpc.RpcError) as caught:
        submit(coordinator, spec)
    error = refusal(caught.value)
    assert isinstance(error, errors.InvalidRequest)
    assert error.violations[0].field.startswith("spec.secrets[0].")


def test_an_agent_that_offers_nonsense_is_refused(coordinator: CoordinatorProcess) -> None:
    """What agents say is checked as anybody else's words."""
    with pytest.raises(grpc.RpcError) as caught:
        ScriptedAgent(coordinator, "a", secrets=[offer("No Name")])
    assert "hello.secrets[0].name" in str(caught.value.details())
