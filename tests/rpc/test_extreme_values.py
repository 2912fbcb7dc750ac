"""Requests and frames that are right but for one value, which is as large, small or odd as its type allows.

A fuzzer seldom makes a request that is taken; these are, or nearly. Whatever is taken goes through the core, the
journal and the database, and through a start after a kill: nothing of it may stop the coordinator, then or later.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from outrider.v1 import (
    agent_service_pb2,
    fleet_service_pb2,
    limit_service_pb2,
    run_service_pb2,
    schedule_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_message_pb2,
)
from support.coordinator_process import CoordinatorProcess, ScriptedAgent

TIMEOUT_S = 30
#: By the kind of a field in Python.
EXTREMES: dict[int, tuple[Any, ...]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), -1, 0, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), -1, 0, 2**62, 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**31, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**62, 2**63, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -0.0, -1.0, 5e-324, 1e308, float("inf"), float("-inf"), float("nan")),
    FieldDescriptor.CPPTYPE_ENUM: (-1, 0, 77),
    FieldDescriptor.CPPTYPE_STRING: ("", "\x00", "x" * 20_000, "../..", "ünï"),
}
#: What a request may be refused with. INTERNAL, UNKNOWN and UNAVAILABLE are faults of ours.
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ALREADY_EXISTS,
}


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """A running coordinator, gone afterwards."""
    process = CoordinatorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


def variants(base: Message) -> Iterator[tuple[str, Message]]:
    """The message with one value at a time replaced by an extreme of its kind; where that is, for the story."""
    for path in paths(base, ()):
        field = path[-1][0]
        for extreme in EXTREMES.get(field.cpp_type, ()):
            made = copy.deepcopy(base)
            holder: Any = made
            for step, position in path[:-1]:
                holder = getattr(holder, step.name)
                holder = holder if position is None else holder[position]
            value = extreme.encode() if field.type == FieldDescriptor.TYPE_BYTES else extreme
            if path[-1][1] is None:
                setattr(holder, field.name, value)
            else:
                getattr(holder, field.name)[path[-1][1]] = value
            yield ".".join(step.name for step, _ in path) + f" = {extreme!r:.40}", made


Path_ = tuple[tuple[FieldDescriptor, int | None], ...]


def paths(message: Message, before: Path_) -> Iterator[Path_]:
    """The way to every single value in a message that is set in it, or could be."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            for position in range(len(value)):
                step = (*before, (field, position))
                yield from paths(value[position], step) if field.message_type is not None else (step,)
        elif field.message_type is None:
            if field.containing_oneof is None or message.HasField(field.name):
                yield (*before, (field, None))
        elif message.HasField(field.name):
            yield from paths(value, (*before, (field, None)))


def spec(**fields: Any) -> task_pb2.TaskSpec:
    """A task that says everything a task can say."""
    made = task_pb2.TaskSpec(
        function=task_pb2.PythonFunction(function="m:f", arguments=task_pb2.Payload(data=b"{}")),
        title="t",
        type="k",
        tags=["tag"],
        weight=1.0,
        priority=5,
        retry=task_pb2.RetryPolicy(max_attempts=3, multiplier=2.0),
        limits=[task_pb2.LimitClaim(key="limit", units=1)],
        systems=["system"],
        write_scopes=["src/**"],
        wait_policies=task_pb2.WaitPolicies(external=task_pb2.WaitPolicy(on_expiry=task_pb2.WAIT_EXPIRY_KEEP)),
        placement=task_pb2.Placement(affinities=[task_pb2.AgentAffinity(agent_id="a", weight=1)]),
        **fields,
    )
    for duration in (
        made.timeout,
        made.stall_timeout,
        made.queue_timeout,
        made.deadline_duration,
        made.disconnect_grace,
        made.estimated_duration,
        made.retry.initial_backoff,
        made.retry.max_backoff,
        made.wait_policies.external.budget_duration,
        made.wait_policies.extension_max_duration,
    ):
        duration.FromSeconds(3600)
    made.not_before.FromSeconds(1)
    return made


