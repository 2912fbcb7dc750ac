"""A watch that outlives its stream: opened again after the last cursor seen, for as long as somebody listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import grpc

from outrider import status
from outrider.transport.backoff import FINAL, Backoff
from outrider.v1 import run_service_pb2, task_service_pb2

Frame = TypeVar("Frame", task_service_pb2.WatchResponse, run_service_pb2.WatchRunResponse)


async def frames(
    open_watch: Callable[[int | None], AsyncIterator[Frame]],
    after: int | None,
    address: str = "",
    *,
    has_end: bool = False,
) -> AsyncIterator[Frame]:
    """Every frame of a watch from cursor ``after`` (None: from now on), over as many streams as it takes.

    Raises what another try cannot mend. A stream that the server ends without an error ends the watch only when it
    ``has_end``, as that of a run has.
    """
    backoff = Backoff()
    while True:
        try:
            async for frame in open_watch(after):
                backoff.reset()
                after = _cursor(frame, after)
                yield frame
            if has_end:
                return
        except grpc.aio.AioRpcError as error:
            problem = status.from_rpc_error(error, address)
            if isinstance(problem, FINAL):
                raise problem from None
        await backoff.wait()


def _cursor(frame: task_service_pb2.WatchResponse | run_service_pb2.WatchRunResponse, after: int | None) -> int | None:
    if frame.HasField("events"):
        return frame.events.events[-1].cursor if frame.events.events else after
    if frame.HasField("caught_up"):
        return max(frame.caught_up.cursor, after or 0)
    return after
