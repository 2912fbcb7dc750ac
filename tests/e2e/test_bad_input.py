"""What people get wrong: each gets one clear line and a typed error, nothing hangs, and the daemons go on working."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

import outrider
from outrider import errors
from outrider.v1 import run_service_pb2, task_pb2, task_service_pb2
from support.daemons import Daemons, command, environment_of_tests, function, one_line, reason_name, refusal, state_name
from support.waiting import eventually

MEBIBYTE = 1024 * 1024
TIMEOUT_S = 20
WORKS = function("math:sqrt", 4)


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """A coordinator and an agent, the same for all tests here: none of them may be harmed."""
    with Daemons(tmp_path_factory.mktemp("bad")) as running:
        agent = running.agent("a", 2)
        yield running
        assert agent.process.poll() is None
        assert running.log.count("serving on") == 1
        assert "Traceback" not in running.log
        assert "Traceback" not in agent.log_text()


@pytest.fixture(autouse=True)
def still_works(daemons: Daemons) -> Iterator[None]:
    """After every test here the same daemons run a task."""
    yield
    (task,) = daemons.ended(*daemons.submit(WORKS), timeout_s=TIMEOUT_S)
    assert (state_name(task.state), task.result.data) == ("SUCCEEDED", b"2.0")


@pytest.fixture
def client(daemons: Daemons) -> Iterator[outrider.Client]:
    """A client of the SDK."""
    with outrider.Client(daemons.address) as connected:
        yield connected


# --- work that cannot succeed


@pytest.mark.parametrize(
    ("spec", "reason", "says"),
    [
        (function("no_such_module:f"), "INVALID_WORK", "no_such_module"),
        (function("math:no_such_function"), "INVALID_WORK", "no_such_function"),
        (function("math:pi"), "INVALID_WORK", "math:pi"),
        (function("math:sqrt", 1, 2, 3), "INVALID_WORK", "sqrt"),
        (function("json:loads", "{"), "TASK_ERROR", "Expecting property name"),
        (function("builtins:complex", 1), "RESULT_NOT_SERIALIZABLE", "complex"),
        (command(["no-such-program", "-x"]), "INVALID_WORK", "no-such-program"),
        (command(["/etc/passwd"]), "INVALID_WORK", "/etc/passwd"),
        (command(["sh", "-c", "echo the reason >&2; exit 3"]), "TASK_ERROR", "the reason"),
    ],
)
def test_work_that_cannot_succeed_fails_with_one_line(
    daemons: Daemons, spec: task_pb2.TaskSpec, reason: str, says: str
) -> None:
    """A wrong function, program or result ends the task FAILED after one attempt; the error names what is wrong."""
    (task,) = daemons.ended(*daemons.submit(spec), timeout_s=TIMEOUT_S)
    assert (state_name(task.state), reason_name(task.error.reason)) == ("FAILED", reason)
    assert says in one_line(task.error.message)
    assert len(task.attempts) == 1


def test_a_function_that_raises_tells_the_client_what(client: outrider.Client) -> None:
    """The SDK raises TaskFailed with the exception's class, its text and the remote traceback."""
    handle = client.submit("json:loads", "{")
    with pytest.raises(errors.TaskFailed, match="Expecting property name") as caught:
        handle.result(TIMEOUT_S)
    assert caught.value.cause == "TASK_ERROR"
    assert caught.value.exception_type.endswith("JSONDecodeError")
    assert "raw_decode" in caught.value.traceback
    one_line(str(caught.value))


@pytest.mark.parametrize(
    ("name", "args", "cause"),
    [
        ("no_such_module:f", (), "INVALID_WORK"),
        ("math:no_such_function", (), "INVALID_WORK"),
        ("builtins:complex", (1,), "RESULT_NOT_SERIALIZABLE"),
    ],
)
def test_the_client_is_told_why_work_cannot_run(
    client: outrider.Client, name: str, args: tuple[int, ...], cause: str
) -> None:
    """The SDK raises TaskFailed with the cause and one line."""
    with pytest.raises(errors.TaskFailed) as caught:
        client.submit(name, *args).result(TIMEOUT_S)
    assert caught.value.cause == cause
    one_line(str(caught.value))


# --- requests that are refused


def batch(*specs: task_pb2.TaskSpec) -> task_service_pb2.SubmitBatchRequest:
    """A batch of these."""
    return task_service_pb2.SubmitBatchRequest(tasks=[task_service_pb2.SubmitRequest(spec=spec) for spec in specs])


def run_of(spec: task_pb2.TaskSpec) -> run_service_pb2.SubmitRunRequest:
    """A run of one task."""
    return run_service_pb2.SubmitRunRequest(run=run_service_pb2.RunSpec(tasks=[{"key": "k", "spec": spec}]))


