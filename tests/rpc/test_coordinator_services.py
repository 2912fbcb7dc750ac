"""The coordinator daemon over real sockets, with a scripted agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from outrider import errors, status
from outrider.v1 import (
    agent_service_pb2,
    event_pb2,
    fleet_service_pb2,
    run_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_message_pb2,
)
from support.coordinator_process import CoordinatorProcess, ScriptedAgent


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """A running coordinator, gone afterwards."""
    process = CoordinatorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


def function(name: str = "m:f", **spec: object) -> task_service_pb2.SubmitRequest:
    """A submit of a function."""
    work = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function=name), **spec)  # type: ignore[arg-type]
    return task_service_pb2.SubmitRequest(spec=work)


def done(value: bytes) -> worker_message_pb2.Completed:
    """A success with this JSON."""
    return worker_message_pb2.Completed(result=task_pb2.Payload(data=value))


def get(coordinator: CoordinatorProcess, task_id: str) -> task_pb2.Task:
    """A task as committed."""
    return coordinator.tasks.Get(task_service_pb2.GetRequest(task_id=task_id)).task


def watch_until_ended(coordinator: CoordinatorProcess, task_id: str) -> list[event_pb2.Event]:
    """All events of a task from the beginning to its terminal one."""
    request = task_service_pb2.WatchRequest(task_ids=[task_id], after_cursor=0, include_results=True)
    seen = []
    for response in coordinator.tasks.Watch(request, timeout=30):
        for event in response.events.events:
            seen.append(event)
            if 10 <= event.type <= 14:
                return seen
    raise AssertionError("the watch ended early")


def refusal(call: grpc.RpcError) -> errors.OutriderError:
    """The error of a failed call, after checking that it carries exactly one ErrorInfo."""
    details = dict(call.trailing_metadata())["grpc-status-details-bin"]
    rich = status_pb2.Status.FromString(details)
    infos = [detail for detail in rich.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    return status.from_rpc_error(call)


def test_a_task_travels_over_the_wire(coordinator: CoordinatorProcess) -> None:
    """Submit, assignment, reports, acknowledgement, watch and result, all over gRPC."""
    agent = ScriptedAgent(coordinator, "a")
    task_id = coordinator.tasks.Submit(function()).task_id
    (assignment,) = agent.next("assign").assignments
    assert assignment.spec.function.function == "m:f"
    agent.report(assignment.ref, started=worker_message_pb2.Started(worker_pid=1))
    agent.report(assignment.ref, progress=task_pb2.Progress(completed=1, total=2))
    agent.report(assignment.ref, completed=done(b"42"), terminal=True)
    events = watch_until_ended(coordinator, task_id)
    assert [event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_TASK_") for event in events] == [
        "SUBMITTED",
        "QUEUED",
        "ASSIGNED",
        "STARTED",
        "PROGRESS",
        "SUCCEEDED",
    ]
    assert events[-1].completed.result.data == b"42"
    assert get(coordinator, task_id).result.data == b"42"
    agent.close()


def test_a_deadline_travels_and_ends_the_task(coordinator: CoordinatorProcess) -> None:
    """The assignment says how much is left; when it is over the attempt is stopped and the task is EXPIRED."""
    agent = ScriptedAgent(coordinator, "a")
    task_id = coordinator.tasks.Submit(function(deadline_duration=duration_pb2.Duration(seconds=1))).task_id
    (assignment,) = agent.next("assign").assignments
    assert 0 < assignment.remaining_duration.ToMilliseconds() <= 1000
    cancel = agent.next("cancel")
    assert cancel.reason == task_pb2.TASK_REASON_DEADLINE_EXCEEDED
    error = task_pb2.TaskError(reason=cancel.reason, message=cancel.message)
    agent.report(assignment.ref, failed=worker_message_pb2.Failed(error=error), terminal=True)
    assert watch_until_ended(coordinator, task_id)[-1].type == event_pb2.EVENT_TYPE_TASK_EXPIRED
    assert get(coordinator, task_id).error.message == "not done within its deadline of 1 s"
    agent.close()


def test_watchers_resume_from_a_cursor_after_a_kill(coordinator: CoordinatorProcess) -> None:
    """After kill -9 and a restart, a watch from an old cursor misses nothing and repeats nothing."""
    task_id = coordinator.tasks.Submit(function()).task_id
    request = task_service_pb2.WatchRequest(task_ids=[task_id], after_cursor=0)
    first = next(iter(coordinator.tasks.Watch(request, timeout=30))).events.events[0]
    coordinator.kill()
    coordinator.start()
    agent = ScriptedAgent(coordinator, "a")
    (assignment,) = agent.next("assign").assignments
    agent.report(assignment.ref, completed=done(b"1"), terminal=True)
    kinds = [event.type for event in watch_until_ended(coordinator, task_id) if event.cursor > first.cursor]
    assert kinds == [2, 3, 10]
    agent.close()


def test_running_work_survives_a_coordinator_kill(coordinator: CoordinatorProcess) -> None:
    """kill -9 of the coordinator with an attempt running: the agent resumes it and nothing is offered again."""
    agent = ScriptedAgent(coordinator, "a")
    task_id = coordinator.tasks.Submit(function()).task_id
    (assignment,) = agent.next("assign").assignments
    agent.report(assignment.ref, started=worker_message_pb2.Started())
    agent.next("ack")
    agent.vanish()
    coordinator.kill()
    coordinator.start()
    held = agent_service_pb2.HeldAttempt(ref=assignment.ref, state=task_pb2.ATTEMPT_STATE_STARTED)
    outbox = agent_service_pb2.OutboxRange(outbox_id="box-a", first_seq=2, last_seq=1)
    back = ScriptedAgent(coordinator, "a", held=[held], outboxes=[outbox])
    assert [verdict.verdict for verdict in back.welcome.verdicts] == [agent_service_pb2.VERDICT_RESUME]
    assert back.welcome.applied[0].applied_seq == 1
    back.seq, back._numbers[task_id, 1] = 1, 1
    back.report(assignment.ref, completed=done(b"1"), terminal=True)
    back.next("ack")
    task = get(coordinator, task_id)
    assert task.state == task_pb2.TASK_STATE_SUCCEEDED
    assert len(task.attempts) == 1
    back.close()


def test_a_request_id_is_remembered_across_a_restart(coordinator: CoordinatorProcess) -> None:
    """A submit repeated after a crash returns the same task; another body under the id is refused."""
    request = function()
    request.request_id = "r1"
    task_id = coordinator.tasks.Submit(request).task_id
    coordinator.kill()
    coordinator.start()
    again = coordinator.tasks.Submit(request)
    assert (again.task_id, again.created) == (task_id, False)
    other = function("m:other")
    other.request_id = "r1"
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.tasks.Submit(other)
    assert isinstance(refusal(caught.value), errors.RequestIdReused)


def test_a_graph_hands_results_on(coordinator: CoordinatorProcess) -> None:
    """The last task of a run gets the results of those before it, by key; the watch of the run ends by itself."""
    agent = ScriptedAgent(coordinator, "a", slots=2)
    work = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"))
    run = run_service_pb2.RunSpec(title="sum")
    run.tasks.add(key="end", spec=work, after_keys=["x", "y"])
    run.tasks.add(key="x", spec=work)
    run.tasks.add(key="y", spec=work)
    accepted = coordinator.runs.SubmitRun(run_service_pb2.SubmitRunRequest(run=run)).run
    keys = {entry.task_id: entry.key for entry in accepted.task_ids}
    waiting = 2
    while waiting:
        for assignment in agent.next("assign").assignments:
            waiting -= 1
            value = keys[assignment.ref.task_id].encode()
            agent.report(assignment.ref, completed=done(b'"%s"' % value), terminal=True)
    (last,) = agent.next("assign").assignments
    assert {item.key: item.result.data for item in last.inputs} == {"x": b'"x"', "y": b'"y"'}
    agent.report(last.ref, completed=done(b"0"), terminal=True)
    request = run_service_pb2.WatchRunRequest(run_id=accepted.id)
    kinds = [
        event.type for response in coordinator.runs.WatchRun(request, timeout=30) for event in response.events.events
    ]
    assert kinds[0] == event_pb2.EVENT_TYPE_RUN_SUBMITTED
    assert kinds[-1] == event_pb2.EVENT_TYPE_RUN_ENDED
    state = coordinator.runs.GetRun(run_service_pb2.GetRunRequest(run_id=accepted.id)).run.state
    assert state == run_service_pb2.RUN_STATE_SUCCEEDED
    agent.close()


def test_a_question_is_answered_over_the_wire(coordinator: CoordinatorProcess) -> None:
    """A blocked task is listed with its open wait; an answer reaches the attempt; twice is harmless."""
    agent = ScriptedAgent(coordinator, "a")
    task_id = coordinator.tasks.Submit(function()).task_id
    (assignment,) = agent.next("assign").assignments
    question = task_pb2.BlockedReason(key="k", clarification=task_pb2.ScopeClarification(question="which?"))
    agent.report(assignment.ref, started=worker_message_pb2.Started())
    agent.report(assignment.ref, blocked=question)
    while agent.next("ack").applied[0].applied_seq < 2:
        pass
    (listed,) = coordinator.tasks.List(task_service_pb2.ListRequest(open_waits_only=True)).tasks
    assert listed.open_waits[0].clarification.question == "which?"
    answer = task_service_pb2.AnswerRequest(
        task_id=task_id[:20], answer=task_pb2.Payload(data=b"this", content_type="text/plain")
    )
    assert coordinator.tasks.Answer(answer).key == "k"
    assert agent.next("answer").resolution.answer.data == b"this"
    answer.key = "k"
    assert coordinator.tasks.Answer(answer).key == "k"
    agent.close()


def test_cancel_reaches_the_agent_and_decides(coordinator: CoordinatorProcess) -> None:
    """Cancel of a running task tells the agent; its late success does not change the outcome."""
    agent = ScriptedAgent(coordinator, "a")
    task_id = coordinator.tasks.Submit(function()).task_id
    (assignment,) = agent.next("assign").assignments
    reply = coordinator.tasks.Cancel(task_service_pb2.CancelRequest(task_id=task_id))
    assert (reply.cancelled, reply.state) == (True, task_pb2.TASK_STATE_CANCELLING)
    assert agent.next("cancel").refs[0].task_id == task_id
    agent.report(assignment.ref, completed=done(b"1"), terminal=True)
    assert watch_until_ended(coordinator, task_id)[-1].type == event_pb2.EVENT_TYPE_TASK_CANCELLED
    again = coordinator.tasks.Cancel(task_service_pb2.CancelRequest(task_id=task_id))
    assert again.state == task_pb2.TASK_STATE_CANCELLED
    agent.close()


def test_output_is_readable_afterwards(coordinator: CoordinatorProcess) -> None:
    """Captured output is read back in order, and following it ends with the task."""
    agent = ScriptedAgent(coordinator, "a")
    task_id = coordinator.tasks.Submit(function()).task_id
    (assignment,) = agent.next("assign").assignments
    following = coordinator.tasks.ReadLogs(task_service_pb2.ReadLogsRequest(task_id=task_id, follow=True), timeout=30)
    for line in (b"one\n", b"two\n"):
        agent.report(assignment.ref, log=worker_message_pb2.Log(stream=1, data=line))  # type: ignore[arg-type]
    agent.report(assignment.ref, completed=done(b"1"), terminal=True)
    seen = b"".join(chunk.log.data for response in following for chunk in response.chunks)
    assert seen == b"one\ntwo\n"
    agent.close()


def test_a_stream_of_submits_refuses_only_the_bad_ones(coordinator: CoordinatorProcess) -> None:
    """In a frame of submissions a bad one is refused alone, with its reason, in its place."""
    frame = task_service_pb2.SubmitStreamRequest()
    frame.submissions.tasks.extend([function(), function("nonsense"), function()])
    (response,) = coordinator.tasks.SubmitStream(iter([frame]), timeout=30)
    outcomes = [result.WhichOneof("result") for result in response.results.results]
    assert outcomes == ["accepted", "refused", "accepted"]
    assert response.results.results[1].refused.reason == "INVALID_REQUEST"


def test_a_large_frame_of_submits_is_answered_in_order(coordinator: CoordinatorProcess) -> None:
    """However the coordinator deals with it in parts, each result is that of its submission, first come is first."""
    frame = task_service_pb2.SubmitStreamRequest()
    for at in range(600):
        request = function()
        request.request_id = f"large-{at % 590}"
        frame.submissions.tasks.append(request)
    (response,) = coordinator.tasks.SubmitStream(iter([frame]), timeout=30)
    results = response.results.results
    assert [result.request_id for result in results] == [f"large-{at % 590}" for at in range(600)]
    ids = [result.accepted.task_id for result in results]
    assert ids[590:] == ids[:10]
    assert [result.accepted.created for result in results] == [True] * 590 + [False] * 10
    agent = ScriptedAgent(coordinator, "a", slots=600)
    offered: list[str] = []
    while len(offered) < 590:
        offered += [assignment.ref.task_id for assignment in agent.next("assign").assignments]
    assert offered == ids[:590]
    agent.close()


def test_a_large_frame_of_reports_is_applied_whole(coordinator: CoordinatorProcess) -> None:
    """However the coordinator deals with it in parts, all of it is applied in order, and acknowledged to its end."""
    agent = ScriptedAgent(coordinator, "a")
    task_id = coordinator.tasks.Submit(function()).task_id
    (assignment,) = agent.next("assign").assignments
    ref = assignment.ref
    lines = [f"{number}\n".encode() for number in range(500)]
    messages = [
        worker_message_pb2.WorkerMessage(
            task_id=ref.task_id,
            attempt=ref.attempt,
            fence=ref.fence,
            number=number,
            log=worker_message_pb2.Log(stream=1, data=line),  # type: ignore[arg-type]
        )
        for number, line in enumerate(lines, 1)
    ]
    agent.send(reports=agent_service_pb2.Reports(outbox_id="box", first_seq=1, messages=messages))
    while agent.next("ack").applied[-1].applied_seq < 500:
        pass
    read = coordinator.tasks.ReadLogs(task_service_pb2.ReadLogsRequest(task_id=task_id), timeout=30)
    assert b"".join(chunk.log.data for response in read for chunk in response.chunks) == b"".join(lines)
    agent.close()


def _batch(*requests: task_service_pb2.SubmitRequest) -> task_service_pb2.SubmitBatchRequest:
    return task_service_pb2.SubmitBatchRequest(tasks=requests)


def test_bad_requests_are_refused_with_the_field(coordinator: CoordinatorProcess) -> None:
    """Each bad request ends with one typed error that names the field, and stores nothing."""
    big = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"))
    big.function.arguments.data = b"x" * (2 * 1024 * 1024)
    cases = [
        (function(priority=11), errors.InvalidRequest, "spec.priority"),
        (function("no colon"), errors.InvalidRequest, "spec.function.function"),
        (task_service_pb2.SubmitRequest(), errors.InvalidRequest, "spec"),
        (task_service_pb2.SubmitRequest(spec=big), errors.TooLarge, ""),
    ]
    for request, expected, field in cases:
        with pytest.raises(grpc.RpcError) as caught:
            coordinator.tasks.Submit(request)
        error = refusal(caught.value)
        assert type(error) is expected
        assert [violation.field for violation in error.violations] == ([field] if field else [])
    for batch in (_batch(), _batch(function(), function(priority=99))):
        with pytest.raises(grpc.RpcError) as caught:
            coordinator.tasks.SubmitBatch(batch)
        assert isinstance(refusal(caught.value), errors.InvalidRequest)
    assert not coordinator.tasks.List(task_service_pb2.ListRequest()).tasks


def test_a_ten_mebibyte_payload_is_refused_and_the_daemon_stays_up(coordinator: CoordinatorProcess) -> None:
    """A message over the limit ends with RESOURCE_EXHAUSTED; the next call works."""
    request = function()
    request.spec.function.arguments.data = b"x" * (10 * 1024 * 1024)
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.tasks.Submit(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert coordinator.tasks.Submit(function()).created


def test_a_cycle_is_refused_whole(coordinator: CoordinatorProcess) -> None:
    """A run with a cycle is refused with the cycle named, and none of its tasks exists."""
    work = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"))
    run = run_service_pb2.RunSpec()
    run.tasks.add(key="a", spec=work, after_keys=["b"])
    run.tasks.add(key="b", spec=work, after_keys=["a"])
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.runs.SubmitRun(run_service_pb2.SubmitRunRequest(run=run))
    error = refusal(caught.value)
    assert isinstance(error, errors.GraphCycle)
    assert "a -> b -> a" in error.message
    assert not coordinator.tasks.List(task_service_pb2.ListRequest()).tasks


def test_a_taken_agent_name_is_refused(coordinator: CoordinatorProcess) -> None:
    """Another machine that asks for a registered name gets AGENT_NAME_TAKEN with what to do."""
    agent = ScriptedAgent(coordinator, "a")
    with pytest.raises(grpc.RpcError) as caught:
        ScriptedAgent(coordinator, "a", machine_id="other")
    error = refusal(caught.value)
    assert isinstance(error, errors.AgentNameTaken)
    assert "--name" in error.message
    agent.close()


def test_a_newer_session_supersedes_the_older(coordinator: CoordinatorProcess) -> None:
    """The same agent connecting again ends its older stream with SESSION_SUPERSEDED."""
    older = ScriptedAgent(coordinator, "a")
    newer = ScriptedAgent(coordinator, "a")
    with pytest.raises(grpc.RpcError) as caught:
        older.next("assign")
    assert isinstance(refusal(caught.value), errors.SessionSuperseded)
    newer.close()


def test_operators_pause_resume_and_remove(coordinator: CoordinatorProcess) -> None:
    """Pause keeps work away and Explain says so; resume brings it; remove forgets an agent that left."""
    agent = ScriptedAgent(coordinator, "a")
    coordinator.fleet.PauseAgent(fleet_service_pb2.PauseAgentRequest(agent_id="a"))
    agent.next("pause")
    task_id = coordinator.tasks.Submit(function()).task_id
    explained = coordinator.tasks.Explain(task_service_pb2.ExplainRequest(task_id=task_id))
    assert [verdict.rule for verdict in explained.agents] == ["PAUSED"]
    assert "outrider agent resume a" in explained.suggestions
    coordinator.fleet.ResumeAgent(fleet_service_pb2.ResumeAgentRequest(agent_id="a"))
    (assignment,) = agent.next("assign").assignments
    agent.report(assignment.ref, completed=done(b"1"), terminal=True)
    agent.next("ack")
    agent.close()
    coordinator.fleet.RemoveAgent(fleet_service_pb2.RemoveAgentRequest(agent_id="a"))
    assert not coordinator.fleet.ListAgents(fleet_service_pb2.ListAgentsRequest()).agents


def test_heartbeats_are_answered_with_a_lease(coordinator: CoordinatorProcess) -> None:
    """A Lease echoes the heartbeat's boot time; GetAgent shows the workers it named."""
    agent = ScriptedAgent(coordinator, "a")
    workers = [agent_service_pb2.WorkerInfo(pid=7, state="idle")]
    agent.send(heartbeat=agent_service_pb2.Heartbeat(boottime_ns=123, workers=workers))
    while not (lease := agent.next("lease")).boottime_ns:
        pass  # of a heartbeat that the agent sent by itself
    assert lease.boottime_ns == 123
    assert lease.lease_duration.seconds >= 11
    found = coordinator.fleet.GetAgent(fleet_service_pb2.GetAgentRequest(agent_id="a")).agent
    assert [worker.pid for worker in found.workers] == [7]
    agent.close()


def test_sigterm_drains_and_exits_zero(coordinator: CoordinatorProcess) -> None:
    """SIGTERM ends the daemon with 0; what was accepted is there after the next start."""
    task_id = coordinator.tasks.Submit(function()).task_id
    assert coordinator.stop() == 0
    coordinator.start()
    assert get(coordinator, task_id).state == task_pb2.TASK_STATE_QUEUED
