"""``outrider map``: one task per line of standard input, results in the order of the lines."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from outrider.cli import output
from outrider.cli.key import Sign, SignFor, signer
from outrider.cli.options import EXIT_CODES, EXIT_FAILED, EXIT_INTERRUPTED, JsonFlag, session_of
from outrider.cli.placing import Secret, SecretFd
from outrider.cli.submit import Attempts, Duration, Label, Priority
from outrider.cli.values import duration_s, pairs
from outrider.errors import InvalidRequest, OutriderError

if TYPE_CHECKING:
    from outrider.client import Submitter, TaskHandle

EXAMPLES = (
    "ls *.csv | outrider map -- gzip -k /data/{}",
    "seq 10 | outrider map --json -- sh -c 'echo $(({} * 2))'",
    "cat urls.txt | outrider map --python mymodule:fetch",
)
NOTES = (
    """Every {} is replaced by the line; without one the line is the last argument. Empty lines are left out. Standard
    output holds what the tasks wrote or returned, in the order of the lines, as soon as all lines before it are done;
    failures go to standard error. Ctrl-C cancels what has not ended.""",
    EXIT_CODES,
)
#: How often a pipe hears how far it is, and a terminal.
TELL_EVERY_S, DRAW_EVERY_S = 5.0, 0.2


def map_lines(
    context: typer.Context,
    argv: Annotated[list[str] | None, typer.Argument(metavar="ARGV", help="Program and arguments.")] = None,
    python: Annotated[str, typer.Option(metavar="MODULE:FUNCTION", help="Call this with the line instead.")] = "",
    priority: Priority = "",
    label: Label = [],
    timeout: Duration = "",
    attempts: Attempts = None,
    secret: Secret = [],
    secret_fd: SecretFd = [],
    sign: Sign = "",
    sign_for: SignFor = "",
    as_json: JsonFlag = False,
) -> None:
    """Run a command once per line of standard input, all over the fleet."""
    if bool(argv) == bool(python):
        raise InvalidRequest("give a command after --, or a function with --python; see outrider map --help")
    if sys.stdin.isatty():
        output.say("reading lines from the terminal; end with Ctrl-D")
    with session_of(context).client(signer(sign, sign_for)) as client:
        submitter = client.with_options(
            priority=priority or None,
            labels=pairs(label, "--label"),
            timeout=duration_s(timeout) if timeout else None,
            attempts=attempts or 0,
            secrets=pairs(secret, "--secret"),
            secret_fds=pairs(secret_fd, "--secret-fd"),
        )
        work = _Map(submitter, argv or [], python, as_json)
        try:
            work.run()
        except KeyboardInterrupt:
            work.cancel()
            raise typer.Exit(EXIT_INTERRUPTED) from None
    if work.failures:
        raise typer.Exit(EXIT_FAILED)


class _Map:
    """The lines of one call: submitted as they are read, printed in order."""

    def __init__(self, submitter: Submitter, argv: list[str], python: str, as_json: bool) -> None:
        self._submitter = submitter
        self._argv = argv
        self._python = python
        self._as_json = as_json
        self._open: deque[tuple[str, TaskHandle[Any]]] = deque()
        self._began_s = time.monotonic()
        self._told_s = self._began_s
        self._bar = _bar()
        self._row = self._bar.add_task("map", total=None)
        self.submitted = 0
        self.done = 0
        self.failures = 0

    def run(self) -> None:
        """Submit every line, print every result, sum up."""
        with self._bar:
            for line in _lines():
                self._open.append((line, self._submit(line)))
                self.submitted += 1
                self._print_ready(wait=False)
            if not self.submitted:
                raise InvalidRequest("nothing to do: standard input has no lines; give one task per line")
            while self._open:
                self._print_ready(wait=True)
                self._tell()
        self._sum_up()

    def cancel(self) -> None:
        """Cancel what has not ended."""
        left = [handle for _, handle in self._open if not handle.done()]
        output.say(f"interrupted: cancelling {len(left)} of {self.submitted} tasks")
        for handle in left:
            try:
                handle.cancel("outrider map was interrupted")
            except OutriderError as error:
                output.say(f"error: {error}; see outrider task list")
                return

    def _submit(self, line: str) -> TaskHandle[Any]:
        if self._python:
            return self._submitter.submit(self._python, line)
        words = [word.replace("{}", line) for word in self._argv]
        return self._submitter.command(words if any("{}" in word for word in self._argv) else [*words, line])

    def _print_ready(self, *, wait: bool) -> None:
        while self._open and (wait or self._open[0][1].done()):
            line, handle = self._open[0]
            try:
                failure = handle.exception(timeout=DRAW_EVERY_S if wait else None)
            except TimeoutError:
                return
            self._open.popleft()
            self.done += 1
            self._print(line, handle, failure)

    def _print(self, line: str, handle: TaskHandle[Any], failure: OutriderError | None) -> None:
        if failure is not None:
            self.failures += 1
            output.say(f"failed: {line}: {failure}")
        if self._as_json:
            self._write(_json({"line": line, **_facts(handle, failure)}))
        elif failure is None:
            value = handle.result()
            self._write(_json(value) if self._python else value["output"].encode())

    def _write(self, data: bytes) -> None:
        if self._bar.disable or not output.out.is_terminal:
            output.raw(data)
        elif data:
            output.above(data.removesuffix(b"\n"))

    def _tell(self) -> None:
        if not self._bar.disable:
            done = self.done + sum(handle.done() for _, handle in self._open)
            failed = f"map, {self.failures} failed" if self.failures else "map"
            self._bar.update(self._row, total=self.submitted, completed=done, description=failed)
        elif time.monotonic() - self._told_s >= TELL_EVERY_S:
            self._told_s = time.monotonic()
            output.say(f"{self.done} of {self.submitted} done, {self.failures} failed")

    def _sum_up(self) -> None:
        took = output.span(time.monotonic() - self._began_s)
        output.say(f"{self.done - self.failures} succeeded, {self.failures} failed in {took}")


def _facts(handle: TaskHandle[Any], failure: OutriderError | None) -> dict[str, Any]:
    if failure is None:
        return {"task_id": handle.id, "result": handle.result()}
    return {
        "task_id": getattr(failure, "task_id", ""),
        "reason": getattr(failure, "cause", "") or failure.reason,
        "error": failure.message,
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value) + "\n").encode()


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\r\n")


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=output.err, transient=True, disable=not output.is_live() or sys.stdin.isatty())
