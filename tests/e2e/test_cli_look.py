"""Looking, answering and operating from the command line, beside a cluster that `outrider up` started."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest

import outrider
from support.command_line import TIMEOUT_S, CommandLine
from support.waiting import eventually

NOWHERE = "0123456789abcdef"


@pytest.fixture
def spare(cli: CommandLine) -> Iterator[str]:
    """The name of one more agent, which `outrider agent run` runs."""
    words = ("--name", "spare", "--slots", "1", "--label", "kind=spare", "--state-directory", str(cli.folder / "spare"))
    agent = cli.start("agent", "run", *words, stderr=(cli.folder / "spare.log").open("wb"))
    status(cli, "spare", "idle")
    yield "spare"
    agent.send_signal(signal.SIGTERM)
    agent.wait(TIMEOUT_S)
    cli.run("agent", "remove", "spare", "--force")


def status(cli: CommandLine, name: str, wanted: str) -> None:
    """Wait until `agent list` says so."""
    eventually(lambda: [name, wanted] in [row[:2] for row in cli.run("agent", "list").rows], TIMEOUT_S, wanted)


def graph(cli: CommandLine, *scripts: str, title: str) -> outrider.RunHandle:
    """Submit a run of shell scripts, one after the other."""
    with outrider.Client(address(cli)) as client:
        run = client.run(title)
        before: list[str] = []
        for number, script in enumerate(scripts):
            before = [run.command(f"step-{number}", ["sh", "-c", script], after=before)]
        return run.submit()


def address(cli: CommandLine) -> str:
    """Where the cluster announced itself."""
    found: str = json.loads((cli.runtime / "outrider" / "cluster.json").read_text())["address"]
    return found


def test_list_chooses_by_state_run_and_number(cli: CommandLine) -> None:
    """--state, --run and --limit choose tasks; the newest come first, with a title a line in a pipe."""
    good, bad = (cli.run("submit", "--wait", "--json", "--", word).objects[0]["id"] for word in ("true", "false"))
    listed = cli.run("task", "list", "--limit", "2")
    assert listed.out.splitlines()[0].split("\t") == ["ID", "STATE", "TITLE", "AGENT", "AGE", "TOOK", "NOTE"]
    assert [row[:3] for row in listed.rows] == [[bad[:16], "FAILED", "false"], [good[:16], "SUCCEEDED", "true"]]
    failed = cli.run("task", "list", "--state", "failed", "--json").objects
    assert {task["state"] for task in failed} == {"TASK_STATE_FAILED"}
    run = graph(cli, "true", "true", title="two")
    assert len(cli.run("task", "list", "--run", run.id[:20]).rows) == 2
    assert len(cli.run("task", "list", "--all").rows) > 3


def test_nothing_to_list(cli: CommandLine) -> None:
    """An empty list says so on standard error and is no error."""
    for words in (["task", "list"], ["run", "list"], ["inbox"]):
        ended = cli.run("--namespace", "empty", *words)
        assert (ended.code, ended.out) == (0, "")
        assert len(ended.err.splitlines()) == 1
    assert cli.run("--namespace", "empty", "task", "list", "--state", "failed").err.startswith("no such task; leave")


def test_ids_have_prefixes_and_a_newest(cli: CommandLine) -> None:
    """A prefix or --last names a task; too short, ambiguous and unknown ones are told apart."""
    first, second = cli.run("submit", "--", "true").id, cli.run("submit", "--", "true").id
    assert cli.task(first[:20])["id"] == first
    assert cli.run("task", "show", "--last", "--json").objects[0]["id"] == second
    ambiguous, short, unknown = (cli.run("task", "show", given) for given in (first[:4], "01", NOWHERE))
    assert (ambiguous.code, short.code, unknown.code) == (2, 2, 3)
    assert "beginning of several task ids" in ambiguous.err
    assert "at least 4 digits" in short.err
    assert "`outrider task list` shows those there are" in unknown.err
    assert "give a task id (a prefix will do), or --last" in cli.run("task", "show").err
    assert cli.run("--namespace", "empty", "task", "show", "--last").code == 3
    assert cli.run("task", "show", first, "--last").code == 2


@pytest.mark.parametrize("command", ["show", "watch", "logs", "result", "cancel", "explain"])
def test_an_unknown_task_is_exit_code_3(cli: CommandLine, command: str) -> None:
    """Every command about a task says where to find those there are."""
    ended = cli.run("task", command, NOWHERE)
    assert ended.code == 3
    assert "outrider task list" in ended.err


def test_show_and_explain_of_an_ended_task(cli: CommandLine) -> None:
    """show has a fact a line and every attempt; explain says in one line where it is."""
    task_id = cli.run("submit", "--wait", "--json", "--", "sh", "-c", "exit 3").objects[0]["id"]
    shown = cli.run("task", "show", task_id)
    for words in (task_id, "FAILED", "sh -c exit 3", "attempt 1 on agent-", "sh exited with code 3"):
        assert words in shown.out
    assert cli.run("task", "explain", task_id).out.startswith("FAILED: ")
    assert cli.run("task", "explain", task_id, "--json").objects[0]["state"] == "TASK_STATE_FAILED"


def test_watch_tells_the_story(cli: CommandLine) -> None:
    """watch prints an event a line from the beginning, and exits as the command did."""
    task_id = cli.run("submit", "--", "sh", "-c", "exit 3").id
    watched = cli.run("task", "watch", task_id)
    names = [line.split()[1] for line in watched.out.splitlines()]
    assert names == ["SUBMITTED", "QUEUED", "ASSIGNED", "STARTED", "FAILED"]
    assert watched.code == 3
    events = cli.run("task", "watch", task_id, "--json").objects
    assert [event["type"].removeprefix("EVENT_TYPE_TASK_") for event in events] == names


def test_waits_end(cli: CommandLine) -> None:
    """--wait-timeout is exit code 124 and one line; a wait that is interrupted is 130; the task goes on."""
    task_id = cli.run("submit", "--", "sh", "-c", "echo begun; sleep 1000").id
    cli.wait_for_state(task_id, "RUNNING")
    watched = cli.run("task", "watch", task_id, "--wait-timeout", "100ms")
    assert watched.code == 124
    assert watched.err == "not over within 100ms; the task goes on\n"
    following = cli.start("task", "logs", "--follow", task_id)
    assert following.stdout is not None
    assert following.stdout.readline() == b"begun\n"
    following.send_signal(signal.SIGINT)
    assert following.wait(TIMEOUT_S) == 130
    early = cli.run("task", "result", task_id)
    assert early.code == 1
    assert "is RUNNING; wait for it with --wait" in early.err
    assert cli.run("task", "cancel", task_id).code == 0
    assert cli.run("task", "result", "--wait", task_id).code == 5
    assert cli.run("task", "watch", task_id).code == 5


def test_logs_and_result(cli: CommandLine) -> None:
    """logs keeps the streams apart, result is what the task returned; --json decodes both."""
    task_id = cli.run("submit", "--", "sh", "-c", "echo to-out; echo to-err >&2").id
    assert cli.run("task", "result", "--wait", task_id).out == "to-out\n"
    logs = cli.run("task", "logs", "-f", task_id)
    assert (logs.code, logs.out, logs.err) == (0, "to-out\n", "to-err\n")
    pieces = cli.run("task", "logs", "--json", task_id).objects
    assert {(piece["stream"], piece["text"]) for piece in pieces} == {("stdout", "to-out\n"), ("stderr", "to-err\n")}
    assert cli.run("task", "result", "--json", task_id).objects == [{"exit_code": 0, "output": "to-out\n"}]
    function = cli.run("submit", "--python", "chores:double", "--args", '["x"]').id
    assert cli.run("task", "result", "--wait", function).objects == [{"line": "x", "twice": "xx"}]


def test_cancel_ends_the_whole_tree(cli: CommandLine) -> None:
    """After cancel, no process of the task is left, children in the background included."""
    task_id = cli.run("submit", "--", "sh", "-c", "sleep 1000 & echo $! $$; wait").id
    pids = eventually(lambda: [int(pid) for pid in cli.run("task", "logs", task_id).out.split()], TIMEOUT_S)
    ended = cli.run("task", "cancel", task_id[:20], "--message", "not wanted")
    assert (ended.code, ended.out) == (0, f"{task_id[:16]} cancelled\n")
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), TIMEOUT_S, "the tree is gone")


def test_cancel_of_an_ended_task(cli: CommandLine) -> None:
    """Cancelling what has ended is exit code 1 and says how it ended."""
    cli.run("submit", "--wait", "--", "true")
    ended = cli.run("task", "cancel", "--last")
    assert ended.code == 1
    assert "had already ended: SUCCEEDED" in ended.err


def test_question_inbox_answer(cli: CommandLine) -> None:
    """inbox shows who asks, with the options and the command that answers; the answer reaches the task."""
    task_id = cli.run("submit", "--python", "chores:pick", "--args", '["which format?"]').id
    cli.wait_for_state(task_id, "BLOCKED")
    inbox = cli.run("inbox")
    (row,) = inbox.rows
    assert row[:5] == [task_id[:16], "format", "clarification", "which format?", "csv / json"]
    assert f"outrider answer {task_id[:16]} --key format TEXT" in inbox.err
    (asked,) = cli.run("inbox", "--json").objects
    assert (asked["task_id"], asked["options"]) == (task_id, ["csv", "json"])
    assert "waits: which format?" in cli.run("task", "list", "-n", "1").out
    answered = cli.run("answer", task_id[:20], "csv", "--by", "ada")
    assert (answered.code, answered.out) == (0, f"{task_id[:16]} answered (format)\n")
    assert cli.run("task", "result", "--wait", task_id).out == '"csv"\n'


def test_wait_says_that_the_task_asks(cli: CommandLine) -> None:
    """submit --wait tells the question, its options and how to answer, and goes on after the answer."""
    waiting = cli.start("submit", "--wait", "--python", "chores:pick", "--args", '["which?"]')
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == b"the task asks: which? [csv / json]\n"
    hint = waiting.stderr.readline().decode()
    assert hint.startswith("answer with: outrider answer ")
    assert cli.run("task", "answer", hint.split()[4], "json").code == 0
    out, _ = waiting.communicate(timeout=TIMEOUT_S)
    assert (waiting.returncode, out) == (0, b'"json"\n')


def test_answers_by_key_and_as_json(cli: CommandLine) -> None:
    """--key chooses the question, --as-json sends a value; wrong keys, texts and tasks are refused with the reason."""
    task_id = cli.run("submit", "--python", "chores:pick_two").id
    cli.wait_for_state(task_id, "BLOCKED")
    assert cli.run("task", "answer", task_id, "x", "--key", "other").code in (1, 3)
    bad = cli.run("task", "answer", task_id, "{", "--as-json")
    assert bad.code == 2
    assert "leave --as-json out for plain text" in bad.err
    for words in ([], ["--last"], [task_id]):
        assert "give the task (or --last) and one answer" in cli.run("task", "answer", *words).err
    assert cli.run("task", "answer", "--last", "--key", "one", '"a"', "--as-json").code == 0
    eventually(lambda: cli.run("task", "answer", task_id, "--key", "two", "b").code == 0, TIMEOUT_S, "asks again")
    assert cli.run("task", "result", "--wait", task_id).out == '"ab"\n'
    late = cli.run("task", "answer", task_id, "x")
    assert late.code == 1
    assert "has ended and waits for nothing" in late.err


def test_inbox_follows(cli: CommandLine) -> None:
    """inbox --follow shows a question that comes later, until Ctrl-C."""
    following = cli.start("inbox", "--follow", "--json")
    task_id = cli.run("submit", "--python", "chores:pick", "--args", '["later?"]').id
    assert following.stdout is not None
    assert json.loads(following.stdout.readline())["task_id"] == task_id
    following.send_signal(signal.SIGINT)
    assert following.wait(TIMEOUT_S) == 130
    assert cli.run("task", "cancel", task_id).code == 0


def test_explain_of_what_nobody_can_take(cli: CommandLine) -> None:
    """explain names every agent's reason and what would help: labels that nobody has."""
    task_id = cli.run("submit", "--label", "gpu=yes", "--", "true").id
    explained = cli.run("task", "explain", task_id)
    assert explained.out.startswith("QUEUED: no agent has the labels it asks for")
    assert "agent-1: " in explained.out
    assert "agent-2: " in explained.out
    assert "hint: one more agent with gpu=yes" in explained.out
    assert "place in the queue: 1" in explained.out
    agent = cli.run("agent", "explain", "agent-1")
    assert agent.out.startswith("agent-1: open to work")
    assert "1 x LABELS: gpu=yes does not hold; it has no label gpu" in agent.out
    assert "hint: label gpu=yes on agent agent-1: 1 waiting tasks could go to it" in agent.out
    assert cli.run("task", "cancel", task_id).code == 0
    (free,) = cli.run("agent", "explain", "agent-1", "--json").objects
    assert free["summary"] == "open to work; nothing waits"
    assert cli.run("agent", "explain", "nobody").code == 3


