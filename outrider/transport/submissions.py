"""Submissions of one client: whatever waits goes in one frame, and what is not acknowledged is sent again.

Owns the SubmitStream. `put` may be called from any thread; everything else happens on the connection's loop. Every
request carries a request id, so sending one twice is harmless. Invariants: a ticket is accepted or refused exactly
once, at the latest by `fail_all`; a request stays here until then; at most `UNACKNOWLEDGED_MAX` are here while callers
ask for `has_room` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable

import grpc

from outrider import errors, status
from outrider.transport.backoff import FINAL, Backoff
from outrider.transport.encoding import frame
from outrider.transport.tickets import Ticket
from outrider.v1 import task_service_pb2 as pb

FRAME_ITEMS_MAX = 500
FRAME_BYTES_MAX = 256 * 1024
UNACKNOWLEDGED_MAX = 10_000

Stream = grpc.aio.StreamStreamCall[bytes, pb.SubmitStreamResponse]

_METHOD = pb.DESCRIPTOR.services_by_name["TaskService"].methods_by_name["SubmitStream"]


def submit_stream(channel: grpc.aio.Channel) -> Callable[[], Stream]:
    """A function that opens a SubmitStream which takes frames as bytes."""
    opening: Callable[[], Stream] = channel.stream_stream(
        f"/{_METHOD.containing_service.full_name}/{_METHOD.name}",
        response_deserializer=pb.SubmitStreamResponse.FromString,
    )
    return opening


class Submission:
    """One task on its way: the request as it stands in a frame, and whose it is."""

    __slots__ = ("data", "request_id", "ticket")

    def __init__(self, request_id: str, data: bytes, ticket: Ticket) -> None:
        self.request_id = request_id
        self.data = data
        self.ticket = ticket


class Submissions:
    """Sends requests as they come. ``open_stream`` opens a SubmitStream.

    ``accepted`` hears of every task id, and whether the task is new.
    """

    def __init__(
        self,
        address: str,
        open_stream: Callable[[], Stream],
        accepted: Callable[[Submission, str, bool], None],
    ) -> None:
        self._address = address
        self._open_stream = open_stream
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiting: deque[Submission] = deque()
        self._unanswered: dict[str, Submission] = {}
        #: Under a request id that is unanswered: kept until it is, because answers name only the id.
        self._doubles: list[Submission] = []
        self._delayed: set[Submission] = set()
        self._failure: errors.OutriderError | None = None
        self._wake = asyncio.Event()
        self._is_woken = False
        self._is_careful = False
        self._settled = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.room_in_threads = threading.Event()
        self.room_in_threads.set()

    # --- any thread

    def put(self, submission: Submission) -> None:
        """Queue one request; its ticket is accepted or refused later."""
        self._waiting.append(submission)
        if self._failure is not None:
            submission.ticket.fail(self._failure)
        elif threading.get_ident() == self._thread:
            self._wake.set()
        elif not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # closed meanwhile, which has failed the ticket
                self._loop.call_soon_threadsafe(self._wake.set)

    @property
    def backlog(self) -> int:
        """Requests not answered yet."""
        return len(self._waiting) + len(self._unanswered) + len(self._delayed) + len(self._doubles)

    def has_room(self) -> bool:
        """Whether another request may be put now; if not, wait for `room` or `room_in_threads`."""
        if self.backlog < UNACKNOWLEDGED_MAX or self._failure is not None:
            return True
        self.room.clear()
        self.room_in_threads.clear()
        # Looked at again, because an answer may have come between the two lines above.
        return self.backlog < UNACKNOWLEDGED_MAX

    # --- the loop

    async def settled(self) -> None:
        """Wait until every request has been answered."""
        while self.backlog:
            self._settled.clear()
            await self._settled.wait()

    async def run(self) -> None:
        """Send and hear answers until cancelled."""
        backoff = Backoff()
        while True:
            await self._work_arrives()
            stream = self._open_stream()
            writer = asyncio.create_task(self._write(stream))
            try:
                async for response in stream:
                    backoff.reset()
                    self._answered(response)
                problem: errors.OutriderError = errors.Unreachable("the stream ended")
            except grpc.aio.AioRpcError as error:
                problem = status.from_rpc_error(error, self._address)
            finally:
                await _ended(writer)
            self._send_again(problem)
            await backoff.wait()

    def fail_all(self, failure: errors.OutriderError) -> None:
        """Nothing more will be sent: tell everybody who waits."""
        self._failure = failure
        left = [*self._unanswered.values(), *self._doubles, *self._delayed]
        self._delayed.clear()
        self._doubles.clear()
        self._unanswered.clear()
        while self._waiting:  # one by one, because other threads may put meanwhile
            left.append(self._waiting.popleft())
        for submission in left:
            submission.ticket.fail(failure)
        self._make_room()

    async def _work_arrives(self) -> None:
        while not self._waiting:
            self._is_careful = False
            self._is_woken = False
            self._wake.clear()
            if not self._waiting:
                await self._wake.wait()

    async def _write(self, stream: Stream) -> None:
        async for data in self._frames():
            await stream.write(data)

    async def _frames(self) -> AsyncIterator[bytes]:
        while True:
            await self._work_arrives()
            if self._is_careful and self._unanswered:
                self._settled.clear()
                await self._settled.wait()
                continue
            if requests := self._next_requests():
                yield frame(requests)

    def _next_requests(self) -> list[bytes]:
        requests: list[bytes] = []
        waiting, unanswered = self._waiting, self._unanswered
        size, items_max = 0, 1 if self._is_careful else FRAME_ITEMS_MAX
        while waiting and len(requests) < items_max:
            submission = waiting[0]
            size += len(submission.data)
            if requests and size > FRAME_BYTES_MAX:
                break
            waiting.popleft()
            if submission.request_id in unanswered:
                self._doubles.append(submission)
                continue
            unanswered[submission.request_id] = submission
            requests.append(submission.data)
        return requests

    def _answered(self, response: pb.SubmitStreamResponse) -> None:
        for result in response.results.results:
            submission = self._unanswered.pop(result.request_id, None)
            if submission is None:
                continue
            if result.HasField("accepted"):
                accepted = result.accepted
                self._accepted(submission, accepted.task_id, accepted.created)
            else:
                self._refused(submission, result.refused)
        self._bring_back(self._doubles)
        self._make_room()

    def _bring_back(self, submissions: list[Submission]) -> None:
        """To the front, in order."""
        if submissions:
            self._waiting.extendleft(reversed(submissions))
            submissions.clear()
            self._wake.set()

    def _refused(self, submission: Submission, refused: pb.SubmissionRefused) -> None:
        error = status.error_class(refused.reason)(refused.message)
        if error.retry_after_s is None:
            submission.ticket.fail(error)
            return
        self._delayed.add(submission)
        self._loop.call_later(error.retry_after_s, self._retry, submission)

    def _retry(self, submission: Submission) -> None:
        if submission in self._delayed:
            self._delayed.discard(submission)
            self.put(submission)

    def _make_room(self) -> None:
        if self.backlog < UNACKNOWLEDGED_MAX:
            self.room.set()
            self.room_in_threads.set()
        if not self._unanswered or not self.backlog:
            self._settled.set()

    def _send_again(self, problem: errors.OutriderError) -> None:
        """The stream broke: what was not answered goes to the front, in order; what cannot pass is refused alone."""
        again, self._unanswered = list(self._unanswered.values()), {}
        is_final = isinstance(problem, FINAL)
        if is_final and (len(again) == 1 or not isinstance(problem, errors.TooLarge)):
            for submission in again:
                submission.ticket.fail(problem)
            again = []
        # One at a time after a refusal of the whole stream, so that the one it was about shows.
        self._is_careful = is_final and bool(again)
        self._bring_back(self._doubles)
        self._bring_back(again)
        self._make_room()


async def _ended(writer: asyncio.Task[None]) -> None:
    """Cancel it and wait; its own errors are those of the stream, which its reader has seen."""
    writer.cancel()
    await asyncio.wait({writer})
    if not writer.cancelled():
        writer.exception()
