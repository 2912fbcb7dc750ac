"""Reports from agents' outboxes: applied once, in order, under the right fence, or kept as evidence."""

from __future__ import annotations

from outrider_coordinator.core.agents.sessions import nothing_left_to_replay
from outrider_coordinator.core.attempts.outcome import end_task
from outrider_coordinator.core.attempts.retry import attempt_failed
from outrider_coordinator.core.effects import Effects, EndSession, PushAck, Refused
from outrider_coordinator.core.events import Report, ReportKind, ReportsReceived
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement import slots, strategies
from outrider_coordinator.core.records import InsertEvidence, InsertLog
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import TERMINAL, AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.transitions import move_attempt
from outrider_coordinator.core.trust import blame, systems
from outrider_coordinator.core.waits import blockage

#: Looked up once: to ask an enumeration for a member takes longer than to compare two.
_OFFERED, _STARTED, _CLOSED = AttemptState.OFFERED, AttemptState.STARTED, AttemptState.CLOSED
_RUNNING, _CANCELLING, _SUCCEEDED = TaskState.RUNNING, TaskState.CANCELLING, TaskState.SUCCEEDED
_QUARANTINED, _TASK_STARTED = ReportKind.QUARANTINED, EventType.TASK_STARTED
_new = tuple.__new__


def received(state: State, effects: Effects, event: ReportsReceived) -> None:
    """Apply a frame of reports and acknowledge it (I4, I5, I7). A seq applied before is only acked again."""
    agent = state.agents.get(event.agent_id)
    if agent is None or agent.epoch != event.epoch:
        return
    agent.last_heard_us = state.now_us
    applied = agent.applied.get(event.outbox_id, 0)
    if event.first_seq > applied + 1:
        message = f"outbox {event.outbox_id}: seq {event.first_seq} after {applied}; reconnect and replay"
        effects.sends.append(EndSession(agent.epoch, agent.id, Refused("INVALID_REQUEST", message)))
        return
    for seq, report in enumerate(event.reports, event.first_seq):
        if seq > applied:
            _apply(state, effects, agent, event.outbox_id, seq, report)
            applied = seq
    agent.applied[event.outbox_id] = applied
    key = (agent.id, event.outbox_id)
    effects.outboxes[key] = applied
    effects.acks[key] = _new(PushAck, (agent.epoch, agent.id, event.outbox_id, applied))
    if agent.replaying and applied >= agent.replaying.get(event.outbox_id, applied + 1):
        del agent.replaying[event.outbox_id]
        nothing_left_to_replay(state, effects, agent)


def _apply(state: State, effects: Effects, agent: Agent, outbox_id: str, seq: int, report: Report) -> None:
    task_id, number, _ = report.ref
    attempt, task = agent.attempts.get((task_id, number)), state.tasks.get(task_id)
    if attempt is None and task is not None and task.strays:
        attempt = next((stray for stray in task.strays if _is(stray, agent, report)), None)
    cause = _refusal(attempt, task, report)
    if cause or attempt is None or task is None:
        _keep_as_evidence(state, effects, agent, outbox_id, seq, report, cause)
        return
    attempt.last_number = report.number
    if report.start is not None and report.terminal and not attempt.started_us:
        # The states between are skipped: the end follows at once.
        _begin(state, effects, task, attempt, *report.start)
    _HANDLERS.get(report.kind, _unknown)(state, effects, agent, task, attempt, report)


def _is(attempt: Attempt, agent: Agent, report: Report) -> bool:
    return attempt.number == report.ref.attempt and attempt.agent_id == agent.id


def _refusal(attempt: Attempt | None, task: Task | None, report: Report) -> str:
    if report.kind == _QUARANTINED:
        return "has stopped the coordinator twice"
    if attempt is None or task is None or task.state in TERMINAL:
        return "no open attempt"
    if attempt.fence != report.ref.fence:
        return "foreign fence"
    return "" if report.number > attempt.last_number else "message number seen before"


def _keep_as_evidence(
    state: State, effects: Effects, agent: Agent, outbox_id: str, seq: int, report: Report, cause: str
) -> None:
    ref = report.ref
    effects.inserts.append(
        InsertEvidence(
            agent.id,
            outbox_id,
            seq,
            state.now_us,
            cause,
            ref.task_id,
            ref.attempt,
            ref.fence,
            report.kind,
            report.body,
        )
    )


