"""Runs over real sockets: conditions, phases, policies, additions, retries and progress, with a scripted agent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from outrider import errors, status
from outrider.v1 import event_pb2, run_service_pb2, task_pb2, task_service_pb2, worker_message_pb2
from support.coordinator_process import CoordinatorProcess, ScriptedAgent
from support.waiting import eventually

WORK = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"))
FAILURE, ALWAYS = task_pb2.DEPENDENCY_CONDITION_FAILURE, task_pb2.DEPENDENCY_CONDITION_ALWAYS
STATE = task_pb2.TaskState


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """A running coordinator, gone afterwards."""
    process = CoordinatorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


def task(key: str, *after: str, **fields: Any) -> run_service_pb2.RunTask:
    """A function of a run; ``fields`` with one of its own fields or of its spec."""
    spec = task_pb2.TaskSpec()
    spec.CopyFrom(WORK)
    spec.weight = fields.pop("weight", 0.0)
    return run_service_pb2.RunTask(key=key, spec=spec, after_keys=after, **fields)


def edge(key: str, condition: int) -> run_service_pb2.RunEdge:
    """A dependency with a condition."""
    return run_service_pb2.RunEdge(key=key, condition=task_pb2.DependencyCondition.ValueType(condition))


def submit(coordinator: CoordinatorProcess, *tasks: run_service_pb2.RunTask, **policies: Any) -> run_service_pb2.Run:
    """Submit a graph."""
    run = run_service_pb2.RunSpec(title="r", tasks=tasks, **policies)
    return coordinator.runs.SubmitRun(run_service_pb2.SubmitRunRequest(run=run, request_id=uuid.uuid4().hex)).run


def ids_of(run: run_service_pb2.Run) -> dict[str, str]:
    """Task ids by key."""
    return {one.key: one.task_id for one in run.task_ids}


def get(coordinator: CoordinatorProcess, task_id: str) -> task_pb2.Task:
    """A task as committed."""
    return coordinator.tasks.Get(task_service_pb2.GetRequest(task_id=task_id)).task


def get_run(coordinator: CoordinatorProcess, run_id: str) -> run_service_pb2.Run:
    """A run as committed."""
    return coordinator.runs.GetRun(run_service_pb2.GetRunRequest(run_id=run_id)).run


def end(agent: ScriptedAgent, ref: Any, *, fails: bool = False) -> None:
    """An attempt ends."""
    if fails:
        error = task_pb2.TaskError(reason=task_pb2.TASK_REASON_TASK_ERROR, message="boom")
        agent.report(ref, failed=worker_message_pb2.Failed(error=error), terminal=True)
    else:
        result = task_pb2.Payload(data=b'"ok"')
        agent.report(ref, completed=worker_message_pb2.Completed(result=result), terminal=True)


def assigned(agent: ScriptedAgent, count: int) -> dict[str, Any]:
    """The next assignments by task id."""
    found: dict[str, Any] = {}
    while len(found) < count:
        found |= {one.ref.task_id: one for one in agent.next("assign").assignments}
    return found


def until_over(coordinator: CoordinatorProcess, run_id: str) -> run_service_pb2.Run:
    """The run once it is over."""
    request = run_service_pb2.WatchRunRequest(run_id=run_id)
    for _ in coordinator.runs.WatchRun(request, timeout=30):
        pass
    return get_run(coordinator, run_id)


def refusal(call: Any, request: Any) -> errors.OutriderError:
    """The error a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return status.from_rpc_error(caught.value)


