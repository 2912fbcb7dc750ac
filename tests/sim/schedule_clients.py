"""What people ask of schedules: make one, hold it, let it go on, forget it.

Real: the reading of requests, cron lines. Modelled: the unary handlers around them. Every schedule that is made is told
to the oracle before it is on its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from outrider.v1 import schedule_service_pb2 as pb
from outrider_coordinator.core.records import PutSchedule
from outrider_coordinator.core.schedules.events import ScheduleCreated, ScheduleOrder, ScheduleOrdered
from outrider_coordinator.rpc.schedule_specs import ScheduleReader
from sim.kernel import START_US
from sim.oracle_schedules import ScheduleJudge
from sim.requests import Call, run_spec, task_spec

if TYPE_CHECKING:
    from sim.clients import Clients
    from sim.model_coordinator import Process


class ScheduleClients:
    """Everybody who has work done by the clock."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._reader = ScheduleReader(clients.converter)

    @property
    def _judge(self) -> ScheduleJudge:
        """As it is now: a backup has one of its own."""
        return self._clients.witness.records.schedules

    def create(self, data: Mapping[str, Any]) -> None:
        """Make a schedule, or one in place of another."""
        spec = _spec(data)
        request = pb.CreateScheduleRequest(spec=spec, replace=data.get("replace", False))
        self._judge.asked(spec)

        def attempt(process: Process, call: Call) -> None:
            schedule = self._reader.read(request, process.now_us())

            def reply(value: Any) -> None:
                call.answered(process, lambda: self._created(value))

            process.post(ScheduleCreated(schedule, request.replace, reply))

        Call(self._clients, attempt)

    def _created(self, value: Any) -> None:
        if isinstance(value, PutSchedule):
            self._judge.promised(value)
        else:
            self._clients.refusals.append(value.reason)

    def order(self, data: Mapping[str, Any]) -> None:
        """Pause, resume or delete one."""
        name, order = data["name"], data["order"]
        self._judge.order_asked(name, order)

        def attempt(process: Process, call: Call) -> None:
            def reply(value: Any) -> None:
                call.answered(process, lambda: None)

            process.post(ScheduleOrdered("default", name, order, reply))

        Call(self._clients, attempt)

    def forget_all(self) -> None:
        """People have no more work done by the clock."""
        for name in sorted(self._judge.schedules):
            self.order({"name": name, "order": ScheduleOrder.DELETE})


def _spec(data: Mapping[str, Any]) -> pb.ScheduleSpec:
    spec = pb.ScheduleSpec(name=data["name"], overlap=data["overlap"], missed=data["missed"])
    when = data["when"]
    if "every_us" in when:
        spec.repeat_interval.FromMicroseconds(when["every_us"])
    elif "at_us" in when:
        spec.at_time.FromMicroseconds(START_US + when["at_us"])
    else:
        spec.cron.line = when["cron"]
    if data.get("is_run"):
        spec.run.CopyFrom(run_spec(data))
    else:
        spec.task.CopyFrom(task_spec(data["tasks"][0]))
    return spec