BAD_PRIORITY = function("math:sqrt", 4, priority=11)
BIG = task_pb2.TaskSpec(
    function=task_pb2.PythonFunction(function="m:f", arguments=task_pb2.Payload(data=b"x" * (10 * MEBIBYTE)))
)
BIG_STDIN = task_pb2.TaskSpec(command=task_pb2.Command(argv=["cat"], stdin=b"x" * (10 * MEBIBYTE)))
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason", "says"),
    [
        ("Submit", batch(BAD_PRIORITY).tasks[0], INVALID, "INVALID_REQUEST", "spec.priority: must be 0 to 10"),
        ("SubmitBatch", batch(WORKS, BAD_PRIORITY), INVALID, "INVALID_REQUEST", "tasks[1].spec.priority: must be 0"),
        ("SubmitRun", run_of(BAD_PRIORITY), INVALID, "INVALID_REQUEST", "tasks[0].spec.priority: must be 0 to 10"),
        ("SubmitBatch", batch(), INVALID, "INVALID_REQUEST", "the batch is empty; give at least one task"),
        ("Submit", batch(BIG).tasks[0], EXHAUSTED, "TOO_LARGE", "put the data in a file or object store"),
        ("Submit", batch(BIG_STDIN).tasks[0], EXHAUSTED, "TOO_LARGE", "spec.command.stdin: 10485760 bytes"),
        ("SubmitBatch", batch(WORKS, BIG), EXHAUSTED, "TOO_LARGE", "tasks[1].spec.function.arguments: 10485760"),
        ("SubmitRun", run_of(BIG), EXHAUSTED, "TOO_LARGE", "put the data in a file or object store"),
        ("Submit", task_service_pb2.SubmitRequest(), INVALID, "INVALID_REQUEST", "there is nothing to run"),
        ("Submit", batch(function("math.sqrt")).tasks[0], INVALID, "INVALID_REQUEST", "is not MODULE:NAME"),
        ("Submit", batch(command([])).tasks[0], INVALID, "INVALID_REQUEST", "needs at least a program"),
    ],
)
def test_a_bad_request_is_refused_whole(
    daemons: Daemons, method: str, request_: object, code: grpc.StatusCode, reason: str, says: str
) -> None:
    """Bad priority, empty batch, 10 MiB payload: a typed error that names the field; nothing of it is stored."""
    before = daemons.states()
    stub = daemons.coordinator.runs if method == "SubmitRun" else daemons.coordinator.tasks
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, method)(request_, timeout=TIMEOUT_S)
    assert caught.value.code() is code
    error = refusal(caught.value)
    assert error.reason == reason
    assert says in one_line(error.message)
    assert bool(error.violations) == (code is INVALID)
    assert daemons.states() == before


@pytest.mark.parametrize(
    ("submit", "expected", "says"),
    [
        (lambda client: client.with_options(priority=11).submit("math:sqrt", 4), errors.InvalidRequest, "0 (last) to"),
        (lambda client: client.with_options(priority="urgent").submit("math:sqrt", 4), errors.InvalidRequest, "low"),
        (lambda client: client.submit("math.sqrt", 4), errors.InvalidRequest, "write module:name"),
        (lambda client: client.submit("math:sqrt", object()), errors.InvalidRequest, "cannot be written as JSON"),
        (lambda client: client.command([]), errors.InvalidRequest, "give at least a program"),
        (lambda client: client.submit("len", "x" * (10 * MEBIBYTE)).id, errors.OutriderError, "module:name"),
        (lambda client: client.submit("builtins:len", "x" * (10 * MEBIBYTE)).id, errors.TooLarge, "file or object"),
        (lambda client: client.command(["cat"], stdin=b"x" * (13 * MEBIBYTE)), errors.TooLarge, "file or object"),
        (lambda client: client.run().submit(), errors.InvalidRequest, "at least one task"),
    ],
)
def test_the_sdk_says_what_is_wrong(
    client: outrider.Client, submit: Callable[[outrider.Client], object], expected: type[Exception], says: str
) -> None:
    """The same through the SDK: one line that says what to do, and the client goes on working."""
    with pytest.raises(expected) as caught:
        submit(client)
    assert says in one_line(str(caught.value))
    assert client.submit("math:sqrt", 9).result(TIMEOUT_S) == 3.0


# --- addresses


@pytest.mark.parametrize(
    ("address", "expected", "says"),
    [
        ("127.0.0.1:1", errors.Unreachable, "127.0.0.1:1"),
        ("unix:/no/such/socket", errors.Unreachable, "/no/such/socket"),
        ("127.0.0.1:port", errors.InvalidRequest, "write HOST:PORT"),
        ("unix:relative", errors.InvalidRequest, "absolute path"),
        ("192.0.2.1:7420", errors.InvalidRequest, "OUTRIDER_TLS_CA"),
        ("coordinator.example:7420", errors.InvalidRequest, "plain text"),
    ],
)
def test_a_client_of_a_wrong_address_is_told_so(address: str, expected: type[Exception], says: str) -> None:
    """Nobody there, no address at all, or plain text to another machine: one line, soon."""
    began_s = time.monotonic()
    with pytest.raises(expected) as caught:
        outrider.Client(address, connect_timeout=2)
    assert says in one_line(str(caught.value))
    assert time.monotonic() - began_s < TIMEOUT_S


