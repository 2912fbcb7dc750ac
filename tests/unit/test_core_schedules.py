"""Schedules in the core: when they fire, what they submit, and what clocks and crashes cannot make them do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from outrider_coordinator.core.effects import Refused
from outrider_coordinator.core.events import RunCancelRequested, RunMember, RunSubmitted, Ticked
from outrider_coordinator.core.records import DeleteSchedule, InsertTask, PutSchedule
from outrider_coordinator.core.schedules.book import Missed, Overlap, Times, single_time
from outrider_coordinator.core.schedules.events import (
    ScheduleOrder,
    SchedulesAsked,
    WallClockMoved,
)
from outrider_coordinator.core.schedules.firing import MISSED_MAX, YEAR_US
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Spec
from outrider_coordinator.core.states import EventType, TaskState
from support.clockwork import HOUR_US, Clockwork, end, hourly, one_run


@pytest.fixture
def clockwork() -> Clockwork:
    """A world without schedules."""
    return Clockwork()


def test_a_single_time_fires_once(clockwork: Clockwork) -> None:
    """Nothing before its time, one task at it, nothing afterwards; the event names the task."""
    clockwork.create(single_time(clockwork.world.now_us + 5 * SECOND_US))
    clockwork.tick(4)
    assert not clockwork.world.state.tasks
    clockwork.tick(100)
    assert clockwork.counts() == (1, 0)
    (task,) = clockwork.world.state.tasks.values()
    (fired,) = [event for event in clockwork.world.log if event.type == EventType.SCHEDULE_FIRED]
    assert (fired.task_id, fired.run_id, fired.text, fired.namespace) == (task.id, "", "s", "default")
    assert (clockwork.schedule.next_us, clockwork.schedule.last_id) == (0, task.id)


def test_an_interval_begins_one_interval_after_it_was_made(clockwork: Clockwork) -> None:
    """Ten seconds apart, first after ten."""
    clockwork.every(10)
    clockwork.tick(9)
    assert clockwork.counts() == (0, 0)
    clockwork.tick(22)
    assert clockwork.counts() == (3, 0)


def test_a_time_and_its_work_are_written_in_one_step(clockwork: Clockwork) -> None:
    """The rows of the new task and of the schedule's next time are in the same transaction, or in none."""
    clockwork.every(10)
    before = clockwork.world.state.now_us
    clockwork.world.now_us += 10 * SECOND_US
    clockwork.world.do(Ticked())
    rows = clockwork.world.written
    (task,) = [row for row in rows if isinstance(row, InsertTask)]
    (schedule,) = [row for row in rows if isinstance(row, PutSchedule)]
    assert task.request_id == f"schedule:s:{before + 10 * SECOND_US}"
    assert (schedule.last_id, schedule.next_us) == (task.id, before + 20 * SECOND_US)


def test_a_run_is_submitted_whole(clockwork: Clockwork) -> None:
    """The work may be a graph; the event names the run."""
    clockwork.every(10, work=one_run)
    clockwork.tick(10)
    (run,) = clockwork.world.state.runs.values()
    assert len(clockwork.world.state.tasks) == 2
    assert clockwork.schedule.last_id == run.id
    assert [event.run_id for event in clockwork.world.log if event.type == EventType.SCHEDULE_FIRED] == [run.id]


def large_run(request_id: str, new_id: Callable[[], str]) -> RunSubmitted:
    """Work that no single step takes in."""
    spec = Spec(b"", "m:f", True)
    members = [RunMember(new_id(), f"k{at}", spec, ("k0",) if at else ()) for at in range(500)]
    return RunSubmitted(new_id(), "default", "", "", members, lambda value: None, request_id, b"digest")


def test_a_large_run_and_its_time_are_written_in_one_step(clockwork: Clockwork) -> None:
    """It is made in slices that write nothing; with the last one everything is in, and the schedule has gone on."""
    clockwork.every(10, work=large_run)
    world, before = clockwork.world, clockwork.world.state.now_us
    world.do(Ticked(), after_us=10 * SECOND_US)
    steps = 0
    while not any(isinstance(row, InsertTask) for row in world.written):
        assert not world.written
        assert clockwork.schedule.next_us == before + 10 * SECOND_US
        world.do(Ticked())
        steps += 1
    assert steps > 2
    assert sum(isinstance(row, InsertTask) for row in world.written) == 500
    (row,) = [row for row in world.written if isinstance(row, PutSchedule)]
    (run,) = world.state.runs.values()
    assert (row.last_id, row.next_us, row.fired_count) == (run.id, before + 20 * SECOND_US, 1)
    clockwork.tick(9)
    assert clockwork.counts() == (1, 0)