def requests(coordinator: CoordinatorProcess) -> Iterator[tuple[Any, Message]]:
    """Methods that keep something of what they are asked, each with a request that is right."""
    yield coordinator.tasks.Submit, task_service_pb2.SubmitRequest(spec=spec(), submitter="s", client_id="c")
    task = run_service_pb2.RunTask(key="a", spec=spec(), phase=1, milestone="m")
    run = run_service_pb2.RunSpec(title="r", tasks=[task], max_parallel=2)
    yield coordinator.runs.SubmitRun, run_service_pb2.SubmitRunRequest(run=run, client_id="c")
    rate = limit_service_pb2.LimitSpec(key="rate", rate=limit_service_pb2.Rate(per_second=1.0, burst=1))
    yield coordinator.limits.PutLimit, limit_service_pb2.PutLimitRequest(spec=rate)
    semaphore = limit_service_pb2.LimitSpec(key="limit", semaphore=limit_service_pb2.Semaphore(capacity=3))
    yield coordinator.limits.PutLimit, limit_service_pb2.PutLimitRequest(spec=semaphore)
    schedule = schedule_service_pb2.ScheduleSpec(name="s", task=spec())
    schedule.task.ClearField("not_before")
    schedule.repeat_interval.FromSeconds(3600)
    yield coordinator.schedules.CreateSchedule, schedule_service_pb2.CreateScheduleRequest(spec=schedule, replace=True)
    single = copy.deepcopy(schedule)
    single.at_time.FromSeconds(4_000_000_000)
    yield coordinator.schedules.CreateSchedule, schedule_service_pb2.CreateScheduleRequest(spec=single, replace=True)
    drain = fleet_service_pb2.DrainAgentRequest(agent_id="a")
    drain.timeout.FromSeconds(3600)
    yield coordinator.fleet.DrainAgent, drain
    yield coordinator.tasks.List, task_service_pb2.ListRequest(page_size=10)


def test_no_value_of_a_request_stops_the_coordinator(coordinator: CoordinatorProcess) -> None:
    """Each is taken or refused with a reason, and after a kill everything that was taken is there again."""
    agent = ScriptedAgent(coordinator, "a", slots=2)
    for method, base in requests(coordinator):
        for place, request in variants(base):
            ended = called(method, request)
            assert ended is None or ended in REFUSALS, f"{type(base).__name__}.{place}: {ended}"
    agent.vanish()
    survived(coordinator)


def test_no_value_of_an_agents_frame_stops_the_coordinator(coordinator: CoordinatorProcess) -> None:
    """Its session may end; another one begins, and after a kill the coordinator serves as before."""
    request = task_service_pb2.SubmitRequest(spec=task_pb2.TaskSpec(function=spec().function))
    for base in frames():
        for place, frame in variants(base):
            assert called(coordinator.tasks.Submit, request) is None, f"after what came before {place}"
            with suppress(grpc.RpcError, StopIteration):
                session(coordinator, frame)
            nobody_is_there(coordinator)
    survived(coordinator)


def nobody_is_there(coordinator: CoordinatorProcess) -> None:
    """Forget every agent, so that the next one gets the next task."""
    for agent in coordinator.fleet.ListAgents(fleet_service_pb2.ListAgentsRequest(), timeout=TIMEOUT_S).agents:
        removal = fleet_service_pb2.RemoveAgentRequest(agent_id=agent.id, force=True)
        coordinator.fleet.RemoveAgent(removal, timeout=TIMEOUT_S)


