"""From records to the wire: tasks, runs and agents as clients read them."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from outrider.v1 import (
    agent_service_pb2,
    fleet_service_pb2,
    run_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_message_pb2,
)
from outrider_coordinator.core.explain import reasons
from outrider_coordinator.core.explain.explain_agent import AgentExplanation
from outrider_coordinator.core.model import Agent, Breaker
from outrider_coordinator.core.records import InsertRunPart, PutAttempt, PutWait
from outrider_coordinator.core.schedules.book import REQUEST_ID_MARK
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import BreakerState, TaskState
from outrider_coordinator.core.trust import blame, systems
from outrider_coordinator.rpc import secrets
from outrider_coordinator.store.reader import RunRecord, TaskRecord

_FAIL_FAST, _CONTINUE = (
    run_service_pb2.RUN_FAILURE_POLICY_FAIL_FAST,
    run_service_pb2.RUN_FAILURE_POLICY_CONTINUE,
)


def timestamp(us: int) -> Timestamp:
    """Microseconds since the Unix epoch as a Timestamp."""
    return Timestamp(seconds=us // SECOND_US, nanos=us % SECOND_US * 1000)


def duration(us: int) -> Duration:
    """Microseconds as a Duration."""
    return Duration(seconds=us // SECOND_US, nanos=us % SECOND_US * 1000)


def schedule_of(request_id: str) -> str:
    """The schedule whose firing has this request id; empty when none has."""
    if not request_id.startswith(REQUEST_ID_MARK):
        return ""
    return request_id.removeprefix(REQUEST_ID_MARK).rpartition(":")[0]


def task(record: TaskRecord, *, whole: bool = True) -> task_pb2.Task:
    """A task; without results and payload data unless ``whole``."""
    row = record.task
    message = task_pb2.Task(
        id=row.id,
        namespace=row.namespace,
        state=task_pb2.TaskState.ValueType(row.state),
        reason=task_pb2.TaskReason.ValueType(row.reason),
        run_id=row.run_id,
        run_key=row.run_key,
        submitter=row.submitter,
        dependency_ids=row.dependency_ids,
        dependency_conditions=[task_pb2.DependencyCondition.ValueType(one) for one in row.dependency_conditions],
        retry_of_task_id=row.retry_of_task_id,
        attempts=[attempt(item) for item in record.attempts],
        open_waits=[open_wait(wait) for wait in record.waits],
        create_time=timestamp(row.created_us),
        trace=task_pb2.TraceContext(traceparent=row.trace_parent, tracestate=row.trace_state),
        schedule_id=schedule_of(row.request_id),
    )
    message.spec.MergeFromString(row.body)
    message.spec.title = row.title
    if row.start_us:
        message.start_time.CopyFrom(timestamp(row.start_us))
    if row.end_us:
        message.end_time.CopyFrom(timestamp(row.end_us))
    if row.progress:
        message.progress.MergeFromString(row.progress)
    if row.error:
        message.error.MergeFromString(row.error)
    _outcome(message, row.outcome, whole=whole)
    if not whole:
        message.spec.function.ClearField("arguments") if message.spec.HasField("function") else None
        message.spec.command.ClearField("stdin") if message.spec.HasField("command") else None
        message.spec.signed.ClearField("statement") if message.spec.HasField("signed") else None
    return message


def open_wait(row: PutWait) -> task_pb2.BlockedReason:
    """What an attempt waits for, since when, and how long it may."""
    message = task_pb2.BlockedReason.FromString(row.body)
    if row.opened_us:
        message.open_time.CopyFrom(timestamp(row.opened_us))
    if row.expires_us:
        message.expire_time.CopyFrom(timestamp(row.expires_us))
    return message


def _outcome(message: task_pb2.Task, outcome: bytes, *, whole: bool) -> None:
    if not outcome:
        return
    completed = worker_message_pb2.Completed.FromString(outcome)
    message.summary = completed.summary
    message.remaining_issues.extend(completed.remaining_issues)
    if whole:
        message.result.CopyFrom(completed.result)


def attempt(row: PutAttempt) -> task_pb2.Attempt:
    """One try."""
    message = task_pb2.Attempt(
        number=row.number,
        agent_id=row.agent_id,
        state=task_pb2.AttemptState.ValueType(row.state),
        counted=bool(row.counted),
        offer_time=timestamp(row.offered_us),
        blame=task_pb2.Blame.ValueType(row.blame),
    )
    if row.started_us:
        message.start_time.CopyFrom(timestamp(row.started_us))
    if row.ended_us:
        message.end_time.CopyFrom(timestamp(row.ended_us))
    if row.error:
        message.error.MergeFromString(row.error)
    return message


def run(record: RunRecord, *, with_tasks: bool) -> run_service_pb2.Run:
    """A run, its state derived from its tasks."""
    row = record.run
    message = run_service_pb2.Run(
        id=row.id,
        namespace=row.namespace,
        title=row.title or row.id,
        description=row.description,
        state=_run_state(record),
        task_count=sum(count for _, count in record.counts),
        create_time=timestamp(row.created_us),
        retry_of_run_id=row.retry_of_run_id,
        failure_policy=_FAIL_FAST if row.fails_fast else _CONTINUE,
        max_parallel=row.max_parallel,
        schedule_id=schedule_of(row.request_id),
    )
    for state, count in record.counts:
        message.counts.add(state=task_pb2.TaskState.ValueType(state), count=count)
    if row.ended_us:
        message.end_time.CopyFrom(timestamp(row.ended_us))
    if with_tasks:
        for item in record.parts:
            message.task_ids.extend(part(item))
    return message


def part(row: InsertRunPart) -> list[run_service_pb2.RunTaskId]:
    """Key and id of the tasks that entered a run together."""
    pairs = zip(row.task_keys, row.task_ids, strict=True)
    return [run_service_pb2.RunTaskId(key=key, task_id=task_id) for key, task_id in pairs]


def _run_state(record: RunRecord) -> run_service_pb2.RunState.ValueType:
    counts = dict(record.counts)
    if any(state < TaskState.SUCCEEDED for state in counts):
        return run_service_pb2.RUN_STATE_ACTIVE
    if TaskState.FAILED in counts or TaskState.EXPIRED in counts:
        return run_service_pb2.RUN_STATE_FAILED
    if TaskState.CANCELLED in counts:
        return run_service_pb2.RUN_STATE_CANCELLED
    if counts.get(TaskState.SKIPPED, 0) > record.unmet_count:
        return run_service_pb2.RUN_STATE_FAILED
    return run_service_pb2.RUN_STATE_SUCCEEDED


def agent(record: Agent, *, with_workers: bool = False) -> fleet_service_pb2.Agent:
    """An agent with its derived status word."""
    facts = record.facts
    message = fleet_service_pb2.Agent(
        id=record.id,
        connectivity=fleet_service_pb2.AgentConnectivity.ValueType(record.connectivity),
        admin=fleet_service_pb2.AgentAdmin.ValueType(record.admin),
        breaker=_breaker_state(record.breaker),
        status=reasons.status_word(record),
        labels=secrets.own_labels(record.labels),
        resources=record.resources,
        resources_used=record.resources_used,
        task_types=record.task_types,
        runners=record.runners,
        secrets=secrets.names(record.labels),
        slots=record.slots,
        slots_used=record.slots_used,
        parked=record.parked,
        prefetched=record.prefetched,
        version=record.version,
        host=record.host,
        session_start_time=timestamp(record.session_start_us),
        last_heard_time=timestamp(record.last_heard_us),
        cpu_fraction=facts.cpu_fraction,
        memory_fraction=facts.memory_fraction,
        load_average=facts.load_average,
        succeeded_count=record.succeeded_count,
        failed_count=record.failed_count,
        no_work_reason=reasons.no_work_reason(record),
        outbox_pending=facts.outbox_pending,
    )
    if record.breaker.state is BreakerState.OPEN:
        message.breaker_reset_time.CopyFrom(timestamp(record.breaker.reset_us))
    for known in blame.type_breakers(record):
        message.type_breakers.add(task_type=known.kind, state=_breaker_state(known), reset_time=_reset_time(known))
    if with_workers:
        message.workers.extend(agent_service_pb2.WorkerInfo.FromString(body) for body in facts.workers)
    return message


def system(state: State, name: str) -> fleet_service_pb2.SystemBreaker:
    """The breaker of an outside system that is known."""
    known = state.systems[name].breaker
    return fleet_service_pb2.SystemBreaker(
        system=name,
        state=_breaker_state(known),
        reset_time=_reset_time(known),
        canary_task_id=known.probe[0] if known.probe else "",
        held_count=systems.held_count(state, name),
    )


def _breaker_state(known: Breaker) -> fleet_service_pb2.BreakerState.ValueType:
    return fleet_service_pb2.BreakerState.ValueType(known.state)


def _reset_time(known: Breaker) -> Timestamp | None:
    return timestamp(known.reset_us) if known.state is BreakerState.OPEN else None


def explanation(task_id: str, facts: reasons.Explanation) -> task_service_pb2.ExplainResponse:
    """Why a task is where it is."""
    message = task_service_pb2.ExplainResponse(
        state=task_pb2.TaskState.ValueType(facts.state),
        task_id=task_id,
        summary=facts.summary,
        ahead_in_queue=facts.ahead,
        waiting_for_task_ids=facts.waiting_for,
        suggestions=facts.suggestions,
        held_back_by=facts.held_back,
        queue_position=facts.position,
    )
    for agent_id, eligible, rule, text in facts.agents:
        message.agents.add(agent_id=agent_id, eligible=eligible, rule=rule, text=text)
    if facts.ready_us:
        message.ready_time.CopyFrom(timestamp(facts.ready_us))
    if facts.predicted_us:
        message.predicted_start_time.CopyFrom(timestamp(facts.predicted_us))
    return message


def agent_explanation(facts: AgentExplanation) -> fleet_service_pb2.ExplainAgentResponse:
    """Why an agent gets no work."""
    message = fleet_service_pb2.ExplainAgentResponse(
        summary=facts.summary,
        closed_by=[f"{rule.name}: {rule.text}" for rule in facts.closed_by],
        suggestions=facts.suggestions,
    )
    for task_id, count, rule, text in facts.groups:
        message.tasks.add(task_id=task_id, task_count=count, rule=rule, text=text)
    return message
