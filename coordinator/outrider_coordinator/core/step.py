"""One step: facts in, changed state and effects out. The only door to the core."""

from __future__ import annotations

from outrider_coordinator.core import pacing
from outrider_coordinator.core.agents import control, drain, epochs, lease, liveness, sessions
from outrider_coordinator.core.attempts import deadlines, reports
from outrider_coordinator.core.attempts.outcome import forget_ended, make_ready
from outrider_coordinator.core.chance import Chance
from outrider_coordinator.core.effects import Effects, Reply
from outrider_coordinator.core.events import (
    AgentOrdered,
    Answered,
    AttemptsAccepted,
    AttemptsReturned,
    BreakerReset,
    CancelRequested,
    HeartbeatReceived,
    LimitDefined,
    OutcomesLoaded,
    PauseNoticed,
    ReportsReceived,
    RunCancelRequested,
    RunSubmitted,
    SessionEnded,
    SessionOpened,
    TasksAdded,
    TasksSubmitted,
    Ticked,
)
from outrider_coordinator.core.limits import deadlock, holdings
from outrider_coordinator.core.placement import strategies
from outrider_coordinator.core.placement.matching import place
from outrider_coordinator.core.placement.offers import accept_timed_out
from outrider_coordinator.core.placement.queue import ReadyQueue
from outrider_coordinator.core.runs import admission, slices, submission
from outrider_coordinator.core.runs.requests import RequestIndex
from outrider_coordinator.core.schedules import firing
from outrider_coordinator.core.schedules.events import ScheduleCreated, ScheduleOrdered, SchedulesAsked, WallClockMoved
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.state import State, Timer, TimerKind
from outrider_coordinator.core.states import TaskState
from outrider_coordinator.core.trust import blame, breaker, systems
from outrider_coordinator.core.waits import blockage, budgets

#: Everything that can happen to the core.
Event = (
    TasksSubmitted
    | RunSubmitted
    | TasksAdded
    | RunCancelRequested
    | CancelRequested
    | Answered
    | SessionOpened
    | HeartbeatReceived
    | AttemptsAccepted
    | AttemptsReturned
    | ReportsReceived
    | SessionEnded
    | AgentOrdered
    | BreakerReset
    | LimitDefined
    | ScheduleCreated
    | ScheduleOrdered
    | SchedulesAsked
    | WallClockMoved
    | OutcomesLoaded
    | PauseNoticed
    | Ticked
)


def new_state(settings: CoreSettings, *, coordinator_epoch: int, now_us: int, seed: int = 0) -> State:
    """An empty state. ``coordinator_epoch`` rises with every start and makes fences and sessions unique for ever.

    ``seed`` is all the chance there is in the core's decisions.
    """
    first = epochs.first_number(coordinator_epoch)
    return State(
        settings=settings,
        epoch=coordinator_epoch,
        first_epoch=coordinator_epoch,
        started_us=now_us,
        now_us=now_us,
        requests=RequestIndex(settings.request_ids_max),
        random=Chance(seed),
        queue=ReadyQueue(settings.aging_us, dict(settings.shares)),
        has_caps=settings.has_caps,
        fence_next=first,
        session_next=first,
    )


def step(state: State, events: list[Event], now_us: int) -> Effects:
    """Apply events in order, fire due timers, place what is ready, as much as fits. AssertionError: our fault."""
    state.now_us = max(state.now_us, now_us)
    effects = Effects()
    for event in events:
        _apply(state, effects, event)
    left = pacing.UNITS
    for timer in state.take_due_timers(pacing.TIMERS_MAX):
        left -= 1
        _fire(state, effects, timer)
    for attempt in state.take_doubtful_offers(pacing.TIMERS_MAX):
        left -= 1
        accept_timed_out(state, effects, attempt)
    if state.schedules.is_awake:
        left -= firing.fire(state, effects)
    if state.errands:
        left -= slices.work(state, effects, max(left - pacing.OFFERS_MIN, pacing.ERRANDS_MIN))
        if state.schedules.entering:
            firing.works_entered(state, effects)
    if state.systems:
        systems.settle(state, effects)
    if state.placement_is_due:
        place(state, effects, max(left, pacing.OFFERS_MIN))
    if state.opened_waits:
        deadlock.look(state, effects)
    state.retries.sample(state.now_us)
    effects.sends.extend(effects.acks.values())
    if state.schedules.waited_for:
        firing.works_ended(state, effects)
    forget_ended(state, effects)
    return effects


