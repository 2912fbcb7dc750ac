"""A coordinator and agents as child processes, on a Unix socket of their own: what `outrider up` and programs start.

Owns starting a daemon, knowing when it is ready, and stopping it. It must not know what is submitted. Invariant:
nothing outlives the program, however it ends: the daemons stop on the way out, and stop by themselves when they see the
end of a pipe that only this process holds open.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from outrider.settings_file import CONFIG_ENVIRONMENT

__all__ = ["Daemon", "held_pipe", "local_cluster"]

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
#: A temporary folder with a longer path leaves no room for the name of a socket (107 bytes in all, unix(7)).
PLACE_CHARACTERS_MAX = 60


class Daemon:
    """One daemon: ``python -m MODULE --option value`` and ``more`` arguments, restartable.

    It logs to ``log``, line by line also to ``on_line``. ``sockets`` is a folder with a short path; ``parent_fd`` the
    reading end of `held_pipe`.
    """

    def __init__(
        self,
        module: str,
        options: Mapping[str, str],
        *,
        log: Path,
        sockets: Path,
        parent_fd: int,
        more: Sequence[str] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.name = log.stem
        flags = [part for option in options.items() for part in option]
        self._command = [sys.executable, "-m", module, *flags, *more]
        self._log = log
        self._parent_fd = parent_fd
        self._on_line = on_line
        self._log_start = 0
        self._ready_path = sockets / f"{log.stem}.ready"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start it (again) and wait until it serves. Raises `RuntimeError` with its last lines when it does not."""
        self._ready_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            self._bind(ready)
            ready.settimeout(0.1)
            self.process = process = self._spawn()
            self._wait_until_ready(process, ready, timeout_s)
        self._ready_path.unlink(missing_ok=True)

    def _bind(self, ready: socket.socket) -> None:
        try:
            ready.bind(str(self._ready_path))
        except OSError as error:
            raise RuntimeError(
                f"cannot make the socket {self._ready_path}: {error}; set XDG_RUNTIME_DIR or TMPDIR to a short path"
            ) from None

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WATCHDOG_")}
        environment |= {"NOTIFY_SOCKET": str(self._ready_path), "OUTRIDER_PARENT_FD": str(self._parent_fd)}
        environment.setdefault(CONFIG_ENVIRONMENT, os.devnull)  # not the one of a service on this machine
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            process = subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if self._on_line is None else subprocess.PIPE,
                pass_fds=(self._parent_fd,),
                # Ctrl-C on the terminal is for the program, which stops the daemons in order.
                start_new_session=True,
            )
        if self._on_line is not None:
            threading.Thread(target=self._pass_on, args=(process, self._on_line), daemon=True).start()
        return process

    def _pass_on(self, process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> None:
        assert process.stderr is not None, "it was started with a pipe"
        with self._log.open("ab", buffering=0) as log:
            for line in process.stderr:
                log.write(line)
                on_line(line.decode(errors="replace").rstrip())

    def _wait_until_ready(self, process: subprocess.Popen[bytes], ready: socket.socket, timeout_s: float) -> None:
        for _ in range(int(timeout_s / 0.1)):
            with suppress(TimeoutError):
                if b"READY=1" in ready.recv(4096):
                    return
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} did not start: {self.last_lines()}")
        self.stop(0.0)
        raise RuntimeError(f"{self.name} was not ready within {timeout_s:g} s: {self.last_lines()}")

    def last_lines(self) -> str:
        """The end of what it has logged since it was started, in one line."""
        lines = self._log.read_bytes()[self._log_start :].decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "it said nothing"

    def terminate(self) -> None:
        """Ask it to drain and end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask it to drain and end, wait, then make it end."""
        if self.process is None:
            return
        self.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
            return
        self.process.kill()
        self.process.wait()


@contextmanager
def held_pipe() -> Iterator[int]:
    """The reading end of a pipe whose writing end only this process has: daemons end when it does."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(writing)
        os.close(reading)


@contextmanager
def local_cluster(folder: Path, *, agents: int = 1, slots: int = 1, modules: Path | None = None) -> Iterator[str]:
    """Run a cluster with its state and logs below ``folder``; gives the coordinator's address.

    Tasks can import what lies in ``modules`` (default: the current directory). Raises `RuntimeError` with its last
    lines when a daemon does not get ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # Paths of sockets must be short, which nobody can promise of ``folder``.
        usual = tempfile.gettempdir()
        place = usual if len(usual) <= PLACE_CHARACTERS_MAX else "/tmp"
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-", dir=place)))
        parent_fd = stack.enter_context(held_pipe())
        address = f"unix:{sockets}/coordinator.sock"

        def run(module: str, log: str, options: dict[str, str]) -> None:
            daemon = Daemon(module, options, log=folder / f"{log}.log", sockets=sockets, parent_fd=parent_fd)
            stack.callback(daemon.stop)
            daemon.start()

        state = {"--state-directory": str(folder / "coordinator")}
        run("outrider_coordinator", "coordinator", {"--listen": address} | state)
        for name in (f"agent-{number}" for number in range(1, agents + 1)):
            options = {"--coordinator": address, "--name": name, "--slots": str(slots)}
            options |= {"--working-directory": str(modules or Path.cwd()), "--state-directory": str(folder / name)}
            run("outrider_agent", name, options)
        yield address