def test_conditions_of_tasks_and_runs_travel(coordinator: CoordinatorProcess) -> None:
    """A task after a failure and one after any end start; what was not needed is skipped and fails nothing."""
    agent = ScriptedAgent(coordinator, "a", slots=4)
    run = submit(coordinator, task("a"), task("b", after=[edge("a", FAILURE)]), task("c", after=[edge("a", ALWAYS)]))
    ids = ids_of(run)
    end(agent, assigned(agent, 1)[ids["a"]].ref)
    last = assigned(agent, 1)[ids["c"]]
    assert [(one.key, one.result.data) for one in last.inputs] == [("a", b'"ok"')]
    end(agent, last.ref)
    ended = until_over(coordinator, run.id)
    assert ended.state == run_service_pb2.RUN_STATE_SUCCEEDED
    skipped = get(coordinator, ids["b"])
    assert (skipped.state, skipped.reason) == (STATE.TASK_STATE_SKIPPED, task_pb2.TASK_REASON_CONDITION_NOT_MET)
    assert list(skipped.dependency_conditions) == [FAILURE]
    alone = task_service_pb2.SubmitRequest(spec=WORK, dependency_ids=[ids["c"]])
    alone.dependencies.add(task_id=ids["b"], condition=ALWAYS)
    second = coordinator.tasks.Submit(alone).task_id
    given = assigned(agent, 1)[second]
    assert [(one.key, one.result.data) for one in given.inputs] == [(ids["c"], b'"ok"'), (ids["b"], b"")]
    agent.close()


def test_bad_edges_are_refused_with_their_field(coordinator: CoordinatorProcess) -> None:
    """An unknown condition, two conditions for one key, a phase against an edge: INVALID_REQUEST with the path."""
    bad = {
        "run.tasks[1].after[0].condition": [task("a"), task("b", after=[edge("a", 9)])],
        "run.tasks[1].after[0]": [task("a"), task("b", "a", after=[edge("a", ALWAYS)])],
        "run.tasks[1].phase": [task("a", phase=1), task("b", "a")],
        "run.tasks[1].after_keys": [task("a"), task("b", "x")],
    }
    for field, tasks in bad.items():
        request = run_service_pb2.SubmitRunRequest(run=run_service_pb2.RunSpec(tasks=tasks))
        error = refusal(coordinator.runs.SubmitRun, request)
        assert isinstance(error, errors.InvalidRequest)
        assert [violation.field for violation in error.violations] == [field]


def test_a_run_that_is_far_too_large_is_refused(coordinator: CoordinatorProcess) -> None:
    """More than 10,000 tasks, more edges than can be kept and a message no one takes are all TOO_LARGE."""
    tiny = run_service_pb2.RunTask(spec=WORK)
    many = run_service_pb2.RunSpec(tasks=[tiny] * 10_001)
    assert isinstance(refusal(coordinator.runs.SubmitRun, run_service_pb2.SubmitRunRequest(run=many)), errors.TooLarge)
    keys = [f"k{at}" for at in range(400)]
    dense = [task(key, *keys[:at]) for at, key in enumerate(keys)] + [task(f"x{at}", *keys) for at in range(60)]
    request = run_service_pb2.SubmitRunRequest(run=run_service_pb2.RunSpec(tasks=dense))
    assert isinstance(refusal(coordinator.runs.SubmitRun, request), errors.TooLarge)
    million = run_service_pb2.RunSpec(tasks=[tiny] * 1_000_000)
    assert isinstance(
        refusal(coordinator.runs.SubmitRun, run_service_pb2.SubmitRunRequest(run=million)), errors.TooLarge
    )
    assert not coordinator.runs.ListRuns(run_service_pb2.ListRunsRequest()).runs


def test_failing_fast_stops_what_runs(coordinator: CoordinatorProcess) -> None:
    """The agent is told to stop the others with RUN_FAILED; what waits is cancelled; the run has failed."""
    agent = ScriptedAgent(coordinator, "a", slots=2)
    policy = run_service_pb2.RUN_FAILURE_POLICY_FAIL_FAST
    run = submit(coordinator, task("a"), task("b"), task("c", "b"), task("d", phase=1), failure_policy=policy)
    ids = ids_of(run)
    first = assigned(agent, 2)
    agent.report(first[ids["b"]].ref, started=worker_message_pb2.Started())
    end(agent, first[ids["a"]].ref, fails=True)
    cancel = agent.next("cancel")
    assert [ref.task_id for ref in cancel.refs] == [ids["b"]]
    assert cancel.reason == task_pb2.TASK_REASON_RUN_FAILED
    error = task_pb2.TaskError(reason=task_pb2.TASK_REASON_RUN_FAILED)
    agent.report(first[ids["b"]].ref, failed=worker_message_pb2.Failed(error=error), terminal=True)
    ended = until_over(coordinator, run.id)
    assert ended.state == run_service_pb2.RUN_STATE_FAILED
    assert ended.failure_policy == policy
    assert {key: get(coordinator, ids[key]).reason for key in "bcd"} == dict.fromkeys(
        "bcd", task_pb2.TASK_REASON_RUN_FAILED
    )
    agent.close()


