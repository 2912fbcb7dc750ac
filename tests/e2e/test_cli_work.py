"""Submitting from the command line, to a cluster that `outrider up` started."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest

from support.command_line import TIMEOUT_S, CommandLine
from support.waiting import eventually


def test_submit_prints_the_id(cli: CommandLine) -> None:
    """Without --wait, standard output is the full id and nothing else; --json wraps it."""
    plain, wrapped = cli.run("submit", "--", "true"), cli.run("submit", "--json", "--", "true")
    assert (plain.code, len(plain.id), plain.err) == (0, 32, "")
    assert len(wrapped.objects[0]["task_id"]) == 32


def test_wait_streams_each_stream_to_its_own(cli: CommandLine) -> None:
    """--wait writes the command's output to standard output and its errors to standard error."""
    ended = cli.run("submit", "--wait", "--", "sh", "-c", "echo to-out; echo to-err >&2")
    assert ended.code == 0
    assert ended.out == "to-out\n"
    assert ended.err == "to-err\n"


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_wait_exits_as_the_command_did(cli: CommandLine, script: str, code: int) -> None:
    """The exit code is the command's own, 128+N when signal N killed it, and the end is told."""
    ended = cli.run("submit", "--wait", "--", "sh", "-c", script)
    assert ended.code == code
    assert "FAILED: sh " in ended.err


def test_wait_with_json_keeps_standard_output_for_the_task(cli: CommandLine) -> None:
    """With --wait --json standard output is the task as JSON, and the command's output goes to standard error."""
    ended = cli.run("submit", "--wait", "--json", "--", "echo", "beside")
    assert ended.objects[0]["result"]["value"] == {"exit_code": 0, "output": "beside\n"}
    assert ended.err == "beside\n"


def test_function_with_arguments(cli: CommandLine) -> None:
    """--python calls a function with --args and --kwargs and prints its result as JSON."""
    words = ("--python", "json:dumps", "--args", '[{"b": 1, "a": 2}]', "--kwargs", '{"sort_keys": true}')
    ended = cli.run("submit", "--wait", *words)
    assert ended.code == 0
    assert json.loads(ended.out) == '{"a": 2, "b": 1}'


def test_function_that_raises(cli: CommandLine) -> None:
    """A function's exception is told with its class, and the exit code is 1."""
    ended = cli.run("submit", "--wait", "--python", "chores:broken")
    assert ended.code == 1
    assert "ValueError: no such colour" in ended.err


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--", "no-such-program"], "no program 'no-such-program' on this agent's PATH"),
        (["--python", "nomodule:f"], "module nomodule is not found; install it where the agent runs"),
        (["--python", "chores:nothing"], "nothing"),
        (["--cwd", "/no/such/folder", "--", "pwd"], "'/no/such/folder' does not exist on this agent"),
    ],
)
def test_work_that_cannot_be_done(cli: CommandLine, words: list[str], advice: str) -> None:
    """Work that no agent can do fails with what is missing, and exit code 1."""
    ended = cli.run("submit", "--wait", *words)
    assert ended.code == 1
    assert advice in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ([], "give a command after --, or a function with --python"),
        (["--python", "a:b", "--", "true"], "give a command after --, or a function with --python"),
        (["--priority", "11", "--", "true"], "must be 0 (last) to 10 (first), or low, normal, high, critical"),
        (["--timeout", "3x", "--", "true"], "'3x' is no duration; write 90s"),
        (["--label", "gpu", "--", "true"], "--label 'gpu' must be KEY=VALUE"),
        (["--env", "A", "--", "true"], "--env 'A' must be KEY=VALUE"),
        (["--python", "a:b", "--args", "{"], "--args is not JSON"),
        (["--python", "a:b", "--args", "{}"], "--args must be a JSON list"),
        (["--python", "a:b", "--kwargs", "[]"], "--kwargs must be a JSON object"),
        (["--python", "nocolon"], "write module:name"),
        (["--stdin", "/no/such/file", "--", "cat"], "--stdin /no/such/file: No such file or directory"),
        (["--attempts", "0", "--", "true"], "hint: outrider submit --help"),
        (["--nope", "--", "true"], "No such option: --nope"),
    ],
)
def test_wrong_words_are_refused(alone: CommandLine, words: list[str], advice: str) -> None:
    """Wrong usage exits with 2 and says what is wrong, before anybody is asked."""
    (alone.runtime / "outrider").mkdir(mode=0o700)
    ended = alone.run("--coordinator", f"unix:{alone.runtime}/nobody", "submit", *words)
    assert ended.code == 2
    assert advice in ended.err
    assert ended.err.startswith("error: ")


