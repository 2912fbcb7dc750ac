"""The physical limit of Outrider's shape: the same hops with nothing at them, no state and no disk.

client -> coordinator -> agent -> two workers -> agent -> coordinator -> client, over grpc.aio streams whose frames
carry whatever waits, and pipes to the workers. What Outrider reaches of it is what its own work costs.

    python benchmarks/bare_pipeline.py [--tasks 50000] [--loop uvloop] [--json]
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import argparse
import asyncio
import importlib
import json
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROTO = """
syntax = "proto3";
package bare;
message Task { string id = 1; bytes data = 2; string function = 3; }
message Result { string id = 1; bytes data = 2; }
message Tasks { repeated Task items = 1; }
message Results { repeated Result items = 1; }
service Bare { rpc Client(stream Tasks) returns (stream Results); rpc Agent(stream Results) returns (stream Tasks); }
"""
FRAME_ITEMS_MAX = 500
SUBMIT_ITEMS = 250
WORKER_BATCH_MAX = 64
WORKERS = 2
PAYLOAD = b"x" * 200
WARM_UP_ROUNDS, ROUNDS = 100, 1000
HEADER = struct.Struct("<I")


@dataclass(frozen=True)
class Figures:
    """What one measurement gave: tasks per second of many at once, and the round trip of one at a time in ms."""

    tasks_per_s: float
    p50_ms: float
    p99_ms: float


def percentile(values: list[float], fraction: float) -> float:
    """The value below which ``fraction`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def measure(tasks: int, loop: str = "uvloop") -> Figures:
    """Start the three parts, send ``tasks`` through, and stop them."""
    with tempfile.TemporaryDirectory() as folder:
        _generate_stubs(folder)
        with _part("coordinator", folder, loop) as coordinator:
            port = str(coordinator.stdout.readline()).strip() if coordinator.stdout else ""
            with _part("agent", folder, loop, "--port", port):
                figures: Figures = _run(loop, _client(folder, port, tasks))
                return figures


def _generate_stubs(folder: str) -> None:
    Path(folder, "bare.proto").write_text(PROTO)
    outputs = (f"--python_out={folder}", f"--grpc_python_out={folder}")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", *outputs, "bare.proto"], check=True)


@contextmanager
def _part(name: str, folder: str, loop: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--part", name, "--folder", folder, "--loop", loop, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _run(loop: str, main: Coroutine[Any, Any, Any]) -> Any:
    if loop == "uvloop":
        import uvloop

        return uvloop.run(main)
    return asyncio.run(main)


def _stubs(folder: str) -> tuple[Any, Any]:
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("bare_pb2"), importlib.import_module("bare_pb2_grpc")


class Outbound:
    """Whatever waits leaves in one frame."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._ready = asyncio.Event()

    def put(self, items: list[Any]) -> None:
        """Add items; order is kept."""
        self._items.extend(items)
        self._ready.set()

    async def frame(self) -> list[Any]:
        """Wait for at least one item; at most `FRAME_ITEMS_MAX`."""
        await self._ready.wait()
        frame, self._items = self._items[:FRAME_ITEMS_MAX], self._items[FRAME_ITEMS_MAX:]
        if not self._items:
            self._ready.clear()
        return frame


# --- coordinator -------------------------------------------------------------------------------------------------


async def _coordinator(folder: str) -> None:
    import grpc

    messages, services = _stubs(folder)
    server = grpc.aio.server()
    services.add_BareServicer_to_server(_servicer(messages), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def _servicer(messages: Any) -> Any:
    """Passes tasks on to the agent and results back to the client each came from."""
    to_agent = Outbound()
    clients: dict[str, Outbound] = {}

    class Servicer:
        async def Client(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802 - gRPC's
            outbound = Outbound()

            def take(frame: Any) -> None:
                clients.update((task.id, outbound) for task in frame.items)
                to_agent.put(frame.items)

            reader = asyncio.create_task(_read(requests, take))
            while not reader.done():
                yield messages.Results(items=await outbound.frame())

        async def Agent(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802 - gRPC's
            def take(frame: Any) -> None:
                for result in frame.items:
                    clients.pop(result.id).put([result])

            reader = asyncio.create_task(_read(requests, take))
            while not reader.done():
                yield messages.Tasks(items=await to_agent.frame())

    return Servicer()


async def _read(frames: AsyncIterator[Any], take: Callable[[Any], None]) -> None:
    async for frame in frames:
        take(frame)


# --- agent and workers -------------------------------------------------------------------------------------------


async def _agent(folder: str, port: str) -> None:
    messages, services = _stubs(folder)
    outbound = Outbound()

    def done(results: list[tuple[str, bytes]]) -> None:
        outbound.put([messages.Result(id=task_id, data=data) for task_id, data in results])

    # Before gRPC starts its threads: the workers are forks.
    workers = [Worker(asyncio.get_running_loop(), done) for _ in range(WORKERS)]
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = services.BareStub(channel).Agent(wait_for_ready=True)
        writer = asyncio.create_task(_write(call, outbound, messages.Results))
        async for frame in call:
            for index, task in enumerate(frame.items):
                workers[index % WORKERS].queue.append((task.id, task.data))
            for worker in workers:
                worker.pump()
        writer.cancel()


async def _write(call: Any, outbound: Outbound, frame_type: Any) -> None:
    while True:
        await call.write(frame_type(items=await outbound.frame()))


class Worker:
    """One worker process behind two pipes; one batch is with it at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, done: Callable[[list[tuple[str, bytes]]], None]) -> None:
        self.queue: list[tuple[str, bytes]] = []
        self._done = done
        self._busy = False
        self._buffer = b""
        self._from_worker, self._to_worker = _fork_worker()
        os.set_blocking(self._from_worker, False)
        loop.add_reader(self._from_worker, self._readable)

    def pump(self) -> None:
        """Hand the next batch over if the worker is free."""
        if self._busy or not self.queue:
            return
        batch, self.queue = self.queue[:WORKER_BATCH_MAX], self.queue[WORKER_BATCH_MAX:]
        self._busy = True
        _send(self._to_worker, batch)

    def _readable(self) -> None:
        self._buffer += os.read(self._from_worker, 1 << 20)
        while len(self._buffer) >= HEADER.size:
            (size,) = HEADER.unpack_from(self._buffer)
            if len(self._buffer) < HEADER.size + size:
                return
            results = pickle.loads(self._buffer[HEADER.size : HEADER.size + size])
            self._buffer, self._busy = self._buffer[HEADER.size + size :], False
            self._done(results)
            self.pump()


def _fork_worker() -> tuple[int, int]:
    """Start a worker; returns the end to read its results from and the end to write its work to."""
    work_read, work_write = os.pipe()
    result_read, result_write = os.pipe()
    if os.fork() == 0:
        os.close(work_write)
        os.close(result_read)
        _work(work_read, result_write)
        os._exit(0)
    os.close(work_read)
    os.close(result_write)
    return result_read, work_write


def _work(read: int, write: int) -> None:
    """What a worker does: decode, call nothing, encode."""
    while header := os.read(read, HEADER.size):
        (size,), data = HEADER.unpack(header), b""
        while len(data) < size:
            data += os.read(read, size - len(data))
        _send(write, [(task_id, payload) for task_id, payload in pickle.loads(data)])


def _send(descriptor: int, batch: list[tuple[str, bytes]]) -> None:
    data = pickle.dumps(batch)
    os.write(descriptor, HEADER.pack(len(data)) + data)


# --- client ------------------------------------------------------------------------------------------------------


async def _client(folder: str, port: str, tasks: int) -> Figures:
    import grpc

    messages, services = _stubs(folder)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = services.BareStub(channel).Client(wait_for_ready=True)
        rounds = [await _round(call, messages, number) for number in range(WARM_UP_ROUNDS + ROUNDS)][WARM_UP_ROUNDS:]
        started = time.perf_counter()
        writer, seen = asyncio.create_task(_submit(call, messages, tasks)), 0
        while seen < tasks:
            seen += len((await call.read()).items)
        await writer
        rate = tasks / (time.perf_counter() - started)
    return Figures(round(rate), round(percentile(rounds, 0.5), 3), round(percentile(rounds, 0.99), 3))


async def _round(call: Any, messages: Any, number: int) -> float:
    """Send one task and wait for its result; how long that took, ms."""
    started = time.perf_counter()
    await call.write(messages.Tasks(items=[messages.Task(id=f"r{number:024d}", data=PAYLOAD, function="m:f")]))
    await call.read()
    return (time.perf_counter() - started) * 1e3


async def _submit(call: Any, messages: Any, tasks: int) -> None:
    for start in range(0, tasks, SUBMIT_ITEMS):
        numbers = range(start, min(start + SUBMIT_ITEMS, tasks))
        items = [messages.Task(id=f"{number:025d}", data=PAYLOAD, function="m:f") for number in numbers]
        await call.write(messages.Tasks(items=items))


def main() -> None:
    """Measure, or be one of the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for hidden in ("--part", "--folder", "--port"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "coordinator":
        _run(options.loop, _coordinator(options.folder))
    elif options.part == "agent":
        _run(options.loop, _agent(options.folder, options.port))
    else:
        figures = measure(options.tasks, options.loop)
        line = f"{figures.tasks_per_s:,} tasks/s; one task p50 {figures.p50_ms} ms, p99 {figures.p99_ms} ms"
        print(json.dumps(asdict(figures)) if options.json else line)


if __name__ == "__main__":
    main()
