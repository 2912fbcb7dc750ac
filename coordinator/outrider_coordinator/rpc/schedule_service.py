"""ScheduleService: work by the clock, made, shown, held and forgotten."""

from __future__ import annotations

from outrider.v1 import schedule_service_pb2, schedule_service_pb2_grpc
from outrider_coordinator.core.records import PutSchedule
from outrider_coordinator.core.schedules.events import ScheduleCreated, ScheduleOrder, ScheduleOrdered, SchedulesAsked
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc import render
from outrider_coordinator.rpc.calls import Context, Service, asked, unary
from outrider_coordinator.rpc.fields import word
from outrider_coordinator.rpc.schedule_specs import NAME_CHARACTERS_MAX, ScheduleReader


class ScheduleService(Service, schedule_service_pb2_grpc.ScheduleServiceServicer):
    """Handlers of ScheduleService over one engine."""

    def __init__(self, engine: Engine, reader: ScheduleReader) -> None:
        super().__init__()
        self._engine = engine
        self._reader = reader

    @unary
    async def CreateSchedule(
        self, request: schedule_service_pb2.CreateScheduleRequest, context: Context
    ) -> schedule_service_pb2.CreateScheduleResponse:
        """Make one, or find the same one."""
        self.check_open()
        schedule = self._reader.read(request, self._engine.clock.now_us())
        await self._engine.admit()
        row = await asked(self._engine, lambda reply: ScheduleCreated(schedule, request.replace, reply))
        return schedule_service_pb2.CreateScheduleResponse(schedule=self._rendered(row))

    @unary
    async def GetSchedule(
        self, request: schedule_service_pb2.GetScheduleRequest, context: Context
    ) -> schedule_service_pb2.GetScheduleResponse:
        """One schedule as committed."""
        namespace, name = request.namespace or "default", _name(request.name)
        (row,) = await asked(self._engine, lambda reply: SchedulesAsked(namespace, name, reply))
        return schedule_service_pb2.GetScheduleResponse(schedule=self._rendered(row))

    @unary
    async def ListSchedules(
        self, request: schedule_service_pb2.ListSchedulesRequest, context: Context
    ) -> schedule_service_pb2.ListSchedulesResponse:
        """All of a namespace."""
        namespace = request.namespace or "default"
        rows = await asked(self._engine, lambda reply: SchedulesAsked(namespace, "", reply))
        return schedule_service_pb2.ListSchedulesResponse(schedules=[self._rendered(row) for row in rows])

    @unary
    async def DeleteSchedule(
        self, request: schedule_service_pb2.DeleteScheduleRequest, context: Context
    ) -> schedule_service_pb2.DeleteScheduleResponse:
        """Forget one."""
        await self._order(request.namespace, request.name, ScheduleOrder.DELETE)
        return schedule_service_pb2.DeleteScheduleResponse()

    @unary
    async def PauseSchedule(
        self, request: schedule_service_pb2.PauseScheduleRequest, context: Context
    ) -> schedule_service_pb2.PauseScheduleResponse:
        """Hold one."""
        row = await self._order(request.namespace, request.name, ScheduleOrder.PAUSE)
        return schedule_service_pb2.PauseScheduleResponse(schedule=self._rendered(row))

    @unary
    async def ResumeSchedule(
        self, request: schedule_service_pb2.ResumeScheduleRequest, context: Context
    ) -> schedule_service_pb2.ResumeScheduleResponse:
        """Let one go on."""
        row = await self._order(request.namespace, request.name, ScheduleOrder.RESUME)
        return schedule_service_pb2.ResumeScheduleResponse(schedule=self._rendered(row))

    async def _order(self, namespace: str, name: str, order: str) -> PutSchedule:
        named = (namespace or "default", _name(name))
        row: PutSchedule = await asked(self._engine, lambda reply: ScheduleOrdered(*named, order, reply))
        return row

    def _rendered(self, row: PutSchedule) -> schedule_service_pb2.Schedule:
        spec = schedule_service_pb2.ScheduleSpec.FromString(row.body)
        schedule = schedule_service_pb2.Schedule(
            spec=spec,
            namespace=row.namespace,
            submitter=row.submitter,
            paused=row.is_paused,
            last_id=row.last_id,
            fired_count=row.fired_count,
            skipped_count=row.skipped_count,
            create_time=render.timestamp(row.created_us),
        )
        # Intervals go by the coordinator's own line of time: people read the wall clock.
        offset_us = self._engine.state.schedules.wall_offset_us if spec.HasField("repeat_interval") else 0
        if row.next_us:
            schedule.next_time.CopyFrom(render.timestamp(row.next_us + offset_us))
        if row.last_us:
            schedule.last_time.CopyFrom(render.timestamp(row.last_us + offset_us))
        return schedule


def _name(name: str) -> str:
    return word(name, "name", NAME_CHARACTERS_MAX)
