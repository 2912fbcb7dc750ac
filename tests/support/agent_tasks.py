"""Functions that tests run as tasks on real agents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


def double(value: int) -> int:
    """Twice the value."""
    return 2 * value


def witness(path: str, gate: str) -> str:
    """Write a line to ``path``, then wait until the file ``gate`` exists: shows that it started, and how often."""
    with Path(path).open("a") as file:
        file.write(f"{os.environ['OUTRIDER_TASK_ID']} {os.environ['OUTRIDER_ATTEMPT']}\n")
    pause = threading.Event()
    while not Path(gate).exists():
        pause.wait(0.01)
    return "done"


def ask(question: str) -> str:
    """Wait for an answer and return it."""
    from outrider.worker import current

    return current.ask(question, key="q")


def more_time(run_s: float, more_s: float) -> str:
    """Ask for more time, then run."""
    from outrider.worker import current

    current.need_more_time(more_s)
    threading.Event().wait(run_s)
    return "done"


def flood(count: int) -> int:
    """Report progress as fast as possible."""
    from outrider.worker import current

    for index in range(count):
        current.progress(index + 1, count)
    return count


def say(text: str) -> str:
    """Print."""
    print(text, flush=True)
    return text


def crash() -> None:
    """Kill the worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def stubborn(path: str) -> None:
    """Never end, whatever is raised."""
    Path(path).write_text(str(os.getpid()))
    pause = threading.Event()
    while True:
        try:
            pause.wait(0.05)
        except BaseException:
            continue


#: A program that leaves a daemon: double fork, setsid, SIGTERM ignored. It writes the daemon's pid and ends or stays.
DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(sys.argv[1], "w") as file:
            file.write(str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    time.sleep(0.01)
time.sleep(float(sys.argv[2]))
"""


def daemon_argv(pid_file: Path, stay_s: float) -> list[str]:
    """The command line of `DAEMON`."""
    return [sys.executable, "-c", DAEMON, str(pid_file), str(stay_s)]


def stay_with_company(folder: str) -> None:
    """Never end, nor does a forked child, nor a daemon; the pids are in the files own, child and daemon."""
    subprocess.run(daemon_argv(Path(folder, "daemon"), 0.0), check=True)
    child = os.fork()
    if child == 0:
        threading.Event().wait()
    Path(folder, "child").write_text(str(child))
    Path(folder, "own").write_text(str(os.getpid()))
    while True:
        threading.Event().wait(0.05)


def spawn_daemon(pid_file: str) -> None:
    """From within a function: start the daemon and return."""
    subprocess.run(daemon_argv(Path(pid_file), 0.0), check=True)
