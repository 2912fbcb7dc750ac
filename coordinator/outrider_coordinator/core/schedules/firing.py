"""Work submitted by the clock: each time fires once, or is skipped and counted.

What a time submits enters in the same step in which the schedule goes on to its next time, so both are durable or
neither is: a crash neither loses a time nor fires it twice. A large run is made in slices before that; until it enters,
nothing has happened. The request id of the work is made of the schedule and the
time, so it can be found and is refused a second time. A step deals with few schedules; the others wait for the next.

A time is *missed* when it is dealt with more than a minute late, or when a later one has come already. Clocks: a step
of the wall clock of up to `CLOCK_STEP_US` is taken as it comes: forwards, times in between have been missed; backwards,
times that were dealt with are not dealt with again. A larger step is a clock that was wrong: calendars begin anew from
the time it says now.

Invariants: a schedule's times are dealt with in order; with SKIP and QUEUE its work never overlaps; at most one time
is queued; a schedule that is paused submits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from outrider_coordinator.core.agents import control
from outrider_coordinator.core.effects import Effects, Refused, Reply
from outrider_coordinator.core.events import RunSubmitted, TasksSubmitted
from outrider_coordinator.core.records import DeleteSchedule, InsertEvent
from outrider_coordinator.core.runs import admission, lifecycle, submission
from outrider_coordinator.core.schedules.book import REQUEST_ID_MARK, Entering, Missed, Overlap, Schedule
from outrider_coordinator.core.schedules.events import ScheduleCreated, ScheduleOrder, ScheduleOrdered, SchedulesAsked
from outrider_coordinator.core.snapshots import schedule_row
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import EventType, Reason

#: Times that one step deals with, and the units of `pacing` for one: a calendar takes 50 to 100 us, a submit 50.
TIMES_PER_STEP, UNITS_PER_TIME = 16, 8
#: So many tasks of a run that is too large for one step take as long to write down as a time takes to be dealt with.
TASKS_PER_TIME = 64
YEAR_US = 366 * 24 * 3600 * SECOND_US
#: A time dealt with later than this was missed.
LATE_US = 60 * SECOND_US
#: Times that are made up for at most (ALL), and that are counted one by one.
MISSED_MAX = 100
#: A wall clock that is stepped by more was wrong.
CLOCK_STEP_US = 3 * 3600 * SECOND_US
#: Tasks of a run that enters within the step in which its time is dealt with.
AT_ONCE_MAX = 8
#: How soon a time is tried again for which there was no room.
RETRY_US = 10 * SECOND_US


def created(state: State, effects: Effects, event: ScheduleCreated) -> None:
    """Take a schedule in. The same one again changes nothing; another one of that name is refused or replaced."""
    book, schedule = state.schedules, event.schedule
    known = book.schedules.get(schedule.key)
    if known is not None and _is_same(known, schedule):
        effects.sends.append(Reply(event.reply, schedule_row(known)))
        return
    refused = _refusal(state, schedule, known, replace=event.replace)
    if refused is not None:
        effects.sends.append(Reply(event.reply, refused))
        return
    if known is not None:
        _abandon(state, known)
        # A time in the old one's queue is given up, too: it would be submitted with work that nobody asked for then.
        book.waited_for.pop(known.last_id, None)
        _succeed(schedule, known)
    book.schedules[schedule.key] = schedule
    schedule.offset_us = book.wall_offset_us
    schedule.next_us = schedule.times.following(book.now_us(schedule, state.now_us)) or 0
    _changed(state, effects, schedule)
    effects.sends.append(Reply(event.reply, schedule_row(schedule)))


def ordered(state: State, effects: Effects, event: ScheduleOrdered) -> None:
    """Pause, resume or delete. Times that pass while it is paused are passed over."""
    schedule = state.schedules.schedules.get((event.namespace, event.name))
    if schedule is None:
        effects.sends.append(Reply(event.reply, _unknown(event.name)))
        return
    if event.order == ScheduleOrder.DELETE:
        _forget(state, effects, schedule)
    elif schedule.is_paused != (event.order == ScheduleOrder.PAUSE):
        _abandon(state, schedule)
        schedule.is_paused = event.order == ScheduleOrder.PAUSE
        schedule.queued_us = 0
        state.schedules.waited_for.pop(schedule.last_id, None)
        if not schedule.is_paused:
            schedule.next_us = schedule.times.following(state.schedules.now_us(schedule, state.now_us)) or 0
        _changed(state, effects, schedule)
    effects.sends.append(Reply(event.reply, schedule_row(schedule)))


def wall_clock_moved(state: State, offset_us: int) -> None:
    """The wall clock is ahead of the coordinator's line by another amount: calendars are looked at again."""
    book = state.schedules
    book.wall_offset_us = offset_us
    for schedule in book.schedules.values():
        if schedule.times.is_wall:
            book.wake(schedule, state.now_us)
    _set_timer(state)


