"""What clients do with schedules: each a coroutine over a connection, for both kinds of client."""

from __future__ import annotations

from typing import Any

from outrider.schedules import Schedule, sign
from outrider.transport.connection import Connection
from outrider.v1 import schedule_service_pb2 as pb
from outrider.v1 import schedule_service_pb2_grpc


async def create(connection: Connection, spec: pb.ScheduleSpec, *, replace: bool) -> Schedule:
    """Make a schedule; the same one again is found."""
    request = pb.CreateScheduleRequest(namespace=connection.namespace, spec=spec, replace=replace)
    sign(request.spec, connection.signer, connection.namespace)
    return Schedule.read((await connection.call(_stub(connection).CreateSchedule, request)).schedule)


async def get(connection: Connection, name: str) -> Schedule:
    """One schedule."""
    request = pb.GetScheduleRequest(namespace=connection.namespace, name=name)
    return Schedule.read((await connection.call(_stub(connection).GetSchedule, request)).schedule)


async def every(connection: Connection) -> list[Schedule]:
    """All schedules of the namespace, by name."""
    request = pb.ListSchedulesRequest(namespace=connection.namespace)
    response = await connection.call(_stub(connection).ListSchedules, request)
    return [Schedule.read(one) for one in response.schedules]


async def pause(connection: Connection, name: str) -> Schedule:
    """Hold a schedule."""
    request = pb.PauseScheduleRequest(namespace=connection.namespace, name=name)
    return Schedule.read((await connection.call(_stub(connection).PauseSchedule, request)).schedule)


async def resume(connection: Connection, name: str) -> Schedule:
    """Let a schedule go on."""
    request = pb.ResumeScheduleRequest(namespace=connection.namespace, name=name)
    return Schedule.read((await connection.call(_stub(connection).ResumeSchedule, request)).schedule)


async def delete(connection: Connection, name: str) -> None:
    """Forget a schedule."""
    request = pb.DeleteScheduleRequest(namespace=connection.namespace, name=name)
    await connection.call(_stub(connection).DeleteSchedule, request)


def _stub(connection: Connection) -> Any:
    return schedule_service_pb2_grpc.ScheduleServiceStub(connection.channel)
