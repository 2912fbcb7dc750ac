"""Graphs and the Executor of the SDK against a real cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent import futures

import pytest

import outrider
from outrider import errors
from outrider.client import RunBuilder
from outrider.views import TaskState
from support.cluster import Cluster, cluster
from support.sdk_tasks import add, boom, double, merge, pass_gate, who
from support.waiting import eventually
from support.witness import Gate

TIMEOUT_S = 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and an agent with two slots, for all tests here."""
    with cluster(tmp_path_factory.mktemp("runs")) as started:
        yield started


@pytest.fixture(scope="module")
def client(running: Cluster) -> Iterator[outrider.Client]:
    """One client for all tests here."""
    with running.connect() as connected:
        yield connected


# --- runs


def test_a_graph_passes_results_on(client: outrider.Client) -> None:
    """Fan-out, fan-in, a command, one key given as text: results by key, tasks in the order added."""
    run = client.run("a diamond", "with a command")
    top = run.add("top", double, 1)
    sides = [run.add(f"side{number}", add, number, 10, after=top) for number in (1, 2)]
    run.add("sum", merge, after=sides, inputs_argument="inputs")
    run.command("file", ["sh", "-c", 'cat "$OUTRIDER_INPUTS"'], after=sides)
    handle = run.submit()
    assert list(handle.tasks) == ["top", "side1", "side2", "sum", "file"]
    assert handle.wait(TIMEOUT_S)
    assert handle.result("sum") == 23
    assert '"side1":11' in handle.result("file")["output"].replace(" ", "")
    assert [handle.tasks[key].result() for key in sides] == [11, 12]


def test_a_runs_events_end_with_the_run(client: outrider.Client) -> None:
    """Events of all its tasks, then RUN_ENDED; the same when read again."""
    run = client.run()
    run.add("one", double, 1)
    run.add("two", double, 2, after=["one"])
    handle = run.submit()
    events = list(handle.events())
    assert events[-1].type == "RUN_ENDED"
    ends = [event.task_id for event in events if event.type == "TASK_SUCCEEDED"]
    assert ends == [handle.tasks["one"].id, handle.tasks["two"].id]
    assert list(handle.events()) == events


def test_a_failure_skips_what_comes_after(client: outrider.Client) -> None:
    """wait() says that not all succeeded; the skipped task says why."""
    run = client.run()
    run.add("bad", boom, "no")
    run.add("after", double, 1, after="bad")
    handle = run.submit()
    assert not handle.wait(TIMEOUT_S)
    with pytest.raises(outrider.TaskFailed, match="ValueError: no"):
        handle.result("bad")
    with pytest.raises(outrider.TaskSkipped):
        handle.result("after")


def test_a_run_is_cancelled_whole(client: outrider.Client, gate: Gate) -> None:
    """Running and waiting tasks end CANCELLED; a timeout of wait() leaves them alone."""
    run = client.run()
    run.add("runs", pass_gate, str(gate.path))
    run.add("waits", double, 1, after="runs")
    handle = run.submit()
    eventually(lambda: handle.tasks["runs"].state is TaskState.RUNNING)
    with pytest.raises(TimeoutError):
        handle.wait(0.05)
    assert handle.cancel("enough") == 2
    assert not handle.wait(TIMEOUT_S)
    assert {task.state for task in handle.tasks.values()} == {TaskState.CANCELLED}


def test_submitting_a_run_twice_is_one_run(client: outrider.Client) -> None:
    """After an error nobody knows whether it was accepted, so the same builder gives the same run, also when over."""
    run = client.run()
    run.add("one", double, 1)
    first = run.submit()
    assert first.result("one", TIMEOUT_S) == 2
    second = run.submit()
    assert second.id == first.id
    assert second.result("one", TIMEOUT_S) == 2


def cycle(run: RunBuilder) -> None:
    """Two tasks that wait for each other."""
    run.add("hen", double, 1, after="egg")
    run.add("egg", double, 1, after="hen")


