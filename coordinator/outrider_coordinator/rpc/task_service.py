"""TaskService: submit, read, watch, resolve, explain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from outrider import errors
from outrider.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc, worker_message_pb2
from outrider_coordinator.core.effects import Accepted, NeedTasks, Refused
from outrider_coordinator.core.events import CancelRequested, Ends, Submission, TasksSubmitted
from outrider_coordinator.core.explain import reasons
from outrider_coordinator.core.pacing import PART_MAX
from outrider_coordinator.core.records import InsertEvent
from outrider_coordinator.core.states import TERMINAL, TaskState
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc import answers, client_frames, render, run_retry
from outrider_coordinator.rpc.calls import (
    Context,
    Service,
    asked,
    encoded,
    raised,
    sliced,
    streaming,
    task_id_of,
    unary,
)
from outrider_coordinator.rpc.convert import Converter
from outrider_coordinator.rpc.fields import invalid, number
from outrider_coordinator.store.filters import EventFilter, TaskFilter
from outrider_coordinator.store.reader import TaskRecord
from outrider_coordinator.watch_hub import TooSlow, UnknownCursor

BATCH_MAX = 10_000
PAGE_DEFAULT, PAGE_MAX = 100, 1000
LOG_PAGE = 200

Answer = Accepted | errors.OutriderError


class TaskService(Service, task_service_pb2_grpc.TaskServiceServicer):
    """Handlers of TaskService over one engine."""

    def __init__(self, engine: Engine, converter: Converter) -> None:
        super().__init__()
        self._engine = engine
        self._converter = converter

    @unary
    async def Submit(
        self, request: task_service_pb2.SubmitRequest, context: Context
    ) -> task_service_pb2.SubmitResponse:
        """Accept one task."""
        (answer,) = await self.accept([self._reaching(self._converter.submission(request))])
        return _accepted(answer)

    @unary
    async def SubmitBatch(
        self, request: task_service_pb2.SubmitBatchRequest, context: Context
    ) -> task_service_pb2.SubmitBatchResponse:
        """Accept many tasks, all or none."""
        if not request.tasks:
            raise invalid("tasks", "the batch is empty; give at least one task")
        if len(request.tasks) > BATCH_MAX:
            raise errors.TooLarge(f"tasks: {len(request.tasks)} in one batch, at most {BATCH_MAX}; send several")
        submissions = [
            self._reaching(self._converter.submission(item, f"tasks[{position}]."))
            for position, item in enumerate(request.tasks)
        ]
        answers = await self.accept(submissions, atomic=True)
        refused = next((answer for answer in answers if isinstance(answer, errors.OutriderError)), None)
        if refused is not None:
            raise refused
        return task_service_pb2.SubmitBatchResponse(tasks=[_accepted(answer) for answer in answers])

    @unary
    async def Retry(self, request: task_service_pb2.RetryRequest, context: Context) -> task_service_pb2.RetryResponse:
        """Submit the work of an ended task again."""
        record = await self._record(request.namespace or "default", request.task_id)
        if record.task.state not in TERMINAL:
            raise errors.IllegalTransition(f"task {record.task.id} has not ended; cancel it first, or wait for its end")
        ends = await self._engine.read(lambda: self._engine.store.reader.task_ends(record.task.dependency_ids))
        submission = run_retry.task_again(record.task, ends, self._converter.ids.next(), request.request_id)
        (answer,) = await self.accept([submission])
        accepted = _accepted(answer)
        return task_service_pb2.RetryResponse(task_id=accepted.task_id, created=accepted.created)

    @encoded
    @streaming
    async def SubmitStream(
        self, request: AsyncIterator[task_service_pb2.SubmitStreamRequest], context: Context
    ) -> AsyncIterator[bytes]:
        """Accept tasks as they come; frames are answered in order, several may be under way."""
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(64)

        async def answer_to(frame: task_service_pb2.SubmitStreamRequest) -> bytes:
            with self.answering():
                return await self._answer(frame)

        async def read() -> None:
            try:
                async for frame in request:
                    await answers.put(asyncio.create_task(answer_to(frame)))
            finally:
                await answers.put(None)

        reader = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
            await reader  # raises what is wrong with a frame, after the answers to those before it
        finally:
            reader.cancel()

    async def _answer(self, frame: task_service_pb2.SubmitStreamRequest) -> bytes:
        requests = frame.submissions.tasks
        refused: dict[int, errors.OutriderError] = {}
        submissions: list[Submission] = []
        for position, request in enumerate(requests):
            try:
                submissions.append(self._reaching(self._converter.submission(request)))
            except errors.OutriderError as error:
                refused[position] = error
        try:
            answers: list[Answer] = await self.accept(submissions) if submissions else []
        except errors.OutriderError as error:
            answers = [error] * len(submissions)
        if refused:
            decided = iter(answers)
            answers = [refused.get(position) or next(decided) for position in range(len(requests))]
        return client_frames.results([request.request_id for request in requests], answers)

    async def accept(self, submissions: list[Submission], *, atomic: bool = False) -> list[Any]:
        """Give tasks to the core; an `Accepted` or an error each. Unknown dependencies are looked up first."""
        if not atomic and len(submissions) > PART_MAX:
            starts = range(0, len(submissions), PART_MAX)
            parts = await asyncio.gather(*(self.accept(submissions[start : start + PART_MAX]) for start in starts))
            return [answer for part in parts for answer in part]
        self.check_open()
        await self._engine.admit()
        known = await self._known_requests(submissions)
        ended: Ends = {}
        while True:
            facts = dict(ended)
            answer = await asked(
                self._engine,
                lambda reply, facts=facts: TasksSubmitted(submissions, reply, atomic, facts, known),  # type: ignore[misc]  # bound now
            )
            if not isinstance(answer, NeedTasks):
                return [raised(item) if isinstance(item, Refused) else item for item in answer]
            namespaces = {other: item.namespace for item in submissions for other in item.dependency_ids}
            ended |= await ended_tasks(self._engine, {other: namespaces[other] for other in answer.task_ids})

    def _reaching(self, submission: Submission) -> Submission:
        """The submission, if what it depends on is of its own namespace: other results are not its business."""
        for other in submission.dependency_ids:
            task = self._engine.state.tasks.get(other)
            if task is not None and task.namespace != submission.namespace:
                raise no_dependency(other)
        return submission

    async def _known_requests(self, submissions: list[Submission]) -> dict[tuple[str, str], tuple[str, bytes]]:
        """Request ids that only the store knows: those of before this start, and those that memory let go."""
        requests = self._engine.state.requests
        if requests.is_complete:
            return {}
        wanted = {
            (item.namespace, item.request_id)
            for item in submissions
            if item.request_id and requests.find(item.namespace, item.request_id) is None
        }

        def read() -> dict[tuple[str, str], tuple[str, bytes]]:
            found = {key: self._engine.store.reader.request(*key) for key in wanted}
            return {key: value for key, value in found.items() if value is not None}

        return await self._engine.read(read, at_once=True) if wanted else {}

    @unary
    async def Get(self, request: task_service_pb2.GetRequest, context: Context) -> task_service_pb2.GetResponse:
        """One task as committed."""
        record = await self._record(request.namespace or "default", request.task_id)
        return task_service_pb2.GetResponse(task=render.task(record))

    async def _record(self, namespace: str, prefix: str) -> TaskRecord:
        task_id = await task_id_of(self._engine, namespace, prefix)
        record = await self._engine.read(lambda: self._engine.store.reader.task(namespace, task_id))
        if record is None:
            raise errors.NotFound(f"no task {prefix!r}; `outrider task list` shows those there are")
        return record

    @unary
    async def List(self, request: task_service_pb2.ListRequest, context: Context) -> task_service_pb2.ListResponse:
        """A page of tasks, newest first."""
        size = min(request.page_size or PAGE_DEFAULT, PAGE_MAX)
        wanted = TaskFilter(
            request.namespace or "default",
            tuple(request.states),
            request.run_id,
            request.client_id,
            request.id_prefix,
            request.open_waits_only,
            request.page_token,
        )
        records = await self._engine.read(lambda: self._engine.store.reader.tasks(wanted, size + 1))
        token = records[size - 1].task.id if len(records) > size else ""
        tasks = [render.task(record, whole=False) for record in records[:size]]
        return task_service_pb2.ListResponse(tasks=tasks, next_page_token=token)

    @unary
    async def Cancel(
        self, request: task_service_pb2.CancelRequest, context: Context
    ) -> task_service_pb2.CancelResponse:
        """Cancel one task; the reply says whether the cancel or a completion won."""
        namespace = request.namespace or "default"
        task_id = await task_id_of(self._engine, namespace, request.task_id)
        (verdict,) = await asked(self._engine, lambda reply: CancelRequested([task_id], request.message, reply))
        state = verdict.state
        if state is None:
            state = (await self._record(namespace, task_id)).task.state
        return task_service_pb2.CancelResponse(
            state=task_pb2.TaskState.ValueType(state),
            cancelled=verdict.cancelled or state == TaskState.CANCELLED,
        )

    @unary
    async def Answer(
        self, request: task_service_pb2.AnswerRequest, context: Context
    ) -> task_service_pb2.AnswerResponse:
        """Resolve an open wait."""
        task_id = await task_id_of(self._engine, request.namespace or "default", request.task_id)
        key = await asked(self._engine, lambda reply: answers.event(task_id, request, reply))
        return task_service_pb2.AnswerResponse(key=key)

    @encoded
    @streaming
    async def Watch(self, request: task_service_pb2.WatchRequest, context: Context) -> AsyncIterator[bytes]:
        """Events from a cursor, then live."""
        wanted = EventFilter(
            request.namespace or "default",
            frozenset(request.task_ids),
            request.run_id,
            request.client_id,
            frozenset(request.types),
            request.include_results,
        )
        after = number(request.after_cursor) if request.HasField("after_cursor") else None
        async for item in watched(self._engine, wanted, after):
            if isinstance(item, int):
                yield client_frames.caught_up(item)
            else:
                yield client_frames.events(item, include_results=request.include_results)

    @unary
    async def Explain(
        self, request: task_service_pb2.ExplainRequest, context: Context
    ) -> task_service_pb2.ExplainResponse:
        """Why a task is where it is."""
        namespace = request.namespace or "default"
        task_id = await task_id_of(self._engine, namespace, request.task_id)
        facts = await sliced(reasons.explain_task(self._engine.state, task_id, self._engine.clock.now_us()))
        if facts is None:
            row = (await self._record(namespace, task_id)).task
            state = TaskState(row.state)
            message = task_pb2.TaskError.FromString(row.error).message
            facts = reasons.Explanation(state, f"it ended {state.name}" + (f": {message}" if message else ""))
        return render.explanation(task_id, facts)

    @streaming
    async def ReadLogs(
        self, request: task_service_pb2.ReadLogsRequest, context: Context
    ) -> AsyncIterator[task_service_pb2.ReadLogsResponse]:
        """Captured output of the latest or a given attempt; following ends when the task does."""
        namespace = request.namespace or "default"
        record = await self._record(namespace, request.task_id)
        task_id, after, attempt = record.task.id, 0, request.attempt
        waiting = self._engine.hub.follow_logs(task_id)
        try:
            while True:
                waiting.clear()
                record = await self._record(namespace, task_id)
                latest = request.attempt or record.task.attempts_made
                if latest != attempt:
                    attempt, after = latest, 0
                async for chunks, number in self._log_pages(task_id, attempt, after):
                    after = number
                    yield task_service_pb2.ReadLogsResponse(chunks=chunks)
                if not request.follow or record.task.state in TERMINAL:
                    return
                await waiting.wait()
        finally:
            self._engine.hub.unfollow_logs(task_id, waiting)

    async def _log_pages(
        self, task_id: str, attempt: int, after: int
    ) -> AsyncIterator[tuple[list[task_service_pb2.LogChunk], int]]:
        while True:
            start = after
            rows = await self._engine.read(
                lambda start=start: self._engine.store.reader.logs(task_id, attempt, start, LOG_PAGE)  # type: ignore[misc]  # bound now
            )
            if not rows:
                return
            chunks = [
                task_service_pb2.LogChunk(
                    attempt=attempt,
                    log=worker_message_pb2.Log.FromString(body),
                    event_time=render.timestamp(time_us),
                )
                for _, time_us, body in rows
            ]
            after = rows[-1][0]
            yield chunks, after


async def ended_tasks(engine: Engine, wanted: Mapping[str, str]) -> Ends:
    """How those of these tasks (id to the namespace it must be of) ended that are terminal.

    Raises InvalidRequest for one that is not there.
    """
    task_ids, reader = tuple(wanted), engine.store.reader

    def read() -> tuple[dict[str, int | None], Ends, dict[str, str]]:
        return reader.task_states(task_ids), reader.task_ends(task_ids), reader.task_namespaces(task_ids)

    states, ends, namespaces = await engine.read(read)
    for task_id, state in states.items():
        if state is None or namespaces[task_id] != wanted[task_id]:
            raise no_dependency(task_id)
    return ends


def no_dependency(task_id: str) -> errors.InvalidRequest:
    """What is said of a dependency that is not there, or is somebody else's."""
    return invalid("dependency_ids", f"there is no task {task_id!r}")


async def watched(engine: Engine, wanted: EventFilter, after: int | None) -> AsyncIterator[list[InsertEvent] | int]:
    """As `WatchHub.watch`, with a refusal told in our words."""
    try:
        async for item in engine.hub.watch(wanted, after):
            yield item
    except TooSlow as cut:
        raise errors.WatchTooSlow(f"the reader fell behind; watch again after cursor {cut.cursor}") from None
    except UnknownCursor as unknown:
        raise invalid("after_cursor", str(unknown)) from None


def _accepted(answer: Any) -> task_service_pb2.SubmitResponse:
    if isinstance(answer, errors.OutriderError):
        raise answer
    return task_service_pb2.SubmitResponse(task_id=answer.id, created=answer.created)
