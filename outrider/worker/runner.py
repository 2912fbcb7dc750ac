"""Runs attempts one after the other in the main thread, and does what the keeper says about them.

Owns the attempts that wait and the one that runs. It must not know how functions are found, commands started, or which
thread reads the keeper's socket.
Invariants: an attempt is either given back or run, never both; its last message follows everything it printed; a
fault of ours fails the attempt and says so, the worker lives on.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from types import FrameType

from outrider.worker import current
from outrider.worker.active import Active
from outrider.worker.channel import KeeperChannel, now_ns
from outrider.worker.context import printable
from outrider.worker.endings import INVALID_WORK, TASK_ERROR, AttemptFailed, TaskCancelled
from outrider.worker.environment import AttemptEnvironment
from outrider.worker.functions import Functions, cancelled
from outrider.worker.import_watch import UserSpans
from outrider.worker.inbox import Inbox
from outrider.worker.lease_watch import LeaseWatch, kill_started
from outrider.worker.messages import (
    LEASE_OVER_CODE,
    Completed,
    Failed,
    FunctionWork,
    Leave,
    Ready,
    Recall,
    Recalled,
    Resolve,
    Run,
    Started,
    Stop,
    ToWorker,
)
from outrider.worker.output import Capture
from outrider.worker.secret_handing import SecretHanding

#: How long the end of the socket waits for a command that is being started, so that it can end that too.
STARTING_S = 1.0
#: What is kept of an exception: the beginning of what it says, and the end of where it came from.
MESSAGE_CHARS_MAX, TRACEBACK_CHARS_MAX = 4096, 16 * 1024


class Runner:
    """The worker. `serve` returns when the keeper lets it go."""

    def __init__(self, connection: socket.socket, running_fd: int) -> None:
        self._channel = KeeperChannel(connection, running_fd)
        self._inbox = Inbox(connection, self._channel, self._handle, self._gone)
        self._functions = Functions()
        self._capture = Capture()
        self._user_spans = UserSpans(self._channel.send)
        self._environment = AttemptEnvironment()
        self._secrets = SecretHanding(self._channel)
        self._lease_watch = LeaseWatch(self._channel.lease_end_us, self._lease_over)
        #: What has arrived and neither begun nor been given back; leaving it decides which of the two.
        self._waiting: dict[int, Active] = {}
        self._active: Active | None = None
        self._starting = threading.Lock()
        self._main_thread = threading.get_ident()

    def serve(self) -> None:
        """Run what the keeper sends, until `Leave`. The end of the socket ends the process."""
        signal.signal(signal.SIGUSR1, self._interrupt)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._capture.start()
        self._user_spans.watch()
        self._inbox.start()
        self._channel.send(Ready(os.getpid()))
        while (active := self._inbox.next()) is not None:
            self._take(active)
        self._channel.release()

    # --- whichever thread reads

    def _handle(self, message: ToWorker) -> None:
        if isinstance(message, Run):
            active = self._waiting[message.key] = Active(message, self._channel, self._starting)
            self._inbox.put(active)
        elif isinstance(message, Stop):
            self._stop(message)
        elif isinstance(message, Recall):
            keys = [key for key in message.keys if self._waiting.pop(key, None) is not None]
            self._channel.send(Recalled(keys))
        elif isinstance(message, Resolve):
            running = self._active
            if running is not None and running.key == message.key:
                running.attempt.waits.resolve(message)
        elif isinstance(message, Leave):
            self._inbox.put(None)

    def _stop(self, message: Stop) -> None:
        # In this order: an attempt becomes the active one before it is no more among the waiting.
        active = self._waiting.get(message.key) or self._active
        if active is None or active.key != message.key:
            return
        active.stop(message.message)
        if active is self._active:
            # Wakes system calls of the main thread; its handler decides whether the function is still running.
            signal.pthread_kill(self._main_thread, signal.SIGUSR1)

    def _gone(self) -> None:
        """The keeper is no more: leave nothing behind."""
        # Never released: from here on no command is started, and one that is being started is known.
        self._starting.acquire(timeout=STARTING_S)
        try:
            active = self._active
            if active is not None:
                active.signal_group(signal.SIGKILL)
        finally:
            os._exit(1)

    def _lease_over(self, active: Active) -> None:
        """The lease of the exclusive attempt that runs is over, and nobody else has ended it. In the watch's thread."""
        self._starting.acquire(timeout=STARTING_S)  # as above
        try:
            kill_started(active)
        finally:
            os._exit(LEASE_OVER_CODE)

    # --- the main thread

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        active = self._active
        if active is not None and active.is_interruptible and active.is_stopped:
            active.is_interruptible = False
            raise TaskCancelled

    def _take(self, active: Active) -> None:
        self._active = active
        if self._waiting.pop(active.key, None) is None:
            self._active = None
            return
        self._channel.publish_running(active.key)
        self._inbox.begin()
        last = self._ended(active)
        if active.run.is_exclusive:
            self._lease_watch.finish()
        self._capture.drain()
        if active.run.secrets:
            self._secrets.leave()
        self._user_spans.end()
        current.bind(None)
        self._say_last(active, last)
        if active.run.secrets:
            self._secrets.forget()
        self._active = None
        self._channel.publish_running(0)
        self._inbox.glance(last.time_ns)

    def _say_last(self, active: Active, last: Completed | Failed) -> None:
        # Another one waits: its `Started` follows within microseconds, before it runs, and takes this along.
        say = self._channel.send if self._inbox.is_empty() else self._channel.hold
        span = active.span.record(last) if active.span is not None else None
        if span is None:
            say(last)
        else:
            say(span, last)

    def _ended(self, active: Active) -> Completed | Failed:
        """Run it and return its last message."""
        try:
            if active.is_stopped:
                raise TaskCancelled
            return self._run(active)
        except TaskCancelled:
            failure = cancelled(active.stop_message)
        except AttemptFailed as failed:
            failure = cancelled(active.stop_message) if active.is_stopped else failed
            failure.exit_code = failed.exit_code
        except Exception as error:  # a fault of ours, or of the machine: it must cost this attempt and no other
            failure = _fault(error)
        redactor = self._channel.redactor
        clean = redactor.of_text if redactor is not None else str
        return Failed(
            active.key,
            now_ns(),
            failure.reason,
            printable(clean(failure.message)[:MESSAGE_CHARS_MAX]),
            failure.recoverable,
            printable(clean(failure.exception_type)),
            printable(clean(failure.traceback)[-TRACEBACK_CHARS_MAX:]),
            failure.exit_code,
        )

    def _run(self, active: Active) -> Completed | Failed:
        run = active.run
        if run.is_exclusive:
            self._lease_watch.begin(active)
        active.begin()
        if run.secrets:
            self._secrets.enter(run.secrets, in_process=isinstance(run.work, FunctionWork))
        current.bind(active)
        if not isinstance(run.work, FunctionWork):
            self._channel.release()
            if not run.work.argv:
                raise AttemptFailed(INVALID_WORK, "the command is empty; argv needs at least the program")
            from outrider.worker.commands import run_command

            data = run_command(active, run.work, self._channel, self._secrets.handed)
            return _completed(active, data)
        self._environment.enter(active.environment)
        if active.span is not None:
            self._user_spans.begin(active.span.context, run.tracestate)
        self._capture.begin(active)
        self._channel.send(Started(run.key, now_ns()))
        try:
            active.is_interruptible = True
            if active.is_stopped:
                raise TaskCancelled
            data = self._functions.call(run.work, run.inputs)
        finally:
            active.is_interruptible = False
        return _completed(active, data)


def _fault(error: Exception) -> AttemptFailed:
    import traceback

    message = f"the worker could not run this attempt: {type(error).__qualname__}: {error}; see the traceback"
    text = "".join(traceback.format_exception(error))
    return AttemptFailed(TASK_ERROR, message, recoverable=True, exception_type=type(error).__qualname__, traceback=text)


def _completed(active: Active, data: bytes) -> Completed:
    if active.has_told:
        told = active.attempt
        return Completed(active.key, now_ns(), data, summary=told.summary_text, remaining_issues=told.remaining_issues)
    return Completed(active.key, now_ns(), data)
