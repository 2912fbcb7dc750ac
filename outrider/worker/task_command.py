"""``outrider-task``: what a command says and asks while it runs. Small, so that it starts fast."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

EXIT_OK, EXIT_REFUSED, EXIT_USAGE, EXIT_PENDING = 0, 1, 2, 3

EPILOG = """examples:
  outrider-task progress 3/10 "sources read"
  outrider-task ask --key format --option csv --option json "Which format?"
  outrider-task hold db:main
  outrider-task wait-external github "rate limit" --retry-in 600

exit codes: 0 done, 1 refused or not successful, 2 usage or not inside a task, 3 pending (ask --no-wait)"""


def main(arguments: list[str] | None = None) -> int:
    """Carry out one subcommand; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.op == "inputs":
        return _print_inputs()
    path = os.environ.get("OUTRIDER_TASK_SOCKET", "")
    if not path:
        print("outrider-task: not inside a task (OUTRIDER_TASK_SOCKET is not set)", file=sys.stderr)
        return EXIT_USAGE
    try:
        reply = _exchange(path, _request(options))
    except (OSError, ValueError) as error:
        print(f"outrider-task: {error}", file=sys.stderr)
        return EXIT_USAGE
    return _report(options, reply)


def _exchange(path: str, request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            line = stream.readline()
    if not line:
        raise OSError("the task ended")
    reply: dict[str, Any] = json.loads(line)
    return reply


def _report(options: argparse.Namespace, reply: dict[str, Any]) -> int:
    if "error" in reply:
        print(f"outrider-task: {reply['error']}", file=sys.stderr)
        return EXIT_REFUSED
    value = reply["value"]
    if options.op == "ask":
        print("pending" if value is None else value)
        return EXIT_PENDING if value is None else EXIT_OK
    if options.op == "more-time":
        print("granted" if value else "denied")
        return EXIT_OK if value else EXIT_REFUSED
    if options.op in ("wait-for", "answers"):
        print(json.dumps(value))
    return EXIT_OK


def _print_inputs() -> int:
    path = os.environ.get("OUTRIDER_INPUTS", "")
    if not path:
        print("outrider-task: not inside a task (OUTRIDER_INPUTS is not set)", file=sys.stderr)
        return EXIT_USAGE
    print(Path(path).read_text())
    return EXIT_OK


def _request(options: argparse.Namespace) -> dict[str, Any]:
    request = vars(options).copy()
    if options.op == "progress":
        request["completed"], request["total"] = _amount(request.pop("amount"))
    if options.op == "wait-external":
        request["retry_at"] = _retry_at(request.pop("retry_at"), request.pop("retry_in"))
    return request


def _amount(text: str) -> tuple[float, float]:
    """``3/10``, ``30%`` or ``3`` as (completed, total). Raises ValueError."""
    try:
        if text.endswith("%"):
            return float(text[:-1]), 100.0
        completed, _, total = text.partition("/")
        return float(completed), float(total or 0)
    except ValueError:
        raise ValueError(f"{text!r} is no progress; write 3/10, 30% or 3") from None


def _retry_at(at: str | None, in_s: float | None) -> float | None:
    if in_s is not None:
        return time.time() + in_s
    if at is None:
        return None
    try:
        return dt.datetime.fromisoformat(at).timestamp()
    except ValueError:
        raise ValueError(f"{at!r} is no ISO 8601 time, such as 2030-01-31T12:00:00+00:00") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="outrider-task",
        description="Say and ask things from inside a task that Outrider runs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="op", required=True, metavar="COMMAND")
    progress = commands.add_parser("progress", help="say how far it is")
    progress.add_argument("amount", help="3/10, 30%% or 3")
    progress.add_argument("status", nargs="?", default="", help="what it is doing")
    for name, text in (("log", "write a log line"), ("summary", "leave a summary"), ("remaining", "name work left")):
        commands.add_parser(name, help=text).add_argument("text")
    ask = commands.add_parser("ask", help="ask a question and print the answer")
    ask.add_argument("question")
    ask.add_argument("--key", help="the same key gets the same answer again")
    ask.add_argument("--option", dest="options", action="append", default=[], help="an offered answer; repeatable")
    ask.add_argument("--no-wait", dest="wait", action="store_false", help="print pending and exit 3 until answered")
    ask.add_argument("--timeout", type=float, help="give up after so many seconds")
    answer = commands.add_parser("answer", help="answer what another task asks")
    answer.add_argument("task_id", help="the task that asks")
    answer.add_argument("text", help="the answer")
    answer.add_argument("--key", default="", help="which question, when there are several")
    wait_for = commands.add_parser("wait-for", help="wait for a task and print its result")
    wait_for.add_argument("task_id")
    hold = commands.add_parser("hold", help="wait for a named limit and hold it to the end of the task")
    hold.add_argument("limit", help="KEY, KEY:shared or KEY:UNITS")
    hold.add_argument("--timeout", type=float, help="give up after so many seconds")
    external = commands.add_parser("wait-external", help="wait for an outside system")
    external.add_argument("system")
    external.add_argument("issue")
    external.add_argument("--retry-at", help="when to go on (ISO 8601)")
    external.add_argument("--retry-in", type=float, help="go on after so many seconds")
    more_time = commands.add_parser("more-time", help="ask for more time")
    more_time.add_argument("seconds", type=float)
    for waits in (wait_for, external, more_time):
        waits.add_argument("--timeout", type=float, help="give up after so many seconds")
    commands.add_parser("answers", help="print what earlier attempts were answered, as JSON by key")
    commands.add_parser("inputs", help="print the results of the task's dependencies as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
