"""Runs attempts one after the other in the main thread; a second thread listens to the keeper.

Owns the queue of attempts and the one that runs. It must not know how functions are found or commands started.
Invariants: an attempt is either given back or run, never both; its last message follows everything it printed; a
fault of ours fails the attempt and says so, the worker lives on.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
from types import FrameType

from outrider.worker import current
from outrider.worker.active import Active
from outrider.worker.channel import KeeperChannel, now_ns
from outrider.worker.context import printable
from outrider.worker.endings import INVALID_WORK, TASK_ERROR, AttemptFailed, TaskCancelled
from outrider.worker.functions import TRACEBACK_CHARS_MAX, Functions, cancelled
from outrider.worker.import_watch import UserSpans
from outrider.worker.messages import (
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
    reader_in_worker,
)
from outrider.worker.output import Capture

_RECEIVE_BYTES = 256 * 1024


class Runner:
    """The worker. `serve` returns when the keeper lets it go."""

    def __init__(self, connection: socket.socket, running_fd: int) -> None:
        self._connection = connection
        self._channel = KeeperChannel(connection, running_fd)
        self._functions = Functions()
        self._capture = Capture()
        self._user_spans = UserSpans(self._channel.send)
        self._arrived: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[int, Run] = {}
        self._stopped: dict[int, str] = {}
        self._active: Active | None = None
        self._environment: dict[str, str] = {}
        self._main_thread = threading.get_ident()

    def serve(self) -> None:
        """Run what the keeper sends, until `Leave`. The end of the socket ends the process."""
        signal.signal(signal.SIGUSR1, self._interrupt)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._capture.start()
        self._user_spans.watch()
        threading.Thread(target=self._listen, name="outrider-keeper", daemon=True).start()
        self._channel.send(Ready(os.getpid()))
        while (run := self._arrived.get()) is not None:
            self._take(run)
        self._channel.release()

    # --- the keeper's thread

    def _listen(self) -> None:
        reader = reader_in_worker()
        try:
            while data := self._connection.recv(_RECEIVE_BYTES):
                for message in reader.feed(data):
                    self._handle(message)
        except OSError:
            pass  # the same as its end
        finally:
            active = self._active
            if active is not None:
                active.signal_group(signal.SIGKILL)
            os._exit(1)

    def _handle(self, message: ToWorker) -> None:
        if isinstance(message, Run):
            with self._lock:
                self._waiting[message.key] = message
            self._arrived.put(message)
        elif isinstance(message, Stop):
            self._stop(message)
        elif isinstance(message, Recall):
            with self._lock:
                keys = [key for key in message.keys if self._waiting.pop(key, None) is not None]
            self._channel.send(Recalled(keys))
        elif isinstance(message, Resolve):
            active = self._active
            if active is not None and active.run.key == message.key:
                active.attempt.waits.resolve(message)
        elif isinstance(message, Leave):
            self._arrived.put(None)

    def _stop(self, message: Stop) -> None:
        with self._lock:
            active = self._active
            if active is None or active.run.key != message.key:
                if message.key in self._waiting:
                    self._stopped[message.key] = message.message
                return
            active.stop_message = message.message
        active.attempt.cancel()
        active.signal_group(signal.SIGTERM)
        # Wakes system calls of the main thread; its handler decides whether the function is still running.
        signal.pthread_kill(self._main_thread, signal.SIGUSR1)

    # --- the main thread

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        active = self._active
        if active is not None and active.is_interruptible and active.attempt.is_cancelled:
            active.is_interruptible = False
            raise TaskCancelled

    def _take(self, run: Run) -> None:
        with self._lock:
            if self._waiting.pop(run.key, None) is None:
                self._channel.release()
                return
            stopped = self._stopped.pop(run.key, None)
            active = self._active = Active(run, self._channel)
        if stopped is not None:
            active.stop_message = stopped
            active.attempt.cancel()
        self._channel.publish_running(run.key)
        last = self._ended(active)
        self._capture.drain()
        self._user_spans.end()
        current.bind(None)
        span = active.span.record(last)
        # Another one waits: its `Started` follows within microseconds, before it runs, and takes this along.
        say = self._channel.send if self._arrived.empty() else self._channel.hold
        say(*((span, last) if span is not None else (last,)))
        with self._lock:
            self._active = None
        self._channel.publish_running(0)

    def _ended(self, active: Active) -> Completed | Failed:
        """Run it and return its last message."""
        attempt = active.attempt
        try:
            if attempt.is_cancelled:
                raise TaskCancelled
            return self._run(active)
        except TaskCancelled:
            failure = cancelled(active.stop_message)
        except AttemptFailed as failed:
            failure = cancelled(active.stop_message) if attempt.is_cancelled else failed
            failure.exit_code = failed.exit_code
        except Exception as error:  # a fault of ours, or of the machine: it must cost this attempt and no other
            failure = _fault(error)
        return Failed(
            active.run.key,
            now_ns(),
            failure.reason,
            printable(failure.message),
            failure.recoverable,
            printable(failure.exception_type),
            printable(failure.traceback),
            failure.exit_code,
        )

    def _run(self, active: Active) -> Completed | Failed:
        run = active.run
        current.bind(active.attempt)
        if not isinstance(run.work, FunctionWork):
            self._channel.release()
            if not run.work.argv:
                raise AttemptFailed(INVALID_WORK, "the command is empty; argv needs at least the program")
            from outrider.worker.commands import run_command

            data = run_command(active, run.work, self._channel)
            return _completed(active, data)
        self._set_environment(active.span.environment)
        self._user_spans.begin(active.span.context, run.tracestate)
        self._capture.begin(active.output)
        self._channel.send(Started(run.key, now_ns()))
        try:
            active.is_interruptible = True
            if active.attempt.is_cancelled:
                raise TaskCancelled
            data = self._functions.call(run.work, run.inputs)
        finally:
            active.is_interruptible = False
        return _completed(active, data)

    def _set_environment(self, environment: dict[str, str]) -> None:
        """Make os.environ hold this attempt's variables; only differences are written, which is what costs."""
        if any(name not in os.environ for name in self._environment):
            self._environment = {}  # user code has removed some: trust nothing
        for name in self._environment.keys() - environment.keys():
            os.environ.pop(name, None)
        for name, value in environment.items():
            if self._environment.get(name) != value:
                os.environ[name] = value
        self._environment = dict(environment)


def _fault(error: Exception) -> AttemptFailed:
    import traceback

    message = f"the worker could not run this attempt: {type(error).__qualname__}: {error}; see the traceback"
    text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARS_MAX:]
    return AttemptFailed(TASK_ERROR, message, recoverable=True, exception_type=type(error).__qualname__, traceback=text)


def _completed(active: Active, data: bytes) -> Completed:
    told = active.attempt
    return Completed(active.run.key, now_ns(), data, summary=told.summary_text, remaining_issues=told.remaining_issues)
