"""Two machines of a test's own: network namespaces joined by a cable, each with an address, a name and a home.

Needs root and iproute2. Nothing outside the two namespaces changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.waiting import eventually

TIMEOUT_S = 60


class Machine:
    """One of them: commands run in its namespace, with a home of its own."""

    def __init__(self, name: str, address: str, home: Path, stack: ExitStack) -> None:
        self.name = name
        self.address = address
        self.home = home
        self._stack = stack
        home.mkdir()
        sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="orx"))  # paths of sockets must be short
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
        programs = str(Path(sys.executable).parent)
        self.environment = kept | {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": sockets,
            "XDG_CONFIG_HOME": str(home / ".config"),
            "OUTRIDER_CONFIG": str(home / "outrider.toml"),  # root's own would be the whole machine's
            "PATH": f"{programs}:{kept.get('PATH', '')}",
        }

    def run(self, line: str, *, check: bool = True) -> str:
        """Run a line as a shell would; its output. Fails with all it said when it fails."""
        command = ["ip", "netns", "exec", self.name, "sh", "-c", line]
        done = subprocess.run(
            command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0 or not check, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def start(self, line: str, ready: str) -> subprocess.Popen[bytes]:
        """Run a line in the background until it says ``ready``; it is ended with the test."""
        log = self.home / f"{len(list(self.home.glob('*.log')))}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "sh", "-c", f"exec {line}"],
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        eventually(lambda: ready in log.read_text() or process.poll() is not None, timeout_s=TIMEOUT_S)
        assert process.poll() is None, log.read_text()
        return process


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Give both, and take them away afterwards."""
    number = os.getpid() % 10_000
    names = [f"orx{number}a", f"orx{number}b"]
    addresses = ["192.0.2.1", "192.0.2.2"]  # of a range that is only for examples
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
        _ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        first, second = (
            Machine(name, address, folder / f"home{number}", stack)
            for number, (name, address) in enumerate(zip(names, addresses, strict=True))
        )
        yield first, second


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