def _started(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    if attempt is task.attempt:
        if attempt.state is not _STARTED:
            if attempt.state is _OFFERED:
                strategies.first_word(state, agent, attempt)
            move_attempt(attempt, _STARTED)
            slots.started(state, agent, attempt)
        if task.state is not _CANCELLING:
            state.move(task, _RUNNING, effects)
    _begin(state, effects, task, attempt, report.time_us, report.body)


def _begin(state: State, effects: Effects, task: Task, attempt: Attempt, time_us: int, started: bytes) -> None:
    """User code began: said by a Started, or by the message that ends an attempt so short that it needed none."""
    attempt.started_us = time_us
    effects.attempts[attempt.key] = attempt
    if attempt is task.attempt and task.state is not _CANCELLING:
        task.start_us = time_us
        effects.tasks[task.id] = task
    state.event(effects, _TASK_STARTED, task, attempt, body=started)


def _taken(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    """It may start from now on, which `Attempt.last_number` keeps (I12)."""
    if attempt.state is AttemptState.OFFERED:
        move_attempt(attempt, AttemptState.ACCEPTED)
    effects.attempts[attempt.key] = attempt


def _progress(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    task.progress = report.body
    effects.tasks[task.id] = task
    state.event(effects, EventType.TASK_PROGRESS, task, attempt=attempt, body=report.body)


def _blocked(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    if attempt is task.attempt and not task.cancel_requested:
        blockage.blocked(state, effects, agent, task, attempt, report)
        if report.wait is not None and report.wait.system:
            systems.waited_for(state, effects, agent, task, attempt, report.wait.system)


def _unblocked(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    blockage.unblocked(state, effects, agent, task, attempt, report)


def _log(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    effects.inserts.append(InsertLog(task.id, attempt.number, report.number, report.time_us, report.body))


def _completed(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    """The first success wins, also a stray's; a committed cancel wins over it (I1, I14)."""
    started_us = attempt.started_us or report.time_us
    slots.release(state, effects, agent, attempt)
    move_attempt(attempt, _CLOSED)
    attempt.started_us, attempt.ended_us = started_us, report.time_us
    effects.attempts[attempt.key] = attempt
    state.placement_is_due = True
    duration_us = max(0, report.time_us - started_us)
    state.learn_duration(task.spec.kind, duration_us)
    if task.spec.kind in state.fleet.measured_kinds:
        strategies.measure(state, agent, task.spec.kind, duration_us)
    agent.succeeded_count += 1
    blame.succeeded(state, effects, agent, task, attempt)
    if attempt is task.attempt:
        task.attempt = None
        attempt.counted = True
        task.attempts_counted += 1
    else:  # its task counted it when it was lost, or never
        task.drop_stray(attempt)
    if task.state is _CANCELLING:
        end_task(state, effects, task, TaskState.CANCELLED, reason=Reason.CANCEL_REQUESTED, attempt=attempt)
    else:
        task.start_us = started_us
        end_task(state, effects, task, _SUCCEEDED, outcome=report.body, attempt=attempt)


def _failed(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    attempt_failed(
        state,
        effects,
        agent,
        task,
        attempt,
        report.reason or Reason.TASK_ERROR,
        error=report.body,
        message=report.text,
        recoverable=report.recoverable,
        ended_us=report.time_us,
    )


def _answer_given(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    if report.given is not None:
        blockage.answer_given(state, effects, task, report.given)


def _unknown(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, report: Report) -> None:
    """A kind that this version does not know: if it ends the attempt, it is a failure."""
    if report.terminal:
        _failed(state, effects, agent, task, attempt, report)


_HANDLERS = {
    ReportKind.TAKEN: _taken,
    ReportKind.STARTED: _started,
    ReportKind.PROGRESS: _progress,
    ReportKind.BLOCKED: _blocked,
    ReportKind.UNBLOCKED: _unblocked,
    ReportKind.LOG: _log,
    ReportKind.COMPLETED: _completed,
    ReportKind.FAILED: _failed,
    ReportKind.ANSWER_GIVEN: _answer_given,
}