def called(method: Any, request: Message) -> grpc.StatusCode | None:
    """How a call ends: None when it is answered."""
    try:
        method(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[no-any-return]  # of a call that has ended
    return None


def session(coordinator: CoordinatorProcess, frame: Message) -> None:
    """One session in which the frame is said, about an attempt that was given to it; until all of it is applied."""
    hello = frame if isinstance(frame, agent_service_pb2.Hello) else hello_of()
    fields = {field.name: value for field, value in hello.ListFields()}
    agent = ScriptedAgent(coordinator, fields.pop("agent_id", ""), fields.pop("slots", 0), **fields)
    try:
        if isinstance(frame, agent_service_pb2.SessionRequest):
            given = agent.next("assign").assignments[0].ref
            for ref in refs(frame):
                ref.task_id, ref.attempt = given.task_id, given.attempt
                ref.fence = ref.fence if ref.fence != 7 else given.fence
            arm = str(frame.WhichOneof("frame"))
            agent.send(**{arm: getattr(frame, arm)})
        agent.send(heartbeat=agent_service_pb2.Heartbeat(boottime_ns=5))
        agent.next("lease")
    finally:
        agent.vanish()


def refs(frame: agent_service_pb2.SessionRequest) -> list[Any]:
    """What in a frame names attempts."""
    arm = getattr(frame, str(frame.WhichOneof("frame")))
    return list(getattr(arm, "refs", ())) or list(getattr(arm, "messages", ()))


def hello_of(**fields: Any) -> agent_service_pb2.Hello:
    """What an agent says at first."""
    return agent_service_pb2.Hello(
        **{"agent_id": "a", "machine_id": "m", "instance_id": "i", "slots": 4, "parked_max": 4, "boot_id": "b"} | fields
    )


def frames() -> Iterator[Message]:
    """Every frame of an agent, with everything that it can say."""
    held = agent_service_pb2.HeldAttempt(ref=agent_service_pb2.AttemptRef(task_id="t", attempt=1, fence=1), state=3)
    outbox = agent_service_pb2.OutboxRange(outbox_id="box-a", first_seq=1, last_seq=1)
    yield hello_of(held=[held], outboxes=[outbox], coordinator_epoch=1, boottime_ns=1, instance_start_ms=1)
    ref = agent_service_pb2.AttemptRef(task_id="t", attempt=1, fence=7)
    worker = agent_service_pb2.WorkerInfo(pid=1, state="idle", tasks_done=1, rss_bytes=1)
    beat = agent_service_pb2.Heartbeat(
        boottime_ns=1, free_slots=1, load_average=1.0, cpu_fraction=0.5, workers=[worker]
    )
    yield agent_service_pb2.SessionRequest(heartbeat=beat)
    yield agent_service_pb2.SessionRequest(accepted=agent_service_pb2.Accepted(refs=[ref]))
    yield agent_service_pb2.SessionRequest(rejected=agent_service_pb2.Rejected(refs=[ref], message="m", reason=27))
    yield agent_service_pb2.SessionRequest(revoked=agent_service_pb2.Revoked(refs=[ref]))
    for body in bodies():
        message = worker_message_pb2.WorkerMessage(task_id="t", attempt=1, fence=7, number=1, **body)
        message.event_time.FromSeconds(5)
        reports = agent_service_pb2.Reports(outbox_id="box-a", first_seq=1, messages=[message])
        yield agent_service_pb2.SessionRequest(reports=reports)


def bodies() -> Iterator[dict[str, Any]]:
    """Everything that a report can say."""
    started = worker_message_pb2.Started(worker_pid=1)
    start = worker_message_pb2.Start(started=started)
    start.event_time.FromSeconds(4)
    yield {"started": started}
    yield {"progress": task_pb2.Progress(completed=1.0, total=2.0, status="s")}
    yield {"log": worker_message_pb2.Log(stream=1, data=b"line")}
    error = task_pb2.TaskError(reason=1, message="m", exit_code=1)
    failed = worker_message_pb2.Failed(error=error, recoverable=True)
    yield {"failed": failed, "start": start, "terminal": True}
    payload = task_pb2.Payload(data=b"1")
    yield {"completed": worker_message_pb2.Completed(result=payload, summary="s"), "start": start, "terminal": True}
    yield {"answer_given": worker_message_pb2.AnswerGiven(task_id="t", key="k", answer=payload)}
    more = task_pb2.ComplexityExceeded(suggested_split="s")
    more.additional_duration.FromSeconds(5)
    outside = task_pb2.ExternalDependency(system="s", issue="i")
    outside.retry_time.FromSeconds(5)
    resource = task_pb2.LimitClaim(key="limit", units=1)
    for reason in (
        {"complexity": more},
        {"external": outside},
        {"dependency": task_pb2.DependencyWait(resource=resource)},
        {"clarification": task_pb2.ScopeClarification(question="q")},
    ):
        yield {"blocked": task_pb2.BlockedReason(key="k", **reason)}  # type: ignore[arg-type]  # one arm at a time


def survived(coordinator: CoordinatorProcess) -> None:
    """It serves, also after a kill: what is in its journal and its database can be read again."""
    for _ in range(2):
        page = coordinator.tasks.List(task_service_pb2.ListRequest(page_size=100), timeout=TIMEOUT_S)
        for task in page.tasks:
            if not task.HasField("end_time"):
                coordinator.tasks.Explain(task_service_pb2.ExplainRequest(task_id=task.id), timeout=TIMEOUT_S)
        coordinator.fleet.ListAgents(fleet_service_pb2.ListAgentsRequest(), timeout=TIMEOUT_S)
        coordinator.kill()
        coordinator.start()
    log = (coordinator.folder / "log").read_text()
    assert "Traceback" not in log, log[-3000:]
