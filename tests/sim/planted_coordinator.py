"""Bugs planted into the coordinator: name, the promise it breaks, and (where, attribute, how it is replaced)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from outrider_coordinator.core import model, records, state, step, transitions
from outrider_coordinator.core.agents import control, lease, sessions
from outrider_coordinator.core.attempts import deadlines, outcome, reports, retry
from outrider_coordinator.core.effects import PushCancel
from outrider_coordinator.core.events import ReportKind
from outrider_coordinator.core.limits import holdings, lines
from outrider_coordinator.core.placement import matching, slots, strategies
from outrider_coordinator.core.runs import graph, submission
from outrider_coordinator.core.states import Admin, AttemptState, BreakerState, Reason, TaskState
from outrider_coordinator.core.trust import breaker
from outrider_coordinator.core.waits import blockage
from outrider_coordinator.release import ReleaseQueue
from outrider_coordinator.rpc import agent_session, specs
from sim import model_coordinator

Make = Callable[[Any], Any]


def _nothing(original: Any) -> Any:
    """It is not done at all."""
    return lambda *arguments, **named: None


def _always(value: Any) -> Make:
    """The same answer, whatever is asked."""
    return lambda original: lambda *arguments, **named: value


def _without(*kinds: type) -> Make:
    """Rows of these kinds are not written."""
    return lambda original: lambda effects: [row for row in original(effects) if not isinstance(row, kinds)]


def _rows(change: Callable[[Any], Any]) -> Make:
    """Rows are written otherwise."""
    return lambda original: lambda effects: [changed for row in original(effects) if (changed := change(row))]


def _without_fence(original: Any) -> Any:
    def refusal(task_attempt: Any, task: Any, report: Any) -> str:
        if task_attempt is None or task is None or task.is_terminal:
            return original(task_attempt, task, report)
        return "" if report.number > task_attempt.last_number else "seen before"

    return refusal


def _any_attempt(original: Any) -> Any:
    """A report of an old try is applied to the try of now."""

    def apply(known: Any, effects: Any, agent: Any, outbox_id: str, seq: int, report: Any) -> None:
        task = known.tasks.get(report.ref.task_id)
        attempt = task.attempt if task else None
        if attempt is not None and attempt.number != report.ref.attempt and attempt.agent_id in known.agents:
            agent = known.agents[attempt.agent_id]
            report = report._replace(ref=report.ref._replace(attempt=attempt.number, fence=attempt.fence))
            report = report._replace(number=attempt.last_number + 1)
        original(known, effects, agent, outbox_id, seq, report)

    return apply


def _other_session(original: Any) -> Any:
    def received(known: Any, effects: Any, event: Any) -> None:
        agent = known.agents.get(event.agent_id)
        if agent is not None and agent.epoch:
            event = replace(event, epoch=agent.epoch)
        original(known, effects, event)

    return received


def _over_gaps(original: Any) -> Any:
    def received(known: Any, effects: Any, event: Any) -> None:
        agent = known.agents.get(event.agent_id)
        if agent is not None and agent.epoch == event.epoch:
            agent.applied[event.outbox_id] = event.first_seq - 1
        original(known, effects, event)

    return received


def _at_once(original: Any) -> Any:
    """Everything is sent before it is durable."""

    def add(queue: Any, rows: Any, releases: Any) -> Any:
        original(queue, rows, [release._replace(sends=()) for release in releases])
        return list(releases)

    return add


def _too_many(original: Any) -> Any:
    """What waits for the next commit leaves with this one."""

    def committed(queue: Any) -> Any:
        released = original(queue)
        if queue.waiting:
            released = released + queue.waiting[0].releases
            queue.waiting[0].releases = [release._replace(sends=()) for release in queue.waiting[0].releases]
        return released

    return committed


def _impatient(original: Any) -> Any:
    def suspect(known: Any, effects: Any, agent: Any, since_us: int) -> None:
        original(known, effects, agent, since_us - 3_600_000_000)

    return suspect


def _two_of_them(original: Any) -> Any:
    """A stray that comes back is taken back although another try is under way."""

    def returned(known: Any, effects: Any, agent: Any, task: Any, attempt: Any, held: Any) -> Any:
        task.attempt = None
        return original(known, effects, agent, task, attempt, held)

    return returned


def _reused_number(original: Any) -> Any:
    def offer(known: Any, effects: Any, task: Any, agent: Any, *, prefetched: bool) -> None:
        task.attempts_made += task.attempts_made == 1
        original(known, effects, task, agent, prefetched=prefetched)

    return offer


def _no_dependencies(original: Any) -> Any:
    def link(known: Any, effects: Any, task: Any, ended: Any) -> None:
        original(known, effects, task, ended)
        if task.waiting_for:
            for dependency_id in task.waiting_for:
                known.dependents[dependency_id].remove(task.id)
            task.waiting_for = None
            outcome.make_ready(known, effects, task)

    return link


def _cancelled_anyway(original: Any) -> Any:
    return lambda *arguments: original(*arguments)._replace(cancelled=True)


def _success_after_all(original: Any) -> Any:
    """A success is the outcome, whatever was decided before."""

    def completed(known: Any, effects: Any, agent: Any, task: Any, attempt: Any, report: Any) -> None:
        if task.state is TaskState.CANCELLING:
            known.move(task, TaskState.RUNNING, effects)
        original(known, effects, agent, task, attempt, report)

    return completed


def _completing(make: Make) -> Make:
    """Successes are taken otherwise."""
    return lambda original: {**original, ReportKind.COMPLETED: make(original[ReportKind.COMPLETED])}


def _never_asked(original: Any) -> Any:
    def cancel(known: Any, effects: Any, task_id: str, message: str) -> Any:
        verdict = original(known, effects, task_id, message)
        effects.sends = [send for send in effects.sends if not isinstance(send, PushCancel)]
        return verdict

    return cancel


def _unfenced(original: Any) -> Any:
    def fence_others(known: Any, effects: Any, task: Any, attempt: Any, to: Any) -> None:
        for live in (task.attempt, *task.strays):
            agent = known.agents.get(live.agent_id) if live is not None else None
            if live is not None and live is not attempt and agent is not None:
                slots.release(known, effects, agent, live)
        task.attempt, task.strays = None, ()

    return fence_others


def _told_nobody(original: Any) -> Any:
    def fence(known: Any, effects: Any, attempt: Any, message: str) -> None:
        original(known, effects, attempt, message)
        effects.sends = [send for send in effects.sends if not (isinstance(send, PushCancel) and send.fenced)]

    return fence


def _boundless(original: Any) -> Any:
    def new_state(settings: Any, **named: Any) -> Any:
        return original(replace(settings, queue_depth_max=1_000_000), **named)

    return new_state


def _same_epoch(original: Any) -> Any:
    return lambda settings, **named: original(settings, **{**named, "coordinator_epoch": 1})


def _same_session(original: Any) -> Any:
    return lambda known: known.epoch * (1 << 40) + 1


def _every_second_cursor(original: Any) -> Any:
    def event(known: Any, *arguments: Any, **named: Any) -> None:
        original(known, *arguments, **named)
        known.cursor_next += known.cursor_next % 50 == 0

    return event


def _backwards(original: Any) -> Any:
    return lambda effects: sorted(original(effects), key=lambda row: -getattr(row, "cursor", 0))


def _skipped_again(original: Any) -> Any:
    """A failure is passed on twice to each task that it skips."""

    def skip(known: Any, effects: Any, task: Any, *rest: Any) -> None:
        original(known, effects, task, *rest)
        again = next((row for row in effects.events if row.type == 14 and row.task_id == task.id), None)
        if again is not None:
            effects.events.append(again._replace(cursor=known.cursor_next))
            known.cursor_next += 1

    return skip


def _forgotten_slot(original: Any) -> Any:
    def give_back(known: Any, effects: Any, agent: Any, attempt: Any) -> None:
        attempt.holds_slot = False

    return give_back


def _one_more_slot(original: Any) -> Any:
    def slot_key(agent: Any) -> Any:
        agent.slots += 1
        try:
            return original(agent)
        finally:
            agent.slots -= 1

    return slot_key


def _open_while(**values: Any) -> Make:
    """An agent takes work although it does not: some of its facts are overlooked."""

    def make(original: Any) -> Any:
        def settle(agent: Any) -> None:
            was = {name: getattr(agent, name) for name in values}
            for name, value in values.items():
                setattr(agent, name, value)
            try:
                original(agent)
            finally:
                for name, value in was.items():
                    setattr(agent, name, value)

        return settle

    return make


def _unread(field: str) -> Make:
    """A field of the spec is overlooked."""
    return lambda original: {**original, field: lambda facts, value, path: None}


def _of_now(original: Any) -> Any:
    """Whatever a Hello says of when it was said is not read."""
    return lambda hello, reply: replace(original(hello, reply), boot_us=0)


def _no_leases(original: Any) -> Any:
    return lambda known, agent: known.now_us


def _lost_is_new(original: Any) -> Any:
    """What was lost may be started again, whatever it promised."""

    def lost(known: Any, effects: Any, agent: Any, task: Any, *arguments: Any) -> None:
        was, task.spec.at_most_once = task.spec.at_most_once, False
        try:
            original(known, effects, agent, task, *arguments)
        finally:
            task.spec.at_most_once = was

    return lost


def _kept(original: Any) -> Any:
    """Released limits are still held."""

    def release(known: Any, attempt: Any) -> None:
        attempt.holding = None

    return release


def _ready_us_lost(row: Any) -> Any:
    return row._replace(ready_us=0) if isinstance(row, records.InsertTask | records.UpdateTask) else row


def _fence_lost(row: Any) -> Any:
    return None if isinstance(row, records.PutAttempt) and row.state == AttemptState.FENCED else row


def _counted_lost(row: Any) -> Any:
    return row._replace(counted=False) if isinstance(row, records.PutAttempt) else row


def _twice_ended(original: Any) -> Any:
    """The terminal task stays open to whatever comes later."""
    return lambda known, effects: None


_LOOSE = {old: frozenset(TaskState) for old in TaskState}
_LOOSE_ATTEMPTS = {old: frozenset(AttemptState) for old in AttemptState}


BUGS: tuple[tuple[Any, ...], ...] = (
    ("forget nothing that ended", "I1", (step, "forget_ended", _twice_ended)),
    (
        "let a late success overwrite the outcome",
        "I1",
        (step, "forget_ended", _twice_ended),
        (state, "TASK_STEPS", lambda original: _LOOSE),
        (transitions, "ATTEMPT_STEPS", lambda original: _LOOSE_ATTEMPTS),
        (reports, "_refusal", _always("")),
        (model_coordinator.invariants, "check", _nothing),
    ),
    ("give attempts up before their grace", "I2", (sessions, "suspect", _impatient)),
    ("take a replaced stray back", "I2", (sessions, "_stray_returned", _two_of_them)),
    ("jump over an attempt number", "I3", (matching, "offer", _reused_number)),
    ("try for ever", "I3", (retry, "attempts_max", _always(1_000_000))),
    ("drop the fence check", "I4", (reports, "_refusal", _without_fence), (reports, "_apply", _any_attempt)),
    ("take reports of another session", "I4", (reports, "received", _other_session)),
    ("pass over gaps, apply again what was applied", "I5", (reports, "received", _over_gaps)),
    ("store no outbox positions", "I5", (model_coordinator, "rows", _without(records.PutOutbox))),
    ("answer before the commit", "I6", (ReleaseQueue, "add", _at_once)),
    ("store no new tasks", "I6", (model_coordinator, "rows", _without(records.InsertTask))),
    ("let the next batch leave with this one", "I7", (ReleaseQueue, "committed", _too_many)),
    ("send an attempt whose row is not stored", "I7", (model_coordinator, "rows", _without(records.PutAttempt))),
    ("start without waiting for dependencies", "I9", (submission, "_link", _no_dependencies)),
    ("take a failure for a success of a dependency", "I9", (outcome, "unmet", _always(Reason.NONE))),
    ("offer to paused agents", "I10", (model.Agent, "settle", _open_while(admin=Admin.ACTIVE))),
    ("two probes through the breaker", "I10", (breaker, "may_pass", _always(True))),
    ("the breaker never opens", "I10", (breaker, "_HALF_OPEN", lambda original: BreakerState.OPEN)),
    ("forget to give a slot back", "I11", (slots, "give_back", _forgotten_slot)),
    ("one slot too many", "I11", (strategies, "slot_key", _one_more_slot)),
    ("forget at_most_once", "I12", (specs, "_READS", _unread("at_most_once"))),
    ("take a Hello that comes late", "I12", (agent_session, "_hello", _of_now)),
    ("forget exclusive", "I13", (specs, "_READS", _unread("exclusive"))),
    ("start again what may have started", "I12", (sessions, "stray_or_lose", _lost_is_new)),
    ("answer in sessions that are over", "I13", (lease, "is_due", _always(True))),
    ("wait for no lease", "I13", (lease, "over_us", _no_leases)),
    ("acknowledge every cancel", "I14", (control, "cancel", _cancelled_anyway)),
    ("tell no agent of a cancel", "ends", (control, "cancel", _never_asked), (sessions, "_send_again", _nothing)),
    (
        "let a success win over a cancel",
        "I14",
        (reports, "_HANDLERS", _completing(_success_after_all)),
        (state, "TASK_STEPS", lambda original: _LOOSE),
    ),
    ("store no fences", "I15", (model_coordinator, "rows", _rows(_fence_lost))),
    ("leave attempts of an ended task unfenced", "I15", (outcome, "_fence_others", _unfenced)),
    ("tell no agent of a fence", "quiet", (outcome, "fence", _told_nobody), (sessions, "fence", _told_nobody)),
    ("accept more than the queue holds", "I16", (model_coordinator, "new_state", _boundless)),
    ("start with the same epoch", "I17", (model_coordinator, "new_state", _same_epoch)),
    ("give two sessions one epoch", "I17", (state.State, "next_session", _same_session)),
    ("accept a circle", "I18", (graph, "check", _always(None))),
    ("pass a failure on twice", "I18", (outcome, "skip", _skipped_again)),
    ("leave cursors out", "I19", (state.State, "event", _every_second_cursor)),
    ("write events backwards", "I19", (model_coordinator, "rows", _backwards)),
    ("store no waits", "I20", (model_coordinator, "rows", _without(records.PutWait))),
    ("store no time of the next try", "I20", (model_coordinator, "rows", _rows(_ready_us_lost))),
    ("store no counted tries", "I20", (model_coordinator, "rows", _rows(_counted_lost))),
    ("forget to release limits", "I21", (holdings, "release", _kept)),
    ("ask no limit", "I21", (lines, "held_back", _always(None)), (matching, "_is_held_back", _always(False))),
    ("doubt no offer", "ends", (step, "accept_timed_out", _nothing)),
    ("notice no silence", "online", (sessions, "silence_checked", _nothing)),
    ("watch no deadline and no queue timeout", "ends", (deadlines, "watch", _nothing)),
    ("answer nobody who waits", "ends", (blockage, "push_answer", _nothing), (sessions, "push_answer", _nothing)),
)
