"""The attempt that a worker runs now: what the runner, the command and the keeper's thread share of it."""

from __future__ import annotations

import contextlib
import os
import signal

from outrider.worker.channel import KeeperChannel
from outrider.worker.context import Attempt
from outrider.worker.execute_span import ExecuteSpan
from outrider.worker.messages import Run
from outrider.worker.output import AttemptOutput


class Active:
    """The attempt that runs now."""

    def __init__(self, run: Run, channel: KeeperChannel) -> None:
        self.run = run
        self.attempt = Attempt(run, channel)
        self.span = ExecuteSpan(run)
        self.output = AttemptOutput(channel, run.key)
        self.stop_message = ""
        self.is_interruptible = False
        #: Process group of its command, 0 for none.
        self.group = 0

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the command's process group, if there is one."""
        if self.group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, number)
