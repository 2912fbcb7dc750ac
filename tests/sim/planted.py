"""Planted bugs: each breaks one promise by a small patch at run time, and the simulator must find it.

Run as ``python -m sim.planted [SEEDS_MAX [NAME ...]]`` from ``tests/``; `make planted` does. It prints which was found,
by which promise, after how many seeds. The bugs stand in `planted_coordinator`, `planted_features` and `planted_agent`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sim import planted_agent, planted_coordinator, planted_features
from sim.simulate import run_seed

Patch = tuple[Any, str, Callable[[Any], Any]]


@dataclass(frozen=True)
class Bug:
    """A promise and what breaks it: where, the attribute's name, and how its replacement is made of the original."""

    name: str
    invariant: str
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Found:
    """After how many seeds a bug was found (0: not at all), what the simulator said, how often the bug's code ran.

    ``ran`` is -1 for a bug that is no function: what it replaces is looked up and not called.
    """

    bug: str
    invariant: str
    seeds: int
    said: str
    ran: int


def bugs() -> dict[str, Bug]:
    """All of them by name."""
    made = [*planted_coordinator.BUGS, *planted_features.BUGS, *planted_agent.BUGS]
    return {name: Bug(name, invariant, tuple(patches)) for name, invariant, *patches in made}


class Calls:
    """How often the code of a bug ran."""

    def __init__(self) -> None:
        self.count = 0
        self.is_counting = False

    def counted(self, replacement: Any) -> Any:
        """The same, counted."""
        if not callable(replacement):
            return replacement
        self.is_counting = True

        def call(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            return replacement(*arguments, **named)

        return call


@contextmanager
def planted(bug: Bug) -> Iterator[Calls]:
    """While open, the bug is there."""
    undo, calls = [], Calls()
    for where, name, make in bug.patches:
        original = getattr(where, name)
        undo.append((where, name, where.__dict__[name]))
        setattr(where, name, calls.counted(make(original)))
    try:
        yield calls
    finally:
        for where, name, original in reversed(undo):
            setattr(where, name, original)


def hunt(name: str, seeds_max: int, first: int = 0) -> Found:
    """Run seeds until the bug is found: a promise is broken, or an assertion fails. A crash is no finding."""
    bug = bugs()[name]
    crash = ""
    with planted(bug) as calls:
        for seed in range(first, first + seeds_max):
            outcome = run_seed(seed)
            if isinstance(outcome.broken, AssertionError):
                said = str(outcome.broken) or outcome.invariant
                return _found(bug, seed - first + 1, said, calls)
            crash = crash or (repr(outcome.broken) if outcome.broken is not None else "")
    return _found(bug, 0, crash, calls)


def _found(bug: Bug, seeds: int, said: str, calls: Calls) -> Found:
    ran = calls.count if calls.is_counting else -1
    return Found(bug.name, bug.invariant, seeds, said.replace("\n", " ")[:90], ran)


def main(arguments: list[str]) -> int:
    """Hunt all; the exit code is 1 when one is not found."""
    seeds_max = int(arguments[0]) if arguments else 1_000
    names, began_s, missed = arguments[1:] or list(bugs()), time.monotonic(), 0
    with ProcessPoolExecutor() as pool:
        for found in pool.map(hunt, names, [seeds_max] * len(names)):
            missed += not found.seeds
            seeds = f"{found.seeds:>5} seeds" if found.seeds else f"NOT FOUND, ran {found.ran} times"
            print(f"{found.invariant:<7} {found.bug:<46} {seeds}  {found.said}", flush=True)
    print(f"{len(names) - missed} of {len(names)} planted bugs found in {time.monotonic() - began_s:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
