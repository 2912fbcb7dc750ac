"""What goes wrong around an attempt costs that attempt and no other: the worker lives on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.worker import messages
from outrider.worker.endings import CANCEL_REQUESTED, INVALID_WORK, RESULT_NOT_SERIALIZABLE, TASK_ERROR
from support.worker_harness import Worker

SOURCE = """
import os, subprocess, sys, threading

def one():
    return 1

def closes_its_output():
    os.close(1)

def closes_its_stream():
    sys.stdout.close()

def leaves_a_printer():
    flood = "import os, time\\nwhile True: os.write(1, bytes(300_000)); time.sleep(0.01)"
    subprocess.Popen([sys.executable, "-c", flood])
    return 1

def prints():
    os.write(2, b"still here")

def empties_its_environment():
    os.environ.clear()

def task_id():
    return os.environ.get("OUTRIDER_TASK_ID"), os.environ.get("OUTRIDER_RUN_ID")

def inherited(changed=None):
    found = subprocess.run(["sh", "-c", "echo $OUTRIDER_TASK_ID:$TRACESTATE"], stdout=subprocess.PIPE, text=True)
    if changed:
        os.environ["OUTRIDER_TASK_ID"] = changed
    elif changed == "":
        del os.environ["OUTRIDER_TASK_ID"]
    return found.stdout.strip()

def leaves_hard():
    raise SystemExit(3)

def interrupts():
    raise KeyboardInterrupt

def says_nothing():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("mute")
    raise Mute

def deep():
    value = []
    for _ in range(100000):
        value = [value]
    return value

def recurses():
    return recurses()

def swallows_the_stop():
    try:
        print("up", flush=True)
        threading.Event().wait()
    except BaseException:
        return "swallowed"

def types(a: int, *, b):
    return a
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready and can import the module `rough_work`."""
    (tmp_path / "rough_work.py").write_text(SOURCE)
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def shell(text: str) -> messages.CommandWork:
    """A command that runs a line of shell."""
    return messages.CommandWork(["sh", "-c", text], {})


def lives_on(worker: Worker) -> None:
    """The worker still runs a function and a command."""
    worker.function(98, "rough_work:one")
    assert worker.until(messages.Completed)[1].data == b"1"
    worker.run(99, shell("echo fine"))
    assert b"fine" in worker.until(messages.Completed)[1].data


def test_a_grandchild_that_prints_for_ever_does_not_hold_the_command(worker: Worker) -> None:
    """The attempt ends soon after its program, whoever holds and fills its output."""
    worker.run(1, shell("(trap '' HUP; while :; do echo noise; sleep 0.01; done) & echo done >&2; exit 0"))
    before, _ = worker.until(messages.Completed)
    assert b"done\n" in [one.data for one in before if isinstance(one, messages.LogOutput) and one.stream == 2]
    lives_on(worker)


def test_everything_the_program_wrote_arrives(worker: Worker) -> None:
    """Output of the program itself is whole, also with a grandchild that floods the pipe after it."""
    worker.run(1, shell("seq 20000; echo end of program; yes & exit 0"))
    before, _ = worker.until(messages.Completed)
    text = b"".join(one.data for one in before if isinstance(one, messages.LogOutput) and one.stream == 1)
    assert b"\n20000\nend of program\n" in text


def test_a_scratch_directory_that_cannot_be_made(worker: Worker, tmp_path: Path) -> None:
    """A recoverable failure that says what is wrong."""
    (tmp_path / "scratch-1").write_text("a file is in the way")
    worker.run(1, shell("true"))
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.recoverable) == (TASK_ERROR, True)
    assert "cannot prepare the command" in failed.message
    assert "scratch-1" in failed.message
    lives_on(worker)


def test_an_input_file_that_cannot_be_written(worker: Worker, tmp_path: Path) -> None:
    """A directory in the place of inputs.json fails the attempt and is named."""
    (tmp_path / "scratch-1" / "inputs.json").mkdir(parents=True)
    worker.run(1, shell("true"))
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.recoverable) == (TASK_ERROR, True)
    assert "inputs.json" in failed.message
    lives_on(worker)


@pytest.mark.parametrize("work", [shell("true"), messages.FunctionWork("rough_work:one", b"", "inputs")])
def test_an_input_that_is_not_what_it_says(worker: Worker, work: messages.CommandWork | messages.FunctionWork) -> None:
    """Broken JSON of a dependency is invalid work and names the input and its task."""
    worker.run(1, work, [messages.Input("left", "task-7", b"{", "application/json")])
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.recoverable) == (INVALID_WORK, False)
    assert "task-7" in failed.message
    assert "'left'" in failed.message
    lives_on(worker)


@pytest.mark.parametrize("name", ["closes_its_output", "closes_its_stream"])
def test_output_that_user_code_closes(worker: Worker, name: str) -> None:
    """A function that closes its stdout succeeds, and the next one can still print an error."""
    worker.function(1, f"rough_work:{name}")
    worker.until(messages.Completed)
    worker.function(2, "rough_work:prints")
    before, _ = worker.until(messages.Completed)
    assert b"still here" in [one.data for one in before if isinstance(one, messages.LogOutput)]
    lives_on(worker)


def test_a_program_left_printing_does_not_hold_the_function(worker: Worker) -> None:
    """A function that leaves a flood behind ends."""
    worker.function(1, "rough_work:leaves_a_printer")
    assert worker.until(messages.Completed)[1].data == b"1"
    lives_on(worker)


def test_an_emptied_environment_is_filled_again(worker: Worker) -> None:
    """The next attempt has its own variables and all of them."""
    worker.function(1, "rough_work:empties_its_environment")
    worker.function(2, "rough_work:task_id")
    worker.until(messages.Completed)
    assert worker.until(messages.Completed)[1].data == b'["task-2","run-1"]'


@pytest.mark.parametrize("changed", [None, "", "mine"])
def test_programs_of_a_function_inherit_its_variables(worker: Worker, changed: str | None) -> None:
    """What a function starts has that attempt's own values, whatever attempts before have had or done to them."""
    arguments = json.dumps({"args": [changed]}).encode()
    for key, more in enumerate(({}, {"TRACESTATE": "x" * 3000}, {"TRACESTATE": "y" * 10}, {}, {}), 1):
        environment = {"OUTRIDER_TASK_ID": "t" * 400 * key, **more}
        work = messages.FunctionWork("rough_work:inherited", arguments)
        worker.send(messages.Run(key, work, f"task-{key}", 1, [], environment, "/nowhere"))
        wanted = environment["OUTRIDER_TASK_ID"] + ":" + more.get("TRACESTATE", "")
        assert json.loads(worker.until(messages.Completed)[1].data) == wanted


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("leaves_hard", "sys.exit(3)"),
        ("interrupts", "KeyboardInterrupt"),
        ("says_nothing", "Mute"),
        ("recurses", "recursion"),
    ],
)
def test_whatever_a_function_raises_is_its_failure(worker: Worker, name: str, said: str) -> None:
    """Exceptions that would end a program end the attempt."""
    worker.function(1, f"rough_work:{name}")
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.recoverable) == (TASK_ERROR, True)
    assert said in failed.message
    lives_on(worker)


