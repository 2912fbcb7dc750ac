"""Following one task to its end: its output as it comes, its state on a terminal, its outcome as an exit code.

Both streams are opened again after a break, so a restart of the coordinator only delays.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.status import Status
from rich.text import Text

from outrider import errors
from outrider.cli import output
from outrider.cli.options import EXIT_FAILED, EXIT_OK, EXIT_STOPPED
from outrider.cli.session import Session

if TYPE_CHECKING:
    from outrider.v1 import event_pb2, task_pb2

RETRY_S = 0.5
_STOPPED = ("CANCELLED", "EXPIRED", "SKIPPED")


def state_name(state: int) -> str:
    """A task state without its prefix."""
    from outrider.v1 import task_pb2

    return task_pb2.TaskState.Name(task_pb2.TaskState.ValueType(state)).removeprefix("TASK_STATE_")


def events(session: Session, task_id: str, stop: threading.Event | None = None) -> Iterator[event_pb2.Event]:
    """A task's events from the beginning to its end."""
    from outrider.v1 import event_pb2, task_service_pb2

    stop, after = stop or threading.Event(), 0
    while not stop.is_set():
        request = task_service_pb2.WatchRequest(namespace=session.namespace, task_ids=[task_id], after_cursor=after)
        try:
            for response in session.stream(session.tasks.Watch, request):
                for event in response.events.events:
                    after = event.cursor
                    yield event
                    if event_pb2.EVENT_TYPE_TASK_SUCCEEDED <= event.type <= event_pb2.EVENT_TYPE_TASK_SKIPPED:
                        return
        except errors.Unreachable:
            pass
        stop.wait(RETRY_S)


def logs(session: Session, task_id: str, *, follow: bool, attempt: int = 0) -> Iterator[Any]:
    """Pieces of captured output; following goes on over breaks, without repeating a piece."""
    from outrider.v1 import task_service_pb2

    request = task_service_pb2.ReadLogsRequest(
        namespace=session.namespace, task_id=task_id, follow=follow, attempt=attempt
    )
    seen: dict[int, int] = {}
    while True:
        skip = dict(seen)
        try:
            for response in session.stream(session.tasks.ReadLogs, request):
                for chunk in response.chunks:
                    if skip.get(chunk.attempt, 0):
                        skip[chunk.attempt] -= 1
                        continue
                    seen[chunk.attempt] = seen.get(chunk.attempt, 0) + 1
                    yield chunk
            return
        except errors.Unreachable:
            if not follow:
                raise
        threading.Event().wait(RETRY_S)


def describe(event: event_pb2.Event) -> str:
    """One event as a line: time, what, where, and the rest."""
    from outrider.v1 import event_pb2
    from outrider.views import wait_text

    name = event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_").removeprefix("TASK_")
    parts = [f"{output.time_of(event.create_time):%H:%M:%S.%f}"[:-3], f"{name:<11}"]
    if event.attempt and event.agent_id:
        parts.append(f"attempt {event.attempt} on {event.agent_id}")
    if event.HasField("progress"):
        parts.append(progress_text(event.progress))
    if event.HasField("blocked"):
        parts.append(f"{wait_text(event.blocked)} (key {event.blocked.key})")
    text = event.text or event.error.message
    return " ".join([*parts, text]).rstrip()


def progress_text(progress: task_pb2.Progress) -> str:
    """``3/10 sources read``."""
    amount = f"{progress.completed:g}/{progress.total:g}" if progress.total else f"{progress.completed:g}"
    return f"{amount} {progress.status}".rstrip()


def exit_code(task: task_pb2.Task) -> int:
    """The command's own exit code when it ran; otherwise what the outcome stands for."""
    name = state_name(task.state)
    if name == "SUCCEEDED":
        return EXIT_OK
    if name in _STOPPED:
        return EXIT_STOPPED
    if task.error.HasField("exit_code"):
        code: int = task.error.exit_code
        return code if code > 0 else 128 - code
    return EXIT_FAILED


class Follower:
    """Prints a task's output, with a line about its state below it when somebody looks.

    ``only_stderr`` keeps standard output free for something else.
    """

    def __init__(self, session: Session, task_id: str, *, only_stderr: bool = False) -> None:
        self._session = session
        self._task_id = task_id
        self._only_stderr = only_stderr
        self._unended = {True: b"", False: b""}
        self._status: Status | None = None
        self._stop = threading.Event()
        self._asked: set[str] = set()

    def follow(self) -> task_pb2.Task:
        """Until the end; the task as it ended."""
        with contextlib.ExitStack() as stack:
            if output.is_live():
                self._status = stack.enter_context(output.err.status("submitted"))
            stack.callback(self._stop.set)
            threading.Thread(target=self._watch, name="outrider-watch", daemon=True).start()
            stack.callback(self._print_unended)
            for chunk in logs(self._session, self._task_id, follow=True):
                self._print(chunk.log)
        task: task_pb2.Task = self._session.task(self._task_id)
        return task

    def _watch(self) -> None:
        with contextlib.suppress(errors.OutriderError):
            for event in events(self._session, self._task_id, self._stop):
                self._tell(event)

    def _tell(self, event: event_pb2.Event) -> None:
        if event.HasField("blocked") and event.blocked.key not in self._asked:
            self._asked.add(event.blocked.key)
            self._ask(event.blocked)
        if self._status is not None:
            self._status.update(Text(describe(event)[13:]))

    def _ask(self, blocked: task_pb2.BlockedReason) -> None:
        from outrider.views import wait_text

        kind = blocked.WhichOneof("reason")
        note = f"waits for {wait_text(blocked)}" if kind != "clarification" else f"asks: {wait_text(blocked)}"
        if blocked.clarification.options:
            note += f" [{' / '.join(blocked.clarification.options)}]"
        output.say(f"the task {note}")
        if kind in ("clarification", "complexity"):
            output.say(f"answer with: outrider answer {output.short(self._task_id)} TEXT")

    def _print(self, log: Any) -> None:
        from outrider.v1 import worker_message_pb2

        to_stderr = self._only_stderr or log.stream != worker_message_pb2.Log.STREAM_STDOUT
        if self._status is None or not (to_stderr or output.out.is_terminal):
            output.raw(log.data, to_stderr=to_stderr)
            return
        # Above the status line, which is drawn again below: only whole lines can stand there.
        lines, newline, self._unended[to_stderr] = (self._unended[to_stderr] + log.data).rpartition(b"\n")
        if newline:
            output.above(lines)

    def _print_unended(self) -> None:
        for text in filter(None, self._unended.values()):
            output.above(text)


def report(task: task_pb2.Task) -> int:
    """Say how a task ended unless it succeeded; its exit code."""
    name = state_name(task.state)
    if name != "SUCCEEDED":
        kind = f"{task.error.exception_type}: " if task.error.exception_type else ""
        message = f": {kind}{task.error.message}" if task.error.message else ""
        output.say(f"task {output.short(task.id)} {name}{message}")
        if "\n" in (traceback := task.error.traceback.rstrip()):
            output.say(traceback)
    return exit_code(task)
