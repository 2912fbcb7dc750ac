"""The blocking client against a real cluster: what it runs, and how it tells of it."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

import outrider
from outrider import errors
from outrider.views import Progress, TaskState, Wait
from support.agent_tasks import ask
from support.cluster import Cluster, cluster
from support.sdk_tasks import Counter, add, count_start, double, merge, pass_gate, report, talk, which_agent, who
from support.waiting import eventually
from support.witness import Gate

TIMEOUT_S = 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and two agents of two slots, for all tests here."""
    with cluster(tmp_path_factory.mktemp("sdk"), agents=2) as started:
        yield started


@pytest.fixture(scope="module")
def client(running: Cluster) -> Iterator[outrider.Client]:
    """One client for all tests here."""
    with running.connect() as connected:
        yield connected


# --- submit


def test_a_function_is_submitted_by_object_or_name(client: outrider.Client) -> None:
    """A function, a builtin, a classmethod, a name, keyword arguments: each runs and returns its result."""
    assert client.submit(double, 21).result(TIMEOUT_S) == 42
    assert client.submit(math.sqrt, 16).result(TIMEOUT_S) == 4.0
    assert client.submit(Counter.made, 1).result(TIMEOUT_S) == 3
    assert client.submit("support.sdk_tasks:add", 1, right=2).result(TIMEOUT_S) == 3
    assert client.submit(add, left=1, right=3).result(TIMEOUT_S) == 4


def test_a_command_gives_its_output(client: outrider.Client) -> None:
    """argv, environment, directory and standard input reach the program; its output is the result."""
    script = "cat; printf ' %s %s' $WORD $(pwd)"
    handle = client.command(["sh", "-c", script], env={"WORD": "hello"}, cwd="/", stdin="in")
    assert handle.result(TIMEOUT_S) == {"exit_code": 0, "output": "in hello /"}
    handle = client.command(["sh", "-c", "exit 3"])
    with pytest.raises(outrider.TaskFailed) as caught:
        handle.result(TIMEOUT_S)
    assert caught.value.exit_code == 3


def test_a_handle_knows_its_task(client: outrider.Client, gate: Gate) -> None:
    """id, state, done and repr follow the task; a timeout raises and the task goes on."""
    handle = client.submit(pass_gate, str(gate.path))
    assert len(handle.id) == 32
    assert handle.id in repr(handle)
    eventually(lambda: handle.state is TaskState.RUNNING)
    assert not handle.done()
    with pytest.raises(TimeoutError, match="it goes on"):
        handle.result(timeout=0.05)
    gate.open()
    assert handle.result(TIMEOUT_S) is None
    assert handle.exception() is None
    assert handle.done()
    assert handle.state is TaskState.SUCCEEDED


