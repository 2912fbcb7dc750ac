"""Clients whose coordinator is killed under them, and programs that end without a goodbye."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

import outrider
from outrider.views import TaskState
from support.cluster import Cluster, cluster
from support.daemons import environment_of_tests
from support.sdk_tasks import add, double, pass_gate, report
from support.waiting import eventually
from support.witness import Gate

TIMEOUT_S = 30
THREADS, SUBMITS = 2, 150


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator that tests kill and start again at the same address, and an agent with two slots."""
    with cluster(tmp_path_factory.mktemp("survives")) as started:
        yield started


def test_submits_survive_kill_9(running: Cluster) -> None:
    """The coordinator dies amid 300 submits from two threads: every handle gets its result, no task exists twice."""
    handles: SimpleQueue[tuple[int, outrider.TaskHandle[int]]] = SimpleQueue()
    half, is_dead = threading.Semaphore(0), threading.Event()
    with running.connect("kill") as client:

        def submit(first: int) -> None:
            for number in range(first, first + SUBMITS):
                handles.put((number, client.submit(double, number)))
                if number == first + SUBMITS // 2:
                    half.release()
                if number == first + SUBMITS * 3 // 4:
                    # What came before is on its way, in part answered; the rest meets no coordinator at all.
                    is_dead.wait(TIMEOUT_S)

        threads = [threading.Thread(target=submit, args=(1000 * number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        half.acquire()
        running.coordinator.kill()
        is_dead.set()
        running.coordinator.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        pairs = [handles.get(timeout=TIMEOUT_S) for _ in range(THREADS * SUBMITS)]
        assert [handle.result(TIMEOUT_S) for _, handle in pairs] == [2 * number for number, _ in pairs]
        ids = {handle.id for _, handle in pairs}
    assert len(ids) == THREADS * SUBMITS
    assert {task.id for task in running.all_tasks("kill")} == ids


def test_results_that_came_meanwhile_arrive(running: Cluster, gate: Gate, tmp_path: Path) -> None:
    """Tasks that end while the client is disconnected, and iterators and callbacks that were open, get everything."""
    last: SimpleQueue[float] = SimpleQueue()
    with running.connect() as client, running.connect() as other:
        slow = client.submit(report, 4, str(gate.path))
        foreign = other.task(slow.id)
        slow.on_progress(lambda progress: last.put(progress.completed))
        assert last.get(timeout=TIMEOUT_S) >= 1
        events = slow.events()
        assert next(events).type == "TASK_SUBMITTED"
        running.coordinator.kill()
        # The agent runs on by itself; the task ends while nobody but the agent is there.
        gate.open()
        unsent = client.submit(double, 4)
        running.coordinator.start()
        assert slow.result(TIMEOUT_S) == foreign.result(TIMEOUT_S) == 4
        assert unsent.result(TIMEOUT_S) == 8
        types = [event.type for event in events]
        assert types.count("TASK_STARTED") == types.count("TASK_SUCCEEDED") == 1
        assert types[-1] == "TASK_SUCCEEDED"
        eventually(lambda: last.get(timeout=TIMEOUT_S) == 4)


def test_calls_wait_for_the_coordinator_to_come_back(running: Cluster, gate: Gate) -> None:
    """state, explain, cancel and a run submitted while it is away are answered once it is there again."""
    with running.connect() as client:
        handle = client.submit(pass_gate, str(gate.path))
        eventually(lambda: handle.state is TaskState.RUNNING)
        run = client.run()
        run.add("one", add, 1, 2)
        calls: list[Callable[[], object]] = [lambda: handle.state, handle.explain, handle.waits, run.submit]
        answers: SimpleQueue[object] = SimpleQueue()
        running.coordinator.kill()
        threads = [threading.Thread(target=lambda call=call: answers.put(call())) for call in calls]
        for thread in threads:
            thread.start()
        running.coordinator.start()
        got = [answers.get(timeout=TIMEOUT_S) for _ in threads]
        (started,) = [answer for answer in got if isinstance(answer, outrider.RunHandle)]
        assert started.result("one", TIMEOUT_S) == 3
        assert handle.cancel()


def program(running: Cluster, text: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a user, to its end."""
    path = tmp_path / "program.py"
    path.write_text("import outrider\nfrom support.sdk_tasks import double, pass_gate\n" + text)
    return subprocess.run(
        [sys.executable, str(path)],
        env=environment_of_tests(OUTRIDER_COORDINATOR=running.address, **environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


ENDINGS = {
    "submits under way": "for n in range(200): client.submit(double, n)",
    "a task that runs": "handle = client.submit(pass_gate, GATE)\nhandle.on_progress(print)\nhandle.id",
    "an iterator left open": "events = client.submit(pass_gate, GATE).events()\nnext(events)",
    "an executor left open": "ex = outrider.Executor(client)\nex.submit(double, 1).result()",
    "an exit": "import sys\nclient.submit(double, 1)\nsys.exit(0)",
    "several clients": "clients = [outrider.Client() for _ in range(3)]\n[c.submit(double, 1) for c in clients]",
}


@pytest.mark.parametrize("what", sorted(ENDINGS))
def test_a_program_may_end_without_closing(running: Cluster, gate: Gate, tmp_path: Path, what: str) -> None:
    """Whatever is open: no hang, nothing on stderr, exit code 0."""
    text = f"GATE = {str(gate.path)!r}\nclient = outrider.Client()\n{ENDINGS[what]}\n"
    done = program(running, text, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_submits_are_flushed_at_exit(running: Cluster, tmp_path: Path) -> None:
    """What was submitted right before the end is on the coordinator's disk."""
    text = "client = outrider.Client(namespace='flush')\nfor n in range(500): client.submit(double, n)\n"
    assert program(running, text, tmp_path).returncode == 0
    assert len(running.all_tasks("flush")) == 500


def test_an_uncaught_exception_stays_the_only_one(running: Cluster, tmp_path: Path) -> None:
    """A program that fails shows its own traceback and no other, with traces on too."""
    text = "client = outrider.Client()\nclient.submit(double, 1)\nraise KeyError('mine')\n"
    done = program(running, text, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "KeyError: 'mine'" in done.stderr


def test_ctrl_c_ends_a_waiting_program(running: Cluster, gate: Gate, tmp_path: Path) -> None:
    """KeyboardInterrupt comes out of result(), and the program ends as Python programs do."""
    text = "import os, signal, threading\nclient = outrider.Client()\n"
    text += f"handle = client.submit(pass_gate, {str(gate.path)!r})\nhandle.id\n"
    text += "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    text += "try:\n    handle.result()\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    done = program(running, text, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_importing_the_sdk_is_cheap() -> None:
    """`import outrider` and `outrider.worker` load neither gRPC nor protobuf nor OpenTelemetry."""
    for module in ("outrider", "outrider.worker", "outrider.errors"):
        code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
        assert not {"grpc", "google", "opentelemetry", "asyncio"} & set(done.stdout.split())