def test_the_cli_of_a_wrong_address_is_told_so(tmp_path: Path) -> None:
    """The command line prints one line with the address and what to do, and exits with another code than 0."""
    done = daemon("outrider", "--coordinator", f"unix:{tmp_path}/nobody", "task", "list")
    assert done.returncode != 0
    assert f"{tmp_path}/nobody" in one_line(done.stderr)


def test_an_agent_of_a_wrong_address_waits(daemons: Daemons) -> None:
    """An agent that finds nobody says so once, tries on, and stops when told to."""
    agent = daemons.agent("lost", 1, address="127.0.0.1:1")
    eventually(lambda: "not connected to 127.0.0.1:1" in agent.log_text())
    agent.terminate()
    assert agent.wait() == 0
    assert agent.log_text().count("not connected") == 1


# --- daemons that refuse to start


def daemon(module: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a daemon, or the command line, that is expected to end by itself."""
    code = (
        f"import sys; from {module}.{'cli.main' if module == 'outrider' else '__main__'} import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *flags],
        env=environment_of_tests(**environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_a_taken_name_from_another_machine_is_refused(daemons: Daemons) -> None:
    """A second agent of that name on another machine exits 1 with one line that says to choose another."""
    second = daemon(
        "outrider_agent",
        *("--coordinator", daemons.address, "--name", "a", "--slots", "1", "--log-level", "error"),
        *("--state-directory", f"{daemons.folder}/second"),
        OUTRIDER_AGENT_MACHINE_ID="another",
    )
    assert second.returncode == 1
    line = one_line(second.stderr + second.stdout)
    assert "'a'" in line
    assert "another machine" in line
    assert "--name" in line


CONFIGS = [
    ("not toml", "is not valid TOML"),
    ("[{section}]\nslotz = 1\nlisten_on = 2", "unknown setting"),
    ("{section} = 3", "must be a table"),
    ("[{section}]\nlog_level = 7", "log_level"),
]


@pytest.mark.parametrize(("text", "says"), CONFIGS)
@pytest.mark.parametrize("section", ["coordinator", "agent"])
def test_an_unparsable_config_is_one_line(tmp_path: Path, section: str, text: str, says: str) -> None:
    """A settings file that is not TOML or has wrong settings: exit code 1 and one line that names file and place."""
    path = tmp_path / "outrider.toml"
    path.write_text(text.format(section=section))
    done = daemon(f"outrider_{section}", "--config", str(path), "--state-directory", str(tmp_path / "state"))
    assert done.returncode == 1
    line = one_line(done.stderr)
    assert says in line
    assert str(path) in line
    assert line.startswith(f"outrider-{section}: ")


@pytest.mark.parametrize("section", ["coordinator", "agent"])
def test_a_config_that_is_not_there_is_one_line(tmp_path: Path, section: str) -> None:
    """A missing settings file is named."""
    done = daemon(f"outrider_{section}", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 1
    assert f"cannot read the settings file {tmp_path}/none.toml" in one_line(done.stderr)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:7420"])
def test_a_coordinator_does_not_serve_others_in_plain_text(tmp_path: Path, address: str) -> None:
    """Listening beyond this machine without TLS is refused with the reason and what to set."""
    done = daemon("outrider_coordinator", "--listen", address, "--state-directory", str(tmp_path))
    assert done.returncode == 1
    line = one_line(done.stderr)
    assert "without TLS" in line
    assert "set tls_certificate and tls_key" in line


def test_an_agent_does_not_talk_to_others_in_plain_text(tmp_path: Path) -> None:
    """Connecting beyond this machine without TLS is refused with the reason and what to set."""
    done = daemon("outrider_agent", "--coordinator", "192.0.2.1:7420", "--state-directory", str(tmp_path))
    assert done.returncode == 1
    line = one_line(done.stderr)
    assert "in plain text" in line
    assert "--tls-ca" in line


def test_an_address_in_use_is_one_line(daemons: Daemons, tmp_path: Path) -> None:
    """A second coordinator on the same port says so; on the same state it names the lock."""
    address = daemons.coordinator.address
    done = daemon(
        "outrider_coordinator", "--listen", address, "--state-directory", str(tmp_path), "--log-level", "error"
    )
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr.splitlines()[-1]
    state = daemons.coordinator.folder / "state"
    done = daemon("outrider_coordinator", "--listen", "127.0.0.1:0", "--state-directory", str(state))
    assert done.returncode == 1
    assert str(state) in one_line(done.stderr)