def test_tasks_are_added_once_also_across_a_kill(coordinator: CoordinatorProcess) -> None:
    """An addition asked for again gives the same tasks; it may come after what has ended; an ended run takes none."""
    agent = ScriptedAgent(coordinator, "a", slots=2)
    run = submit(coordinator, task("a"), task("b"))
    ids = ids_of(run)
    first = assigned(agent, 2)
    end(agent, first[ids["a"]].ref)
    eventually(lambda: get(coordinator, ids["a"]).state == STATE.TASK_STATE_SUCCEEDED)
    request = run_service_pb2.AddTasksRequest(
        run_id=run.id, request_id="more", tasks=[task("c", "a"), task("d", "c", "b")], parent_task_id=ids["b"]
    )
    added = coordinator.runs.AddTasks(request)
    assert ([one.key for one in added.task_ids], added.created) == (["c", "d"], True)
    assigned(agent, 1)
    agent.close()
    coordinator.kill()
    coordinator.start()
    again = coordinator.runs.AddTasks(request)
    assert (list(again.task_ids), again.created) == (list(added.task_ids), False)
    assert [one.key for one in get_run(coordinator, run.id).task_ids] == list("abcd")
    request.tasks[0].key = "other"
    assert isinstance(refusal(coordinator.runs.AddTasks, request), errors.RequestIdReused)
    stranger = run_service_pb2.AddTasksRequest(run_id=run.id, tasks=[task("e")], parent_task_id=ids["a"])
    assert isinstance(refusal(coordinator.runs.AddTasks, stranger), errors.IllegalTransition)
    assert coordinator.runs.CancelRun(run_service_pb2.CancelRunRequest(run_id=run.id)).cancelled_count == 3
    late = run_service_pb2.AddTasksRequest(run_id=run.id, tasks=[task("e")])
    assert isinstance(refusal(coordinator.runs.AddTasks, late), errors.IllegalTransition)


def test_an_ended_task_is_done_again_as_a_new_one(coordinator: CoordinatorProcess) -> None:
    """Retry gives a linked task with the results it had, once per request id; an open task is refused."""
    agent = ScriptedAgent(coordinator, "a", slots=2)
    ids = ids_of(submit(coordinator, task("a"), task("b", "a")))
    end(agent, assigned(agent, 1)[ids["a"]].ref)
    last = assigned(agent, 1)[ids["b"]]
    request = task_service_pb2.RetryRequest(task_id=ids["b"], request_id="again")
    assert isinstance(refusal(coordinator.tasks.Retry, request), errors.IllegalTransition)
    end(agent, last.ref, fails=True)
    eventually(lambda: get(coordinator, ids["b"]).state == STATE.TASK_STATE_FAILED)
    made = coordinator.tasks.Retry(request)
    given = assigned(agent, 1)[made.task_id]
    assert [(one.key, one.result.data) for one in given.inputs] == [("a", b'"ok"')]
    assert coordinator.tasks.Retry(request).task_id == made.task_id
    retried = get(coordinator, made.task_id)
    assert (retried.retry_of_task_id, retried.spec) == (ids["b"], get(coordinator, ids["b"]).spec)
    agent.close()


