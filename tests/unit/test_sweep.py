"""What the sweep finds by the markers in environments, and in which order."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator

import pytest

from outrider import sweep
from support.waiting import eventually

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs that run until they are killed, with these variables."""
    started: list[subprocess.Popen[bytes]] = []

    def one(**environment: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "1000"], env={**os.environ, **environment}))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.wait()


def test_what_attempts_started_comes_before_the_workers(start: Start) -> None:
    """A sweep that is killed half-way leaves workers, which end their commands, and not commands without a worker."""
    instance = secrets.token_hex(8)
    worker = start(OUTRIDER_KEEPER=instance)
    command = start(OUTRIDER_ATTEMPT_KEY=f"{instance}-1")
    second_worker = start(OUTRIDER_KEEPER=instance)
    of_a_function = start(OUTRIDER_KEEPER=instance, OUTRIDER_ATTEMPT_KEY=f"{instance}-2")
    # The environment of a process that has just become another program is empty for a moment.
    found = eventually(lambda: len(pids := sweep.find(sweep.keeper_markers(instance))) == 4 and pids)
    assert set(found[:2]) == {command.pid, of_a_function.pid}
    assert set(found[2:]) == {worker.pid, second_worker.pid}


def test_only_the_marked_are_killed(start: Start) -> None:
    """Those of another keeper, and of an attempt whose number begins alike, live on."""
    instance = secrets.token_hex(8)
    ours = start(OUTRIDER_ATTEMPT_KEY=f"{instance}-1")
    others = [start(OUTRIDER_ATTEMPT_KEY=f"{instance}-12"), start(OUTRIDER_KEEPER=secrets.token_hex(8)), start()]
    assert sweep.kill_all(sweep.attempt_markers(f"{instance}-1"), 5.0) == 0
    assert ours.wait(5) < 0
    assert [process.poll() for process in others] == [None] * 3
