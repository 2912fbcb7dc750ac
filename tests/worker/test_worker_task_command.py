"""Every subcommand of `outrider-task`, run by a command in a real worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.worker import messages
from outrider.worker.endings import CANCEL_REQUESTED
from support.worker_harness import Worker

TASK = f"{sys.executable} -m outrider.worker.task_command"
SUCCEEDED, FAILED = 7, 8


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready."""
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def shell(worker: Worker, text: str, inputs: list[messages.Input] | None = None) -> None:
    """Run a line of shell in which ``task`` is the command under test; its stderr goes where stdout goes."""
    script = f'task() {{ {TASK} "$@" 2>&1; }}; {text}'
    worker.run(1, messages.CommandWork(["sh", "-c", script], {}), inputs)


def output(worker: Worker) -> str:
    """What the command printed, once it has succeeded."""
    result = json.loads(worker.until(messages.Completed)[1].data)
    assert result["exit_code"] == 0
    return str(result["output"])


def resolve(worker: Worker, data: bytes, content_type: str = "text/plain", state: int = 0) -> messages.Blocked:
    """Wait for the next wait of the command and end it; returns it."""
    blocked = worker.until(messages.Blocked)[1]
    worker.send(messages.Resolve(1, blocked.wait_key, data, content_type, state))
    return blocked


@pytest.mark.parametrize(
    ("arguments", "amount"),
    [("3/10 reading", (3, 10, "reading")), ("30%", (30, 100, "")), ("3", (3, 0, "")), ("0.5/1.5", (0.5, 1.5, ""))],
)
def test_progress_takes_a_fraction_a_percentage_or_a_count(
    worker: Worker, arguments: str, amount: tuple[float, float, str]
) -> None:
    """The keeper gets how much of how much, and what it is doing."""
    shell(worker, f"task progress {arguments}")
    progress = worker.until(messages.Progress)[1]
    assert (progress.completed, progress.total, progress.status) == amount
    assert output(worker) == ""


def test_log_summary_and_remaining_work(worker: Worker) -> None:
    """A log line travels at once; the summary and what is left travel with the result."""
    shell(worker, "task log 'a line' && task summary 'all read' && task remaining first && task remaining second")
    before, completed = worker.until(messages.Completed)
    assert [one.data for one in before if isinstance(one, messages.LogOutput) and one.stream == 3] == [b"a line\n"]
    assert (completed.summary, completed.remaining_issues) == ("all read", ["first", "second"])


def test_the_same_key_gets_the_same_answer(worker: Worker) -> None:
    """A question asked twice under one key is asked once."""
    shell(worker, "task ask --key k --option a --option b 'Which?'; task ask --key k 'Which one?'")
    blocked = resolve(worker, b"b")
    assert (blocked.wait_key, blocked.question, blocked.options) == ("k", "Which?", ["a", "b"])
    assert not blocked.keeps_running
    before, completed = worker.until(messages.Completed)
    assert not [one for one in before if isinstance(one, messages.Blocked)]
    assert json.loads(completed.data)["output"] == "b\nb\n"


def test_a_question_need_not_be_waited_for(worker: Worker) -> None:
    """Pending is exit code 3 and the command keeps its slot; the answer is there when it comes."""
    shell(worker, "task ask --no-wait 'Which?'; echo $?; until task ask --no-wait 'Which?'; do sleep 0.05; done")
    assert resolve(worker, b'"left"', "application/json").keeps_running
    lines = output(worker).split()
    assert lines[:2] == ["pending", "3"]
    assert lines[-1] == "left"


def test_a_question_can_time_out(worker: Worker) -> None:
    """Nobody answers within the time: exit code 1 and a message that says so."""
    shell(worker, "task ask --timeout 0.05 'Which?'; echo $?")
    said = output(worker)
    assert "within 0.05 s" in said
    assert said.endswith("1\n")


def test_the_result_of_another_task_is_printed(worker: Worker) -> None:
    """`wait-for` prints the result as JSON."""
    shell(worker, "task wait-for task-9")
    blocked = resolve(worker, b'{"n": 1}', "application/json", SUCCEEDED)
    assert (blocked.kind, blocked.required_task_id) == ("dependency", "task-9")
    assert json.loads(output(worker)) == {"n": 1}


def test_a_limit_is_held(worker: Worker) -> None:
    """`hold` waits for a named limit and prints nothing; one that is not had in time is an error."""
    shell(worker, "task hold db:main:2 && task hold --timeout 0.05 other || echo $?")
    blocked = resolve(worker, b"")
    assert (blocked.kind, blocked.resource, blocked.resource_units) == ("dependency", "db:main", 2)
    said = output(worker)
    assert "within 0.05 s" in said
    assert said.endswith("1\n")