def test_run_list_show_watch(cli: CommandLine) -> None:
    """A run is listed with its counts, shown with its tasks by key, and watched to its end."""
    run = graph(cli, "true", "exit 3", "true", title="three steps")
    watched = cli.run("run", "watch", run.id[:20], "--events")
    assert watched.code == 1
    assert "FAILED: 3: " in watched.err
    assert sum("SUCCEEDED" in line for line in watched.out.splitlines()) == 1
    shown = cli.run("run", "show", "--last")
    assert "three steps" in shown.out
    assert [line.split("\t")[0] for line in shown.out.splitlines() if line.startswith("step-")] == [
        *("step-0", "step-1", "step-2"),
    ]
    assert cli.run("run", "list", "-n", "1").rows[0][:3] == [run.id[:16], "FAILED", "three steps"]
    assert cli.run("run", "list", "-n", "1", "--json").objects[0]["id"] == run.id
    assert cli.run("run", "show", run.id, "--json").objects[0]["title"] == "three steps"
    assert cli.run("run", "watch", run.id, "--events", "--json").objects[0]["cursor"]
    assert cli.run("run", "watch", run.id, "--json").objects[-1]["progress"]["completed_count"] == 3


def test_run_cancel(cli: CommandLine) -> None:
    """Cancelling a run says how many tasks that ends; watching it then is exit code 5."""
    run = graph(cli, "sleep 1000", "true", title="long")
    ended = cli.run("run", "cancel", run.id, "-m", "enough")
    assert (ended.code, ended.out) == (0, f"{run.id[:16]}: 2 tasks cancelled\n")
    assert cli.run("run", "watch", run.id).code == 5


