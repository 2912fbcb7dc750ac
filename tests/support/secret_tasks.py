"""Tasks that ask for secrets and say them in every way they can; run on agents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from outrider.worker import current


def lengths(*variables: str) -> dict[str, list[int]]:
    """How long each value is: as `current` gives it, in the environment, and behind the path there, where one is."""
    found = {}
    for name in variables:
        there = os.environ[name]
        behind = len(Path(there).read_bytes()) if there.startswith("/dev/fd/") else 0
        found[name] = [len(current.secret(name)), len(there), behind]
    return found


def tell(variable: str) -> str:
    """The value as the result."""
    return current.secret(variable)


def is_equal(variable: str, value: str) -> bool:
    """Whether the value is this one: what a task may say without giving it away."""
    return current.secret(variable) == value


def is_there(variable: str) -> list[bool]:
    """Whether a variable is in this process's environment, and in that of a child."""
    probe = [sys.executable, "-c", f"import os; print({variable!r} in os.environ)"]
    return [variable in os.environ, subprocess.check_output(probe, text=True).strip() == "True"]


def spill(variables: list[str], gate: str, fails: bool, traces: bool) -> Any:
    """Say the values in every way that a function has, wait for the gate, and end with them in the result or error."""
    values = [current.secret(name) for name in variables]
    whole = " ".join(values)
    print("printed", whole)
    print(repr(values), json.dumps({"values": values}), file=sys.stderr)
    for value in values:
        for piece in (value[:5], value[5:]):  # in two writes
            os.write(1, piece.encode())
        os.write(1, b"\n")
    subprocess.run(["sh", "-c", f'echo "${variables[0]}"; echo "${variables[-1]}" >&2'], check=True)
    current.log(f"logged {whole}")
    current.log("x" * (64 * 1024 - 5) + values[0])  # over the seam between two pieces of a log
    current.progress(1, 2, f"at {whole}")
    current.progress(1, 2, "y" * 8180 + values[0])  # cut off within the value
    current.summary(f"summary {whole}")
    current.remaining(f"remaining {whole}")
    if traces:
        _trace(values)
    blocked = current.question(f"which of {values[0]}?", values[:3], context=whole)
    current.waits.poll(blocked)
    current.answer("0" * 32, {"answer": whole}, key=values[0])
    while not Path(gate).exists():
        threading.Event().wait(0.01)
    if fails:
        try:
            {}[values[0]]
        except KeyError as error:
            raise ValueError(f"{whole} and {values}" + "z" * 4000 + values[0]) from error
    return {"values": values, values[0]: 1, "json": json.dumps(values)}


def _trace(values: list[str]) -> None:
    from opentelemetry import trace

    with trace.get_tracer("mine").start_as_current_span(f"span {values[0]}") as span:
        span.set_attribute("value", values[0])
        span.set_attribute("values", values)
        span.set_status(trace.Status(trace.StatusCode.ERROR, f"status {values[-1]}"))


def linger(variable: str) -> int:
    """Leave a thread behind that goes on printing the value; the worker's pid."""
    value = current.secret(variable)

    def go_on() -> None:
        while True:
            os.write(2, value.encode() + b"\n")
            threading.Event().wait(0.01)

    threading.Thread(target=go_on).start()  # not a daemon: the process would not end by itself
    return os.getpid()


def pid() -> int:
    """Of the worker."""
    return os.getpid()