def test_another_task_that_failed_is_an_error(worker: Worker) -> None:
    """`wait-for` exits with 1 and names the task and how it ended."""
    shell(worker, "task wait-for task-9; echo $?")
    resolve(worker, b"", "", FAILED)
    said = output(worker)
    assert "task-9 ended FAILED" in said
    assert said.endswith("1\n")


def test_an_outside_system_is_waited_for_until_a_time(worker: Worker) -> None:
    """An ISO 8601 time travels as nanoseconds, a relative one as a time to come."""
    shell(worker, "task wait-external ci busy --retry-at 2030-01-01T00:00:00+00:00; task wait-external ci busy")
    first = resolve(worker, b"")
    assert (first.kind, first.system, first.issue) == ("external", "ci", "busy")
    assert first.retry_time_ns == 1893456000 * 10**9
    second = resolve(worker, b"")
    assert second.retry_time_ns == 0
    assert second.wait_key != first.wait_key
    output(worker)


def test_a_relative_retry_time_lies_ahead(worker: Worker) -> None:
    """``--retry-in`` counts from now."""
    shell(worker, "task wait-external ci busy --retry-in 600")
    blocked = resolve(worker, b"")
    assert 500 * 10**9 < blocked.retry_time_ns - blocked.time_ns < 700 * 10**9
    output(worker)


@pytest.mark.parametrize(("answer", "said"), [(b"granted", "granted\n0\n"), (b"no", "denied\n1\n")])
def test_more_time_is_granted_or_denied(worker: Worker, answer: bytes, said: str) -> None:
    """The answer is printed and is the exit code."""
    shell(worker, "task more-time 90; echo $?")
    blocked = resolve(worker, answer)
    assert (blocked.kind, blocked.additional_s) == ("complexity", 90)
    assert output(worker) == said


def test_inputs_of_every_type_are_printed(worker: Worker) -> None:
    """JSON is decoded, text is text, other bytes are base64, nothing is null."""
    inputs = [
        messages.Input("json", "t1", b'{"n":[1,2]}', "application/json"),
        messages.Input("charset", "t2", b'"x"', "application/json; charset=utf-8"),
        messages.Input("text", "t3", b"plain", "text/plain"),
        messages.Input("bytes", "t4", b"\xff\x00", "application/octet-stream"),
        messages.Input("none", "t5", b"", ""),
    ]
    shell(worker, "task inputs", inputs)
    expected = {"json": {"n": [1, 2]}, "charset": "x", "text": "plain", "bytes": {"base64": "/wA="}, "none": None}
    assert json.loads(output(worker)) == expected


@pytest.mark.parametrize(
    "arguments", ["", "dance", "progress much", "ask", "wait-external ci busy --retry-at soon", "more-time long"]
)
def test_wrong_usage_is_exit_code_2(worker: Worker, arguments: str) -> None:
    """An unknown command, a missing argument, a number that is none: 2, and a message."""
    shell(worker, f"task {arguments}; echo $?")
    said = output(worker)
    assert said.endswith("2\n")
    assert "outrider-task" in said


@pytest.mark.parametrize("arguments", [["progress", "1/2"], ["inputs"]])
def test_outside_a_task_it_says_so(arguments: list[str]) -> None:
    """Without a task around it: exit code 2 and the reason."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
    command = [sys.executable, "-m", "outrider.worker.task_command", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "not inside a task" in done.stderr


def test_a_task_that_has_ended_is_said_so(tmp_path: Path) -> None:
    """A socket that nobody serves any more: exit code 2."""
    environment = {**os.environ, "OUTRIDER_TASK_SOCKET": str(tmp_path / "gone")}
    command = [sys.executable, "-m", "outrider.worker.task_command", "log", "x"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 2


def test_a_question_ends_when_its_task_is_cancelled(worker: Worker) -> None:
    """Cancelling ends the wait and the command."""
    shell(worker, "task ask 'Which?'")
    worker.until(messages.Blocked)
    worker.send(messages.Stop(1, "enough", 5.0))
    assert worker.until(messages.Failed)[1].reason == CANCEL_REQUESTED


def test_several_callers_wait_at_once(worker: Worker) -> None:
    """Two processes of one command wait for answers of their own."""
    shell(worker, "task ask --key a 'A?' & task ask --key b 'B?'; wait")
    keys = {worker.until(messages.Blocked)[1].wait_key for _ in range(2)}
    assert keys == {"a", "b"}
    for key in sorted(keys):
        worker.send(messages.Resolve(1, key, f"for {key}".encode(), "text/plain"))
    assert sorted(output(worker).splitlines()) == ["for a", "for b"]