def test_a_run_is_done_again_where_it_did_not_succeed(coordinator: CoordinatorProcess) -> None:
    """RetryRun does what failed or was skipped with the old results under their keys, and again after that."""
    agent = ScriptedAgent(coordinator, "a", slots=2)
    run = submit(coordinator, task("a"), task("b", "a"), task("c", "a", "b", phase=1, milestone="m"))
    ids = ids_of(run)
    active = run_service_pb2.RetryRunRequest(run_id=run.id)
    assert isinstance(refusal(coordinator.runs.RetryRun, active), errors.IllegalTransition)
    end(agent, assigned(agent, 1)[ids["a"]].ref)
    end(agent, assigned(agent, 1)[ids["b"]].ref, fails=True)
    until_over(coordinator, run.id)
    request = run_service_pb2.RetryRunRequest(run_id=run.id, request_id="again")
    second = coordinator.runs.RetryRun(request).run
    assert [one.key for one in second.task_ids] == ["b", "c"]
    assert second.retry_of_run_id == run.id
    assert coordinator.runs.RetryRun(request).run.id == second.id
    given = assigned(agent, 1)[ids_of(second)["b"]]
    assert [(one.key, one.task_id, one.result.data) for one in given.inputs] == [("a", ids["a"], b'"ok"')]
    end(agent, given.ref)
    end(agent, assigned(agent, 1)[ids_of(second)["c"]].ref, fails=True)
    until_over(coordinator, second.id)
    third = coordinator.runs.RetryRun(run_service_pb2.RetryRunRequest(run_id=second.id)).run
    given = assigned(agent, 1)[ids_of(third)["c"]]
    assert [(one.key, one.task_id) for one in given.inputs] == [("a", ids["a"]), ("b", ids_of(second)["b"])]
    end(agent, given.ref)
    ended = until_over(coordinator, third.id)
    assert ended.state == run_service_pb2.RUN_STATE_SUCCEEDED
    assert [(one.name, one.succeeded_count) for one in ended.progress.milestones] == [("m", 1)]
    done = run_service_pb2.RetryRunRequest(run_id=third.id)
    assert isinstance(refusal(coordinator.runs.RetryRun, done), errors.IllegalTransition)
    agent.close()


def test_progress_counts_weights_and_reports(coordinator: CoordinatorProcess) -> None:
    """Done weights and reported shares make the fraction; milestones are told as they are reached."""
    agent = ScriptedAgent(coordinator, "a", slots=2)
    tasks = task("a", weight=3.0, milestone="half"), task("b", weight=1.0), task("c", "b", weight=4.0)
    tasks[2].spec.estimated_duration.seconds = 60
    run = submit(coordinator, *tasks)
    ids = ids_of(run)
    first = assigned(agent, 2)
    agent.report(first[ids["b"]].ref, started=worker_message_pb2.Started())
    agent.report(first[ids["b"]].ref, progress=task_pb2.Progress(completed=1, total=2))
    end(agent, first[ids["a"]].ref)
    eventually(lambda: get_run(coordinator, run.id).progress.fraction > 3 / 8)
    seen = get_run(coordinator, run.id).progress
    assert seen.fraction == pytest.approx(3.5 / 8)
    counts = (seen.completed_count, seen.in_progress_count, seen.pending_count, seen.blocked_count)
    assert counts == (1, 1, 1, 0)
    assert seen.agents_active == 1
    assert seen.milestones[0].HasField("reach_time")
    assert seen.HasField("estimated_end_time")
    end(agent, first[ids["b"]].ref)
    end(agent, assigned(agent, 1)[ids["c"]].ref)
    ended = until_over(coordinator, run.id).progress
    assert (ended.fraction, ended.completed_count) == (1.0, 3)
    assert not ended.HasField("estimated_end_time")
    kinds = [
        event.text
        for response in coordinator.runs.WatchRun(run_service_pb2.WatchRunRequest(run_id=run.id), timeout=30)
        for event in response.events.events
        if event.type == event_pb2.EVENT_TYPE_RUN_MILESTONE
    ]
    assert kinds == ["half"]
    agent.close()


def test_a_large_run_survives_a_kill_at_any_moment(coordinator: CoordinatorProcess) -> None:
    """Killed while 5,000 dependents are being skipped, the coordinator goes on where it was: all of them are."""
    agent = ScriptedAgent(coordinator, "a", slots=1)
    run = submit(coordinator, task("root"), *(task(f"k{at}", "root") for at in range(5000)))
    assert run.task_count == 5001
    end(agent, assigned(agent, 1)[ids_of(run)["root"]].ref, fails=True)
    root = ids_of(run)["root"]
    eventually(lambda: get(coordinator, root).state == STATE.TASK_STATE_FAILED)
    agent.close()
    coordinator.kill()
    coordinator.start()
    ended = until_over(coordinator, run.id)
    assert {one.state: one.count for one in ended.counts} == {
        STATE.TASK_STATE_FAILED: 1,
        STATE.TASK_STATE_SKIPPED: 5000,
    }
