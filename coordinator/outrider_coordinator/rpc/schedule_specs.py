"""A ScheduleSpec, checked, as a schedule of the core: its times, and what it submits each time.

What is submitted is read once, when the schedule is made or the coordinator starts; a firing only gives it new ids.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from outrider import errors
from outrider.v1 import schedule_service_pb2
from outrider_coordinator.core.events import RunSubmitted, Submission, TasksSubmitted
from outrider_coordinator.core.records import PutSchedule
from outrider_coordinator.core.runs import graph
from outrider_coordinator.core.schedules.book import Missed, Overlap, Schedule, Times, Work, interval, single_time
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.cron import BadLine, BadZone, cron_times
from outrider_coordinator.rpc.calls import raised
from outrider_coordinator.rpc.convert import Converter, policies, submitter
from outrider_coordinator.rpc.fields import at_most, duration_us, invalid, time_us, word
from outrider_coordinator.rpc.ids import IdMaker
from outrider_coordinator.rpc.specs import SpecReader, run_identity

Policy = TypeVar("Policy", Overlap, Missed)

logger = logging.getLogger(__name__)

NAME_CHARACTERS_MAX = 63
#: Tasks of a graph that a schedule submits: a firing is a part of one step.
RUN_TASKS_MAX = 1000
#: What was accepted once is not measured again.
_NO_BOUND = 1 << 62
#: The work of a schedule that cannot be read any more never fires.
_NEVER = Times(lambda us: None, lambda us, count: [])


@dataclass(frozen=True, slots=True)
class ScheduleReader:
    """Reads schedules of requests and of the store."""

    converter: Converter

    def read(self, request: schedule_service_pb2.CreateScheduleRequest, now_us: int) -> Schedule:
        """The schedule that a request asks for. Raises InvalidRequest with the field's path."""
        word(request.spec.name, "spec.name", NAME_CHARACTERS_MAX)
        return self.made(request.namespace or "default", request.spec, submitter(request.submitter), created_us=now_us)

    def made(
        self, namespace: str, spec: schedule_service_pb2.ScheduleSpec, on_behalf_of: str, *, created_us: int
    ) -> Schedule:
        """A schedule that has not fired yet. Raises InvalidRequest with the field's path."""
        return Schedule(
            namespace=namespace,
            name=spec.name,
            body=spec.SerializeToString(deterministic=True),
            submitter=on_behalf_of,
            times=_times(spec, created_us),
            work=self._work(namespace, spec, on_behalf_of),
            overlap=_policy(Overlap, spec.overlap, Overlap.SKIP, "spec.overlap"),
            missed=_policy(Missed, spec.missed, Missed.ONCE, "spec.missed"),
            created_us=created_us,
        )

    def _work(self, namespace: str, spec: schedule_service_pb2.ScheduleSpec, on_behalf_of: str) -> Work:
        if spec.HasField("task"):
            return _task_work(namespace, spec, on_behalf_of, self.converter.specs)
        if spec.HasField("run"):
            return self._run_work(namespace, spec, on_behalf_of)
        raise invalid("spec", "set `task` or `run`: there is nothing to submit")

    def _run_work(self, namespace: str, spec: schedule_service_pb2.ScheduleSpec, on_behalf_of: str) -> Work:
        run, digest = spec.run, _digest(run_identity(spec.run))
        at_most(len(run.tasks), RUN_TASKS_MAX, "spec.run.tasks")
        for position, task in enumerate(run.tasks):
            if task.spec.HasField("not_before"):
                raise _says_when(f"spec.run.tasks[{position}].spec.not_before")
        members, how = self.converter.members_at_once(run.tasks, "spec.run.tasks", namespace), policies(run, "spec.run")
        refused = graph.check(members, is_sequential=run.sequential)
        if refused is not None:
            raise raised(refused)

        def work(request_id: str, new_id: Callable[[], str]) -> RunSubmitted:
            return RunSubmitted(
                new_id(),
                namespace,
                run.title,
                run.description,
                [member._replace(task_id=new_id()) for member in members],
                _nobody,
                request_id,
                digest,
                submitter=on_behalf_of,
                **how,
            )

        return work


def stored_schedule(row: PutSchedule) -> Schedule:
    """A schedule of the store: it was checked when it was made.

    One that this version or this machine cannot read (a time zone that is gone) is kept and never fires.
    """
    spec = schedule_service_pb2.ScheduleSpec.FromString(row.body)
    reader = ScheduleReader(Converter(IdMaker(), SpecReader(_NO_BOUND)))
    try:
        schedule = reader.made(row.namespace, spec, row.submitter, created_us=row.created_us)
    except errors.OutriderError as error:
        logger.error("schedule %r of namespace %r cannot fire: %s", row.name, row.namespace, error)
        schedule = _dead(row)
    schedule.body, schedule.is_paused = row.body, row.is_paused
    schedule.next_us, schedule.last_us, schedule.last_id = row.next_us, row.last_us, row.last_id
    schedule.queued_us = row.queued_us
    schedule.fired_count, schedule.skipped_count = row.fired_count, row.skipped_count
    return schedule


def _dead(row: PutSchedule) -> Schedule:
    def work(request_id: str, new_id: Callable[[], str]) -> TasksSubmitted:
        raise AssertionError(f"schedule {row.name} has no work")

    nothing = row._replace(next_us=0, queued_us=0)
    return Schedule(
        nothing.namespace,
        nothing.name,
        nothing.body,
        nothing.submitter,
        _NEVER,
        work,
        Overlap.SKIP,
        Missed.SKIP,
        nothing.created_us,
    )


def _task_work(namespace: str, spec: schedule_service_pb2.ScheduleSpec, on_behalf_of: str, specs: SpecReader) -> Work:
    if spec.task.HasField("not_before"):
        raise _says_when("spec.task.not_before")
    facts = specs.read(spec.task, "spec.task", namespace)
    digest = _digest(facts.body)

    def work(request_id: str, new_id: Callable[[], str]) -> TasksSubmitted:
        submission = Submission(new_id(), namespace, facts, request_id, digest, submitter=on_behalf_of)
        return TasksSubmitted([submission], _nobody)

    return work


def _times(spec: schedule_service_pb2.ScheduleSpec, created_us: int) -> Times:
    match spec.WhichOneof("when"):
        case "at_time":
            return single_time(time_us(spec.at_time))
        case "repeat_interval":
            interval_us = duration_us(spec.repeat_interval, "spec.repeat_interval")
            if interval_us < SECOND_US:
                raise invalid("spec.repeat_interval", "must be at least 1 s")
            return interval(created_us, interval_us)
        case "cron":
            return _cron(spec.cron, created_us)
    raise invalid("spec", "set `at_time`, `repeat_interval` or `cron`: it says when")


def _cron(cron: schedule_service_pb2.Cron, now_us: int) -> Times:
    try:
        times = cron_times(cron.line, cron.time_zone)
    except BadLine as error:
        raise invalid("spec.cron.line", str(error)) from None
    except BadZone as error:
        raise invalid("spec.cron.time_zone", str(error)) from None
    if times.following(now_us) is None:
        raise invalid("spec.cron.line", f"{cron.line!r} never comes, not within fifty years")
    return times


def _policy(kind: type[Policy], value: int, default: Policy, path: str) -> Policy:
    try:
        return kind(value) if value else default
    except ValueError:
        raise invalid(path, "must be " + ", ".join(kind.__members__)) from None


def _says_when(path: str) -> errors.InvalidRequest:
    return invalid(path, "must be absent: the schedule says when")


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _nobody(value: object) -> None:
    """Nobody waits for an answer: the core looks at what has entered."""