def test_interrupting_the_watch_of_a_run(cli: CommandLine) -> None:
    """Ctrl-C leaves the run going, and says how to stop it."""
    run = graph(cli, "sleep 1000", title="long")
    watching = cli.start("run", "watch", run.id)
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=TIMEOUT_S)
    assert watching.returncode == 130
    assert f"outrider run cancel {run.id[:16]}" in err.decode()
    assert cli.run("run", "cancel", run.id).code == 0


@pytest.mark.parametrize("command", ["show", "watch", "cancel"])
def test_an_unknown_run(cli: CommandLine, command: str) -> None:
    """Unknown runs are exit code 3, no run at all is usage."""
    assert cli.run("run", command, NOWHERE).code == 3
    missing = cli.run("run", command)
    assert missing.code == 2
    assert "give a run id (a prefix will do), or --last" in missing.err


def test_agent_list_show_workers(cli: CommandLine) -> None:
    """Agents are listed with what they do, shown in full, and with their worker processes."""
    cli.run("submit", "--wait", "--", "true")
    listed = cli.run("agent", "list")
    assert listed.out.splitlines()[0].split("\t") == ["NAME", "STATUS", "SLOTS", "BREAKER", "LABELS", "HEARD", "NOTE"]
    assert [row[0] for row in listed.rows][:2] == ["agent-1", "agent-2"]
    assert "0 of 2 in use" in cli.run("agent", "show", "agent-1").out
    assert cli.run("agent", "show", "agent-1", "--json").objects[0]["id"] == "agent-1"
    assert {agent["id"] for agent in cli.run("agent", "list", "--json").objects} >= {"agent-1", "agent-2"}
    workers = [row for name in ("agent-1", "agent-2") for row in cli.run("agent", "workers", name).rows]
    assert any(psutil.pid_exists(int(row[0])) for row in workers)
    assert any(cli.run("agent", "workers", name, "--json").objects for name in ("agent-1", "agent-2"))