def timer_fired(state: State) -> None:
    """Some schedule's next time may have come."""
    state.schedules.is_awake = True


def asked(state: State, effects: Effects, event: SchedulesAsked) -> None:
    """What there is, as rows: what they say is durable when the reply goes out."""
    found = [
        schedule_row(schedule)
        for (namespace, name), schedule in sorted(state.schedules.schedules.items())
        if namespace == event.namespace and event.name in ("", name)
    ]
    effects.sends.append(Reply(event.reply, found if found or not event.name else _unknown(event.name)))


def works_ended(state: State, effects: Effects) -> None:
    """Let times go that waited for what this step has ended."""
    book = state.schedules
    for work_id in (*effects.tasks, *effects.runs):
        if work_id in book.waited_for and not _is_open(state, work_id):
            book.wake(book.schedules[book.waited_for.pop(work_id)], state.now_us)
    _set_timer(state)


def fire(state: State, effects: Effects) -> int:
    """Deal with schedules that are due, as many as fit into a step. Returns the units used (`pacing`)."""
    book = state.schedules
    left = TIMES_PER_STEP
    while left > 0 and (schedule := book.take(state.now_us)) is not None:
        left -= _look(state, effects, schedule)
    book.is_awake, book.timer_us = False, 0
    _set_timer(state)
    return (TIMES_PER_STEP - left) * UNITS_PER_TIME


def works_entered(state: State, effects: Effects) -> None:
    """Runs that were on their way are in, or were refused: their schedules go on, or try again later."""
    book = state.schedules
    for key, entering in list(book.entering.items()):
        schedule, run_id = book.schedules[key], entering.run_id
        if run_id in effects.runs:
            del book.entering[key]
            _submitted(state, effects, schedule, run_id)
            if schedule.next_us == entering.due_us:
                schedule.next_us = schedule.times.following(entering.due_us) or 0
            if entering.replaced_id:
                _replace(state, effects, schedule, entering.replaced_id)
            book.wake(schedule, state.now_us)
        elif not admission.is_under_way(state, run_id):
            del book.entering[key]
            book.wake(schedule, state.now_us + RETRY_US)
    _set_timer(state)


def restore(state: State, effects: Effects, schedules: Iterable[Schedule]) -> None:
    """Take in what the store has; tasks and runs are there already. The first step deals with what was missed."""
    book = state.schedules
    for schedule in schedules:
        book.schedules[schedule.key] = schedule
        schedule.offset_us = book.wall_offset_us
        following = schedule.times.following(book.now_us(schedule, state.now_us))
        if following is not None and schedule.next_us > following + CLOCK_STEP_US:
            _go_on_from(state, effects, schedule, following)
        if schedule.queued_us and _is_open(state, schedule.last_id):
            book.waited_for[schedule.last_id] = schedule.key
        book.wake(schedule, state.now_us)
    _set_timer(state)


