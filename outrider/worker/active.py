"""One attempt that the worker has been given: what the runner, the command and the reader of the socket share of it.

Most functions neither print nor use `current`, so what only those need is made when it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

from outrider.worker.channel import KeeperChannel
from outrider.worker.context import Attempt
from outrider.worker.execute_span import ExecuteSpan
from outrider.worker.messages import Run
from outrider.worker.output import AttemptOutput


class Active:
    """An attempt from its arrival to its end."""

    __slots__ = (
        "_attempt",
        "_channel",
        "_making",
        "_output",
        "group",
        "is_interruptible",
        "is_stopped",
        "key",
        "run",
        "span",
        "starting",
        "stop_message",
    )

    def __init__(self, run: Run, channel: KeeperChannel, starting: threading.Lock) -> None:
        self.run = run
        self.key = run.key
        #: None without a trace; begins when the attempt does.
        self.span: ExecuteSpan | None = None
        #: Whether somebody wants it to stop, and what they say.
        self.is_stopped = False
        self.stop_message = ""
        self.is_interruptible = False
        #: Process group of its command, 0 for none.
        self.group = 0
        #: The worker's: held from before a command is started until its group is known here.
        self.starting = starting
        self._channel = channel
        self._attempt: Attempt | None = None
        self._output: AttemptOutput | None = None
        self._making = threading.Lock()

    @property
    def attempt(self) -> Attempt:
        """What user code sees of it; the same one in every thread."""
        with self._making:
            if self._attempt is None:
                self._attempt = Attempt(self.run, self._channel)
                self._attempt.is_cancelled = self.is_stopped
            return self._attempt

    @property
    def has_told(self) -> bool:
        """Whether user code has used `attempt`, so that there may be something in it."""
        return self._attempt is not None

    @property
    def output(self) -> AttemptOutput:
        """Where its output goes; asked for by one thread at a time."""
        if self._output is None:
            self._output = AttemptOutput(self._channel, self.key)
        return self._output

    @property
    def environment(self) -> dict[str, str]:
        """Its variables, with its own span as the parent of what is started in it."""
        return self.run.environment if self.span is None else self.span.environment

    @property
    def is_secretive(self) -> bool:
        """Whether it has secrets."""
        return bool(self.run.secrets)

    def begin(self) -> None:
        """It starts now."""
        if self.run.traceparent:
            self.span = ExecuteSpan(self.run)

    def stop(self, message: str) -> None:
        """Say that it is to stop; the command hears it as SIGTERM."""
        self.stop_message = message
        self.is_stopped = True
        with self._making:
            attempt = self._attempt
        if attempt is not None:
            attempt.cancel()
        self.signal_group(signal.SIGTERM)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the command's process group, if there is one."""
        if self.group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, number)