def test_options_of_a_command(cli: CommandLine) -> None:
    """Environment, standard input, folder, title, priority and a shell line reach the task."""
    script = "cat; echo $COLOUR; pwd"
    words = ["--env", "COLOUR=red", "--stdin", "-", "--cwd", str(cli.folder), "--title", "paint", "--priority", "high"]
    ended = cli.run("submit", "--wait", *words, "--shell", "--", script, stdin="typed\n")
    assert ended.out == f"typed\nred\n{cli.folder}\n"
    (row,) = cli.run("task", "list", "-n", "1", "--json").objects
    assert (row["spec"]["title"], row["spec"]["priority"]) == ("paint", 7)


def test_after_waits_for_the_other_task(cli: CommandLine) -> None:
    """--after takes a prefix of an id; a task after one that fails is skipped, which is exit code 5."""
    first = cli.run("submit", "--", "false").id
    ended = cli.run("submit", "--wait", "--after", first[:20], "--", "true")
    assert ended.code == 5
    assert "SKIPPED" in ended.err


def test_request_id_makes_one_task(cli: CommandLine) -> None:
    """The same --request-id gives the same task; with other work it is refused."""
    ids = {cli.run("submit", "--request-id", "nightly", "--", "true").id for _ in range(2)}
    other = cli.run("submit", "--request-id", "nightly", "--", "false")
    assert len(ids) == 1
    assert other.code == 1
    assert "use a new request id for new work" in other.err


def test_timeout_and_attempts(cli: CommandLine) -> None:
    """--timeout ends an attempt, --attempts allows more of them."""
    ended = cli.run("submit", "--wait", "--timeout", "200ms", "--", "sleep", "1000")
    assert "longer than its timeout of 0.2 s" in ended.err
    cli.run("submit", "--wait", "--attempts", "2", "--", "false")
    assert len(cli.run("task", "show", "--last", "--json").objects[0]["attempts"]) == 2


def test_interrupting_the_wait_leaves_the_task(cli: CommandLine) -> None:
    """Ctrl-C during --wait exits with 130 and says that the task goes on and how to get back to it."""
    waiting = cli.start("submit", "--wait", "--", "sh", "-c", "echo begun; sleep 1000")
    assert waiting.stdout is not None
    waiting.stdout.readline()
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=TIMEOUT_S)
    task_id = cli.run("task", "list", "-n", "1", "--json").objects[0]["id"]
    assert waiting.returncode == 130
    assert f"the task goes on: outrider task logs -f {task_id[:16]}" in err.decode()
    assert cli.task(task_id)["state"] == "TASK_STATE_RUNNING"
    assert cli.run("task", "cancel", task_id).code == 0