def unknown(run: RunBuilder) -> None:
    """A task after one that is not there."""
    run.add("hen", double, 1, after="egg")


def test_a_bad_graph_is_refused_with_the_keys(client: outrider.Client) -> None:
    """A cycle is named, an unknown key too; a key used twice and options that do not fit are refused at once."""
    for build, expected in ((cycle, errors.GraphCycle), (unknown, errors.InvalidRequest)):
        run = client.run()
        build(run)
        with pytest.raises(expected) as caught:
            run.submit()
        assert "egg" in str(caught.value)
    assert "hen" in str(caught.value) or caught.value.violations
    run = client.run()
    run.add("key", double, 1)
    with pytest.raises(errors.InvalidRequest, match="'key' already"):
        run.add("key", double, 2)
    with pytest.raises(errors.InvalidRequest, match="give `after` to add"):
        run.add("other", who, options=outrider.Options(after=["key"]))


# --- the executor


def test_the_executor_is_a_process_pool_on_many_machines(client: outrider.Client) -> None:
    """submit, map in chunks, wait and as_completed of concurrent.futures; results of map also after shutdown."""
    with outrider.Executor(client) as executor:
        future = executor.submit(add, 1, right=2)
        assert future.result(TIMEOUT_S) == 3
        several = [executor.submit(double, number) for number in range(10)]
        done, left = futures.wait(several, TIMEOUT_S)
        assert (len(done), left) == (10, set())
        assert {each.result() for each in futures.as_completed(several, TIMEOUT_S)} == set(range(0, 20, 2))
        later = executor.map(add, range(5), range(5))
        chunked = executor.map(math.sqrt, [0, 1, 4, 9, 16], chunksize=2)
    assert list(later) == [0, 2, 4, 6, 8]
    assert list(chunked) == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(double, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(double, [1])


def test_futures_fail_as_their_tasks_do(client: outrider.Client) -> None:
    """The task's error is the future's exception; callbacks run; wait() stops at the first failure."""
    with outrider.Executor(client) as executor:
        called: list[futures.Future[None]] = []
        future = executor.submit(boom, "no")
        future.add_done_callback(called.append)
        assert isinstance(future.exception(TIMEOUT_S), outrider.TaskFailed)
        futures.wait([future], TIMEOUT_S, futures.FIRST_EXCEPTION)
        eventually(lambda: called == [future])
        with pytest.raises(outrider.TaskFailed, match="no"):
            list(executor.map(boom, ["no", "never"]))


def test_futures_are_cancelled_even_while_they_run(client: outrider.Client, gate: Gate) -> None:
    """cancel() of a running future ends its task; shutdown(cancel_futures=True) does so for all; an ended one stays."""
    executor = outrider.Executor(client)
    done = executor.submit(double, 1)
    assert done.result(TIMEOUT_S) == 2
    assert not done.cancel()
    blocked = [executor.submit(pass_gate, str(gate.path)) for _ in range(4)]
    eventually(lambda: blocked[0].handle.state is TaskState.RUNNING)
    assert blocked[0].cancel()
    assert blocked[0].cancel()
    with pytest.raises(futures.CancelledError):
        blocked[0].result(TIMEOUT_S)
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in blocked)
    assert {future.handle.state for future in blocked} == {TaskState.CANCELLED}


def test_a_task_cancelled_elsewhere_cancels_its_future(client: outrider.Client, gate: Gate) -> None:
    """Whoever cancels the task, the future says so."""
    with outrider.Executor(client) as executor:
        future = executor.submit(pass_gate, str(gate.path))
        client.task(future.handle.id).cancel()
        assert futures.wait([future], TIMEOUT_S).done == {future}
        assert future.cancelled()


def test_an_executor_makes_a_client_of_its_own(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one it uses the coordinator that the environment names, and closes its client at the end."""
    monkeypatch.setenv("OUTRIDER_COORDINATOR", running.address)
    with outrider.Executor() as executor:
        results = executor.map(double, range(3))
    assert list(results) == [0, 2, 4]
