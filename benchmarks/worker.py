"""What one worker costs: its cold start, its memory, and the round trip of a no-op function over its socket.

Speaks to a real worker process as a keeper does, with 1 and with 64 attempts in flight. Figures are medians; those of
another machine differ.

    python benchmarks/worker.py [--tasks 20000] [--starts 10] [--traced]
"""

from __future__ import annotations

import argparse
import mmap
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from outrider.tracing import TraceParent, new_span_id, new_trace_id
from outrider.worker import messages

IN_FLIGHT = (1, 64)
WORK = messages.FunctionWork("noop:nothing", b'{"args":["x"]}')


class Worker:
    """A worker process and our end of its socket."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        page_fd = os.memfd_create("running")
        os.ftruncate(page_fd, messages.RUNNING_PAGE_BYTES)
        self.page = mmap.mmap(page_fd, messages.RUNNING_PAGE_BYTES)
        descriptors = (theirs.fileno(), page_fd)
        command = [sys.executable, "-m", "outrider.worker", "--fd", str(descriptors[0]), "--running-fd", str(page_fd)]
        started = time.perf_counter()
        self.process = subprocess.Popen(command, cwd=Path(__file__).parent, pass_fds=descriptors)
        theirs.close()
        os.close(page_fd)
        self._reader = messages.reader_in_keeper()
        self.receive()
        self.start_ms = (time.perf_counter() - started) * 1e3

    def receive(self) -> list[messages.FromWorker]:
        """The messages of one read."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise RuntimeError(f"the worker ended with code {self.process.wait()}")
        return self._reader.feed(data)

    def send(self, runs: list[messages.Run]) -> None:
        """Send attempts as one frame."""
        self.socket.sendall(messages.encode(runs))

    def memory_kib(self) -> int:
        """Resident memory of the process."""
        return resident_kib(self.process.pid)

    def close(self) -> None:
        """End it."""
        self.socket.close()
        self.process.wait()


def resident_kib(pid: int) -> int:
    """VmRSS of a process, KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def bare_interpreter_kib() -> int:
    """Resident memory of a Python that has imported nothing."""
    code = "import sys; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return resident_kib(process.pid)


def run_of(key: int, *, traced: bool) -> messages.Run:
    """A no-op attempt with the environment that a keeper gives it."""
    parent = TraceParent(new_trace_id(), new_span_id()).format() if traced else ""
    environment = {
        "OUTRIDER_TASK_ID": f"task-{key}",
        "OUTRIDER_ATTEMPT": "1",
        "OUTRIDER_NAMESPACE": "default",
        "OUTRIDER_RUN_ID": "",
        "OUTRIDER_AGENT": "bench",
        "OUTRIDER_ATTEMPT_KEY": f"bench-{key}",
    }
    return messages.Run(key, WORK, f"task-{key}", 1, [], environment, f"/nowhere/{key}", parent)


def round_trip_us(worker: Worker, tasks: int, in_flight: int, *, traced: bool) -> float:
    """Median over slices of the time per task, with ``in_flight`` of them sent ahead, µs."""
    slice_tasks = max(in_flight, 500)
    return statistics.median(
        _slice_s(worker, slice_tasks, in_flight, traced=traced) / slice_tasks * 1e6
        for _ in range(max(1, tasks // slice_tasks))
    )


def _slice_s(worker: Worker, tasks: int, in_flight: int, *, traced: bool) -> float:
    runs = [run_of(number + 1, traced=traced) for number in range(tasks)]
    sent, done = 0, 0
    started = time.perf_counter()
    while done < tasks:
        if ahead := runs[sent : done + in_flight]:
            worker.send(ahead)
            sent += len(ahead)
        done += sum(1 for message in worker.receive() if isinstance(message, messages.Completed))
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20_000, help="no-op attempts for each figure")
    parser.add_argument("--starts", type=int, default=10, help="cold starts")
    parser.add_argument("--traced", action="store_true", help="give every attempt a sampled trace context")
    options = parser.parse_args()
    starts_ms = []
    for _ in range(options.starts):
        worker = Worker()
        starts_ms.append(worker.start_ms)
        worker.close()
    print(f"cold start             {statistics.median(starts_ms):8.1f} ms")
    worker = Worker()
    above_kib = worker.memory_kib() - bare_interpreter_kib()
    print(f"memory above python    {above_kib / 1024:8.1f} MiB")
    round_trip_us(worker, 1000, 1, traced=options.traced)
    for in_flight in IN_FLIGHT:
        each_us = round_trip_us(worker, options.tasks, in_flight, traced=options.traced)
        print(f"no-op, {in_flight:2d} in flight     {each_us:8.1f} µs")
    worker.close()


if __name__ == "__main__":
    main()