def test_a_result_that_is_too_deep_is_refused(worker: Worker) -> None:
    """A result nested beyond reason is not serializable, and no crash."""
    worker.function(1, "rough_work:deep")
    assert worker.until(messages.Failed)[1].reason == RESULT_NOT_SERIALIZABLE
    lives_on(worker)


def test_arguments_that_do_not_fit_are_named(worker: Worker) -> None:
    """A missing keyword argument is invalid work."""
    worker.function(1, "rough_work:types", 1)
    failed = worker.until(messages.Failed)[1]
    assert failed.reason == INVALID_WORK
    assert "'b'" in failed.message


def test_a_stop_that_user_code_swallows(worker: Worker) -> None:
    """A function that returns all the same has succeeded; the worker lives on."""
    worker.function(1, "rough_work:swallows_the_stop")
    worker.until(messages.LogOutput)
    worker.send(messages.Stop(1, "enough", 5.0))
    assert worker.until(messages.Completed)[1].data == b'"swallowed"'
    lives_on(worker)


def test_a_stop_before_the_start(worker: Worker) -> None:
    """An attempt stopped while it waits behind another never starts."""
    worker.function(1, "rough_work:swallows_the_stop")
    worker.function(2, "rough_work:one")
    worker.until(messages.LogOutput)
    worker.send(messages.Stop(2, "not this one", 5.0), messages.Stop(1, "nor this", 5.0))
    worker.until(messages.Completed)
    before, failed = worker.until(messages.Failed)
    assert (failed.key, failed.reason, failed.message) == (2, CANCEL_REQUESTED, "not this one")
    assert not [one for one in before if isinstance(one, messages.Started)]


def test_an_end_does_not_wait_for_the_one_behind(worker: Worker) -> None:
    """The last message of an attempt arrives although the next one blocks, is a command, or cannot start."""
    worker.send(messages.Recall([1]))
    worker.until(messages.Recalled)
    runs: list[messages.CommandWork | messages.FunctionWork] = [
        messages.FunctionWork("rough_work:one", b""),
        messages.FunctionWork("rough_work:nowhere", b""),
        messages.FunctionWork("rough_work:one", b""),
        shell("exit 3"),
        messages.FunctionWork("rough_work:one", b""),
        messages.FunctionWork("rough_work:swallows_the_stop", b""),
    ]
    for key, work in enumerate(runs, 1):
        worker.run(key, work)
    ends = [worker.until(messages.Completed)[1].key for _ in range(3)]
    assert ends == [1, 3, 5]
    worker.until(messages.LogOutput)
    worker.send(messages.Stop(6, "enough", 5.0))
    assert worker.until(messages.Completed)[1].key == 6
