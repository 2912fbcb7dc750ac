"""Worker processes: started, watched, spoken to, and noticed when they die.

Owns the processes and their sockets. It must not know what an attempt is, nor decide who runs what: it passes on what
workers say and does what it is told. All of it runs in the keeper's loop; gRPC is never in this process, so that
spawning is safe.

Invariant: of a worker that died, everything it said is passed on before `Listener.worker_gone`.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from outrider.worker import messages
from outrider_agent import clock
from outrider_agent.pipe import Pipe

#: A worker that ends before it is ready is not replaced at once: this long, doubling up to the maximum.
RESPAWN_FIRST_US, RESPAWN_MAX_US = 200_000, 10_000_000
#: A worker whose socket has ended has this long to end itself.
LAST_BREATH_S = 1.0
#: What the service manager tells the keeper, or what belongs to one attempt, is none of a worker's business.
_PRIVATE = {
    "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "OUTRIDER_PARENT_FD", "TRACEPARENT", "TRACESTATE", "WATCHDOG_PID",
    "WATCHDOG_USEC",
}  # fmt: skip

_logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Who hears what workers say."""

    def worker_ready(self, worker_id: int) -> None:
        """The worker takes work."""

    def worker_said(self, worker_id: int, said: list[messages.FromWorker]) -> None:
        """Messages in order."""

    def worker_gone(self, worker_id: int, running_key: int, how: str, *, by_lease: bool = False) -> None:
        """The process has ended while it ran ``running_key`` (0: none); ``how`` completes "the worker ...".

        ``by_lease``: it says that it ended itself, because the lease was over.
        """


class WorkerProcess:
    """One worker and its socket."""

    def __init__(self, worker_id: int, process: subprocess.Popen[bytes], page: mmap.mmap, pidfd: int) -> None:
        self.worker_id = worker_id
        self.process = process
        self.page = page
        self.pidfd = pidfd
        self.pipe: Pipe
        self.is_ready = False
        self.is_leaving = False
        self.tasks_done = 0
        self.idle_since_us = 0
        self.last_error = ""
        self.outgoing: list[messages.ToWorker] = []

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def running_key(self) -> int:
        """What the worker says it is running, 0 for nothing; also true after its death."""
        return int.from_bytes(self.page[: messages.LEASE_OFFSET], "little")

    def publish_lease(self, end_us: int) -> None:
        """Let the worker see when the lease of exclusive attempts ends."""
        self.page[messages.LEASE_OFFSET :] = end_us.to_bytes(8, "little")


