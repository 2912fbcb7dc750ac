"""Commands in a real worker process, and `outrider-task` inside them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.worker import messages
from outrider.worker.endings import CANCEL_REQUESTED, INVALID_WORK, TASK_ERROR
from support.agent_process import is_gone
from support.waiting import eventually
from support.worker_harness import Worker

TASK = f"{sys.executable} -m outrider.worker.task_command"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready."""
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def shell(text: str, stdin: bytes = b"") -> messages.CommandWork:
    """A command that runs a line of shell."""
    return messages.CommandWork(["sh", "-c", text], {}, stdin=stdin)


def test_a_command_gets_its_input_and_streams_its_output(worker: Worker, tmp_path: Path) -> None:
    """A megabyte of stdin passes through; the scratch directory is gone afterwards."""
    worker.run(1, shell("wc -c; pwd >&2", b"x" * 1_000_000))
    before, completed = worker.until(messages.Completed)
    assert isinstance(before[0], messages.Started)
    assert before[0].child_pid > 0
    assert b'"exit_code":0' in completed.data
    assert b"1000000" in completed.data
    assert not (tmp_path / "scratch-1").exists()


@pytest.mark.parametrize(
    ("text", "exit_code", "said"), [("echo bad >&2; exit 3", 3, "bad"), ("kill -9 $$", -9, "KILL")]
)
def test_a_command_that_fails_says_how(worker: Worker, text: str, exit_code: int, said: str) -> None:
    """The exit code, negative for a signal, and the last line of stderr or the signal's name."""
    worker.run(1, shell(text))
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.recoverable, failed.exit_code) == (TASK_ERROR, True, exit_code)
    assert said in failed.message


@pytest.mark.parametrize(
    "work",
    [
        messages.CommandWork([], {}),
        messages.CommandWork(["no-such-program"], {}),
        messages.CommandWork(["true"], {}, working_directory="/nowhere"),
    ],
)
def test_a_command_that_cannot_start_is_invalid(worker: Worker, work: messages.CommandWork) -> None:
    """No argv, no program, no directory: INVALID_WORK, not recoverable, and the worker lives on."""
    worker.run(1, work)
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.recoverable) == (INVALID_WORK, False)


def test_a_stopped_command_is_terminated_with_its_children(worker: Worker) -> None:
    """SIGTERM reaches the whole process group and the attempt ends as CANCEL_REQUESTED."""
    worker.run(1, shell("echo up; sleep 600 & wait"))
    worker.until(messages.LogOutput)
    worker.send(messages.Stop(1, "enough", 5.0))
    assert worker.until(messages.Failed)[1].reason == CANCEL_REQUESTED


def test_what_a_command_leaves_behind_does_not_hold_it(worker: Worker) -> None:
    """A grandchild that keeps the pipe open does not keep the attempt open."""
    worker.run(1, shell("sleep 600 & echo done"))
    assert b"done" in worker.until(messages.Completed)[1].data


def test_outrider_task_speaks_for_the_attempt(worker: Worker) -> None:
    """Progress and a question from a command's child reach the keeper; the answer is printed."""
    worker.run(1, shell(f'{TASK} progress 3/10 "reading" && {TASK} ask "Which?"'))
    progress = worker.until(messages.Progress)[1]
    assert (progress.completed, progress.total, progress.status) == (3, 10, "reading")
    blocked = worker.until(messages.Blocked)[1]
    worker.send(messages.Resolve(1, blocked.wait_key, b"left", "text/plain"))
    assert b"left" in worker.until(messages.Completed)[1].data


#: The worker, in which a command's start returns only when the end of the socket has been noticed.
SLOW_START = """
import subprocess, sys, threading
from outrider.worker import __main__ as entry
from outrider.worker.runner import Runner

noticed, start = threading.Event(), subprocess.Popen

class Noticing(Runner):
    def _gone(self):
        noticed.set()
        super()._gone()

def slow(argv, **options):
    process = start(argv, **options)
    noticed.wait(20)
    return process

subprocess.Popen, entry.Runner = slow, Noticing
entry.main(sys.argv[1:])
"""


def test_a_command_that_is_being_started_ends_with_the_keeper(tmp_path: Path) -> None:
    """The end of the socket comes when the program runs already and the worker does not know its group yet."""
    (tmp_path / "slow_start.py").write_text(SLOW_START)
    worker = Worker(tmp_path, "slow_start")
    assert isinstance(worker.next(), messages.Ready)
    worker.run(1, shell(f"echo $$ > {tmp_path}/pid; exec sleep 1000"))
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    worker.close()
    try:
        eventually(lambda: is_gone(pid), 2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