@pytest.mark.parametrize("order", [ScheduleOrder.PAUSE, ScheduleOrder.DELETE, "replace"])
def test_a_large_run_on_its_way_is_given_up_with_its_schedule(clockwork: Clockwork, order: str) -> None:
    """Who holds, forgets or replaces a schedule gets nothing of what has not entered yet."""
    clockwork.every(10, work=large_run)
    clockwork.world.do(Ticked(), after_us=10 * SECOND_US)
    assert clockwork.world.state.errands
    if order == "replace":
        clockwork.every(10, work=large_run, replace=True, body=b"other")
    else:
        clockwork.order(order)
    assert not clockwork.world.state.errands
    assert not clockwork.world.state.schedules.entering
    clockwork.world.settle()
    assert not clockwork.world.state.tasks


def test_a_large_run_waits_for_room() -> None:
    """What took the room while it was made goes first; the time is tried again and fires once."""
    clockwork = Clockwork(CoreSettings(queue_depth_max=500))
    clockwork.every(3600, work=large_run)
    clockwork.world.do(Ticked(), after_us=3600 * SECOND_US)
    (task,) = clockwork.world.submit()
    clockwork.tick(5)
    assert (clockwork.counts(), list(clockwork.world.state.tasks)) == ((0, 0), [task])
    agent = clockwork.world.connect("a")
    clockwork.world.complete(agent, clockwork.world.ref(agent, task))
    clockwork.tick(15)
    assert (clockwork.counts(), len(clockwork.world.state.tasks)) == ((1, 0), 500)


def test_a_large_run_replaces_the_one_before_it(clockwork: Clockwork) -> None:
    """The run of the time before is cancelled when the new one is in, not while that is on its way."""
    clockwork.every(10, work=large_run, overlap=Overlap.REPLACE)
    clockwork.tick(10)
    (first,) = clockwork.world.state.runs
    clockwork.world.do(Ticked(), after_us=10 * SECOND_US)
    assert list(clockwork.world.state.runs) == [first]
    assert not clockwork.world.state.runs[first].stop_reason
    clockwork.world.settle()
    assert list(clockwork.world.state.runs) == [clockwork.schedule.last_id] != [first]
    assert clockwork.counts() == (2, 0)


def test_a_large_run_that_was_queued_enters_once(clockwork: Clockwork) -> None:
    """A queued time whose run takes several steps is submitted once, also when the wall clock moves meanwhile."""
    clockwork.create(hourly(), work=large_run, overlap=Overlap.QUEUE)
    clockwork.wait(3600)
    clockwork.wait(3600)
    assert clockwork.schedule.queued_us
    (first,) = clockwork.world.state.runs
    clockwork.world.do(RunCancelRequested(first, "", clockwork.world.replies.append))
    clockwork.world.do(WallClockMoved(1))
    clockwork.world.settle()
    clockwork.tick(3)
    assert clockwork.schedule.last_id != first
    assert len(clockwork.world.state.runs) == 1
    assert clockwork.schedule.fired_count == 2


def test_large_runs_that_are_due_at_once_begin_one_after_the_other(clockwork: Clockwork) -> None:
    """Of twenty runs of five hundred tasks a step begins few, and every one of them enters once."""
    times = single_time(clockwork.world.now_us + SECOND_US)
    for number in range(20):
        clockwork.create(times, name=f"s{number}", work=large_run)
    clockwork.world.do(Ticked(), after_us=SECOND_US)
    assert 0 < len(clockwork.world.state.schedules.entering) <= 3
    clockwork.tick(1)
    assert len(clockwork.world.state.runs) == 20
    assert len(clockwork.events(EventType.SCHEDULE_FIRED)) == 20


def test_calendars_that_walk_far_have_a_step_to_themselves(clockwork: Clockwork) -> None:
    """A next time that is decades away counts as so many times: of a hundred such schedules a step looks at few."""
    first = clockwork.world.now_us + SECOND_US
    far = Times(lambda us: first if us < first else first + 40 * YEAR_US, lambda us, count: [first])
    for number in range(100):
        clockwork.create(far, name=f"s{number}")
    steps = len(clockwork.effects)
    clockwork.tick(1)
    fired = [event for event in clockwork.world.log if event.type == EventType.SCHEDULE_FIRED]
    assert len(fired) == 100
    assert len(clockwork.effects) - steps >= 100


# --- overlap


