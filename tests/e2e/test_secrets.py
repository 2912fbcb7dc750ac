"""Secrets with real daemons: every source, both ways to hand them over, who may have them, and what is said if not."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import psutil
import pytest

import outrider
from outrider import errors
from outrider.v1 import fleet_service_pb2
from outrider.views import TaskState
from support import secret_tasks
from support.cluster import Cluster, cluster
from support.waiting import eventually

TIMEOUT_S = 30
FILE, VARIABLE, CREDENTIAL, PRINTED = (
    "from-a-file-4711",
    "from-the-environment-1",
    "from-systemd-000",
    "from-a-program-0",
)
KEY = "-----BEGIN KEY-----\nMIIBVQIBADANBgkqhkiG\nQQ==\n-----END KEY-----"
SETTINGS = """
[agent.secrets.file]
file = "{folder}/secret"
[agent.secrets.environment]
environment = "SOME_VARIABLE"
[agent.secrets.credential]
credential = "token"
[agent.secrets.command]
command = ["/bin/sh", "-c", "printf %s from-a-program-; echo ${{ZERO:-0}}"]
[agent.secrets.key]
file = "{folder}/key"
[agent.secrets.ops]
file = "{folder}/secret"
namespaces = ["ops", "release"]
[agent.secrets.work]
file = "{folder}/secret"
work = ["support.secret_tasks:tell", "/bin/echo"]
[agent.secrets.pin]
file = "{folder}/pin"
redact = false
[agent.secrets.short]
file = "{folder}/pin"
[agent.secrets.gone]
file = "{folder}/not-there"
[agent.secrets.failing]
command = ["/bin/sh", "-c", "echo from-a-program-9; exit 3"]
[agent.secrets.slow]
command = ["/bin/sleep", "1000"]
timeout_s = 0.3
[agent.secrets.large]
command = ["/bin/sh", "-c", "head -c 70000 /dev/zero"]
[agent.secrets.zero]
command = ["/usr/bin/printf", "zero \\\\0 within it"]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator, an agent with secrets and one without."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "secret").write_text(FILE + "\n")
    (folder / "key").write_text(KEY)
    (folder / "pin").write_text("1234")
    (folder / "credentials").mkdir()
    (folder / "credentials" / "token").write_text(CREDENTIAL)
    (folder / "outrider.toml").write_text(SETTINGS.format(folder=folder))
    with cluster(folder, agents=0) as started:
        environment = {"SOME_VARIABLE": VARIABLE, "CREDENTIALS_DIRECTORY": str(folder / "credentials")}
        started.agent("holder", 4, "--config", str(folder / "outrider.toml"), **environment)
        started.agent("plain", 1)
        eventually(lambda: started.online() == 2, TIMEOUT_S, "agents online")
        yield started


@pytest.fixture(scope="module")
def client(running: Cluster) -> Iterator[outrider.Client]:
    """One client for all tests here."""
    with running.connect() as connected:
        yield connected


@pytest.mark.parametrize(
    ("secret", "value"), [("file", FILE), ("environment", VARIABLE), ("credential", CREDENTIAL), ("command", PRINTED)]
)
def test_a_secret_comes_from_every_source(client: outrider.Client, secret: str, value: str) -> None:
    """By value in the environment of a command, and by `current` and `os.environ` in a function."""
    chosen = client.with_options(secrets={"TOKEN": secret})
    is_right = chosen.command(["sh", "-c", 'test "$TOKEN" = "$WANTED" && echo right'], env={"WANTED": value})
    assert is_right.result(TIMEOUT_S) == {"exit_code": 0, "output": "right\n"}
    assert chosen.submit(secret_tasks.is_equal, "TOKEN", value).result(TIMEOUT_S) is True
    assert chosen.submit(secret_tasks.lengths, "TOKEN").result(TIMEOUT_S) == {"TOKEN": [len(value), len(value), 0]}


def test_a_secret_comes_by_descriptor(client: outrider.Client) -> None:
    """The variable holds a path that can be read again and again, and not be written."""
    chosen = client.with_options(secret_fds={"KEY_FILE": "key", "OTHER_FILE": "zero"})
    script = (
        'cat "$KEY_FILE" "$KEY_FILE" | wc -c; wc -c < "$OTHER_FILE"; echo x 2>/dev/null > "$KEY_FILE" || echo sealed'
    )
    output = chosen.command(["bash", "-c", script]).result(TIMEOUT_S)["output"]
    assert output.split() == [str(2 * len(KEY)), "16", "sealed"]
    found = chosen.submit(secret_tasks.lengths, "KEY_FILE").result(TIMEOUT_S)["KEY_FILE"]
    assert found[0] == found[2] == len(KEY)
    # What the program starts does not have it unless the program says so.
    probe = "import os, subprocess, sys; path = os.environ['KEY_FILE']; sys.exit(subprocess.call(['cat', path]) != 1)"
    assert chosen.command([sys.executable, "-c", probe]).result(TIMEOUT_S)["exit_code"] == 0


