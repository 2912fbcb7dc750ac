"""``outrider up``: a whole cluster on this machine, in the foreground, for as long as it is there."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated

import typer

from outrider import discovery
from outrider.cli import output
from outrider.cli.options import EXIT_FAILED
from outrider.errors import InvalidRequest
from outrider.local_cluster import Daemon, held_pipe
from outrider.presets import preset as preset_settings

EXAMPLES = (
    "outrider up",
    "outrider up --agents 2 --slots 4 --listen 127.0.0.1:7420",
    "outrider up --host build.example",
)
NOTES = (
    """The other commands find the cluster by themselves. Its state stays in --state-directory (default:
    ~/.local/state/outrider/up), so queued tasks go on with the next `outrider up`. Tasks can import Python modules from
    the directory where you start it.""",
    """Ctrl-C stops it: running tasks get the preset's time to end; a second Ctrl-C stops them at once. A daemon that
    dies is started again; an agent that was drained or removed is not.""",
    "Exit codes: 0 stopped; 1 a daemon cannot start; 2 wrong usage, or a cluster is up already.",
)

#: A daemon that dies is started again after this, doubled with every death in a row.
RESTART_FIRST_S, RESTART_CAP_S = 0.2, 5.0
#: An end after this long is no death in a row.
HEALTHY_S = 30.0
#: How an agent ends that the coordinator no longer wants: drained, or refused.
_LEFT = (0, 1)
STOP_TIMEOUT_S = 20.0
#: Where other machines are served with --host.
TLS_ADDRESS, JOIN_ADDRESS = "0.0.0.0:7420", "0.0.0.0:7421"
#: A socket's path has 107 bytes at most; this leaves room for its name.
SOCKET_FOLDER_BYTES_MAX = 80
_LOUD = (" WARNING ", " ERROR ", " CRITICAL ")


@dataclass(frozen=True)
class _Ended:
    """A daemon has ended."""

    daemon: Daemon
    code: int


@dataclass(frozen=True)
class _Told:
    """Somebody wants us to stop."""

    number: int


def up(
    agents: Annotated[int, typer.Option("--agents", "-n", min=1, max=64, metavar="N", help="How many agents.")] = 1,
    slots: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Slots of each; without it they share the CPUs.")
    ] = None,
    state_directory: Annotated[str, typer.Option(metavar="DIR", help="Where the state and the logs go.")] = "",
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Serve here too; loopback, or with --host.")] = "",
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Serve other machines too, who reach this one by that name; over TLS.")
    ] = "",
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="development, production or constrained.")
    ] = "development",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all log lines, not only warnings.")] = False,
) -> None:
    """Start a coordinator and agents on this machine; Ctrl-C stops them."""
    preset_slots = preset_settings(preset, "agent").get("slots", 0)
    with ExitStack() as stack:
        _lock(stack)
        cluster = _Cluster(stack, _folder(state_directory), preset, verbose, host)
        each = slots or preset_slots or max(1, len(os.sched_getaffinity(0)) // agents)
        code = cluster.run(agents, each, listen)
    raise typer.Exit(code)


def _folder(given: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    folder = Path(given).absolute() if given else Path(base) / "outrider" / "up"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"cannot make {folder}: {error.strerror}; choose another --state-directory") from None
    return folder


def _lock(stack: ExitStack) -> None:
    """Only one cluster per user: the others' commands could not tell two apart."""
    lock = os.open(discovery.runtime_directory() / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(lock, 20).decode() or "unknown"
        raise InvalidRequest(
            f"a cluster is already up (pid {pid}); use it as it is (outrider coordinator status), or stop it first "
            f"with Ctrl-C where it runs or `kill {pid}`"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


def _socket_folder() -> Path:
    folder = discovery.runtime_directory()
    if len(os.fsencode(folder)) > SOCKET_FOLDER_BYTES_MAX:
        raise InvalidRequest(f"{folder} is too long a path for sockets; set XDG_RUNTIME_DIR to a shorter one")
    return folder


class _Cluster:
    """The daemons, watched over until somebody wants them to stop."""

    def __init__(self, stack: ExitStack, folder: Path, preset: str, verbose: bool, host: str) -> None:
        self._stack = stack
        self._folder = folder
        self._preset = preset
        self._verbose = verbose
        self._host = host
        self._facts: SimpleQueue[_Ended | _Told] = SimpleQueue()
        self._parent_fd = stack.enter_context(held_pipe())
        self._sockets = _socket_folder()
        self._address = f"unix:{self._sockets}/coordinator.sock"
        self._agents: list[Daemon] = []
        self._deaths: dict[str, int] = {}
        self._started_s: dict[str, float] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._told)

    def _told(self, number: int, frame: object) -> None:
        self._facts.put(_Told(number))

    def run(self, agents: int, slots: int, listen: str) -> int:
        """Start, watch, stop; the exit code."""
        began_s = time.monotonic()
        try:
            self._start(self._coordinator(listen))
            announced = discovery.announce(self._address, os.getpid())
            self._stack.callback(announced.unlink, missing_ok=True)
            self._agents = [self._agent(f"agent-{number}", slots) for number in range(1, agents + 1)]
            for daemon in self._agents:
                self._start(daemon)
        except RuntimeError as error:
            output.say(f"error: {error}")
            return EXIT_FAILED
        self._welcome(agents, slots, time.monotonic() - began_s)
        self._watch()
        return self._stop_all()

    def _coordinator(self, listen: str) -> Daemon:
        options = {"--state-directory": str(self._folder / "coordinator"), "--listen": self._address}
        options |= {"--preset": self._preset}
        more = ["--listen", listen] if listen else []
        if self._host:
            from outrider.cli.authority import make_authority

            make_authority(self._folder / "coordinator", [self._host])
            options |= {"--host": self._host, "--listen-join": JOIN_ADDRESS}
            more = ["--listen", listen or TLS_ADDRESS]
        self._daemon = self._made("outrider_coordinator", "coordinator", options, more)
        return self._daemon

    def _agent(self, name: str, slots: int) -> Daemon:
        options = {"--coordinator": self._address, "--name": name, "--slots": str(slots), "--preset": self._preset}
        options |= {"--state-directory": str(self._folder / name), "--working-directory": str(Path.cwd())}
        return self._made("outrider_agent", name, options, [])

    def _made(self, module: str, name: str, options: dict[str, str], more: list[str]) -> Daemon:
        daemon = Daemon(
            module,
            options,
            more=more,
            log=self._folder / f"{name}.log",
            sockets=self._sockets,
            parent_fd=self._parent_fd,
            on_line=lambda line: self._log(name, line),
        )
        self._stack.callback(daemon.stop, 1.0)
        return daemon

    def _log(self, name: str, line: str) -> None:
        if self._verbose or any(word in line for word in _LOUD):
            # The terminal may be gone; the log file has the line.
            with suppress(OSError, SystemExit):
                output.say(f"{name}: {line}")

    def _start(self, daemon: Daemon) -> None:
        daemon.start()
        self._started_s[daemon.name] = time.monotonic()
        threading.Thread(target=self._wait_for, args=(daemon, daemon.process), daemon=True).start()

    def _wait_for(self, daemon: Daemon, process: subprocess.Popen[bytes]) -> None:
        self._facts.put(_Ended(daemon, process.wait()))

    def _welcome(self, agents: int, slots: int, took_s: float) -> None:
        count = "1 agent" if agents == 1 else f"{agents} agents"
        each = f"{slots} slot{'s' if slots != 1 else ''}{' each' if agents > 1 else ''}"
        at = " and ".join([self._address, *self._other_addresses()])
        output.line(f"outrider is up after {took_s:.1f} s: coordinator at {at}, {count} with {each}")
        output.line("try, in another terminal:")
        for example in ("outrider submit --wait -- echo hello", "outrider task list", "outrider agent list"):
            output.line(f"    {example}")
        if self._host:
            output.line("other machines join with the line that this prints:  outrider agent token create")
        output.line(f"logs are in {self._folder}; Ctrl-C stops everything")

    def _other_addresses(self) -> list[str]:
        """What --listen became, such as a free port."""
        document = json.loads((self._folder / "coordinator" / "addresses.json").read_text())
        return [address for address in document["addresses"] if address != self._address]

    def _watch(self) -> None:
        """Until somebody wants to stop, start again what dies."""
        while not isinstance(fact := self._facts.get(), _Told):
            name = fact.daemon.name
            if fact.daemon in self._agents and fact.code in _LEFT:
                output.say(f"{name} has left: it was drained or removed; the next `outrider up` starts it again")
                continue
            output.say(f"{name} ended unexpectedly (exit code {fact.code}); starting it again")
            timer = threading.Timer(self._restart_delay_s(name), self._restart, (fact.daemon,))
            timer.daemon = True
            timer.start()

    def _restart_delay_s(self, name: str) -> float:
        in_a_row = time.monotonic() - self._started_s[name] < HEALTHY_S
        self._deaths[name] = self._deaths.get(name, 0) + 1 if in_a_row else 1
        return min(RESTART_CAP_S, RESTART_FIRST_S * 2.0 ** (self._deaths[name] - 1))

    def _restart(self, daemon: Daemon) -> None:
        try:
            self._start(daemon)
            output.say(f"{daemon.name} is back")
        except RuntimeError as error:
            output.say(f"error: {error}")
            self._facts.put(_Ended(daemon, -1))

    def _stop_all(self) -> int:
        """Agents first, so that what they still have to say reaches the coordinator."""
        running = [daemon for daemon in self._agents if daemon.process is not None and daemon.process.poll() is None]
        if running:
            output.say("stopping; Ctrl-C again stops running tasks at once")
        for daemon in running:
            daemon.terminate()
        self._wait_until_gone(running)
        for daemon in running:
            daemon.stop(1.0)
        self._daemon.stop()
        output.say("stopped; queued tasks go on with the next `outrider up`")
        return 0

    def _wait_until_gone(self, daemons: list[Daemon]) -> None:
        end_s = time.monotonic() + STOP_TIMEOUT_S
        while any(daemon.process is not None and daemon.process.poll() is None for daemon in daemons):
            try:
                fact = self._facts.get(timeout=max(0.01, end_s - time.monotonic()))
            except Empty:
                return
            if isinstance(fact, _Told):
                for daemon in daemons:
                    daemon.terminate()
                end_s = min(end_s, time.monotonic() + 5.0)