def next_due_us(state: State) -> int | None:
    """When the next step is due without an event: by a timer, or at once when work is left over; None when neither."""
    if state.errands or state.placement_is_due:
        return state.now_us
    dues = [queue[0][0] for queue in (state.timers, state.offers) if queue]
    return min(dues, default=None)


def _apply(state: State, effects: Effects, event: Event) -> None:
    match event:
        case ReportsReceived():
            reports.received(state, effects, event)
        case TasksSubmitted():
            submission.tasks_submitted(state, effects, event)
        case HeartbeatReceived():
            _heard(state, event)
        case AttemptsAccepted():
            control.attempts_accepted(state, effects, event)
        case AttemptsReturned():
            control.attempts_returned(state, effects, event)
        case RunSubmitted():
            admission.run_submitted(state, effects, event)
        case TasksAdded():
            admission.tasks_added(state, effects, event)
        case RunCancelRequested():
            control.cancel_run(state, effects, event)
        case CancelRequested():
            verdicts = [control.cancel(state, effects, task_id, event.message) for task_id in event.task_ids]
            effects.sends.append(Reply(event.reply, verdicts))
        case Answered():
            blockage.answered(state, effects, event)
        case SessionOpened():
            sessions.opened(state, effects, event)
        case SessionEnded():
            sessions.ended(state, effects, event.agent_id, event.epoch, goodbye=event.goodbye)
        case AgentOrdered():
            control.agent_ordered(state, effects, event)
        case LimitDefined():
            holdings.defined(state, effects, event)
        case ScheduleCreated():
            firing.created(state, effects, event)
        case ScheduleOrdered():
            firing.ordered(state, effects, event)
        case SchedulesAsked():
            firing.asked(state, effects, event)
        case WallClockMoved():
            firing.wall_clock_moved(state, event.offset_us)
        case BreakerReset():
            effects.sends.append(Reply(event.reply, blame.reset(state, effects, event)))
        case OutcomesLoaded():
            blockage.outcomes_loaded(state, effects, event.ends)
        case PauseNoticed():
            liveness.pause_noticed(state)
        case Ticked():  # pragma: no branch - the last kind of event there is
            pass


def _heard(state: State, event: HeartbeatReceived) -> None:
    agent = state.agents.get(event.agent_id)
    if agent is None:
        return
    lease.sent(state, agent)  # also in a session that is over by now
    if agent.epoch == event.epoch:
        agent.last_heard_us = state.now_us
        if not event.workers_changed:
            event.facts.workers = agent.facts.workers
        was_leaving, agent.facts = agent.facts.is_leaving, event.facts
        if was_leaving != event.facts.is_leaving:
            agent.settle()
            state.fleet.changed(agent)
            state.placement_is_due = True
        strategies.press(state, agent)


def _fire(state: State, effects: Effects, timer: Timer) -> None:
    _, _, kind, key, key2 = timer
    task, agent = state.tasks.get(key), state.agents.get(key)
    match kind:
        case TimerKind.READY if task and task.state is TaskState.PENDING and not task.waiting_for:
            make_ready(state, effects, task)
        case TimerKind.QUEUE_TIMEOUT if task:
            deadlines.queue_timed_out(state, effects, task)
        case TimerKind.DEADLINE if task:
            deadlines.deadline_passed(state, effects, task)
        case TimerKind.GRACE:
            sessions.grace_ended(state, effects, key, int(key2))
        case TimerKind.WAIT:
            blockage.time_came(state, effects, key, key2)
        case TimerKind.WAIT_BUDGET:
            budgets.budget_ended(state, effects, key, key2)
        case TimerKind.SILENCE if agent:
            sessions.silence_checked(state, effects, agent)
        case TimerKind.DRAIN if agent:
            drain.deadline_passed(state, effects, agent)
        case TimerKind.ALARM:
            liveness.alarm_ended(state, effects)
        case TimerKind.LOST if agent:
            sessions.lost_after(state, effects, agent)
        case TimerKind.BREAKER:
            breaker.reset_time_came(state, effects, key, key2)
        case TimerKind.PROBE:
            breaker.probe_time_came(state, effects, key, int(key2))
        case TimerKind.SCHEDULE:
            firing.timer_fired(state)
        case TimerKind.DEADLOCK:
            deadlock.look_again(state)
        case TimerKind.LIMIT:
            holdings.timer_fired(state, key, key2)
        case _:
            pass