def test_many_threads_may_wait_for_one_handle(client: outrider.Client, gate: Gate) -> None:
    """Every thread gets the result."""
    handle = client.submit("support.witness:pass_gate", str(gate.path))
    got: SimpleQueue[object] = SimpleQueue()
    threads = [threading.Thread(target=lambda: got.put(handle.result(TIMEOUT_S))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert [got.get(timeout=TIMEOUT_S) for _ in threads] == [None] * 8


def test_several_handles_of_one_task_all_hear_of_its_end(running: Cluster, client: outrider.Client, gate: Gate) -> None:
    """The submitter's, two from an id prefix and one of another client end together, also when asked for afterwards."""
    first = client.submit(pass_gate, str(gate.path))
    with running.connect() as other:
        handles = [first, client.task(first.id), client.task(first.id[:31]), other.task(first.id), other.task(first.id)]
        gate.open()
        assert [handle.result(TIMEOUT_S) for handle in handles] == [None] * 5
        assert other.task(first.id).result(TIMEOUT_S) is None
    with pytest.raises(errors.NotFound):
        client.task("0" * 32)
    with pytest.raises(errors.InvalidRequest, match="too short"):
        client.task("01")


def test_a_request_id_makes_a_submit_repeatable(running: Cluster, client: outrider.Client, tmp_path: Path) -> None:
    """The same id with the same work is the same task, for any client, also after its end; other work is refused."""
    path = str(tmp_path / "starts")
    once = client.with_options(request_id="only-once")
    first = once.submit(count_start, path)
    second = once.submit(count_start, path)
    assert (first.result(TIMEOUT_S), second.result(TIMEOUT_S)) == (1, 1)
    with running.connect() as other:
        third = other.with_options(request_id="only-once").submit(count_start, path)
        assert third.result(TIMEOUT_S) == 1
    assert first.id == second.id == third.id
    with pytest.raises(errors.RequestIdReused):
        _ = once.submit(count_start, "another").id


# --- many


def test_map_keeps_the_order(client: outrider.Client) -> None:
    """Results come in the order of the items, for one and several iterables, singly and in batches."""
    assert list(client.map(double, range(20))) == [2 * item for item in range(20)]
    assert list(client.map(add, [1, 2, 3], [10, 20, 30])) == [11, 22, 33]
    assert list(client.map(add, [1, 2, 3], [10, 20], batch=2)) == [11, 22]
    assert list(client.map("math:sqrt", (n * n for n in range(25)), batch=10)) == list(range(25))
    assert list(client.map(double, [])) == []
    with pytest.raises(ValueError, match="batch must be at least 1"):
        client.map(double, [1], batch=0)


def test_map_raises_the_first_failure_in_order(client: outrider.Client, gate: Gate) -> None:
    """Results before the failed item arrive; its failure is raised where it stands; a timeout counts from the call."""
    results = client.map(math.sqrt, [4, 9, -1, 16])
    assert list(itertools.islice(results, 2)) == [2.0, 3.0]
    with pytest.raises(outrider.TaskFailed, match="math domain error"):
        next(results)
    with pytest.raises(TimeoutError):
        list(client.map(pass_gate, [str(gate.path)], timeout=0.05))


def test_as_completed_gives_handles_as_they_end(client: outrider.Client, tmp_path: Path) -> None:
    """The order is that of the ends; those that have ended come even when the time is over."""
    gates = [Gate(tmp_path, f"gate{number}") for number in range(3)]
    handles = [client.submit(pass_gate, str(gate.path)) for gate in gates]
    ended = outrider.as_completed(handles, timeout=TIMEOUT_S)
    for number in (2, 0, 1):
        gates[number].open()
        assert next(ended) is handles[number]
    assert list(ended) == []
    assert len(list(outrider.as_completed(handles, timeout=0))) == 3
    late = client.submit(pass_gate, str(gates[0].path))
    with pytest.raises(TimeoutError, match="1 of 2 tasks"):
        list(outrider.as_completed([late, handles[0]], timeout=0.05))
    gates[0].open()
    assert late.result(TIMEOUT_S) is None
    for gate in gates:
        gate.close()


# --- what a task tells


def test_events_go_from_the_beginning_to_the_end(client: outrider.Client, gate: Gate) -> None:
    """Live or afterwards: the same events with rising cursors, attempt and agent; leaving early is harmless."""
    handle = client.submit(report, 4, str(gate.path))
    live = handle.events()
    assert next(live).type == "TASK_SUBMITTED"
    gate.open()
    after = list(handle.events())
    assert [event.type for event in after if event.type != "TASK_PROGRESS"] == [
        *("TASK_SUBMITTED", "TASK_QUEUED", "TASK_ASSIGNED", "TASK_STARTED", "TASK_SUCCEEDED"),
    ]
    assert after[1:] == list(live)
    assert [event.progress for event in after if event.progress][-1] == Progress(4, 4, "step 4")
    cursors = [event.cursor for event in after]
    assert cursors == sorted(set(cursors))
    assert after[-1].attempt == 1
    assert after[-1].agent in ("a1", "a2")
    next(handle.events())


def steps_until(queue: SimpleQueue[float], last: float) -> list[float]:
    """What comes until ``last``; a burst may come as its last report only."""
    steps = [queue.get(timeout=TIMEOUT_S)]
    while steps[-1] < last:
        steps.append(queue.get(timeout=TIMEOUT_S))
    assert steps == sorted(set(steps))
    return steps


def test_progress_callbacks_get_the_latest_and_every_later_report(
    running: Cluster, client: outrider.Client, gate: Gate
) -> None:
    """Each callback hears rising steps, none twice, from the latest one to the last; another client's callback too."""
    early: SimpleQueue[float] = SimpleQueue()
    handle = client.submit(report, 20, str(gate.path))
    handle.on_progress(lambda progress: early.put(progress.completed))
    steps_until(early, 10)
    late: SimpleQueue[float] = SimpleQueue()
    other: SimpleQueue[float] = SimpleQueue()
    handle.on_progress(lambda progress: late.put(progress.completed))
    with running.connect() as another:
        another.task(handle.id).on_progress(lambda progress: other.put(progress.completed))
        assert steps_until(late, 10) == steps_until(other, 10) == [10]
        gate.open()
        for queue in (early, late, other):
            assert steps_until(queue, 20)[0] > 10
    finished: SimpleQueue[Progress] = SimpleQueue()
    handle.on_progress(finished.put)
    assert finished.get(timeout=TIMEOUT_S) == Progress(20, 20, "step 20")


def test_done_callbacks_run_once_and_harm_nobody(
    client: outrider.Client, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Before and after the end; one that raises is logged and the next one runs; all in a thread of the client."""
    called: SimpleQueue[tuple[object, str]] = SimpleQueue()

    def tell(handle: object) -> None:
        called.put((handle, threading.current_thread().name))

    def fail(handle: object) -> None:
        raise ZeroDivisionError("of the callback")

    handle = client.submit(pass_gate, str(gate.path))
    handle.add_done_callback(fail)
    handle.add_done_callback(tell)
    gate.open()
    assert called.get(timeout=TIMEOUT_S)[0] is handle
    handle.add_done_callback(tell)
    told, thread = called.get(timeout=TIMEOUT_S)
    assert told is handle
    assert thread.startswith("outrider-callbacks")
    assert "of the callback" in caplog.text
    assert called.empty()


def test_logs_are_read_live_and_later(client: outrider.Client, gate: Gate) -> None:
    """Following ends with the task; without it what there is comes at once."""
    handle = client.submit(talk, str(gate.path))
    live = handle.logs(follow=True)
    assert next(live) == "before\n"
    assert "".join(handle.logs()) == "before\n"
    gate.open()
    assert "".join(live) == "after\n"
    assert "".join(handle.logs()) == "before\nafter\n"


def test_a_question_is_seen_and_answered(client: outrider.Client) -> None:
    """A task that asks shows its wait, takes the answer, and does not take a second one."""
    handle = client.submit(ask, "Which way?")
    eventually(lambda: handle.state is TaskState.BLOCKED)
    (wait,) = handle.waits()
    assert wait == Wait("q", "clarification", "Which way?", opened=wait.opened)
    assert wait.opened is not None
    assert handle.answer("left") == "q"
    assert handle.result(TIMEOUT_S) == "left"
    assert handle.waits() == []
    with pytest.raises(errors.IllegalTransition):
        handle.answer("right", key="other")


def test_explain_says_why(client: outrider.Client) -> None:
    """A task that no agent can take: the rule that refused each, in words for people."""
    handle = client.with_options(labels={"gpu": "yes"}).submit(double, 1)
    explanation = handle.explain()
    assert explanation.state is TaskState.QUEUED
    assert {verdict.agent: verdict.eligible for verdict in explanation.agents} == {"a1": False, "a2": False}
    assert "gpu" in str(explanation)
    assert handle.cancel()


def test_cancel_says_whether_it_decides(client: outrider.Client, gate: Gate) -> None:
    """A waiting and a running task are cancelled, with the message on record; one that has ended is not."""
    waiting = client.with_options(labels={"no": "where"}).submit(double, 1)
    assert waiting.cancel("not wanted")
    with pytest.raises(outrider.TaskCancelled, match="not wanted"):
        waiting.result(TIMEOUT_S)
    handle = client.submit(pass_gate, str(gate.path))
    eventually(lambda: handle.state is TaskState.RUNNING)
    assert handle.cancel("no longer needed")
    with pytest.raises(outrider.TaskCancelled, match="no longer needed") as caught:
        handle.result(TIMEOUT_S)
    assert caught.value.task_id == handle.id
    assert caught.value.cause == "CANCEL_REQUESTED"
    assert "no longer needed" in [event.text for event in handle.events()]
    assert handle.state is TaskState.CANCELLED
    done = client.submit(double, 1)
    assert done.result(TIMEOUT_S) == 2
    assert not done.cancel()


# --- options


def test_options_reach_the_task(running: Cluster, client: outrider.Client) -> None:
    """Every option of a submit arrives in the stored spec."""
    hour = dt.timedelta(hours=1)
    options = {"title": "t", "description": "d", "type": "kind", "tags": ["x", "y"], "priority": "high", "weight": 2.5}
    times = {"timeout": 60, "backoff": 0.5, "disconnect_grace": hour, "queue_timeout": 7.5, "estimated_duration": 90}
    later = dt.datetime.now(dt.UTC) + hour
    handle = client.with_options(**options, **times, attempts=4, not_before=later).submit(double, 1)
    spec = running.get(handle.id).spec
    assert (spec.title, spec.description, spec.type, list(spec.tags)) == ("t", "d", "kind", ["x", "y"])
    assert (spec.priority, spec.weight, spec.retry.max_attempts) == (7, 2.5, 4)
    assert (spec.timeout.ToSeconds(), spec.retry.initial_backoff.ToMilliseconds()) == (60, 500)
    assert (spec.disconnect_grace.ToSeconds(), spec.estimated_duration.ToSeconds()) == (3600, 90)
    assert spec.queue_timeout.ToMilliseconds() == 7500
    assert spec.not_before.ToDatetime(dt.UTC) == later
    assert handle.state is TaskState.PENDING
    handle.cancel()


def test_options_do_what_they_say(client: outrider.Client, gate: Gate) -> None:
    """Labels choose the agent, a timeout ends an attempt, attempts are tried, a queue timeout expires."""
    for name in ("a1", "a2"):
        assert client.with_options(labels={"name": name}).submit(which_agent).result(TIMEOUT_S) == name
    with pytest.raises(outrider.TaskFailed) as timed_out:
        client.with_options(timeout=0.2, attempts=1).submit(pass_gate, str(gate.path)).result(TIMEOUT_S)
    assert timed_out.value.cause == "TIMED_OUT"
    retried = client.with_options(attempts=2, backoff=0.01).submit("support.sdk_tasks:boom", "again")
    with pytest.raises(outrider.TaskFailed, match="again"):
        retried.result(TIMEOUT_S)
    assert max(event.attempt for event in retried.events()) == 2
    with pytest.raises(outrider.TaskExpired):
        client.with_options(queue_timeout=0.1, labels={"no": "where"}).submit(double, 1).result(TIMEOUT_S)


def test_after_waits_for_handles_and_ids(client: outrider.Client) -> None:
    """A task after others starts when they have succeeded and gets their results; it is skipped when one fails."""
    one, two = client.submit(double, 1), client.submit(double, 2)
    last = client.with_options(after=[one, two.id], inputs_argument="inputs").submit(who)
    assert last.result(TIMEOUT_S) == {one.id: 2, two.id: 4}
    total = client.with_options(after=[one, two], inputs_argument="inputs").submit(merge)
    assert total.result(TIMEOUT_S) == 6
    bad = client.submit(math.sqrt, -1)
    with pytest.raises(outrider.TaskSkipped) as skipped:
        client.with_options(after=[bad]).submit(double, 1).result(TIMEOUT_S)
    assert skipped.value.cause == "UPSTREAM_FAILED"


def test_namespaces_are_apart(running: Cluster, client: outrider.Client) -> None:
    """A client sees the tasks of its own namespace only."""
    with running.connect("other") as other:
        handle = other.submit(double, 4)
        assert handle.result(TIMEOUT_S) == 8
        with pytest.raises(errors.NotFound):
            client.task(handle.id)
