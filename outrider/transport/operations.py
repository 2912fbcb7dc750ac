"""What a client can do with one task or run: each a coroutine over a connection, for both kinds of client."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import msgspec

from outrider import errors, status, views
from outrider.transport.connection import TERMINAL_TYPES, Connection
from outrider.v1 import run_service_pb2, task_pb2, task_service_pb2, worker_message_pb2


async def task(connection: Connection, task_id: str) -> task_pb2.Task:
    """Everything the coordinator knows about a task."""
    request = task_service_pb2.GetRequest(namespace=connection.namespace, task_id=task_id)
    response: task_service_pb2.GetResponse = await connection.call(connection.tasks.Get, request)
    return response.task


async def state(connection: Connection, task_id: str) -> views.TaskState:
    """Where a task is."""
    return views.state_of((await task(connection, task_id)).state)


async def waits(connection: Connection, task_id: str) -> list[views.Wait]:
    """What a task waits for now."""
    return [views.Wait.read(wait) for wait in (await task(connection, task_id)).open_waits]


async def cancel(connection: Connection, task_id: str, message: str = "") -> bool:
    """Cancel a task; whether the cancel, and not a completion, decides its outcome."""
    request = task_service_pb2.CancelRequest(namespace=connection.namespace, task_id=task_id, message=message)
    response: task_service_pb2.CancelResponse = await connection.call(connection.tasks.Cancel, request)
    return response.cancelled


async def answer(
    connection: Connection, task_id: str, value: Any, key: str = "", *, granted_s: float = 0.0, refuse: bool = False
) -> str:
    """Resolve a wait with any JSON value, so many seconds of running time, or a refusal; the key that was resolved.

    Inside a task that Outrider runs, the record says that this task answered.
    """
    payload = task_pb2.Payload(data=msgspec.json.encode(value), content_type="application/json")
    own_id = os.environ.get("OUTRIDER_TASK_ID", "")
    request = task_service_pb2.AnswerRequest(
        namespace=connection.namespace,
        task_id=task_id,
        key=key,
        answer=payload,
        resolved_by=f"task:{own_id}" if own_id else "",
        refuse=refuse,
    )
    if granted_s:
        request.granted_duration.FromTimedelta(dt.timedelta(seconds=granted_s))
    response: task_service_pb2.AnswerResponse = await connection.call(connection.tasks.Answer, request)
    return response.key


async def explain(connection: Connection, task_id: str) -> views.Explanation:
    """Why a task is where it is."""
    request = task_service_pb2.ExplainRequest(namespace=connection.namespace, task_id=task_id)
    return views.Explanation.read(await connection.call(connection.tasks.Explain, request))


async def events(connection: Connection, task_id: str) -> AsyncGenerator[views.TaskEvent, None]:
    """A task's events from its beginning to its end."""
    async for event in connection.events([task_id]):
        yield views.TaskEvent.read(event)
        if event.type in TERMINAL_TYPES:
            return


async def logs(
    connection: Connection, task_id: str, *, follow: bool = False
) -> AsyncGenerator[worker_message_pb2.Log, None]:
    """Captured output of the latest attempt, in order; following ends with the task."""
    request = task_service_pb2.ReadLogsRequest(namespace=connection.namespace, task_id=task_id, follow=follow)
    try:
        async for response in connection.open_calls.each(lambda: connection.tasks.ReadLogs(request)):
            for chunk in response.chunks:
                yield chunk.log
    except grpc.aio.AioRpcError as error:
        raise status.from_rpc_error(error, connection.address) from None


async def cancel_run(connection: Connection, run_id: str, message: str = "") -> int:
    """Cancel what is not over of a run; how many tasks that decides."""
    request = run_service_pb2.CancelRunRequest(namespace=connection.namespace, run_id=run_id, message=message)
    response: run_service_pb2.CancelRunResponse = await connection.call(connection.runs.CancelRun, request)
    return response.cancelled_count


async def run_events(connection: Connection, run_id: str) -> AsyncGenerator[views.TaskEvent, None]:
    """Events of a run from its beginning to its end."""
    async for event in connection.run_events(run_id):
        yield views.TaskEvent.read(event)


async def find(connection: Connection, task_id: str) -> str:
    """The full id for a prefix. Raises `NotFound`."""
    if len(task_id) < 4:
        raise errors.InvalidRequest(f"{task_id!r} is too short; give at least 4 digits of the id")
    return (await task(connection, task_id)).id
