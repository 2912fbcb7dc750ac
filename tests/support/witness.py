"""Tasks that write down that they started, and gates that they wait at until the test opens them.

Owns the witness file (one line per start, written by the task itself in one O_APPEND write, so that no daemon can
embellish it) and the gate (a named pipe, so that nobody polls). The functions here are what agents of tests run.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MODULE = "support.witness"


@dataclass(frozen=True)
class Start:
    """One start of one attempt, as the task itself wrote it; Unix seconds."""

    task_id: str
    attempt: int
    pid: int
    time_s: float


class Witness:
    """The file that tasks append their starts to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "witness"
        self.path.touch()

    def starts(self) -> list[Start]:
        """Every start so far, in the order written."""
        rows = (line.split() for line in self.path.read_text().splitlines())
        return [Start(task_id, int(attempt), int(pid), float(time_s)) for task_id, attempt, pid, time_s in rows]

    def started(self) -> list[str]:
        """The task id of every start."""
        return [start.task_id for start in self.starts()]

    def pids(self) -> list[int]:
        """The process of every start."""
        return [start.pid for start in self.starts()]

    def command(self, *then: str) -> list[str]:
        """A command that writes its start and becomes ``then``."""
        line = 'echo "$OUTRIDER_TASK_ID $OUTRIDER_ATTEMPT $$ $(date +%s.%N)"'
        return ["sh", "-c", f"{line} >> {shlex.quote(str(self.path))}; exec {shlex.join(then)}"]


class Gate:
    """A named pipe that tasks wait at; each pass lets one of them on. Close it after the test."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.path = folder / name
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR)

    def open(self, passes: int = 1) -> None:
        """Let so many waiters on, now or when they come."""
        os.write(self._fd, b"\n" * passes)

    def command(self) -> list[str]:
        """A command that waits at the gate."""
        return ["dd", f"if={self.path}", "bs=1", "count=1", "status=none"]

    def close(self) -> None:
        """Whoever still waits is stuck for good."""
        os.close(self._fd)


def stamp(path: str) -> int:
    """Write this start; returns the attempt's number."""
    task_id, attempt = os.environ["OUTRIDER_TASK_ID"], os.environ["OUTRIDER_ATTEMPT"]
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{task_id} {attempt} {os.getpid()} {time.time():.6f}\n".encode())
    os.close(fd)
    return int(attempt)


def pass_gate(gate: str) -> None:
    """Wait until the test lets this task on."""
    with Path(gate).open("rb", buffering=0) as pipe:
        pipe.read(1)


def stamp_and_wait(path: str, gate: str) -> int:
    """Write this start, then wait at the gate; returns the attempt's number."""
    attempt = stamp(path)
    pass_gate(gate)
    return attempt


def lines_of(count: int) -> list[str]:
    """What a task that talks says."""
    return [f"line {number:05d}" for number in range(1, count + 1)]


def talk(path: str, gate: str, count: int) -> str:
    """Log and print ``count`` lines and report as many steps of progress; half of it behind the gate."""
    from outrider.worker import current

    stamp(path)
    for number, line in enumerate(lines_of(count), 1):
        if number == count // 2:
            pass_gate(gate)
        current.log(line)
        print(line, flush=True)
        current.progress(number, count, line)
    return "talked"


#: The same for a command: argv is path, gate, count.
TALKING_SCRIPT = """
echo "$OUTRIDER_TASK_ID $OUTRIDER_ATTEMPT $$ $(date +%s.%N)" >> "$1"
number=0
while [ $number -lt $3 ]; do
  number=$((number + 1))
  if [ $number -eq $(($3 / 2)) ]; then dd if="$2" bs=1 count=1 status=none > /dev/null; fi
  printf 'line %05d\\n' $number
  if [ $((number % 50)) -eq 0 ]; then "$4" -m outrider.worker.task_command progress $number/$3; fi
done
"""


def talking_command(witness: Witness, gate: Gate, count: int) -> list[str]:
    """A command that prints ``count`` lines and reports progress every 50, half of it behind the gate."""
    return ["sh", "-c", TALKING_SCRIPT, "sh", str(witness.path), str(gate.path), str(count), sys.executable]


def wait_for_told(path: str, told: str) -> int:
    """Write this start, read a task's id from the pipe ``told``, and wait for that task; returns its result + 1.

    An empty line instead of an id means: wait for nobody.
    """
    from outrider.worker import current

    stamp(path)
    task_id = Path(told).read_text().strip()
    return int(current.wait_for(task_id)) + 1 if task_id else 0


def tell(pipe: Path, text: str) -> None:
    """Write a line to a pipe that one task reads."""
    pipe.write_text(text + "\n")


def family_script(pids: Path, last: Iterable[str] = ("exec sleep 1000",)) -> str:
    """A shell program with background children and grandchildren; it writes their pids, its own last."""
    file = shlex.quote(str(pids))
    return "\n".join(
        [
            f"sleep 1000 & echo $! >> {file}",
            f"(sleep 1000 & echo $! >> {file}; wait) & echo $! >> {file}",
            f"setsid sh -c 'trap \"\" TERM; echo $$ >> {pids}; sleep 1000; sleep 1000' &",
            f"while [ $(wc -l < {file}) -lt 4 ]; do sleep 0.02; done",
            f"echo $$ >> {file}",
            *last,
        ]
    )
