"""A coordinator and some agents as child processes of a program, on a Unix socket of their own.

For programs that bring their own cluster, such as the census and the benchmarks; `outrider up` is the same for people.
Nothing outlives the program: the daemons are stopped on the way out, and stop by themselves when it is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


@contextmanager
def local_cluster(folder: Path, *, agents: int, slots: int, modules: Path) -> Iterator[str]:
    """Run a cluster with its state below ``folder``; gives the coordinator's address.

    Tasks can import what lies in ``modules``. Logs go to ``folder``/*.log. Raises `RuntimeError` with its last
    lines when a daemon does not get ready within `READY_TIMEOUT_S`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as daemons:
        # Socket paths must be short, which nobody can promise of ``folder``.
        sockets = Path(daemons.enter_context(tempfile.TemporaryDirectory(prefix="outrider-")))
        address = f"unix:{sockets}/coordinator.sock"
        held, parent_fd = os.pipe()  # closed with this process, however it ends
        daemons.callback(os.close, parent_fd)
        daemons.callback(os.close, held)
        options = {"--listen": address, "--state-directory": str(folder / "coordinator")}
        daemons.enter_context(_daemon("outrider_coordinator", folder / "coordinator.log", sockets, held, options))
        for name in (f"agent-{number}" for number in range(1, agents + 1)):
            options = {"--coordinator": address, "--name": name, "--slots": str(slots)}
            options |= {"--working-directory": str(modules), "--state-directory": str(folder / name)}
            daemons.enter_context(_daemon("outrider_agent", folder / f"{name}.log", sockets, held, options))
        yield address


@contextmanager
def _daemon(module: str, log: Path, sockets: Path, parent_fd: int, options: dict[str, str]) -> Iterator[None]:
    arguments = [part for option in options.items() for part in option]
    with _notify_socket(sockets / log.stem) as ready, log.open("ab") as output:
        environment = os.environ | {"NOTIFY_SOCKET": ready.getsockname(), "OUTRIDER_PARENT_FD": str(parent_fd)}
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(parent_fd,)
        )
        try:
            _wait_until_ready(ready, log)
            yield
        finally:
            _stop(process)


@contextmanager
def _notify_socket(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(path))
        ready.settimeout(READY_TIMEOUT_S)
        yield ready


def _wait_until_ready(ready: socket.socket, log: Path) -> None:
    try:
        while b"READY=1" not in ready.recv(4096):
            pass
    except TimeoutError:
        last = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise RuntimeError(f"{log.stem} did not get ready: {' / '.join(last) or 'it said nothing'}") from None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to drain, then make it end."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
        return
    process.kill()
    process.wait()