def test_a_paused_agent_gets_nothing_until_resumed(cli: CommandLine, spare: str) -> None:
    """pause holds work back, explain says so and how to end it, resume lets it go."""
    assert cli.run("agent", "pause", spare).out == "spare is paused\n"
    task_id = cli.run("submit", "--label", "kind=spare", "--", "true").id
    assert f"outrider agent resume {spare}" in cli.run("task", "explain", task_id).out
    assert cli.run("agent", "resume", spare).code == 0
    assert cli.run("task", "result", "--wait", task_id).code == 0
    assert cli.run("agent", "reset-breaker", spare).out.startswith("spare is ")


def test_an_agent_is_drained_and_removed(cli: CommandLine, spare: str) -> None:
    """remove refuses an agent that is online; after drain it has left, and is removed; then its name is unknown."""
    refused = cli.run("agent", "remove", spare)
    assert refused.code == 1
    assert "drain or stop it first" in refused.err
    assert cli.run("agent", "drain", spare, "--timeout", "5s").code == 0
    status(cli, spare, "stopped")
    assert cli.run("agent", "remove", spare).out == "spare removed\n"
    assert cli.run("agent", "show", spare).code == 3


@pytest.mark.parametrize("command", ["show", "workers", "pause", "resume", "drain", "remove", "reset-breaker"])
def test_an_unknown_agent(cli: CommandLine, command: str) -> None:
    """Every command about an agent that is not there is exit code 3 and says where to find those there are."""
    ended = cli.run("agent", command, "nobody")
    assert ended.code == 3
    assert "outrider agent list" in ended.err


