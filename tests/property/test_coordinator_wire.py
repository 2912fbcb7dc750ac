"""Frames that the coordinator puts together by hand say what the generated classes would have written."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from outrider import errors, wire
from outrider.v1 import agent_service_pb2, event_pb2, run_service_pb2, task_pb2, task_service_pb2, worker_message_pb2
from outrider_coordinator.core.effects import (
    Accepted,
    PushAnswer,
    PushAssign,
    PushCancel,
    PushControl,
    PushRevoke,
)
from outrider_coordinator.core.model import Trace
from outrider_coordinator.core.records import InsertEvent
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import EventType, Reason
from outrider_coordinator.rpc import client_frames, frames

UNSIGNED = st.integers(0, 2**64 - 1)
COUNT = st.integers(0, 2**32 - 1)
NAME = st.text(max_size=12)
TIME_US = st.integers(0, 4_000_000_000_000_000)

SPECS = st.builds(
    lambda title, data: task_pb2.TaskSpec(
        title=title, function=task_pb2.PythonFunction(function="m:f", arguments=task_pb2.Payload(data=data))
    ),
    NAME,
    st.binary(max_size=200),
)
COMPLETED = st.builds(
    lambda data, summary: worker_message_pb2.Completed(result=task_pb2.Payload(data=data), summary=summary),
    st.binary(max_size=50),
    NAME,
)
DETAILS: dict[int, tuple[str, Any]] = {
    EventType.TASK_STARTED: ("started", worker_message_pb2.Started(worker_pid=7)),
    EventType.TASK_PROGRESS: ("progress", task_pb2.Progress()),
    EventType.TASK_BLOCKED: ("blocked", task_pb2.BlockedReason(key="q")),
    EventType.TASK_UNBLOCKED: ("unblocked", worker_message_pb2.Unblocked(key="q")),
}
OTHER_DETAIL = ("error", task_pb2.TaskError(message="boom"))


@given(UNSIGNED)
def test_varints_read_back(value: int) -> None:
    """Every number comes out as it went in, in as few bytes as the rules allow."""
    message = agent_service_pb2.AttemptRef(fence=value)
    assert agent_service_pb2.AttemptRef.FromString(wire.integer(3, value)) == message
    assert wire.integer(3, value or 1) == agent_service_pb2.AttemptRef(fence=value or 1).SerializeToString()


@st.composite
def assignments(draw: st.DrawFn) -> tuple[PushAssign, dict[str, bytes], agent_service_pb2.Assignment]:
    """A push, the outcomes it refers to, and the message it should become."""
    spec, task_id, attempt, fence = (
        draw(SPECS),
        draw(NAME),
        draw(st.integers(1, 2**32 - 1)),
        draw(st.integers(1, 2**63)),
    )
    given_results = draw(st.dictionaries(NAME, COMPLETED, max_size=3))
    trace = draw(st.builds(Trace, NAME, NAME))
    prefetched, namespace, run_id = draw(st.booleans()), draw(NAME), draw(NAME)
    push = PushAssign(
        1,
        "a",
        task_id,
        attempt,
        fence,
        spec.SerializeToString(),
        tuple((f"key of {other}", other) for other in given_results),
        prefetched,
        namespace,
        run_id,
        trace,
        "",
        0,
        0,
        0,
    )
    message = agent_service_pb2.Assignment(
        ref=agent_service_pb2.AttemptRef(task_id=task_id, attempt=attempt, fence=fence),
        spec=spec,
        prefetched=prefetched,
        namespace=namespace,
        run_id=run_id,
    )
    for other, completed in given_results.items():
        message.inputs.add(key=f"key of {other}", task_id=other, result=completed.result)
    if trace.parent:
        message.trace.traceparent, message.trace.tracestate = trace
    return push, {other: completed.SerializeToString() for other, completed in given_results.items()}, message


@given(st.integers(1, 2**63), st.lists(assignments(), min_size=1, max_size=4))
def test_assignments_share_a_frame(epoch: int, drawn: list[Any]) -> None:
    """Neighbouring assignments become one Assign, in order, as the generated classes write it."""
    (frame,) = frames.frames(epoch, [(push, outcomes) for push, outcomes, _ in drawn], {})
    assign = agent_service_pb2.Assign(assignments=[message for _, _, message in drawn])
    assert agent_service_pb2.SessionResponse.FromString(frame) == agent_service_pb2.SessionResponse(
        session_epoch=epoch, assign=assign
    )


def test_frames_are_bounded_and_keep_the_order() -> None:
    """A new frame begins where 256 KiB are reached and where the kind changes; what is larger has one to itself."""
    body = task_pb2.TaskSpec(title="x" * 100_000).SerializeToString()
    push = PushAssign(1, "a", "t", 1, 1, body, (), False, "default", "", Trace(), "", 0, 0, 0)
    big = push._replace(body=task_pb2.TaskSpec(title="x" * 400_000).SerializeToString())
    sends: list[Any] = [push, push, push, big, PushRevoke(1, "a", "t", 1, 1), push]
    read = [
        agent_service_pb2.SessionResponse.FromString(frame) for frame in frames.frames(1, [(s, {}) for s in sends], {})
    ]
    assert [frame.WhichOneof("frame") for frame in read] == ["assign", "assign", "assign", "revoke", "assign"]
    assert [len(frame.assign.assignments) for frame in read] == [2, 1, 1, 0, 1]


def test_rare_pushes_read_back() -> None:
    """Every other push becomes the frame that says the same; acknowledgements stand in one at the end."""
    ref = agent_service_pb2.AttemptRef(task_id="t", attempt=2, fence=9)
    resolution = task_pb2.Resolution(key="q", answer=task_pb2.Payload(data=b"1"))
    outcome = worker_message_pb2.Completed(result=task_pb2.Payload(data=b"2"))
    sends: list[Any] = [
        PushRevoke(5, "a", "t", 2, 9),
        PushCancel(5, "a", "t", 2, 9, "stop", True),
        PushAnswer(5, "a", "t", 2, 9, "q", resolution.SerializeToString()),
        PushAnswer(5, "a", "t", 2, 9, "d", b"", "other", 7),
        PushControl(5, "a", "pause"),
        PushControl(5, "a", "resume"),
        PushControl(5, "a", "drain"),
        PushControl(5, "a", "drain", 2 * SECOND_US),
    ]
    made = frames.frames(5, [(send, {"other": outcome.SerializeToString()}) for send in sends], {"box": 4, "other": 1})
    pb = agent_service_pb2
    by_task = task_pb2.Resolution(
        key="d", answer=outcome.result, dependency_state=task_pb2.TASK_STATE_SUCCEEDED, resolved_by="task:other"
    )
    applied = [pb.OutboxApplied(outbox_id="box", applied_seq=4), pb.OutboxApplied(outbox_id="other", applied_seq=1)]
    drain = pb.Drain()
    drain.timeout.FromSeconds(2)
    assert [pb.SessionResponse.FromString(frame) for frame in made] == [
        pb.SessionResponse(session_epoch=5, revoke=pb.Revoke(refs=[ref])),
        pb.SessionResponse(session_epoch=5, cancel=pb.Cancel(refs=[ref], message="stop", fenced=True)),
        pb.SessionResponse(session_epoch=5, answer=pb.Answer(ref=ref, resolution=resolution)),
        pb.SessionResponse(session_epoch=5, answer=pb.Answer(ref=ref, resolution=by_task)),
        pb.SessionResponse(session_epoch=5, pause=pb.Pause()),
        pb.SessionResponse(session_epoch=5, resume=pb.Resume()),
        pb.SessionResponse(session_epoch=5, drain=pb.Drain()),
        pb.SessionResponse(session_epoch=5, drain=drain),
        pb.SessionResponse(session_epoch=5, ack=pb.Ack(applied=applied)),
    ]


@st.composite
def records(draw: st.DrawFn) -> tuple[InsertEvent, event_pb2.Event]:
    """A record and the message it should become, its result included."""
    kind, cursor, us = draw(st.sampled_from(EventType)), draw(st.integers(1, 2**63)), draw(TIME_US)
    namespace, task_id, run_id, agent_id, text = (draw(NAME) for _ in range(5))
    attempt, reason, has_detail, completed = (
        draw(COUNT),
        draw(st.sampled_from(Reason)),
        draw(st.booleans()),
        draw(COMPLETED),
    )
    message = event_pb2.Event(
        cursor=cursor,
        type=event_pb2.EventType.ValueType(kind),
        create_time=Timestamp(seconds=us // SECOND_US, nanos=us % SECOND_US * 1000),
        namespace=namespace,
        task_id=task_id,
        run_id=run_id,
        attempt=attempt,
        agent_id=agent_id,
        reason=task_pb2.TaskReason.ValueType(reason),
        text=text,
    )
    name, detail = DETAILS.get(kind, OTHER_DETAIL)
    body = detail.SerializeToString() if has_detail else b""
    if body:
        getattr(message, name).CopyFrom(detail)
    outcome = completed.SerializeToString() if kind is EventType.TASK_SUCCEEDED else b""
    if kind is EventType.TASK_SUCCEEDED:
        message.completed.CopyFrom(completed)
    record = InsertEvent(
        cursor, int(kind), us, namespace, task_id, run_id, "c", attempt, agent_id, int(reason), text, body, outcome
    )
    return record, message


@given(st.lists(records(), min_size=1, max_size=4), st.booleans())
def test_events_read_back(drawn: list[tuple[InsertEvent, event_pb2.Event]], include_results: bool) -> None:
    """A frame of events is the same to watchers of tasks and of runs, with results when they asked for them."""
    messages = [message for _, message in drawn]
    if not include_results:
        for message in messages:
            message.ClearField("completed")
    frame = client_frames.events([record for record, _ in drawn], include_results=include_results)
    events = task_service_pb2.Events(events=messages)
    assert task_service_pb2.WatchResponse.FromString(frame) == task_service_pb2.WatchResponse(events=events)
    assert run_service_pb2.WatchRunResponse.FromString(frame) == run_service_pb2.WatchRunResponse(events=events)


@given(UNSIGNED)
def test_caught_up_reads_back(cursor: int) -> None:
    """The frame between history and live is the same to watchers of tasks and of runs."""
    frame, message = client_frames.caught_up(cursor), task_service_pb2.CaughtUp(cursor=cursor)
    assert task_service_pb2.WatchResponse.FromString(frame) == task_service_pb2.WatchResponse(caught_up=message)
    assert run_service_pb2.WatchRunResponse.FromString(frame) == run_service_pb2.WatchRunResponse(caught_up=message)


@given(
    st.lists(st.tuples(NAME, st.one_of(st.builds(Accepted, NAME, st.booleans()), st.just(errors.QueueFull("full")))))
)
def test_answers_to_submissions_read_back(drawn: list[tuple[str, Accepted | errors.OutriderError]]) -> None:
    """What became of each submission stands in their order, under the request id it came with."""
    frame = client_frames.results([request_id for request_id, _ in drawn], [answer for _, answer in drawn])
    results = [task_service_pb2.SubmissionResult(request_id=request_id) for request_id, _ in drawn]
    for result, (_, answer) in zip(results, drawn, strict=True):
        if isinstance(answer, Accepted):
            result.accepted.CopyFrom(task_service_pb2.SubmitResponse(task_id=answer.id, created=answer.created))
        else:
            result.refused.code = code_pb2.Code.Value(answer.code)
            result.refused.reason, result.refused.message = answer.reason, answer.message
    assert task_service_pb2.SubmitStreamResponse.FromString(frame) == task_service_pb2.SubmitStreamResponse(
        results=task_service_pb2.SubmissionResults(results=results)
    )
