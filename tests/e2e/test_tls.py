"""Mutual TLS from certificate files, end to end, and what those see who come without the right ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import outrider
from outrider import errors, status
from outrider.channel import TlsFiles, connect
from outrider.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)
from support.certificates import Authority, Identity
from support.daemons import Daemons, environment_of_tests, function, one_line, refusal
from support.secured import SecuredCoordinator
from support.waiting import eventually

TIMEOUT_S = 20
#: What a client that is not let in waits at most; it says why it was refused well before.
CONNECT_TIMEOUT_S = 2


class Secured:
    """A coordinator that wants a certificate of everybody, and an agent that has one."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.client = files_of(self.authority.identity("client"))
        server, agent = self.authority.identity("server"), self.authority.identity("a")
        flags = ("--tls-certificate", str(server.certificate), "--tls-key", str(server.key))
        self.daemons = Daemons(folder, *flags, "--tls-client-ca", str(server.ca))
        self.agent_flags = tls_flags(agent)

    @property
    def address(self) -> str:
        """Where it serves over TCP."""
        return self.daemons.coordinator.address


def let_in(daemons: Daemons, **roles: access_service_pb2.Role.ValueType) -> None:
    """Give users their roles, as this machine's own user may."""
    with connect(daemons.address) as channel:
        access = access_service_pb2_grpc.AccessServiceStub(channel)
        for name, role in roles.items():
            access.PutUser(access_service_pb2.PutUserRequest(name=name, role=role), timeout=TIMEOUT_S)


def files_of(identity: Identity) -> TlsFiles:
    """The files as the SDK takes them."""
    return TlsFiles(str(identity.ca), str(identity.certificate), str(identity.key))


def tls_flags(identity: Identity) -> tuple[str, ...]:
    """The files as the daemons take them."""
    return (
        *("--tls-ca", str(identity.ca)),
        *("--tls-certificate", str(identity.certificate), "--tls-key", str(identity.key)),
    )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Running, with one agent."""
    made = Secured(tmp_path_factory.mktemp("tls"))
    with made.daemons as daemons:
        let_in(daemons, client=access_service_pb2.ROLE_ADMIN, a=access_service_pb2.ROLE_AGENT)
        daemons.agent("a", 2, *made.agent_flags, address=made.address)
        eventually(lambda: secured_agents(made) == ["a"])
        yield made


def test_the_sdk_runs_a_task_over_mutual_tls(secured: Secured) -> None:
    """Client, coordinator and agent, each with a certificate of one authority: a task runs and its result returns."""
    with outrider.Client(secured.address, tls=secured.client) as client:
        assert client.submit("math:sqrt", 4).result(TIMEOUT_S) == 2.0
        assert client.command(["echo", "hello"]).result(TIMEOUT_S)["output"] == "hello\n"


def test_the_stubs_run_a_task_over_mutual_tls(secured: Secured) -> None:
    """A client on the bare stubs and grpc's own credentials submits and watches."""
    files = secured.client
    credentials = grpc.ssl_channel_credentials(
        *(Path(path).read_bytes() for path in (files.ca, files.key, files.certificate))
    )
    with grpc.secure_channel(secured.address, credentials) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        request = task_service_pb2.SubmitRequest(spec=function("math:sqrt", 9))
        task_id = stub.Submit(request, timeout=TIMEOUT_S).task_id
        watch = stub.Watch(
            task_service_pb2.WatchRequest(task_ids=[task_id], after_cursor=0, include_results=True), timeout=TIMEOUT_S
        )
        events = (event for frame in watch for event in frame.events.events)
        assert next(event.completed.result.data for event in events if event.HasField("completed")) == b"3.0"
        watch.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Get(task_service_pb2.GetRequest(task_id="0123456789"), timeout=TIMEOUT_S)
        assert refusal(caught.value).reason == "NOT_FOUND"