def test_skip_leaves_times_out_while_work_goes_on(clockwork: Clockwork) -> None:
    """Nothing is submitted before the task of the time before has ended; each time left out is counted and told."""
    clockwork.every(10, overlap=Overlap.SKIP)
    clockwork.tick(35)
    assert clockwork.counts() == (1, 2)
    assert clockwork.events(EventType.SCHEDULE_SKIPPED) == ["s: work of an earlier time has not ended"] * 2
    clockwork.world.connect("a")
    end(clockwork)
    clockwork.tick(10)
    assert clockwork.counts() == (2, 2)


def test_allow_lets_work_overlap(clockwork: Clockwork) -> None:
    """Every time submits, whatever is open."""
    clockwork.every(10, overlap=Overlap.ALLOW)
    clockwork.tick(35)
    assert clockwork.counts() == (3, 0)
    assert len(clockwork.world.state.tasks) == 3


def test_queue_keeps_one_time_for_later(clockwork: Clockwork) -> None:
    """One time waits and is submitted in the step that ends the work before it; further ones are skipped."""
    clockwork.every(10, overlap=Overlap.QUEUE)
    clockwork.tick(45)
    assert clockwork.counts() == (1, 2)
    clockwork.world.connect("a")
    end(clockwork)
    assert clockwork.counts() == (2, 2)
    assert not clockwork.schedule.queued_us


def test_queue_waits_for_a_run_as_for_a_task(clockwork: Clockwork) -> None:
    """The end of a graph lets the queued time go, the end of one of its tasks does not."""
    clockwork.every(10, overlap=Overlap.QUEUE, work=one_run)
    clockwork.tick(25)
    clockwork.world.connect("a")
    end(clockwork)
    assert clockwork.counts() == (1, 0)
    end(clockwork)
    assert clockwork.counts() == (2, 0)


def test_replace_cancels_what_is_open(clockwork: Clockwork) -> None:
    """The task of the time before is cancelled, the new one stays."""
    clockwork.every(10, overlap=Overlap.REPLACE)
    clockwork.tick(10)
    first = clockwork.schedule.last_id
    clockwork.tick(10)
    assert clockwork.world.ended[first] is TaskState.CANCELLED
    assert list(clockwork.world.state.tasks) == [clockwork.schedule.last_id]


def test_replace_cancels_a_run(clockwork: Clockwork) -> None:
    """Every task of the graph of the time before is cancelled."""
    clockwork.every(10, overlap=Overlap.REPLACE, work=one_run)
    clockwork.tick(20)
    assert sorted(state.name for state in clockwork.world.ended.values()) == ["CANCELLED", "CANCELLED"]
    assert len(clockwork.world.state.tasks) == 2


# --- missed times


@pytest.mark.parametrize(
    ("missed", "late_s", "counts"),
    [
        (Missed.SKIP, 95, (1, 8)),
        (Missed.SKIP, 90 + 3600, (1, 368)),
        (Missed.ONCE, 95, (1, 8)),
        (Missed.ALL, 95, (9, 0)),
    ],
)
def test_times_that_passed_are_treated_by_policy(missed: Missed, late_s: int, counts: tuple[int, int]) -> None:
    """Skipped, one for all of them, or each; the latest one is on time when it is dealt with within a minute."""
    clockwork = Clockwork()
    clockwork.every(10, missed=missed)
    clockwork.wait(late_s)
    fired, skipped = clockwork.counts()
    assert fired == counts[0]
    assert skipped == min(counts[1], MISSED_MAX)


def test_a_single_late_time_is_missed(clockwork: Clockwork) -> None:
    """More than a minute late, SKIP passes over it."""
    clockwork.every(100, missed=Missed.SKIP)
    clockwork.wait(170)
    assert clockwork.counts() == (0, 1)
    assert clockwork.events(EventType.SCHEDULE_SKIPPED) == ["s: its time was missed"]


@pytest.mark.parametrize("days", [1, 3650])
def test_making_up_is_bounded(days: int) -> None:
    """After a day or ten years, at most a hundred are submitted, the latest, and no step does it all."""
    clockwork = Clockwork()
    clockwork.every(1, missed=Missed.ALL)
    clockwork.world.state.now_us += days * 24 * HOUR_US
    clockwork.world.now_us = clockwork.world.state.now_us
    clockwork.step(Ticked())
    assert clockwork.schedule.fired_count == MISSED_MAX
    due = sorted(int(task.request_id.rpartition(":")[2]) for task in clockwork.world.state.tasks.values())
    assert due[-1] == clockwork.world.now_us
    assert due[-1] - due[0] == (MISSED_MAX - 1) * SECOND_US
    assert max(len(effects.tasks) for effects in clockwork.effects) <= 32


# --- orders