def test_a_value_is_kept_out_of_what_a_task_says(client: outrider.Client) -> None:
    """In results, output and errors stands the secret's name; a multi-line value is hidden line by line."""
    chosen = client.with_options(secrets={"TOKEN": "file", "KEY": "key"}, attempts=1)
    assert chosen.submit(secret_tasks.tell, "TOKEN").result(TIMEOUT_S) == "[secret file]"
    handle = chosen.command(["sh", "-c", 'echo "it is <$TOKEN>"; echo "$KEY" | sed "s/^/> /"; echo "not $TOKEN" >&2'])
    lines = handle.result(TIMEOUT_S)["output"].splitlines()
    assert lines == [
        "it is <[secret file]>",
        "> -----BEGIN KEY-----",
        "> [secret key]",
        "> QQ==",
        "> -----END KEY-----",
    ]
    assert "not [secret file]\n" in "".join(handle.logs())
    failure = chosen.command(["sh", "-c", 'echo "bad $TOKEN" >&2; exit 2']).exception(TIMEOUT_S)
    assert failure is not None
    assert failure.message.endswith("exited with code 2: bad [secret file]")


def test_a_value_that_is_not_kept_out_may_be_short(client: outrider.Client) -> None:
    """With redact = false it is handed over and said as it is; otherwise what is too short is refused."""
    assert client.with_options(secrets={"PIN": "pin"}).submit(secret_tasks.tell, "PIN").result(TIMEOUT_S) == "1234"
    failure = client.with_options(secrets={"PIN": "short"}, attempts=1).command(["true"]).exception(TIMEOUT_S)
    assert failure is not None
    assert "shorter than 8 bytes" in failure.message


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("gone", "its file cannot be read: No such file or directory"),
        ("failing", "its command ended with code 3; run it by hand to see why"),
        ("slow", "its command took longer than 0.3 s"),
        ("large", "its command printed more than 65536 bytes"),
        ("zero", "its value has a zero byte, which no variable can hold; take it by descriptor"),
    ],
)
def test_a_secret_that_cannot_be_had_names_itself_and_its_agent(
    running: Cluster, client: outrider.Client, secret: str, text: str
) -> None:
    """The attempt does not start and counts; the message has neither value nor path."""
    handle = client.with_options(secrets={"TOKEN": secret}, attempts=1).command(["true"])
    failure = handle.exception(TIMEOUT_S)
    assert failure is not None
    assert failure.message == f"task {handle.id[:16]} FAILED: agent holder cannot come by secret {secret}: {text}"
    task = running.get(handle.id)
    assert (len(task.attempts), task.attempts[0].HasField("start_time")) == (1, False)
    assert outrider.v1.task_pb2.TaskReason.Name(task.reason) == "TASK_REASON_SECRET_UNAVAILABLE"


def test_a_slow_secret_holds_up_nobody(running: Cluster, client: outrider.Client) -> None:
    """While a program takes its time, other tasks run and the agent is heard; a cancel ends the waiting."""
    handle = client.with_options(secrets={"TOKEN": "slow"}, attempts=1000).command(["true"])
    eventually(lambda: handle.state is TaskState.ASSIGNED, TIMEOUT_S, "its secret is being fetched")
    assert client.with_options(labels={}).submit(secret_tasks.pid).result(TIMEOUT_S) > 0
    assert handle.cancel()
    with pytest.raises(errors.TaskCancelled):
        handle.result(TIMEOUT_S)
    eventually(lambda: "sleep" not in {process.name() for process in running.agents["holder"].tree()}, TIMEOUT_S)


def test_a_secret_that_nobody_has_is_explained(client: outrider.Client) -> None:
    """The task is accepted and waits; Explain says what to write where."""
    handle = client.with_options(secrets={"TOKEN": "nobody-has-it"}).command(["true"])
    explanation = handle.explain()
    assert explanation.summary == "no agent has the secrets it asks for (2 known)"
    assert "[agent.secrets.nobody-has-it] in the settings of agent holder, plain" in explanation.suggestions
    assert {verdict.text for verdict in explanation.agents} == {"it has no secret nobody-has-it"}
    handle.cancel()