class Pool:
    """All workers of one keeper, by worker id."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
        *,
        working_directory: str,
        environment: Mapping[str, str],
        module: Sequence[str] = ("-m", "outrider.worker"),
    ) -> None:
        self.workers: dict[int, WorkerProcess] = {}
        self._loop = loop
        self._listener = listener
        self._working_directory = working_directory
        self._environment = {name: value for name, value in environment.items() if name not in _PRIVATE}
        self._module = tuple(module)
        self._last_id = 0
        self._failures = 0
        self._not_before_us = 0
        self._unflushed: set[int] = set()
        self._is_closed = False
        self._lease_end_us = 0
        #: Whether workers are not read from.
        self.is_hushed = False

    @property
    def pids(self) -> set[int]:
        """Process ids of all workers."""
        return {worker.pid for worker in self.workers.values()}

    def ensure(self, count: int, now_us: int) -> None:
        """Start workers until ``count`` are there or on their way, unless they keep failing to start."""
        while not self._is_closed and now_us >= self._not_before_us and self._staying() < count:
            self._spawn()

    def send(self, worker_id: int, *said: messages.ToWorker) -> None:
        """Queue messages; they leave with the next `flush`. A worker that is gone is ignored."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.outgoing += said
            self._unflushed.add(worker_id)

    def flush(self) -> None:
        """Send what is queued, one frame per worker."""
        unflushed, self._unflushed = self._unflushed, set()
        for worker_id in unflushed:
            worker = self.workers.get(worker_id)
            if worker is not None and worker.outgoing:
                outgoing, worker.outgoing = worker.outgoing, []
                worker.pipe.write(messages.encode(outgoing))

    def publish_lease(self, end_us: int) -> None:
        """Let every worker, and those to come, see when the lease of exclusive attempts ends."""
        self._lease_end_us = end_us
        for worker in self.workers.values():
            worker.publish_lease(end_us)

    def dismiss(self, worker_id: int) -> None:
        """Let a worker go once it has ended what it runs."""
        self.workers[worker_id].is_leaving = True
        self.send(worker_id, messages.Leave())

    def hush(self, *, is_quiet: bool) -> None:
        """Stop or go on reading what workers say; they block while nobody reads."""
        self.is_hushed = is_quiet
        for worker in self.workers.values():
            if is_quiet:
                worker.pipe.pause()
            else:
                worker.pipe.resume()

    def close(self) -> None:
        """SIGKILL every worker and start no more."""
        self._is_closed = True
        for worker in self.workers.values():
            worker.process.kill()

    def _staying(self) -> int:
        return sum(1 for worker in self.workers.values() if not worker.is_leaving)

    def _spawn(self) -> None:
        self._last_id += 1
        ours, theirs = socket.socketpair()
        page_fd = os.memfd_create("running")
        os.ftruncate(page_fd, messages.RUNNING_PAGE_BYTES)
        page = mmap.mmap(page_fd, messages.RUNNING_PAGE_BYTES)
        descriptors = (theirs.fileno(), page_fd)
        process = subprocess.Popen(
            [sys.executable, *self._module, "--fd", str(descriptors[0]), "--running-fd", str(page_fd)],
            stdin=subprocess.DEVNULL,
            cwd=self._working_directory,
            env=self._environment,
            pass_fds=descriptors,
            start_new_session=True,
        )
        theirs.close()
        os.close(page_fd)
        worker = WorkerProcess(self._last_id, process, page, os.pidfd_open(process.pid))
        worker.publish_lease(self._lease_end_us)
        self._listen(worker, ours)
        self.workers[worker.worker_id] = worker

    def _listen(self, worker: WorkerProcess, sock: socket.socket) -> None:
        reader = messages.reader_in_keeper()

        def heard(data: bytes) -> None:
            try:
                said = reader.feed(data)
            except (ValueError, msgspec.DecodeError) as error:
                _logger.error("worker %d broke the protocol: %s; killing it", worker.pid, error)
                worker.process.kill()
                return
            self._heard(worker, said)

        def ended() -> None:
            self._loop.call_later(LAST_BREATH_S, worker.process.kill)

        worker.pipe = Pipe(self._loop, sock, heard, ended)
        self._loop.add_reader(worker.pidfd, self._gone, worker)

    def _heard(self, worker: WorkerProcess, said: list[messages.FromWorker]) -> None:
        if not worker.is_ready and said and isinstance(said[0], messages.Ready):
            said = said[1:]
            worker.is_ready = True
            self._failures = 0
            self._listener.worker_ready(worker.worker_id)
        if said:
            self._listener.worker_said(worker.worker_id, said)

    def _gone(self, worker: WorkerProcess) -> None:
        if worker.process.poll() is None:
            return
        self._loop.remove_reader(worker.pidfd)
        os.close(worker.pidfd)
        worker.pipe.drain()
        worker.pipe.close()
        del self.workers[worker.worker_id]
        how = _how(worker.process.returncode)
        if not worker.is_ready and not self._is_closed:
            self._failed_to_start(how)
        by_lease = worker.process.returncode == messages.LEASE_OVER_CODE
        self._listener.worker_gone(worker.worker_id, worker.running_key(), how, by_lease=by_lease)
        worker.page.close()

    def _failed_to_start(self, how: str) -> None:
        backoff_us = min(RESPAWN_MAX_US, RESPAWN_FIRST_US << min(self._failures, 10))
        self._failures += 1
        self._not_before_us = clock.boot_us() + backoff_us
        _logger.error("a worker %s before it was ready; the next try is in %.1f s", how, backoff_us / 1e6)


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