def test_a_paused_schedule_submits_nothing_and_goes_on_from_now(clockwork: Clockwork) -> None:
    """Times that pass meanwhile are passed over, whatever the missed policy."""
    clockwork.every(10, missed=Missed.ALL)
    assert clockwork.order(ScheduleOrder.PAUSE).is_paused
    clockwork.tick(100)
    assert clockwork.counts() == (0, 0)
    assert not clockwork.order(ScheduleOrder.RESUME).is_paused
    assert clockwork.counts() == (0, 0)
    clockwork.tick(10)
    assert clockwork.counts() == (1, 0)


def test_a_deleted_schedule_is_gone_and_its_work_goes_on(clockwork: Clockwork) -> None:
    """Nothing more is submitted; the task that was stays; a second delete is told that there is none."""
    clockwork.every(10)
    clockwork.tick(10)
    clockwork.order(ScheduleOrder.DELETE)
    assert DeleteSchedule("default", "s") in clockwork.effects[-1].inserts
    clockwork.tick(30)
    assert len(clockwork.world.state.tasks) == 1
    refused = clockwork.order(ScheduleOrder.DELETE)
    assert isinstance(refused, Refused)
    assert refused.reason == "NOT_FOUND"


def test_the_same_schedule_again_changes_nothing_and_another_is_refused(clockwork: Clockwork) -> None:
    """Creating is idempotent; another body under the name needs ``replace``, which keeps what was counted."""
    clockwork.every(10)
    clockwork.tick(25)
    again = clockwork.every(10)
    assert (again.fired_count, again.next_us) == (2, clockwork.schedule.next_us)
    refused = clockwork.every(20, body=b"other")
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.field) == ("REQUEST_ID_REUSED", "spec.name")
    replaced = clockwork.every(20, body=b"other", replace=True)
    assert (replaced.fired_count, replaced.next_us) == (2, clockwork.world.now_us + 20 * SECOND_US)
    clockwork.tick(20)
    assert clockwork.counts() == (3, 0)


def test_what_takes_its_place_does_not_wait_for_its_queued_time(clockwork: Clockwork) -> None:
    """A time in the queue is given up with the schedule that it belongs to."""
    clockwork.every(10, overlap=Overlap.QUEUE)
    clockwork.tick(25)
    assert clockwork.schedule.queued_us
    replaced = clockwork.every(20, body=b"other", overlap=Overlap.QUEUE, replace=True)
    assert replaced.queued_us == 0
    assert not clockwork.world.state.schedules.waited_for


def test_a_time_that_never_comes_is_refused(clockwork: Clockwork) -> None:
    """A time in the past and a calendar without times are refused when they are made."""
    for times in (single_time(1), Times(lambda us: None, lambda us, count: [])):
        refused = clockwork.create(times)
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.field) == ("INVALID_REQUEST", "spec.at_time")


def test_schedules_are_bounded() -> None:
    """One more than may be is refused."""
    clockwork = Clockwork(CoreSettings(schedules_max=0))
    assert clockwork.every(10).reason == "QUEUE_FULL"


def test_lists_are_by_name_and_namespace(clockwork: Clockwork) -> None:
    """Asking shows rows of one namespace; an unknown name is said."""
    clockwork.every(10)
    assert [row.name for row in clockwork.ask(lambda reply: SchedulesAsked("default", "", reply))] == ["s"]
    assert clockwork.ask(lambda reply: SchedulesAsked("other", "", reply)) == []
    assert clockwork.ask(lambda reply: SchedulesAsked("other", "s", reply)).reason == "NOT_FOUND"


def test_without_room_a_time_is_tried_again() -> None:
    """A full queue loses no time: it is submitted once there is room, and not twice."""
    clockwork = Clockwork(CoreSettings(queue_depth_max=1))
    (blocker,) = clockwork.world.submit()
    clockwork.create(single_time(clockwork.world.now_us + SECOND_US))
    clockwork.tick(15)
    assert clockwork.counts() == (0, 0)
    agent = clockwork.world.connect("a")
    clockwork.world.complete(agent, clockwork.world.ref(agent, blocker))
    clockwork.tick(60)
    assert clockwork.counts() == (1, 0)


def test_without_room_for_its_submitter_a_schedule_waits() -> None:
    """Its time is not lost: the work comes once there is room."""
    clockwork = Clockwork(CoreSettings(submitter_open_max=1))
    (blocker,) = clockwork.world.submit(submitter="ann")
    clockwork.create(single_time(clockwork.world.now_us + SECOND_US), submitter="ann")
    clockwork.tick(15)
    assert clockwork.counts() == (0, 0)
    agent = clockwork.world.connect("a")
    clockwork.world.complete(agent, clockwork.world.ref(agent, blocker))
    clockwork.tick(60)
    assert clockwork.counts() == (1, 0)