def test_a_secret_is_for_its_namespaces_only(running: Cluster, client: outrider.Client) -> None:
    """Others wait for an agent that gives it to them."""
    denied = client.with_options(secrets={"TOKEN": "ops"}).submit(secret_tasks.tell, "TOKEN")
    assert "its secret ops is not for such work" in {verdict.text for verdict in denied.explain().agents}
    with running.connect("release") as other:
        admitted = other.with_options(secrets={"TOKEN": "ops"}).submit(secret_tasks.tell, "TOKEN")
        assert admitted.result(TIMEOUT_S) == "[secret ops]"
    denied.cancel()


def test_a_secret_is_for_its_work_only(client: outrider.Client) -> None:
    """Functions and programs that its table names, whatever type a task says it is."""
    chosen = client.with_options(secrets={"TOKEN": "work"})
    assert chosen.submit(secret_tasks.tell, "TOKEN").result(TIMEOUT_S) == "[secret work]"
    assert chosen.command(["/bin/echo", "fine"]).result(TIMEOUT_S)["output"] == "fine\n"
    denied = chosen.with_options(secrets={"TOKEN": "work"}, type="/bin/echo").command(["/bin/sh", "-c", "echo $TOKEN"])
    assert "its secret work is not for such work" in {verdict.text for verdict in denied.explain().agents}
    denied.cancel()


def test_a_worker_that_had_secrets_runs_no_other_function(client: outrider.Client) -> None:
    """What a function leaves behind, threads that print the value too, is gone before the next one."""
    pids = {client.with_options(secrets={"TOKEN": "file"}).submit(secret_tasks.linger, "TOKEN").result(TIMEOUT_S)}
    for _ in range(4):
        chosen = client.with_options(secrets={"TOKEN": "file"})
        pids.add(chosen.submit(secret_tasks.pid).result(TIMEOUT_S))
    assert len(pids) == 5
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), TIMEOUT_S, "those workers are gone")


def test_tasks_do_not_inherit_what_secrets_are_made_of(client: outrider.Client) -> None:
    """Variables that are secrets are in the environment of tasks that ask for them, under the name they ask for."""
    chosen = client.with_options(secrets={"TOKEN": "environment"})
    assert chosen.submit(secret_tasks.is_there, "TOKEN").result(TIMEOUT_S) == [True, True]
    for variable in ("SOME_VARIABLE", "CREDENTIALS_DIRECTORY"):
        assert chosen.submit(secret_tasks.is_there, variable).result(TIMEOUT_S) == [False, False]


def test_a_rotated_secret_is_read_anew(running: Cluster, client: outrider.Client) -> None:
    """Each attempt gets what the file holds when it starts."""
    chosen = client.with_options(secrets={"PIN": "pin"})
    assert chosen.submit(secret_tasks.tell, "PIN").result(TIMEOUT_S) == "1234"
    (running.folder / "pin").write_text("5678")
    assert chosen.submit(secret_tasks.tell, "PIN").result(TIMEOUT_S) == "5678"
    (running.folder / "pin").write_text("1234")


def test_an_agent_shows_the_names_of_its_secrets(running: Cluster) -> None:
    """Names alone: not among its labels, and nothing of where they come from."""
    reply = running.coordinator.fleet.GetAgent(fleet_service_pb2.GetAgentRequest(agent_id="holder"), timeout=TIMEOUT_S)
    assert {"file", "environment", "pin"} <= set(reply.agent.secrets)
    assert not [name for name in reply.agent.labels if "secret" in name]
    for told in (str(running.folder), "SOME_VARIABLE", "/bin/sh"):
        assert told not in str(reply.agent.secrets)


@pytest.mark.parametrize(
    ("uses", "text"),
    [
        ({"OUTRIDER_TASK_ID": "file"}, "is set by Outrider itself"),
        ({"1X": "file"}, "is no environment variable"),
        ({"X": "No Secret"}, "is no name of a secret"),
        ({f"X{number}": "file" for number in range(33)}, "32 secrets"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(client: outrider.Client, uses: dict[str, str], text: str) -> None:
    """With what is wrong, before anything is sent."""
    with pytest.raises(errors.InvalidRequest, match=text):
        client.with_options(secrets=uses).command(["true"])


def test_an_agent_that_dies_leaves_no_program_behind(running: Cluster, client: outrider.Client) -> None:
    """A program that makes a secret ends with its agent."""
    handle = client.with_options(secrets={"TOKEN": "slow"}, attempts=1000).command(["true"])
    agent = running.agents["holder"]
    makers = eventually(lambda: [one for one in agent.tree() if one.name() == "sleep"], TIMEOUT_S, "it makes a secret")
    agent.terminate(signal.SIGKILL)
    eventually(lambda: not any(one.is_running() for one in makers), TIMEOUT_S, "it is gone")
    handle.cancel()
    agent.wait()
    agent.start()
    eventually(lambda: running.online() == 2, TIMEOUT_S, "it is back")
