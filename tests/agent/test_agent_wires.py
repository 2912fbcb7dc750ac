"""What leaves the agent's machine: TLS to the coordinator, spans to a collector."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from support.certificates import Authority
from support.otlp_receiver import otlp_receiver
from support.scripted_coordinator import ScriptedCoordinator, function
from support.waiting import eventually

TASKS = "support.agent_tasks"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def credentials_of(authority: Authority) -> grpc.ServerCredentials:
    files = authority.identity("server")
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], files.ca.read_bytes(), require_client_auth=True)


def test_an_agent_connects_by_mutual_tls(tmp_path: Path, start_agent) -> None:
    """With authority, certificate and key the session runs over TLS and work gets done."""
    authority = Authority(tmp_path)
    agent_files = authority.identity("agent")
    scripted = ScriptedCoordinator()
    scripted.credentials = credentials_of(authority)
    with scripted as coordinator:
        start_agent(
            *("--slots", "1", "--tls-ca", str(agent_files.ca)),
            *("--tls-certificate", str(agent_files.certificate), "--tls-key", str(agent_files.key)),
            address=coordinator.address,
        )
        coordinator.wait_session()
        coordinator.assign(function("t", f"{TASKS}:double", "3"))
        assert coordinator.outcome("t").completed.result.data == b"6"


@pytest.mark.parametrize("trusts", ["another authority", "nothing"])
def test_an_agent_talks_to_nobody_it_does_not_trust(tmp_path: Path, start_agent, trusts: str) -> None:
    """A coordinator with a certificate of another authority, or an agent without TLS, makes no session."""
    scripted = ScriptedCoordinator()
    scripted.credentials = credentials_of(Authority(tmp_path))
    flags = ("--tls-ca", str(Authority(tmp_path, trusts).path)) if trusts != "nothing" else ()
    with scripted as coordinator:
        agent = start_agent("--slots", "1", *flags, address=coordinator.address)
        eventually(lambda: f"not connected to {coordinator.address}" in agent.log_text())
        assert coordinator.hellos == []
        assert "Traceback" not in agent.log_text()


def test_the_receive_span_joins_dispatch_and_execute(coordinator: ScriptedCoordinator, start_agent) -> None:
    """One trace: the coordinator's span is the parent of `receive`, which is the parent of the worker's span."""
    with otlp_receiver() as receiver:
        start_agent("--slots", "1", **receiver.environment)
        coordinator.wait_session()
        work = function("t", f"{TASKS}:double", "3")
        work.trace.traceparent = PARENT
        coordinator.assign(work)
        coordinator.outcome("t")
        spans = {span.name.partition(" ")[0]: span for span in receiver.wait_for(lambda found: len(found) >= 2)}
        _, trace_id, parent_id, _ = PARENT.split("-")
        assert {span.trace_id for span in spans.values()} == {trace_id}
        assert spans["receive"].parent_id == parent_id
        assert spans["receive"].attributes["outrider.task_id"] == "t"
        assert spans["execute"].parent_id == spans["receive"].span_id
    assert coordinator.said("t")[0].trace.traceparent.split("-")[2] == spans["receive"].span_id


def test_work_that_nobody_traces_makes_no_spans(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Without a trace context, or without the sampled flag, nothing is exported."""
    with otlp_receiver() as receiver:
        agent = start_agent("--slots", "1", **receiver.environment)
        coordinator.wait_session()
        unsampled = function("b", f"{TASKS}:double", "3")
        unsampled.trace.traceparent = PARENT[:-2] + "00"
        coordinator.assign(function("a", f"{TASKS}:double", "3"), unsampled)
        coordinator.outcome("a")
        coordinator.outcome("b")
        agent.terminate()
        assert agent.wait() == 0
        assert receiver.spans == []
