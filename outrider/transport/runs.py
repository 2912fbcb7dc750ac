"""What a client can do with a run beside watching it: coroutines over a connection, for both kinds of client."""

from __future__ import annotations

import os
from collections.abc import Sequence

from outrider import views
from outrider.signing import sign_each
from outrider.transport.connection import Connection
from outrider.transport.tickets import Ticket
from outrider.v1 import run_service_pb2, task_service_pb2

Accepted = tuple[run_service_pb2.Run, list[Ticket]]


async def get(connection: Connection, run_id: str) -> run_service_pb2.Run:
    """A run with its tasks and progress. Raises `NotFound`."""
    request = run_service_pb2.GetRunRequest(namespace=connection.namespace, run_id=run_id)
    response: run_service_pb2.GetRunResponse = await connection.call(connection.runs.GetRun, request)
    return response.run


async def find(connection: Connection, run_id: str) -> Accepted:
    """A run that somebody submitted, and a ticket for each of its tasks."""
    run = await get(connection, run_id)
    return run, await connection.attach_run(run)


async def progress(connection: Connection, run_id: str) -> views.RunProgress:
    """How far a run is."""
    return views.RunProgress.read(await get(connection, run_id))


async def retry(connection: Connection, run_id: str) -> Accepted:
    """Do again what did not succeed, as a new run."""
    request = run_service_pb2.RetryRunRequest(
        namespace=connection.namespace, run_id=run_id, request_id=connection.request_id()
    )
    response: run_service_pb2.RetryRunResponse = await connection.call(connection.runs.RetryRun, request)
    return response.run, await connection.attach_run(response.run)


async def add(
    connection: Connection, run_id: str, tasks: Sequence[run_service_pb2.RunTask], request_id: str
) -> list[tuple[str, Ticket]]:
    """Add tasks to a run; (key, ticket) of each. Inside a task of that run it is on record as the one that adds."""
    is_member = os.environ.get("OUTRIDER_RUN_ID", "") == run_id
    request = run_service_pb2.AddTasksRequest(
        namespace=connection.namespace,
        run_id=run_id,
        request_id=request_id,
        tasks=tasks,
        parent_task_id=os.environ.get("OUTRIDER_TASK_ID", "") if is_member else "",
    )
    sign_each((task.spec for task in request.tasks), connection.signer, connection.namespace)
    response: run_service_pb2.AddTasksResponse = await connection.call(connection.runs.AddTasks, request)
    added = [(member.key, Ticket(connection.lock)) for member in response.task_ids]
    for (_, ticket), member in zip(added, response.task_ids, strict=True):
        connection.adopt(ticket, member.task_id)
    connection.start(connection.look_at_each([member.task_id for member in response.task_ids]))
    return added


async def retry_task(connection: Connection, task_id: str) -> Ticket:
    """Submit the work of an ended task again, as a new one."""
    request = task_service_pb2.RetryRequest(
        namespace=connection.namespace, task_id=task_id, request_id=connection.request_id()
    )
    response: task_service_pb2.RetryResponse = await connection.call(connection.tasks.Retry, request)
    ticket = Ticket(connection.lock, response.task_id)
    await connection.attach(ticket)
    return ticket
