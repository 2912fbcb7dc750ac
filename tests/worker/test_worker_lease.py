"""A worker ends an exclusive attempt by itself once the lease is over that its keeper last wrote down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.worker import messages
from outrider.worker.endings import LEASE_EXPIRED
from support.worker_harness import Worker

SOURCE = """
import threading, time

def stays():
    print("up", flush=True)
    threading.Event().wait()

def stays_for(seconds):
    time.sleep(seconds)
    return "stayed"
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready and can import the module `leased_work`."""
    (tmp_path / "leased_work.py").write_text(SOURCE)
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def lease(worker: Worker, seconds: float) -> None:
    """The keeper writes when the lease ends."""
    end_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000 + int(seconds * 1e6)
    worker.page[messages.LEASE_OFFSET :] = end_us.to_bytes(8, "little")


def exclusive(worker: Worker, key: int, function: str, arguments: bytes = b"{}") -> None:
    """An exclusive attempt arrives."""
    work = messages.FunctionWork(f"leased_work:{function}", arguments)
    worker.send(messages.Run(key, work, f"task-{key}", 1, [], {}, "/nowhere", is_exclusive=True))


def test_what_comes_after_the_lease_does_not_begin(worker: Worker) -> None:
    """Without a lease, or after its end, an exclusive attempt fails unstarted; the worker lives on."""
    for key in (1, 2):
        exclusive(worker, key, "stays")
        before, failed = worker.until(messages.Failed)
        assert (failed.key, failed.reason, failed.recoverable) == (key, LEASE_EXPIRED, True)
        assert not before
        lease(worker, -0.001)
    worker.function(3, "leased_work:stays_for", 0)
    assert worker.until(messages.Completed)[1].key == 3


def test_a_lease_that_ends_ends_the_worker(worker: Worker) -> None:
    """Nobody says a word: the process exits with the code that says why, and the page says which attempt it ran."""
    lease(worker, 0.4)
    exclusive(worker, 1, "stays")
    worker.until(messages.LogOutput)
    assert worker.process.wait(5) == messages.LEASE_OVER_CODE
    assert worker.running_key() == 1


def test_a_lease_that_is_renewed_lets_it_run(worker: Worker) -> None:
    """A renewal is a number in the page: seen without a message, in time."""
    lease(worker, 0.4)
    exclusive(worker, 1, "stays_for", b'{"args": [2.0]}')
    worker.until(messages.Started)
    lease(worker, 60)
    assert worker.until(messages.Completed)[1].data == b'"stayed"'


def test_what_is_not_exclusive_outlives_every_lease(worker: Worker) -> None:
    """The watch ends with the exclusive attempt; what runs after it in the same worker runs on."""
    lease(worker, 0.4)
    exclusive(worker, 1, "stays_for", b'{"args": [0.0]}')
    worker.function(2, "leased_work:stays_for", 2.0)
    worker.until(messages.Completed)
    assert worker.until(messages.Completed)[1].key == 2
