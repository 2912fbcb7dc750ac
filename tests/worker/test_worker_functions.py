"""Functions in a real worker process, spoken to as the keeper does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.worker import messages
from outrider.worker.endings import CANCEL_REQUESTED, INVALID_WORK, RESULT_NOT_SERIALIZABLE, TASK_ERROR
from support.worker_harness import Worker

SOURCE = """
import os, sys, threading
from outrider.worker import current

number = 7

def add(a, b=0):
    return a + b

async def later(a):
    return a

def fails():
    raise ValueError("no luck")

def leaves():
    sys.exit(0)

def prints():
    print("from python")
    os.write(1, b"from c\\n")
    os.write(2, b"to stderr\\n")

def nan():
    return {"a": [1.0, float("nan")]}

def odd():
    return object()

def waits():
    print("waiting", flush=True)
    threading.Event().wait()

def asks():
    return current.ask("Which?", options=["a", "b"])

def big():
    return "x" * (2 << 20)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready and can import the module `work`."""
    (tmp_path / "work.py").write_text(SOURCE)
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def test_a_function_returns_its_result(worker: Worker) -> None:
    """Started comes first, then the result as JSON; the running page is clear afterwards."""
    worker.function(1, "work:add", 2, b=3)
    worker.function(2, "work:later", "x")
    assert isinstance(worker.next(), messages.Started)
    assert worker.until(messages.Completed)[1].data == b"5"
    assert worker.until(messages.Completed)[1].data == b'"x"'
    worker.send(messages.Leave())
    assert worker.process.wait(10) == 0
    assert worker.running_key() == 0


@pytest.mark.parametrize("name", ["nowhere:add", "work:missing", "work:number", "work", "work:add"])
def test_work_that_cannot_run_is_invalid(worker: Worker, name: str) -> None:
    """No module, no function, not callable, no colon, or arguments that do not fit: INVALID_WORK, not recoverable."""
    worker.function(1, name)
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.recoverable) == (INVALID_WORK, False), failed


def test_arguments_of_another_shape_are_invalid(worker: Worker) -> None:
    """Arguments that are not an args and kwargs object are refused."""
    worker.run(1, messages.FunctionWork("work:add", b"[1]"))
    assert worker.until(messages.Failed)[1].reason == INVALID_WORK


@pytest.mark.parametrize(("name", "said"), [("fails", "no luck"), ("leaves", "sys.exit(0)")])
def test_an_exception_is_a_recoverable_failure(worker: Worker, name: str, said: str) -> None:
    """It carries the message and a traceback without the worker's own frames; the worker lives on."""
    worker.function(1, f"work:{name}")
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.recoverable) == (TASK_ERROR, True)
    assert said in failed.message
    assert "outrider/worker" not in failed.traceback
    worker.function(2, "work:add", 1)
    assert worker.until(messages.Completed)[1].data == b"1"


@pytest.mark.parametrize(("name", "said"), [("nan", "result['a'][1]"), ("odd", "object"), ("big", "limit")])
def test_a_result_that_cannot_travel_is_refused(worker: Worker, name: str, said: str) -> None:
    """NaN, an unknown type and a result over the limit are not recoverable and are named."""
    worker.function(1, f"work:{name}")
    failed = worker.until(messages.Failed)[1]
    assert said in failed.message
    assert not failed.recoverable
    assert failed.reason == (RESULT_NOT_SERIALIZABLE if name != "big" else 6)


def test_output_comes_before_the_end(worker: Worker) -> None:
    """What Python and C code print arrives as the attempt's output before its last message."""
    worker.function(1, "work:prints")
    before, _ = worker.until(messages.Completed)
    printed = [one for one in before if isinstance(one, messages.LogOutput)]
    assert b"".join(one.data for one in printed if one.stream == 1) == b"from python\nfrom c\n"
    assert b"".join(one.data for one in printed if one.stream == 2) == b"to stderr\n"


def test_a_stopped_function_wakes_and_the_rest_is_given_back(worker: Worker) -> None:
    """Queued attempts are recalled, the blocked one ends as CANCEL_REQUESTED."""
    worker.function(1, "work:waits")
    worker.function(2, "work:add", 1)
    worker.until(messages.LogOutput)
    assert worker.running_key() == 1
    worker.send(messages.Recall([1, 2]))
    assert worker.until(messages.Recalled)[1].keys == [2]
    worker.send(messages.Stop(1, "cancelled by a test", 5.0))
    failed = worker.until(messages.Failed)[1]
    assert (failed.key, failed.reason, failed.recoverable) == (1, CANCEL_REQUESTED, False)


def test_an_answer_ends_a_wait(worker: Worker) -> None:
    """`current.ask` blocks the attempt and returns what the keeper resolves it with."""
    worker.function(1, "work:asks")
    blocked = worker.until(messages.Blocked)[1]
    assert (blocked.kind, blocked.options) == ("clarification", ["a", "b"])
    worker.send(messages.Resolve(1, blocked.wait_key, b"a", "text/plain"))
    assert isinstance(worker.next(), messages.Unblocked)
    assert worker.until(messages.Completed)[1].data == b'"a"'


def test_the_end_of_the_socket_ends_the_worker(worker: Worker) -> None:
    """A worker whose keeper is gone exits even while a function blocks."""
    worker.function(1, "work:waits")
    worker.until(messages.LogOutput)
    worker.socket.shutdown(2)
    assert worker.process.wait(10) == 1
