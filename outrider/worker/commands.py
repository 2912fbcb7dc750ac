"""Programs as attempts: started without a shell in a session of their own, their output streamed as it comes."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from outrider.worker.channel import KeeperChannel, now_ns
from outrider.worker.endings import INVALID_WORK, TASK_ERROR, AttemptFailed
from outrider.worker.messages import CommandWork, Started
from outrider.worker.secret_handing import Handed
from outrider.worker.task_server import TaskServer

if TYPE_CHECKING:
    from outrider.worker.active import Active

RESULT_OUTPUT_BYTES = 64 * 1024
CHUNK_BYTES = 64 * 1024
#: How long to read on after the program's end, while something it left behind holds its output open.
LINGER_S = 0.2
_ALLOWED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SHELL", "TERM")


def run_command(active: Active, work: CommandWork, channel: KeeperChannel, secrets: Handed) -> bytes:
    """Run the command of the active attempt with these secrets; its result as JSON. Raises `AttemptFailed`.

    The scratch directory is made before and removed after; everything left in the program's process group is killed.
    """
    scratch = Path(active.run.scratch_directory)
    try:
        with contextlib.ExitStack() as stack:
            extra = _prepare(active, scratch, stack)
            return _Command(active, work, channel, secrets).execute(extra)
    finally:
        active.signal_group(signal.SIGKILL)
        active.group = 0
        shutil.rmtree(scratch, ignore_errors=True)


def _prepare(active: Active, scratch: Path, stack: contextlib.ExitStack) -> dict[str, str]:
    """Make what a command finds around it; returns what its environment says of that. Raises `AttemptFailed`."""
    try:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        return stack.enter_context(TaskServer(active.attempt)).environment(scratch)
    except OSError as error:
        message = f"cannot prepare the command on this agent: {error}; see that its disk has room and is writable"
        raise AttemptFailed(TASK_ERROR, message, recoverable=True) from None
    except ValueError as error:  # an input that is not what it says
        raise AttemptFailed(INVALID_WORK, str(error)) from None


class _Command:
    """One program of one attempt."""

    def __init__(self, active: Active, work: CommandWork, channel: KeeperChannel, secrets: Handed) -> None:
        self._active = active
        self._run = active.run
        self._work = work
        self._channel = channel
        self._secrets = secrets
        self._tail = bytearray()
        self._error_tail = bytearray()

    def execute(self, extra: dict[str, str]) -> bytes:
        """Run it to its end; ``extra`` is added to its environment."""
        try:
            with self._active.starting:
                process = self._start(extra)
                self._active.group = process.pid
        except (OSError, ValueError) as error:
            raise AttemptFailed(INVALID_WORK, self._cannot_start(error)) from None
        self._channel.send(Started(self._run.key, now_ns(), process.pid, self._run.traceparent))
        if self._active.is_stopped:
            self._active.signal_group(signal.SIGTERM)
        threading.Thread(target=self._feed, args=(process,), daemon=True).start()
        self._read(process)
        return self._result(process.wait())

    def _start(self, extra: dict[str, str]) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if _is_allowed(name)}
        environment |= {**self._work.environment, **self._active.environment, **extra, **self._secrets.variables}
        folder = self._work.working_directory or self._run.scratch_directory
        found = self._work.program or shutil.which(self._work.argv[0], path=environment.get("PATH"))
        program = found or self._work.argv[0]
        return subprocess.Popen(
            self._work.argv,
            executable=program,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=self._secrets.descriptors,
        )

    def _cannot_start(self, error: Exception) -> str:
        folder = self._work.working_directory
        if folder and not Path(folder).is_dir():
            return f"the working directory {folder!r} does not exist on this agent"
        if isinstance(error, FileNotFoundError):
            return f"no program {self._work.argv[0]!r} on this agent's PATH"
        return f"cannot start {self._work.argv[0]!r}: {getattr(error, 'strerror', None) or error}"

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(self._work.stdin)
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Pass output on until both pipes end, or a moment after the program's end, whoever still prints.

        What the program itself wrote is passed on in any case: a pipe holds no more than one read takes.
        """
        exited = os.pidfd_open(process.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, 1)  # type: ignore[arg-type]  # a pipe
            selector.register(process.stderr, selectors.EVENT_READ, 2)  # type: ignore[arg-type]  # a pipe
            selector.register(exited, selectors.EVENT_READ, 0)
            streams, end_s, left_s = 2, 0.0, None
            while streams and (left_s is None or left_s > 0):
                left_s = end_s - time.monotonic() if end_s else None
                for key, _ in selector.select(left_s):
                    if key.data == 0:
                        selector.unregister(exited)
                        end_s = time.monotonic() + LINGER_S
                    elif not self._pass_on(key):
                        selector.unregister(key.fileobj)
                        streams -= 1
        os.close(exited)
        for stream in (1, 2):
            self._keep(stream, self._active.output.end(stream))

    def _pass_on(self, key: Any) -> bool:
        data = os.read(key.fd, CHUNK_BYTES)
        if data:
            self._keep(key.data, self._active.output.send(key.data, data))
        return bool(data)

    def _keep(self, stream: int, data: bytes) -> None:
        """Keep the end of a stream for the result."""
        tail = self._tail if stream == 1 else self._error_tail
        tail += data
        del tail[:-RESULT_OUTPUT_BYTES]

    def _result(self, code: int) -> bytes:
        if code == 0:
            return msgspec.json.encode({"exit_code": 0, "output": self._tail.decode(errors="replace")})
        name = self._work.argv[0]
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with code {code}"
        lines = self._error_tail.decode(errors="replace").strip().splitlines()
        message = f"{name} {how}" + (f": {lines[-1][:500]}" if lines else "")
        raise AttemptFailed(TASK_ERROR, message, recoverable=True, exit_code=code)


def _is_allowed(name: str) -> bool:
    return name in _ALLOWED or name.startswith("LC_")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