def check(state: State) -> None:
    """Raises AssertionError when a schedule would sleep through its time, or a queued one waits for nothing."""
    book = state.schedules
    for schedule in book.schedules.values():
        story = f"schedule {schedule.name}"
        wake_us, is_entering = schedule.wake_us, schedule.key in book.entering
        if schedule.queued_us:
            assert not schedule.is_paused, f"{story} is paused and queues {schedule.queued_us}"
            waits = book.waited_for.get(schedule.last_id) == schedule.key
            assert is_entering or waits == _is_open(state, schedule.last_id), (
                f"{story} does not wait for {schedule.last_id}"
            )
            assert waits or wake_us or is_entering, f"{story} sleeps with a time in its queue"
        if schedule.next_us and not schedule.is_paused and not is_entering:
            latest_us = max(book.line_us(schedule, schedule.next_us), state.now_us + RETRY_US)
            assert wake_us, f"{story} sleeps through {schedule.next_us}"
            assert wake_us <= latest_us, f"{story} wakes at {wake_us}, its time is {schedule.next_us}"
    for work_id, key in book.waited_for.items():
        assert book.schedules[key].last_id == work_id, f"schedule {key} waits for {work_id}, which is not its last"
    first = book.first()
    assert first is None or 0 < book.timer_us <= first.wake_us, f"no timer wakes schedule {first and first.name}"


def _look(state: State, effects: Effects, schedule: Schedule) -> int:
    """Deal with one time of a schedule, or arm its timer. Returns how many times were looked at.

    A time that is years away counts as so many: a calendar walks there from day to day.
    """
    book = state.schedules
    if book.wall_offset_us != schedule.offset_us:
        _follow_clock(state, effects, schedule)
    now_us = book.now_us(schedule, state.now_us)
    if schedule.is_paused or schedule.key in book.entering:
        return 1
    if schedule.queued_us and not _is_open(state, schedule.last_id):
        is_in = _submit(state, effects, schedule, schedule.queued_us)
        if schedule.key not in book.entering:
            book.wake(schedule, state.now_us if is_in else state.now_us + RETRY_US)
            return 1
        return 1 + book.entering[schedule.key].task_count // TASKS_PER_TIME
    if not schedule.next_us or schedule.next_us > now_us:
        _arm(state, schedule)
        return 1
    count = _judge_passed(state, effects, schedule, now_us) if schedule.next_us > schedule.seen_us else 1
    due_us = schedule.next_us
    if now_us - due_us > LATE_US and schedule.missed is Missed.SKIP:
        _skip(state, effects, schedule, "its time was missed")
    elif not _meet(state, effects, schedule, due_us):
        book.wake(schedule, state.now_us + RETRY_US)
        return count
    if schedule.key in book.entering:
        return count + book.entering[schedule.key].task_count // TASKS_PER_TIME
    schedule.next_us = schedule.times.following(due_us) or 0
    effects.schedules[schedule.key] = schedule
    book.wake(schedule, state.now_us)
    return count + max(0, schedule.next_us - due_us) // YEAR_US


def _judge_passed(state: State, effects: Effects, schedule: Schedule, now_us: int) -> int:
    """Several times may have passed: go on to the first of those that the missed policy lets fire.

    Returns how many have passed; beyond `MISSED_MAX` they are not counted.
    """
    passed = [schedule.next_us]
    while len(passed) <= MISSED_MAX and (after_us := schedule.times.following(passed[-1])) and after_us <= now_us:
        passed.append(after_us)
    kept = MISSED_MAX if schedule.missed is Missed.ALL else 1
    counted = len(passed)
    if counted > MISSED_MAX:
        passed = [us for us in schedule.times.latest(now_us, kept) if us > schedule.next_us] or passed
    passed = passed[-kept:]
    dropped = max(counted - kept, 0)
    schedule.seen_us, schedule.next_us = passed[-1], passed[0]
    if dropped:
        schedule.skipped_count += dropped
        _event(state, effects, EventType.SCHEDULE_SKIPPED, schedule, f"{dropped} of its times were missed")
        effects.schedules[schedule.key] = schedule
    return counted


