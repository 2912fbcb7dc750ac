"""A real worker process at the other end of a socket pair, driven as the keeper drives it."""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

from outrider.worker import messages

Message = TypeVar("Message")


class Worker:
    """One worker; close it in the end. ``module`` is what runs: the worker itself, or a test's way into it."""

    def __init__(self, directory: Path, module: str = "outrider.worker") -> None:
        self.directory = directory
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(20)
        page_fd = os.memfd_create("running")
        os.ftruncate(page_fd, messages.RUNNING_PAGE_BYTES)
        self.page = mmap.mmap(page_fd, messages.RUNNING_PAGE_BYTES)
        descriptors = (theirs.fileno(), page_fd)
        command = [sys.executable, "-m", module, "--fd", str(descriptors[0]), "--running-fd", str(page_fd)]
        self.process = subprocess.Popen(
            command, cwd=directory, pass_fds=descriptors, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        os.close(page_fd)
        self._reader = messages.reader_in_keeper()
        self._unread: list[messages.FromWorker] = []

    def send(self, *said: messages.ToWorker) -> None:
        """Send one frame."""
        self.socket.sendall(messages.encode(said))

    def next(self) -> messages.FromWorker:
        """The next message of the worker."""
        while not self._unread:
            data = self.socket.recv(1 << 16)
            assert data, f"the worker is gone: {self.process.wait(5)}"
            self._unread = self._reader.feed(data)
        return self._unread.pop(0)

    def until(self, kind: type[Message]) -> tuple[list[messages.FromWorker], Message]:
        """Everything up to the first message of this kind, and that one."""
        before: list[messages.FromWorker] = []
        while not isinstance(message := self.next(), kind):
            before.append(message)
        return before, message

    def function(self, key: int, name: str, /, *args: Any, inputs_argument: str = "", **kwargs: Any) -> None:
        """Send a function to run."""
        arguments = json.dumps({"args": args, "kwargs": kwargs}).encode()
        self.run(key, messages.FunctionWork(name, arguments, inputs_argument))

    def run(
        self,
        key: int,
        work: messages.FunctionWork | messages.CommandWork,
        inputs: list[messages.Input] | None = None,
        traceparent: str = "",
    ) -> None:
        """Send an attempt."""
        scratch = str(self.directory / f"scratch-{key}")
        environment = {"OUTRIDER_TASK_ID": f"task-{key}", "OUTRIDER_RUN_ID": "run-1"}
        self.send(messages.Run(key, work, f"task-{key}", 1, inputs or [], environment, scratch, traceparent))

    def running_key(self) -> int:
        """What the worker's page says."""
        return int.from_bytes(self.page[: messages.LEASE_OFFSET], "little")

    def close(self) -> None:
        """End the worker and everything of ours."""
        self.socket.close()
        try:
            self.process.wait(5)
        finally:
            self.process.kill()
            self.process.wait()
