"""An agent with secrets and a coordinator that may say anything: what is handed over, refused, taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import task_pb2
from outrider.work import Options, command_spec
from support.scripted_coordinator import ScriptedCoordinator, at_most_once, command, ref
from support.signed import assigned, new_key, signed_by, trusted
from support.waiting import eventually

VALUE = "a-value-to-keep-back"
TABLES = """
[agent.secrets.token]
file = "{folder}/secret"
namespaces = ["ops"]
work = ["sh"]
[agent.secrets.slow]
command = ["/bin/sh", "-c", "while [ ! -e {folder}/gate ]; do sleep 0.02; done; echo slow-but-there"]
"""
PRINTS = ["sh", "-c", "echo $TOKEN"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The agent's settings."""
    (tmp_path / "secret").write_text(VALUE)
    path = tmp_path / "outrider.toml"
    path.write_text(TABLES.format(folder=tmp_path))
    return path


def asking(assignment: wire.Assignment, secret: str = "token", namespace: str = "ops") -> wire.Assignment:
    """The same with a secret, for a task of this namespace."""
    assignment.spec.secrets.add(variable="TOKEN", secret=secret)
    assignment.namespace = namespace
    return assignment


def test_hello_names_secrets_and_rules_alone(coordinator: ScriptedCoordinator, start_agent, config: Path) -> None:
    """No value, no path, no program leaves the machine."""
    start_agent("--config", str(config))
    hello = coordinator.wait_session()
    assert [(one.name, list(one.namespaces), list(one.work)) for one in hello.secrets] == [
        ("slow", [], []),
        ("token", ["ops"], ["sh"]),
    ]
    assert VALUE.encode() not in hello.SerializeToString()
    assert str(config.parent).encode() not in hello.SerializeToString()


@pytest.mark.parametrize(
    ("secret", "namespace", "argv", "text"),
    [
        ("token", "dev", PRINTS, "there it is not for 'sh' of namespace 'dev'"),
        ("token", "ops", ["printenv", "TOKEN"], "there it is not for 'printenv' of namespace 'ops'"),
        ("unknown", "ops", PRINTS, "it is not defined there"),
    ],
)
def test_an_agent_keeps_its_own_rules(
    coordinator: ScriptedCoordinator, start_agent, config: Path, secret: str, namespace: str, argv: list[str], text: str
) -> None:
    """Whatever work a coordinator sends, a secret goes where the agent's own table says."""
    start_agent("--config", str(config))
    coordinator.wait_session()
    coordinator.assign(asking(command("t", argv), secret, namespace))
    failed = coordinator.outcome("t").failed
    assert failed.error.reason == task_pb2.TASK_REASON_SECRET_UNAVAILABLE
    assert failed.recoverable
    assert failed.error.message == f"agent a cannot come by secret {secret}: {text}"
    assert coordinator.kinds("t") == ["failed"], "nothing was started"
    coordinator.assign(asking(command("u", PRINTS)))
    assert b"[secret token]" in coordinator.outcome("u").completed.result.data


def test_the_agent_is_heard_while_a_secret_is_made(
    coordinator: ScriptedCoordinator, start_agent, config: Path, tmp_path: Path
) -> None:
    """Heartbeats go on, other work runs, and the attempt starts when its secret is there."""
    start_agent("--config", str(config), "--slots", "2")
    coordinator.wait_session()
    coordinator.assign(asking(command("t", PRINTS), "slow"))
    eventually(lambda: coordinator.refs("accepted") == ["t"], what="it is accepted at once")
    beats = coordinator.count("heartbeat")
    coordinator.assign(command("u", ["true"]))
    coordinator.outcome("u")
    eventually(lambda: coordinator.count("heartbeat") > beats + 2)
    assert coordinator.said("t") == []
    (tmp_path / "gate").touch()
    assert b"[secret slow]" in coordinator.outcome("t").completed.result.data


def test_what_waits_for_its_secret_can_be_taken_back(
    coordinator: ScriptedCoordinator, start_agent, config: Path, tmp_path: Path
) -> None:
    """A revoke and a cancel end it unstarted, also when the secret comes afterwards; so does a drain."""
    agent = start_agent("--config", str(config), "--slots", "3")
    coordinator.wait_session()
    coordinator.assign(*[asking(command(name, PRINTS), "slow") for name in ("revoked", "cancelled", "drained")])
    eventually(lambda: len(coordinator.refs("accepted")) == 3)
    coordinator.send(revoke=wire.Revoke(refs=[ref("revoked")]))
    coordinator.cancel("cancelled")
    eventually(lambda: coordinator.refs("revoked") == ["revoked"])
    assert coordinator.outcome("cancelled").failed.error.reason == task_pb2.TASK_REASON_CANCEL_REQUESTED
    agent.terminate()
    eventually(lambda: coordinator.refs("revoked") == ["revoked", "drained"])
    (tmp_path / "gate").touch()
    assert agent.wait() == 0
    assert coordinator.said("revoked") == coordinator.said("drained") == []


def test_a_task_that_runs_once_may_have_started_only_with_its_secret(
    coordinator: ScriptedCoordinator, start_agent, config: Path, tmp_path: Path
) -> None:
    """It is taken when the secret is there; without one it has surely not started."""
    start_agent("--config", str(config), "--slots", "2")
    coordinator.wait_session()
    coordinator.assign(asking(at_most_once(command("t", PRINTS)), "slow"))
    coordinator.assign(asking(at_most_once(command("u", PRINTS)), "unknown"))
    coordinator.outcome("u")
    assert coordinator.kinds("u") == ["failed"]
    assert coordinator.kinds("t") == []
    (tmp_path / "gate").touch()
    coordinator.outcome("t")
    assert coordinator.kinds("t")[0] == "taken"


def test_what_was_signed_says_which_secrets_and_for_whom(
    coordinator: ScriptedCoordinator, start_agent, config: Path
) -> None:
    """A coordinator can add none, change none, and not call the task another namespace's."""
    ann = new_key()
    rules = {"OUTRIDER_POLICY_REQUIRE_SIGNATURE": "true", "OUTRIDER_POLICY_TRUSTED_KEYS": json.dumps([trusted(ann)])}
    start_agent("--config", str(config), **rules)
    coordinator.wait_session()
    plain = signed_by(ann, command_spec(["sh", "-c", "echo ${TOKEN-none}"], Options()), "ops")
    asking_for_it = signed_by(ann, command_spec(PRINTS, Options(secrets={"TOKEN": "token"})), "ops")
    foreign = signed_by(ann, command_spec(PRINTS, Options(secrets={"TOKEN": "token"})), "dev")
    coordinator.assign(
        asking(assigned(plain, "added", namespace="ops")),
        assigned(asking_for_it, "signed", namespace="ops"),
        assigned(foreign, "renamed", namespace="ops"),
        assigned(foreign, "foreign", namespace="dev"),
    )
    assert b'"output":"none\\n"' in coordinator.outcome("added").completed.result.data
    assert b"[secret token]" in coordinator.outcome("signed").completed.result.data
    assert coordinator.outcome("foreign").failed.error.reason == task_pb2.TASK_REASON_SECRET_UNAVAILABLE
    eventually(lambda: coordinator.refs("rejected") == ["renamed"])


def test_a_table_that_makes_no_sense_keeps_the_agent_from_starting(start_agent, config: Path) -> None:
    """With one line that names it."""
    config.write_text('[agent.secrets.token]\nfile = "relative"\n')
    agent = start_agent("--config", str(config))
    assert agent.wait() == 1
    assert agent.log_text() == "outrider-agent: agent.secrets.token: file must be an absolute path\n"