def test_coordinator_status(cli: CommandLine) -> None:
    """status has the address, the fleet and the queue."""
    shown = cli.run("coordinator", "status")
    assert address(cli) in shown.out
    assert "2 online of " in shown.out
    assert cli.run("coordinator", "status", "--json").objects[0]["agents_online"] >= 2


def test_the_address_comes_from_option_or_environment(cli: CommandLine, alone: CommandLine) -> None:
    """--coordinator wins over OUTRIDER_COORDINATOR, which stands in for a cluster of one's own."""
    assert alone.run("--coordinator", address(cli), "coordinator", "status").code == 0
    alone.environment["OUTRIDER_COORDINATOR"] = address(cli)
    assert alone.run("coordinator", "status").code == 0
    assert alone.run("--coordinator", f"unix:{alone.runtime}/nobody", "coordinator", "status").code == 4


@pytest.mark.parametrize(
    ("given", "code", "advice"),
    [
        ("127.0.0.1:1", 4, "no coordinator answers at 127.0.0.1:1"),
        ("nope:xx", 2, "write HOST:PORT, [IPV6]:PORT or unix:/PATH"),
        ("10.1.2.3:7420", 2, "refusing to talk to 10.1.2.3:7420 in plain text"),
        ("", 4, "no coordinator is known"),
    ],
)
@pytest.mark.parametrize("words", [["task", "list"], ["submit", "--", "true"]])
def test_wrong_addresses(alone: CommandLine, words: list[str], given: str, code: int, advice: str) -> None:
    """A coordinator that is not there is exit code 4, an address that cannot be is 2; both say what to do."""
    ended = alone.run("--coordinator", given, *words) if given else alone.run(*words)
    assert ended.code == code
    assert advice in ended.err
    assert len(ended.err.splitlines()) == 1


def test_tls_files_that_are_not_there(alone: CommandLine) -> None:
    """A missing TLS file is named."""
    ended = alone.run("--tls-ca", "/no/ca.pem", "--coordinator", "127.0.0.1:1", "task", "list")
    assert ended.code == 2
    assert "/no/ca.pem: No such file or directory" in ended.err


@pytest.mark.parametrize("daemon", ["agent", "coordinator"])
def test_daemons_refuse_wrong_settings(alone: CommandLine, daemon: str) -> None:
    """agent run and coordinator run say in one line what is wrong with a preset or a file, and their --help works."""
    (alone.folder / "bad.toml").write_text("[coordinator\n")
    for words, advice in (
        (["--preset", "huge"], "use one of development, production, constrained"),
        (["--config", str(alone.folder / "bad.toml")], "bad.toml"),
    ):
        ended = alone.run(daemon, "run", *words)
        assert ended.code == 1
        assert advice in ended.err
        assert len(ended.err.splitlines()) == 1
    assert f"outrider {daemon} run" in alone.run(daemon, "run", "--help").out


def test_coordinator_run_serves_until_told_to_stop(alone: CommandLine) -> None:
    """coordinator run is a coordinator like any other."""
    path = alone.runtime / "own.sock"
    where = f"unix:{path}"
    words = ("--listen", where, "--state-directory", str(alone.folder / "own"))
    daemon = alone.start("coordinator", "run", *words, stderr=subprocess.DEVNULL)
    eventually(path.exists, TIMEOUT_S)
    eventually(lambda: alone.run("--coordinator", where, "coordinator", "status").code == 0, TIMEOUT_S)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(TIMEOUT_S) == 0
