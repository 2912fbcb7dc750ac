"""Functions that the tests of the SDK submit, with types, so that the same names serve the tests of typing."""

from __future__ import annotations

import os
from pathlib import Path

from support.witness import pass_gate

__all__ = ["Counter", "add", "boom", "double", "merge", "pass_gate", "report", "talk", "which_agent", "who"]


def double(value: int) -> int:
    """Twice the value."""
    return 2 * value


def add(left: int, right: int = 0) -> int:
    """The sum."""
    return left + right


def merge(inputs: dict[str, int]) -> int:
    """The sum of what came before."""
    return sum(inputs.values())


def who(inputs: dict[str, int]) -> dict[str, int]:
    """What came before, under its keys."""
    return inputs


def boom(text: str) -> None:
    """Fail."""
    raise ValueError(text)


def which_agent() -> str:
    """Name of the agent that runs it."""
    return os.environ["OUTRIDER_AGENT"]


def report(steps: int, gate: str) -> int:
    """Report every step; half of them behind the gate."""
    from outrider.worker import current

    for step in range(1, steps + 1):
        if step == steps // 2 + 1:
            pass_gate(gate)
        current.progress(step, steps, f"step {step}")
    return steps


def talk(gate: str) -> None:
    """Print before and after the gate."""
    print("before", flush=True)
    pass_gate(gate)
    print("after", flush=True)


def count_start(path: str) -> int:
    """Write a line for this start; how many there are."""
    with Path(path).open("a") as file:
        file.write(f"{os.environ['OUTRIDER_TASK_ID']}\n")
    return len(Path(path).read_text().splitlines())


class Counter:
    """A class whose methods are no functions of a module."""

    def add(self, value: int) -> int:
        """One more."""
        return value + 1

    @classmethod
    def made(cls, value: int) -> int:
        """Found by name."""
        return value + 2