def _meet(state: State, effects: Effects, schedule: Schedule, due_us: int) -> bool:
    """A time has come: submit, wait or skip as the overlap policy says. False when there is no room."""
    is_open = _is_open(state, schedule.last_id)
    if not is_open or schedule.overlap is Overlap.ALLOW:
        return _submit(state, effects, schedule, due_us)
    if schedule.overlap is Overlap.REPLACE:
        before_id = schedule.last_id
        if not _submit(state, effects, schedule, due_us, replaced_id=before_id):
            return False
        if schedule.key not in state.schedules.entering:
            _replace(state, effects, schedule, before_id)
    elif schedule.overlap is Overlap.QUEUE and not schedule.queued_us:
        schedule.queued_us = due_us
        state.schedules.waited_for[schedule.last_id] = schedule.key
    else:
        _skip(state, effects, schedule, "work of an earlier time has not ended")
    return True


def _submit(state: State, effects: Effects, schedule: Schedule, due_us: int, *, replaced_id: str = "") -> bool:
    """Submit the work of one time, or begin to. False when there is no room for it now."""
    request_id = f"{REQUEST_ID_MARK}{schedule.name}:{due_us}"
    known = state.requests.find(schedule.namespace, request_id)
    if known is None:
        work = schedule.work(request_id, lambda: _new_id(state))
        size = len(work.members) if isinstance(work, RunSubmitted) else len(work.submissions)
        if size > state.room_of(schedule.submitter):
            return False
        if isinstance(work, RunSubmitted) and size > AT_ONCE_MAX:
            admission.run_submitted(state, effects, work)
            state.schedules.entering[schedule.key] = Entering(work.run_id, due_us, size, replaced_id)
            return True
        work_id = _enter(state, effects, work)
    else:
        work_id = known[0]
    _submitted(state, effects, schedule, work_id)
    return True


def _submitted(state: State, effects: Effects, schedule: Schedule, work_id: str) -> None:
    """The work of a time is in: with it the schedule's row is written."""
    schedule.queued_us = 0
    schedule.last_id, schedule.last_us = work_id, state.schedules.now_us(schedule, state.now_us)
    schedule.fired_count += 1
    _event(state, effects, EventType.SCHEDULE_FIRED, schedule, "", work_id)
    effects.schedules[schedule.key] = schedule


def _enter(state: State, effects: Effects, work: TasksSubmitted | RunSubmitted) -> str:
    if isinstance(work, RunSubmitted):
        admission.submitted_at_once(state, effects, work)
        return work.run_id
    submission.tasks_submitted(state, effects, work)
    return work.submissions[0].task_id


def _abandon(state: State, schedule: Schedule) -> None:
    """Nobody wants the run that is on its way any more; nothing of it is in the state."""
    entering = state.schedules.entering.pop(schedule.key, None)
    if entering is not None:
        admission.abandon(state, entering.run_id)


def _replace(state: State, effects: Effects, schedule: Schedule, work_id: str) -> None:
    _cancel(state, effects, work_id, f"schedule {schedule.name} replaces it")


def _cancel(state: State, effects: Effects, work_id: str, message: str) -> None:
    run = state.runs.get(work_id)
    if run is None:
        control.cancel(state, effects, work_id, message)
    else:
        lifecycle.stop(state, effects, run, Reason.CANCEL_REQUESTED, message)


def _skip(state: State, effects: Effects, schedule: Schedule, why: str) -> None:
    schedule.skipped_count += 1
    _event(state, effects, EventType.SCHEDULE_SKIPPED, schedule, why)


def _follow_clock(state: State, effects: Effects, schedule: Schedule) -> None:
    """The wall clock was stepped since the schedule was last looked at."""
    book = state.schedules
    step_us = book.wall_offset_us - schedule.offset_us
    schedule.offset_us = book.wall_offset_us
    if not schedule.times.is_wall or abs(step_us) <= CLOCK_STEP_US or not schedule.next_us:
        return
    following = schedule.times.following(book.now_us(schedule, state.now_us))
    if following is not None and following != schedule.next_us:
        _go_on_from(state, effects, schedule, following)


