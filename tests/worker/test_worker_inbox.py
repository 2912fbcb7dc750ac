"""Two threads share the reading of the keeper's socket; nothing is lost, doubled or late whoever has it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.worker import messages
from outrider.worker.endings import CANCEL_REQUESTED
from support.worker_harness import Worker

SOURCE = """
import threading

def short(number):
    return number

def takes(seconds):
    threading.Event().wait(seconds)
    return seconds

def waits():
    threading.Event().wait()

def computes():
    while True:
        pass

def asks():
    from outrider.worker import current
    return current.ask("really?", key="ask-1")
"""
#: Far longer than the second thread takes to notice an attempt that runs long, in seconds.
LONG_S = 0.02


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready and can import the module `reading`."""
    (tmp_path / "reading.py").write_text(SOURCE)
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def _last(worker: Worker) -> messages.Completed | messages.Failed:
    while not isinstance(message := worker.next(), messages.Completed | messages.Failed):
        pass
    return message


def test_attempts_run_in_order_however_long_those_before_them_take(worker: Worker) -> None:
    """Short and long attempts, sent ahead or one by one, all run once and in order."""
    key = 0
    for seconds in (0.0, 0.001, 0.003, 0.005, LONG_S) * 6:
        first = key + 1
        worker.function(first, "reading:takes", seconds)
        for key in range(first + 1, first + 6):
            worker.function(key, "reading:short", key)
        assert [_last(worker).key for _ in range(first, key + 1)] == list(range(first, key + 1))
        key += 1
        worker.function(key, "reading:short", key)
        assert _last(worker).key == key


def test_waiting_attempts_are_given_back_while_one_runs_long(worker: Worker) -> None:
    """A recall is answered while user code runs, and what was given back does not run."""
    worker.function(1, "reading:waits")
    worker.function(2, "reading:short", 2)
    worker.function(3, "reading:short", 3)
    worker.until(messages.Started)
    worker.send(messages.Recall([2]))
    assert worker.until(messages.Recalled)[1].keys == [2]
    worker.send(messages.Stop(1, "enough", 5.0))
    assert [_last(worker).key, _last(worker).key] == [1, 3]


def test_waiting_attempts_are_given_back_among_short_ones(worker: Worker) -> None:
    """Every attempt is either run or given back, also while the main thread hurries from one to the next."""
    keys = range(1, 2001)
    for key in keys:
        worker.function(key, "reading:short", key)
    worker.send(messages.Recall(list(keys)))
    before, recalled = worker.until(messages.Recalled)
    ran = [message.key for message in before if isinstance(message, messages.Completed)]
    left = len(keys) - len(ran) - len(recalled.keys)
    ran += [_last(worker).key for _ in range(left)]
    assert sorted([*ran, *recalled.keys]) == list(keys)
    worker.function(5000, "reading:short", 0)
    assert _last(worker).key == 5000


@pytest.mark.parametrize("name", ["waits", "computes"])
def test_a_function_is_stopped_within_moments(worker: Worker, name: str) -> None:
    """A stop interrupts a function that waits and one that computes, again and again, after short ones and idleness."""
    took_s = []
    for key in range(1, 40, 2):
        worker.function(key, "reading:short", 1)
        worker.function(key + 1, f"reading:{name}")
        _last(worker)
        worker.until(messages.Started)
        began_s = time.monotonic()
        worker.send(messages.Stop(key + 1, "enough", 5.0))
        last = _last(worker)
        took_s.append(time.monotonic() - began_s)
        assert isinstance(last, messages.Failed)
        assert (last.key, last.reason, last.message) == (key + 1, CANCEL_REQUESTED, "enough")
    assert sorted(took_s)[len(took_s) // 2] < 0.1


def test_an_answer_reaches_a_function_at_once(worker: Worker) -> None:
    """A wait that is resolved as soon as it is opened ends."""
    for key in range(1, 20):
        worker.function(key, "reading:asks")
        worker.until(messages.Blocked)
        worker.send(messages.Resolve(key, "ask-1", b'"yes"', "application/json"))
        last = _last(worker)
        assert isinstance(last, messages.Completed)
        assert last.data == b'"yes"'


@pytest.mark.parametrize("name", ["", "waits", "computes"])
def test_the_end_of_the_socket_ends_the_worker(worker: Worker, name: str) -> None:
    """Without a keeper the worker exits at once, idle or not."""
    if name:
        worker.function(1, f"reading:{name}")
        worker.until(messages.Started)
    worker.socket.close()
    assert worker.process.wait(5) == 1


def test_a_worker_leaves_after_what_was_sent_before(worker: Worker) -> None:
    """`Leave` ends the worker with code 0, once everything sent before it has run."""
    worker.function(1, "reading:takes", LONG_S)
    worker.function(2, "reading:short", 2)
    worker.send(messages.Leave())
    assert [_last(worker).key, _last(worker).key] == [1, 2]
    assert worker.process.wait(5) == 0
