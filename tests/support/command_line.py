"""The command line as a test uses it: in this process where only words and exit codes matter, else as a real process.

Every `CommandLine` has a home, a state folder and a runtime folder of its own, so it never meets somebody's cluster.
"""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from outrider.cli.main import main
from support.waiting import eventually

TIMEOUT_S = 60.0
#: Ctrl-C must reach it also when the tests run in the background of a shell, which ignores it there.
ENTRY = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from outrider.cli.main import main; main()",
]
#: Functions that tasks of these tests call.
CHORES = """
from outrider.worker import current

def pick(question):
    return current.ask(question, options=["csv", "json"], key="format")

def pick_two():
    return current.ask("first?", key="one") + current.ask("second?", key="two")

def steps(gate):
    import pathlib, threading
    current.progress(3, 10, "steps taken")
    while not pathlib.Path(gate).exists():
        threading.Event().wait(0.02)
    return "walked"

def broken():
    raise ValueError("no such colour")

def double(line):
    return {"line": line, "twice": line * 2}
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """Cells of a table in a pipe, without the titles."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]

    @property
    def objects(self) -> list[Any]:
        """What --json wrote, which must be one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def id(self) -> str:
        """The id that submit prints."""
        return self.out.strip()


class CommandLine:
    """``outrider`` in a world of its own below ``folder``, where `CHORES` is the module chores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = Path(tempfile.mkdtemp(prefix="oc-"))  # paths of sockets must be short
        self.environment = {"HOME": str(folder), "XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(self.runtime)}
        self._started: list[subprocess.Popen[bytes]] = []
        (folder / "chores.py").write_text(CHORES)

    def close(self) -> None:
        """End what was started, and forget the runtime folder."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(TIMEOUT_S)
        shutil.rmtree(self.runtime, ignore_errors=True)

    def run(self, *words: str, stdin: str = "") -> Outcome:
        """One command to its end, in this process."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        typed = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
        code: object = None
        with ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, self.environment))
            stack.enter_context(mock.patch.object(sys, "argv", ["outrider", *words]))
            stack.enter_context(mock.patch.object(sys, "stdin", typed))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            try:
                main()
            except SystemExit as end:
                code = end.code
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]  # a BytesIO
        return Outcome(code if isinstance(code, int) else 0, *texts)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """One command as a process of its own; pipes unless told otherwise."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options = {**streams, "cwd": self.folder, "env": {**os.environ, **self.environment}, **options}
        process = subprocess.Popen([*ENTRY, *words], **options)
        self._started.append(process)
        return process

    def on_terminal(self, *words: str, columns: int = 100, stdin: Any = None, **environment: str) -> Terminal:
        """One command on a terminal of its own."""
        near, far = pty.openpty()
        size = {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm", **environment}
        all_variables = {**os.environ, **self.environment, **size}
        process = self.start(
            *words, stdin=stdin or far, stdout=far, stderr=far, env=all_variables, start_new_session=True
        )
        os.close(far)
        return Terminal(process, near)

    def task(self, task_id: str) -> Any:
        """A task as `task show --json` has it."""
        return self.run("task", "show", task_id, "--json").objects[0]

    def wait_for_state(self, task_id: str, state: str) -> None:
        """Until the task is in this state."""
        eventually(lambda: self.task(task_id)["state"] == f"TASK_STATE_{state}", TIMEOUT_S, f"{task_id} {state}")


class Terminal:
    """A process on a terminal, and everything it has written there so far."""

    def __init__(self, process: subprocess.Popen[bytes], near: int) -> None:
        self.process = process
        self.text = ""
        self._near = near
        os.set_blocking(near, False)

    def read(self) -> str:
        """Everything so far."""
        try:
            while piece := os.read(self._near, 65536):
                self.text += piece.decode(errors="replace")
        except OSError:  # nothing more now, or never
            pass
        return self.text

    def until(self, words: str) -> None:
        """Until it has written this."""
        eventually(lambda: words in self.read(), TIMEOUT_S, f"{words!r} on the terminal")

    def press(self, keys: bytes) -> None:
        """As if somebody typed it."""
        os.write(self._near, keys)

    def end(self) -> int:
        """Its exit code, once it has ended and everything is read."""
        eventually(lambda: (self.read(), self.process.poll() is not None)[1], TIMEOUT_S, "the end of the command")
        self.read()
        os.close(self._near)
        return self.process.returncode


@contextmanager
def command_line(folder: Path) -> Iterator[CommandLine]:
    """A `CommandLine` without a cluster."""
    made = CommandLine(folder)
    try:
        yield made
    finally:
        made.close()


def start_up(line: CommandLine, *words: str) -> subprocess.Popen[bytes]:
    """`outrider up`, ready; what it writes is in the files up.out and up.err of the folder."""
    with (line.folder / "up.out").open("wb") as out, (line.folder / "up.err").open("wb") as err:
        process = line.start("up", *words, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    eventually(lambda: "Ctrl-C" in (line.folder / "up.out").read_text() or process.poll() is not None, TIMEOUT_S)
    assert process.poll() is None, (line.folder / "up.err").read_text()
    return process


def stop_up(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C; the exit code."""
    process.send_signal(signal.SIGINT)
    return process.wait(TIMEOUT_S)


@contextmanager
def cluster_up(folder: Path, *words: str) -> Iterator[CommandLine]:
    """A `CommandLine` beside a running `outrider up`, whose tasks can import `CHORES`."""
    with command_line(folder) as line:
        process = start_up(line, *words)
        try:
            yield line
        finally:
            stop_up(process)