def test_interrupting_can_cancel(cli: CommandLine) -> None:
    """With --cancel-on-interrupt Ctrl-C ends the task's processes."""
    waiting = cli.start("submit", "--wait", "--cancel-on-interrupt", "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert waiting.stdout is not None
    pid = int(waiting.stdout.readline())
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(TIMEOUT_S) == 130
    eventually(lambda: not psutil.pid_exists(pid), TIMEOUT_S, "the command is gone")


def test_map_keeps_the_order_of_the_lines(cli: CommandLine) -> None:
    """Results come in the order of the lines, {} is the line, empty lines are left out, the sum goes to stderr."""
    ended = cli.run("map", "--", "sh", "-c", "echo got-{}-{}", stdin="3\n\n1\n2\n")
    assert (ended.code, ended.out) == (0, "got-3-3\ngot-1-1\ngot-2-2\n")
    assert "3 succeeded, 0 failed" in ended.err


def test_map_appends_the_line_without_braces(cli: CommandLine) -> None:
    """Without {} the line is the last argument."""
    assert cli.run("map", "--", "echo", "got", stdin="a b\nc").out == "got a b\ngot c\n"


def test_map_lists_failures(cli: CommandLine) -> None:
    """Failed lines are listed with their task, the others still come, and the exit code is 1."""
    ended = cli.run("map", "--", "sh", "-c", "test {} != bad && echo {}", stdin="good\nbad\nfine\n")
    assert (ended.code, ended.out) == (1, "good\nfine\n")
    assert "failed: bad: task " in ended.err
    assert "2 succeeded, 1 failed" in ended.err


def test_map_as_json(cli: CommandLine) -> None:
    """--json writes an object per line: the line, the task, and its result or why there is none."""
    ended = cli.run("map", "--json", "--", "sh", "-c", "test {} = good", stdin="good\nbad\n")
    good, bad = ended.objects
    assert ended.code == 1
    assert good["line"] == "good"
    assert good["result"]["exit_code"] == 0
    assert (bad["line"], bad["reason"]) == ("bad", "TASK_ERROR")
    assert cli.task(bad["task_id"])["state"] == "TASK_STATE_FAILED"


def test_map_over_a_function(cli: CommandLine) -> None:
    """--python calls the function with each line and prints what it returns as JSON."""
    ended = cli.run("map", "--python", "chores:double", stdin="x\n")
    assert ended.objects == [{"line": "x", "twice": "xx"}]


@pytest.mark.parametrize(
    ("words", "stdin", "advice"),
    [
        (["--", "echo"], "", "standard input has no lines; give one task per line"),
        (["--", "echo"], "\n \n", "standard input has no lines"),
        ([], "a\n", "give a command after --, or a function with --python"),
        (["--priority", "99", "--", "echo"], "a\n", "must be 0 (last) to 10 (first)"),
    ],
)
def test_map_with_nothing_to_do(cli: CommandLine, words: list[str], stdin: str, advice: str) -> None:
    """Empty input and wrong words are exit code 2 and one line."""
    ended = cli.run("map", *words, stdin=stdin)
    assert ended.code == 2
    assert advice in ended.err


def test_interrupting_map_cancels_the_rest(cli: CommandLine) -> None:
    """Ctrl-C during map cancels what has not ended, and says how many that were."""
    mapping = cli.start("map", "--", "sh", "-c", "test {} = quick || sleep 1000; echo {}")
    assert mapping.stdin is not None
    assert mapping.stdout is not None
    assert mapping.stderr is not None
    mapping.stdin.write(b"quick\nslow\nslower\n")
    mapping.stdin.close()
    mapping.stdout.readline()
    mapping.send_signal(signal.SIGINT)
    assert mapping.wait(TIMEOUT_S) == 130
    assert b"interrupted: cancelling 2 of 3 tasks" in mapping.stderr.read()
    newest = cli.run("task", "list", "-n", "2", "--json").objects
    for task in newest:
        cli.wait_for_state(task["id"], "CANCELLED")


def test_a_reader_that_leaves_is_no_error(cli: CommandLine) -> None:
    """When the reader of a pipe closes it, as head does, the command ends without a traceback."""
    cli.run("submit", "--", "true")
    reading, writing = os.pipe()
    os.close(reading)
    listing = cli.start("task", "list", stdout=writing)
    os.close(writing)
    _, err = listing.communicate(timeout=TIMEOUT_S)
    assert listing.returncode == 1
    assert err == b""


def test_submit_shows_the_state_on_a_terminal(cli: CommandLine) -> None:
    """On a terminal --wait shows the live state below the output, and leaves only the output and the result."""
    gate = cli.folder / "gate-submit"
    words = ("--python", "chores:steps", "--args", json.dumps([str(gate)]))
    terminal = cli.on_terminal("submit", "--wait", *words)
    terminal.until("3/10 steps taken")
    gate.touch()
    assert terminal.end() == 0
    assert terminal.text.rstrip().endswith('"walked"')


def test_parts_of_lines_are_put_together_on_a_terminal(cli: CommandLine) -> None:
    """A line that comes in two pieces is one line on a terminal too, and the last needs no end."""
    terminal = cli.on_terminal("submit", "--wait", "--", "sh", "-c", "printf be; sleep 0.2; echo gun; printf last")
    assert terminal.end() == 0
    assert "begun\r\n" in terminal.text
    assert "last\r\n" in terminal.text


def test_map_shows_how_far_it_is_on_a_terminal(cli: CommandLine) -> None:
    """On a terminal map draws a bar that moves while tasks run, above it the results."""
    gate = cli.folder / "gate-map"
    (cli.folder / "lines").write_text("one\ntwo\n")
    script = f"test {{}} = one || while ! test -e {gate}; do sleep 0.05; done; echo did-{{}}"
    with (cli.folder / "lines").open() as lines:
        terminal = cli.on_terminal("map", "--", "sh", "-c", script, stdin=lines)
    terminal.until("1/2")
    assert "did-one\r\n" in terminal.read()
    gate.touch()
    assert terminal.end() == 0
    assert "did-two\r\n" in terminal.text
    assert "2 succeeded, 0 failed" in terminal.text


def test_colour_is_only_for_those_who_want_it(cli: CommandLine) -> None:
    """A terminal gets colours unless NO_COLOR is set."""
    cli.run("submit", "--wait", "--", "true")
    coloured, plain = cli.on_terminal("task", "list"), cli.on_terminal("task", "list", NO_COLOR="1")
    assert coloured.end() == plain.end() == 0
    assert "\x1b[32mSUCCEEDED" in coloured.text
    assert "\x1b[32m" not in plain.text


@pytest.mark.parametrize("columns", [20, 60, 100])
def test_a_list_fits_every_terminal(cli: CommandLine, columns: int) -> None:
    """Ids and states are whole however narrow the terminal is, and control characters of titles do nothing."""
    cli.run(
        "submit", "--wait", "--title", "two\nlines\x1b[31m and much more than fits a line of a terminal", "--", "true"
    )
    terminal = cli.on_terminal("task", "list", "-n", "1", columns=columns)
    assert terminal.end() == 0
    assert "SUCCEEDED" in terminal.text
    assert "\x1b[31m" not in terminal.text
    assert cli.run("task", "list", "-n", "1").rows[0][0] in terminal.text


def test_placing_from_the_command_line(cli: CommandLine) -> None:
    """Conditions, amounts, wishes and a strategy reach the coordinator; what cannot be is refused or explained."""
    words = ("--where", "!gpu", "--resource", "cpu=0.5", "--resource", "memory=1MiB", "--strategy", "two-choices")
    wishes = ("--affinity", "agent-1=50", "--avoid-tag", "noisy", "--tag", "quiet", "--spread", "--preemptible")
    ended = cli.run("submit", "--wait", *words, *wishes, "--", "echo", "placed")
    assert (ended.code, ended.out) == (0, "placed\n")
    waits = cli.run("submit", "--resource", "gpu=1", "--", "true").id
    assert "RESOURCES" in cli.run("task", "explain", waits).out
    assert cli.run("task", "cancel", waits).code == 0
    refused = cli.run("submit", "--strategy", "best", "--", "true")
    assert refused.code == 2
    assert "least-loaded, round-robin, random, performance, two-choices" in refused.err
    assert "is no amount" in cli.run("submit", "--resource", "gpu=lots", "--", "true").err