def test_the_files_can_come_from_the_environment(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """OUTRIDER_TLS_* and OUTRIDER_COORDINATOR are all a program needs; the command line takes them as well."""
    files = secured.client
    named = {"CA": files.ca, "CERTIFICATE": files.certificate, "KEY": files.key}
    for name, path in named.items():
        monkeypatch.setenv(f"OUTRIDER_TLS_{name}", path)
    monkeypatch.setenv("OUTRIDER_COORDINATOR", secured.address)
    with outrider.Client() as client:
        assert client.submit("math:sqrt", 16).result(TIMEOUT_S) == 4.0
    code = "import sys; from outrider.cli.main import main; sys.exit(main())"
    argv = [sys.executable, "-c", code, "submit", "--wait", "--", "echo", "hello"]
    done = subprocess.run(argv, env=environment_of_tests(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello" in done.stdout


def refused_client(address: str, tls: TlsFiles) -> str:
    """The line that a client which is not let in gets, soon."""
    began_s = time.monotonic()
    with pytest.raises(errors.Unreachable) as caught:
        outrider.Client(address, tls=tls, connect_timeout=CONNECT_TIMEOUT_S)
    assert time.monotonic() - began_s < TIMEOUT_S
    return one_line(str(caught.value))


def test_a_client_without_a_certificate_is_refused(secured: Secured) -> None:
    """Trusting the server is not enough: who shows no certificate is not let in, and nothing is answered."""
    line = refused_client(secured.address, TlsFiles(ca=secured.client.ca))
    assert secured.address in line
    with connect(secured.address, TlsFiles(ca=secured.client.ca)) as channel, pytest.raises(grpc.RpcError) as caught:
        task_service_pb2_grpc.TaskServiceStub(channel).List(task_service_pb2.ListRequest(), timeout=CONNECT_TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_of_another_authority_is_refused(secured: Secured, tmp_path: Path) -> None:
    """Who trusts another authority does not talk to this server and is told that the certificate is why."""
    stranger = files_of(Authority(tmp_path, "other authority").identity("stranger"))
    assert secured.address in refused_client(secured.address, stranger)
    with connect(secured.address, stranger) as channel, pytest.raises(grpc.RpcError) as caught:
        task_service_pb2_grpc.TaskServiceStub(channel).List(task_service_pb2.ListRequest(), timeout=CONNECT_TIMEOUT_S)
    error = status.from_rpc_error(caught.value, secured.address)
    assert isinstance(error, errors.Unreachable)
    assert "CERTIFICATE_VERIFY_FAILED" in one_line(error.message)
    # The stranger knows our authority but was not signed by it: here the server refuses.
    refused_client(secured.address, TlsFiles(secured.client.ca, stranger.certificate, stranger.key))


def test_a_certificate_for_another_name_is_said_so(tmp_path: Path) -> None:
    """SDK, command line and a machine that joins: called by a name that the certificate has not, and what to do."""
    with SecuredCoordinator(tmp_path, "--listen", "127.0.0.2:0", "--listen-join", "127.0.0.2:0") as coordinator:
        found = json.loads((coordinator.state / "addresses.json").read_text())
        ours, join = found["addresses"][-1], found["join"][-1]
        ca, token = str(coordinator.authority_folder / "trust.pem"), coordinator.token("ann")
        assert "certificate for another name" in refused_client(ours, TlsFiles(ca=ca))
        environment = {**os.environ, "OUTRIDER_TLS_CA": ca, "OUTRIDER_TOKEN": token}
        for words in (["--coordinator", join, "whoami"], ["agent", "join", join, coordinator.join_token().text]):
            done = subprocess.run(
                [str(Path(sys.executable).with_name("outrider")), *words],
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 4, done.stderr
            assert "outrider coordinator init --host" in done.stderr


def test_a_client_in_plain_text_is_refused(secured: Secured) -> None:
    """Plain text to a TLS port gets an error that names the address, not silence."""
    assert secured.address in refused_client(secured.address, TlsFiles())


def test_tls_to_a_plain_port_is_refused(secured: Secured, tmp_path: Path) -> None:
    """The other way round: TLS to a coordinator without it."""
    with Daemons(tmp_path) as daemons:
        address = daemons.coordinator.address
        assert address in refused_client(address, secured.client)


def test_an_agent_of_another_authority_is_refused(secured: Secured, tmp_path: Path) -> None:
    """An agent that was not signed by the authority gets no session; it says so and goes on trying."""
    stranger = Authority(tmp_path, "other authority").identity("stranger")
    flags = tls_flags(Identity(Path(secured.client.ca), stranger.certificate, stranger.key))
    agent = secured.daemons.agent("stranger", 1, *flags, address=secured.address)
    eventually(lambda: f"not connected to {secured.address}" in agent.log_text())
    names = secured_agents(secured)
    agent.terminate()
    assert agent.wait() == 0
    assert names == ["a"]
    assert agent.log_text().count("not connected") == 1


def secured_agents(secured: Secured) -> list[str]:
    """The agents that are registered."""
    with connect(secured.address, secured.client) as channel:
        stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        page = stub.ListAgents(fleet_service_pb2.ListAgentsRequest(), timeout=TIMEOUT_S)
        return [agent.id for agent in page.agents]


def coordinator(folder: Path, *flags: str) -> str:
    """The line of a coordinator that does not start."""
    argv = [sys.executable, "-m", "outrider_coordinator", "--state-directory", str(folder / "state"), *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1
    return one_line(done.stderr)


def test_a_coordinator_serves_other_machines_only_with_tls(tmp_path: Path) -> None:
    """Told to listen on every address without certificates it refuses with the reason and what to set."""
    line = coordinator(tmp_path, "--listen", "0.0.0.0:0")
    assert "without TLS anybody there could run commands here" in line
    assert "set tls_certificate and tls_key" in line


def test_a_coordinator_with_tls_serves_every_address(tmp_path: Path) -> None:
    """With a certificate it listens on every address; callers that show none show a token."""
    server = Authority(tmp_path).identity("server")
    flags = ("--tls-certificate", str(server.certificate), "--tls-key", str(server.key), "--listen", "0.0.0.0:0")
    with Daemons(tmp_path / "d", *flags) as daemons:
        port = daemons.log.partition("0.0.0.0:")[2].split()[0].rstrip(",")
        let_in(daemons, ann=access_service_pb2.ROLE_SUBMITTER)
        with connect(daemons.address) as channel:
            access = access_service_pb2_grpc.AccessServiceStub(channel)
            token = access.CreateApiToken(access_service_pb2.CreateApiTokenRequest(user="ann"), timeout=TIMEOUT_S).token
        with outrider.Client(f"127.0.0.1:{port}", tls=TlsFiles(ca=str(server.ca), token=token)) as client:
            assert client.submit("math:sqrt", 4).id
        with pytest.raises(errors.Unauthenticated, match="show an API token"):
            outrider.Client(f"127.0.0.1:{port}", tls=TlsFiles(ca=str(server.ca))).tasks()


def test_certificate_files_that_are_wrong_are_named(tmp_path: Path) -> None:
    """A missing file, a key that is not given and a file that is no PEM: one line each, from server and client."""
    server = Authority(tmp_path).identity("server")
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    certificate = ("--listen", "127.0.0.1:0", "--tls-certificate", str(server.certificate))
    assert f"{tmp_path}/none.key" in coordinator(tmp_path, *certificate, "--tls-key", f"{tmp_path}/none.key")
    assert "tls_key" in coordinator(tmp_path, *certificate)
    assert str(bad) in coordinator(tmp_path, *certificate, "--tls-key", str(bad))
    with pytest.raises(errors.InvalidRequest, match=r"none\.pem"):
        outrider.Client("127.0.0.1:1", tls=TlsFiles(ca=f"{tmp_path}/none.pem"))
    with pytest.raises(errors.InvalidRequest, match="certificate and the key together"):
        outrider.Client("127.0.0.1:1", tls=TlsFiles(ca=str(server.ca), key=str(server.key)))
