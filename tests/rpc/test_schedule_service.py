"""ScheduleService over real sockets: made, shown, held, forgotten; fired once also when the coordinator is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from outrider import errors, status
from outrider.v1 import event_pb2, run_service_pb2, schedule_service_pb2, task_pb2, task_service_pb2
from support.coordinator_process import CoordinatorProcess
from support.waiting import eventually

Cron, ScheduleSpec = schedule_service_pb2.Cron, schedule_service_pb2.ScheduleSpec
TASK = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"))
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    """A running coordinator for all tests of this file, each with a namespace of its own."""
    process = CoordinatorProcess(tmp_path_factory.mktemp("coordinator"))
    process.start()
    yield process
    process.kill()


def create(
    coordinator: CoordinatorProcess, namespace: str, *, replace: bool = False, **spec: Any
) -> schedule_service_pb2.Schedule:
    """Make a schedule, which submits one function unless the test says otherwise."""
    work = {} if "run" in spec or "task" in spec else {"task": TASK}
    request = schedule_service_pb2.CreateScheduleRequest(
        namespace=namespace, spec=ScheduleSpec(**{"name": "s", **work, **spec}), replace=replace
    )
    return coordinator.schedules.CreateSchedule(request, timeout=TIMEOUT_S).schedule


def get(coordinator: CoordinatorProcess, namespace: str) -> schedule_service_pb2.Schedule:
    """The schedule as it is."""
    request = schedule_service_pb2.GetScheduleRequest(namespace=namespace, name="s")
    return coordinator.schedules.GetSchedule(request, timeout=TIMEOUT_S).schedule


def listed(coordinator: CoordinatorProcess, namespace: str) -> list[str]:
    """Names of the schedules of a namespace."""
    request = schedule_service_pb2.ListSchedulesRequest(namespace=namespace)
    return [one.spec.name for one in coordinator.schedules.ListSchedules(request, timeout=TIMEOUT_S).schedules]


def tasks(coordinator: CoordinatorProcess, namespace: str) -> list[task_pb2.Task]:
    """All tasks of a namespace."""
    request = task_service_pb2.ListRequest(namespace=namespace, page_size=1000)
    return list(coordinator.tasks.List(request, timeout=TIMEOUT_S).tasks)


def refused(call: Any) -> errors.OutriderError:
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return status.from_rpc_error(caught.value)


def test_a_schedule_is_made_listed_held_and_forgotten(coordinator: CoordinatorProcess) -> None:
    """Every call of the service, on a calendar that comes once a year."""
    made = create(coordinator, "life", cron=Cron(line="0 0 1 1 *", time_zone="Europe/Berlin"))
    assert made.next_time.ToDatetime().strftime("%m-%dT%H:%M") == "12-31T23:00"
    assert not made.HasField("last_time")
    assert listed(coordinator, "life") == ["s"]
    assert listed(coordinator, "elsewhere") == []
    named: dict[str, Any] = {"namespace": "life", "name": "s"}
    pause, resume = (
        schedule_service_pb2.PauseScheduleRequest(**named),
        schedule_service_pb2.ResumeScheduleRequest(**named),
    )
    assert coordinator.schedules.PauseSchedule(pause, timeout=TIMEOUT_S).schedule.paused
    assert get(coordinator, "life").paused
    assert not coordinator.schedules.ResumeSchedule(resume, timeout=TIMEOUT_S).schedule.paused
    coordinator.schedules.DeleteSchedule(schedule_service_pb2.DeleteScheduleRequest(**named), timeout=TIMEOUT_S)
    assert listed(coordinator, "life") == []
    assert isinstance(refused(lambda: get(coordinator, "life")), errors.NotFound)


def test_the_same_again_is_found_and_another_needs_replace(coordinator: CoordinatorProcess) -> None:
    """Creating twice is harmless; another spec under the name is refused, or takes its place when asked to."""
    first = create(coordinator, "again", cron=Cron(line="0 0 1 1 *"))
    assert create(coordinator, "again", cron=Cron(line="0 0 1 1 *")) == first
    assert isinstance(
        refused(lambda: create(coordinator, "again", cron=Cron(line="0 0 2 1 *"))), errors.RequestIdReused
    )
    replaced = create(coordinator, "again", cron=Cron(line="0 0 2 1 *"), replace=True)
    assert replaced.next_time.seconds == first.next_time.seconds + 86_400


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("spec.name", {"name": "", "cron": Cron(line="* * * * *")}),
        ("spec", {}),
        ("spec.cron.line", {"cron": Cron(line="61 * * * *")}),
        ("spec.cron.line", {"cron": Cron(line="* * */20 * 1L")}),
        ("spec.cron.time_zone", {"cron": Cron(line="* * * * *", time_zone="Mars/Olympus")}),
        ("spec.repeat_interval", {"repeat_interval": Duration(nanos=5)}),
        ("spec.repeat_interval", {"repeat_interval": Duration(seconds=-5)}),
        ("spec.at_time", {"at_time": Timestamp(seconds=1)}),
        ("spec", {"cron": Cron(line="* * * * *"), "task": None}),
        ("spec.task", {"cron": Cron(line="* * * * *"), "task": task_pb2.TaskSpec()}),
        (
            "spec.task.not_before",
            {"cron": Cron(line="* * * * *"), "task": task_pb2.TaskSpec(function=TASK.function, not_before=Timestamp())},
        ),
        ("spec.overlap", {"cron": Cron(line="* * * * *"), "overlap": 9}),
        ("spec.missed", {"cron": Cron(line="* * * * *"), "missed": 9}),
        ("spec.run.tasks", {"cron": Cron(line="* * * * *"), "run": run_service_pb2.RunSpec()}),
    ],
)
def test_a_bad_schedule_is_refused_with_the_field(
    coordinator: CoordinatorProcess, field: str, spec: dict[str, Any]
) -> None:
    """A time that never comes, a zone that is none, nothing to submit: the error names what is wrong."""
    error = refused(lambda: create(coordinator, "bad", **spec))
    assert isinstance(error, errors.InvalidRequest)
    assert [violation.field for violation in error.violations] == [field]


def test_a_run_is_submitted_by_the_clock(coordinator: CoordinatorProcess) -> None:
    """A graph enters whole at a single time; the event of it names the run."""
    members = [
        run_service_pb2.RunTask(key="a", spec=TASK),
        run_service_pb2.RunTask(key="b", spec=TASK, after_keys=["a"]),
    ]
    now = Timestamp()
    now.GetCurrentTime()
    create(
        coordinator,
        "runs",
        at_time=Timestamp(seconds=now.seconds + 2),
        run=run_service_pb2.RunSpec(title="nightly", tasks=members),
    )
    eventually(lambda: get(coordinator, "runs").fired_count == 1, TIMEOUT_S)
    schedule = get(coordinator, "runs")
    run = coordinator.runs.GetRun(
        run_service_pb2.GetRunRequest(namespace="runs", run_id=schedule.last_id), timeout=TIMEOUT_S
    ).run
    assert (run.title, run.schedule_id, len(run.task_ids)) == ("nightly", "s", 2)
    assert not schedule.HasField("next_time")
    request = task_service_pb2.WatchRequest(namespace="runs", after_cursor=0)
    fired = next(
        event
        for response in coordinator.tasks.Watch(request, timeout=TIMEOUT_S)
        for event in response.events.events
        if event.type == event_pb2.EVENT_TYPE_SCHEDULE_FIRED
    )
    assert (fired.run_id, fired.text) == (schedule.last_id, "s")


def test_request_ids_of_schedules_are_theirs(coordinator: CoordinatorProcess) -> None:
    """Nobody else submits under a request id that a firing may have."""
    submit = task_service_pb2.SubmitRequest(spec=TASK, request_id="schedule:s:1")
    run = run_service_pb2.SubmitRunRequest(
        run=run_service_pb2.RunSpec(tasks=[run_service_pb2.RunTask(key="a", spec=TASK)]), request_id="schedule:s:1"
    )
    for call in (
        lambda: coordinator.tasks.Submit(submit, timeout=TIMEOUT_S),
        lambda: coordinator.runs.SubmitRun(run, timeout=TIMEOUT_S),
    ):
        error = refused(call)
        assert isinstance(error, errors.InvalidRequest)
        assert error.violations[0].field == "request_id"


def test_a_killed_coordinator_fires_every_time_once(tmp_path: Path) -> None:
    """Killed again and again while it fires each second: one task for each time counted, none twice, none lost."""
    coordinator = CoordinatorProcess(tmp_path)
    coordinator.start()
    began_s = time.monotonic()
    create(
        coordinator,
        "killed",
        repeat_interval=Duration(seconds=1),
        overlap=schedule_service_pb2.OVERLAP_POLICY_ALLOW,
        missed=schedule_service_pb2.MISSED_POLICY_ALL,
    )
    for count in (2, 4, 6):
        eventually(lambda count=count: get(coordinator, "killed").fired_count >= count, TIMEOUT_S)  # type: ignore[misc] # bound now
        coordinator.kill()
        coordinator.start()
    eventually(lambda: get(coordinator, "killed").fired_count >= 7, TIMEOUT_S)
    request = schedule_service_pb2.PauseScheduleRequest(namespace="killed", name="s")
    schedule = coordinator.schedules.PauseSchedule(request, timeout=TIMEOUT_S).schedule
    elapsed_s = time.monotonic() - began_s
    assert [task.schedule_id for task in tasks(coordinator, "killed")] == ["s"] * schedule.fired_count
    assert schedule.skipped_count == 0
    assert elapsed_s - 3 <= schedule.fired_count <= elapsed_s + 1
    coordinator.kill()
