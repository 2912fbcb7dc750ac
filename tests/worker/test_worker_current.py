"""Every method of `current`, used by functions in a real worker process."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.v1 import task_pb2
from outrider.worker import endings, messages
from outrider.worker.endings import CANCEL_REQUESTED, TASK_ERROR
from support.worker_harness import Worker

SOURCE = """
import datetime as dt
import threading
from outrider.errors import BlockedTimeout, Deadlock
from outrider.worker import DependencyFailed, TaskCancelled, current

def tells():
    current.progress(1, 4, "one")
    current.log("a line")
    current.summary("done it")
    current.remaining("the rest")

def tells_badly():
    current.progress(1, status="\\udcff" + "x" * 20000)
    current.summary("\\udcff")
    for _ in range(1000):
        current.remaining("y" * 20000)
    raise ValueError("\\udcff")

def asks(timeout=None, key=None):
    try:
        return current.ask("Which?", options=["a", "b"], key=key, context="why", timeout=timeout)
    except BlockedTimeout as error:
        return str(error)

def asks_twice():
    return [current.ask("Which?"), current.ask("Which?")]

def waits_for(task):
    return current.wait_for(task)

def copes_without(task):
    try:
        current.wait_for(task)
    except DependencyFailed as error:
        return [error.task_id, error.state, error.reason]

def holds(*limits):
    for limit in limits:
        current.hold(limit)

def gives_up_on(limit):
    try:
        current.hold(limit)
    except Deadlock as error:
        return [str(error), error.reason]

def waits_external(times):
    at = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)
    for _ in range(times):
        current.wait_external("ci", "busy")
        current.wait_external("ci", "busy", at)

def needs_more_time():
    return [current.need_more_time(60, "halves"), current.need_more_time(60)]

def who():
    return [current.task_id, current.attempt, current.run_id, current.namespace, current.agent, current.is_cancelled]

def inputs(told):
    return {key: repr(value) for key, value in current.inputs.items()} | {"same": told == current.inputs}

def asks_stubbornly():
    try:
        current.ask("Which?")
    except Exception:
        return "swallowed"
    except TaskCancelled:
        current.log("cleaning")
        assert current.is_cancelled
        raise

def asks_in_a_thread():
    answers = []
    thread = threading.Thread(target=lambda: answers.append(current.ask("Which?")))
    thread.start()
    thread.join()
    return answers
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready and can import the module `current_work`."""
    (tmp_path / "current_work.py").write_text(SOURCE)
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def result(worker: Worker) -> Any:
    """What the function returned, once it has succeeded."""
    return json.loads(worker.until(messages.Completed)[1].data)


def resolve(worker: Worker, data: bytes, content_type: str = "text/plain", state: int = 0) -> messages.Blocked:
    """Wait for the function's next wait and end it; returns it."""
    blocked = worker.until(messages.Blocked)[1]
    worker.send(messages.Resolve(1, blocked.wait_key, data, content_type, state))
    return blocked


def test_what_a_function_tells_travels(worker: Worker) -> None:
    """Progress and log lines at once, summary and remaining issues with the result."""
    worker.function(1, "current_work:tells")
    before, completed = worker.until(messages.Completed)
    progress = next(one for one in before if isinstance(one, messages.Progress))
    assert (progress.completed, progress.total, progress.status) == (1, 4, "one")
    assert [one.data for one in before if isinstance(one, messages.LogOutput)] == [b"a line\n"]
    assert (completed.summary, completed.remaining_issues) == ("done it", ["the rest"])


def test_texts_that_cannot_travel_are_made_to(worker: Worker) -> None:
    """Lone surrogates are escaped, also in the error, and what is endless is cut."""
    worker.function(1, "current_work:tells_badly")
    progress = worker.until(messages.Progress)[1]
    assert progress.status.startswith("\\udcffxxx")
    assert len(progress.status) < 10_000
    assert worker.until(messages.Failed)[1].message == "\\udcff"


def test_an_answer_may_be_text_or_json(worker: Worker) -> None:
    """Text comes as it is, a JSON string unwrapped; the question carries its options and context."""
    worker.function(1, "current_work:asks", key="k")
    blocked = resolve(worker, b'"a"', "application/json")
    assert (blocked.wait_key, blocked.question, blocked.options, blocked.context) == ("k", "Which?", ["a", "b"], "why")
    assert result(worker) == "a"


def test_a_question_asked_twice_is_asked_once(worker: Worker) -> None:
    """Without a key the question itself is the key."""
    worker.function(1, "current_work:asks_twice")
    resolve(worker, b"a")
    assert result(worker) == ["a", "a"]


def test_a_question_can_time_out(worker: Worker) -> None:
    """BlockedTimeout after the time given; the keeper is told that the attempt goes on."""
    worker.function(1, "current_work:asks", timeout=0.05)
    worker.until(messages.Unblocked)
    assert "within 0.05 s" in result(worker)


def test_the_result_of_another_task(worker: Worker) -> None:
    """`wait_for` returns what the other task returned."""
    worker.function(1, "current_work:waits_for", "task-9")
    blocked = resolve(worker, b'{"n":1}', "application/json", endings.SUCCEEDED)
    assert (blocked.kind, blocked.required_task_id) == ("dependency", "task-9")
    assert result(worker) == {"n": 1}