def _go_on_from(state: State, effects: Effects, schedule: Schedule, following_us: int) -> None:
    schedule.next_us, schedule.seen_us = following_us, 0
    _event(state, effects, EventType.SCHEDULE_SKIPPED, schedule, "the clock was set; it goes on from now")
    effects.schedules[schedule.key] = schedule


def _arm(state: State, schedule: Schedule) -> None:
    if schedule.next_us:
        state.schedules.wake(schedule, state.schedules.line_us(schedule, schedule.next_us))


def _set_timer(state: State) -> None:
    """See to it that a timer comes when the first schedule is to be looked at."""
    book = state.schedules
    first = book.first()
    if first is not None and not (book.timer_us and book.timer_us <= first.wake_us):
        book.timer_us = first.wake_us
        state.set_timer(first.wake_us, TimerKind.SCHEDULE, "")


def _unknown(name: str) -> Refused:
    return Refused("NOT_FOUND", f"no schedule {name!r}; `outrider schedule list` shows those there are", "name")


def _changed(state: State, effects: Effects, schedule: Schedule) -> None:
    effects.schedules[schedule.key] = schedule
    if not schedule.is_paused:
        _arm(state, schedule)
        _set_timer(state)


def _forget(state: State, effects: Effects, schedule: Schedule) -> None:
    _abandon(state, schedule)
    del state.schedules.schedules[schedule.key]
    state.schedules.waited_for.pop(schedule.last_id, None)
    effects.schedules.pop(schedule.key, None)
    effects.inserts.append(DeleteSchedule(*schedule.key))


def _is_same(known: Schedule, other: Schedule) -> bool:
    return known.body == other.body and known.submitter == other.submitter


def _succeed(schedule: Schedule, known: Schedule) -> None:
    """A schedule takes the place of another: it goes on where that was, with its own times."""
    schedule.is_paused = known.is_paused
    schedule.last_us, schedule.last_id = known.last_us, known.last_id
    schedule.fired_count, schedule.skipped_count = known.fired_count, known.skipped_count


def _refusal(state: State, schedule: Schedule, known: Schedule | None, *, replace: bool) -> Refused | None:
    book = state.schedules
    if known is not None and not replace:
        message = f"there is another schedule {schedule.name!r}; choose another name, or replace it"
        return Refused("REQUEST_ID_REUSED", message, "spec.name")
    if known is None and len(book.schedules) >= state.settings.schedules_max:
        return Refused("QUEUE_FULL", f"there are {len(book.schedules)} schedules; delete one that is over first")
    if schedule.times.following(book.now_us(schedule, state.now_us)) is None:
        return Refused("INVALID_REQUEST", "this time has passed", "spec.at_time")
    return None


def _is_open(state: State, work_id: str) -> bool:
    task, run = state.tasks.get(work_id), state.runs.get(work_id)
    return (task is not None and not task.is_terminal) or (run is not None and not run.ended_us)


def _new_id(state: State) -> str:
    """An id in order of time, of the form that the shell gives: milliseconds, a count, 64 random bits."""
    book = state.schedules
    book.ids_made = book.ids_made + 1 & 0xFFFF
    return f"{state.now_us // 1000:012x}{book.ids_made:04x}{state.random.bits():016x}"


def _event(state: State, effects: Effects, kind: EventType, schedule: Schedule, why: str, work_id: str = "") -> None:
    """Append to the event log; of what was submitted, the task or the run is named."""
    run_id = work_id if work_id in state.runs else ""
    text = f"{schedule.name}: {why}" if why else schedule.name
    effects.events.append(
        InsertEvent(
            state.cursor_next,
            int(kind),
            state.now_us,
            schedule.namespace,
            task_id="" if run_id else work_id,
            run_id=run_id,
            text=text,
        )
    )
    state.cursor_next += 1