def test_another_task_that_failed(worker: Worker) -> None:
    """DependencyFailed can be caught and says which task and how; let through it fails the attempt."""
    worker.function(1, "current_work:copes_without", "task-9")
    resolve(worker, b"", "", 8)
    assert result(worker) == ["task-9", 8, "DEPENDENCY_FAILED"]
    worker.function(1, "current_work:waits_for", "task-9")
    resolve(worker, b"", "", 9)
    failed = worker.until(messages.Failed)[1]
    assert (failed.reason, failed.exception_type) == (TASK_ERROR, "outrider.worker.endings.DependencyFailed")
    assert "CANCELLED" in failed.message


def test_a_limit_is_waited_for(worker: Worker) -> None:
    """`hold` waits for a named limit, each call anew; a claim that cannot be is refused where it was made."""
    worker.function(1, "current_work:holds", "db:main:3", "f:shared", "f:shared")
    first, second, third = (resolve(worker, b"") for _ in range(3))
    assert (first.kind, first.resource, first.resource_units, first.resource_shared) == (
        "dependency",
        "db:main",
        3,
        False,
    )
    assert (second.resource, second.resource_units, second.resource_shared) == ("f", 1, True)
    assert second.wait_key != third.wait_key
    assert result(worker) is None
    worker.function(1, "current_work:holds", "db:0")
    assert "at least 1 unit" in worker.until(messages.Failed)[1].message


def test_a_deadlock_is_told(worker: Worker) -> None:
    """A wait that could never end raises Deadlock with the cycle."""
    worker.function(1, "current_work:gives_up_on", "x")
    blocked = worker.until(messages.Blocked)[1]
    worker.send(
        messages.Resolve(1, blocked.wait_key, b"", "", error_reason=endings.DEADLOCK, error_message="a -> b -> a")
    )
    assert result(worker) == ["a -> b -> a", "DEADLOCK"]


def test_an_outside_system(worker: Worker) -> None:
    """Without a time every call waits anew; a time that has been waited for is over."""
    worker.function(1, "current_work:waits_external", 2)
    first, timed, second = (resolve(worker, b"") for _ in range(3))
    assert first.wait_key != second.wait_key
    assert timed.retry_time_ns == int(dt.datetime(2030, 1, 1, tzinfo=dt.UTC).timestamp()) * 10**9
    assert result(worker) is None


def test_more_time(worker: Worker) -> None:
    """Every request is a request of its own; True only when it is granted."""
    worker.function(1, "current_work:needs_more_time")
    blocked = resolve(worker, b"granted")
    assert (blocked.kind, blocked.additional_s, blocked.suggested_split) == ("complexity", 60, "halves")
    resolve(worker, b"no")
    assert result(worker) == [True, False]


def test_who_it_is(worker: Worker) -> None:
    """The attempt knows its task, number and run, and that nobody wants it to stop."""
    worker.function(1, "current_work:who")
    assert result(worker) == ["task-1", 1, "run-1", "", "", False]


def test_inputs_of_every_type(worker: Worker) -> None:
    """JSON is decoded, text is str, other bytes are bytes; `current` and the argument agree."""
    inputs = [
        messages.Input("json", "t1", b'{"n":1}', "application/json"),
        messages.Input("text", "t2", "é".encode(), "text/plain; charset=utf-8"),
        messages.Input("bytes", "t3", b"\xff", "application/octet-stream"),
        messages.Input("none", "t4", b"", ""),
    ]
    worker.run(1, messages.FunctionWork("current_work:inputs", b"", "told"), inputs)
    assert result(worker) == {"json": "{'n': 1}", "text": "'é'", "bytes": "b'\\xff'", "none": "None", "same": True}


def test_a_cancelled_wait_cannot_be_swallowed_by_accident(worker: Worker) -> None:
    """TaskCancelled passes ``except Exception``, lets the function clean up and ends it as CANCEL_REQUESTED."""
    worker.function(1, "current_work:asks_stubbornly")
    worker.until(messages.Blocked)
    worker.send(messages.Stop(1, "enough", 5.0))
    before, failed = worker.until(messages.Failed)
    assert [one.data for one in before if isinstance(one, messages.LogOutput)] == [b"cleaning\n"]
    assert (failed.reason, failed.message) == (CANCEL_REQUESTED, "enough")


def test_a_thread_of_the_function_may_ask(worker: Worker) -> None:
    """`current` works in every thread of the attempt."""
    worker.function(1, "current_work:asks_in_a_thread")
    resolve(worker, b"a")
    assert result(worker) == ["a"]


def test_outside_a_task_current_says_so() -> None:
    """Every use names the attribute and the reason."""
    from outrider.worker import current

    with pytest.raises(RuntimeError, match=r"current\.ask works only inside a task"):
        current.ask("Which?")


def test_one_exception_by_each_name() -> None:
    """What the package exports is what the worker raises."""
    import outrider.worker

    assert outrider.worker.DependencyFailed is endings.DependencyFailed
    assert outrider.worker.TaskCancelled is endings.TaskCancelled


def test_the_numbers_are_those_of_the_wire() -> None:
    """Reasons and states known by number are the enums' own."""
    names = ("TASK_ERROR", "RESULT_TOO_LARGE", "INVALID_WORK", "RESULT_NOT_SERIALIZABLE", "CANCEL_REQUESTED")
    for name in names:
        assert getattr(endings, name) == task_pb2.TaskReason.Value(f"TASK_REASON_{name}")
    for number, name in {**endings.ENDED_STATES, endings.SUCCEEDED: "SUCCEEDED"}.items():
        assert number == task_pb2.TaskState.Value(f"TASK_STATE_{name}")
