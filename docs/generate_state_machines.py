"""Write docs/state-machines.md from the table that the coordinator runs, so that drawing and code cannot differ.

    python docs/generate_state_machines.py docs/state-machines.md

Draws `outrider_coordinator.core.transitions` and `core.explain.reasons.STATUS_RULES`. `make docs` runs it, `make
verify` compares its output with what is committed; so it writes nothing that depends on the machine.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from outrider_coordinator.core.explain.reasons import STATUS_RULES
from outrider_coordinator.core.states import Admin, AttemptState, BreakerState, Connectivity, TaskState
from outrider_coordinator.core.transitions import (
    ADMIN_STEPS,
    ATTEMPT_STEPS,
    BREAKER_STEPS,
    CONNECTIVITY_STEPS,
    TASK_STEPS,
    Steps,
)

#: A drawing with more causes has their numbers on its arrows, as words would cover each other.
WORDS_MAX = 8


class Machine(NamedTuple):
    """One drawing: the steps, the first state, and what brings something there."""

    title: str
    text: str
    steps: Steps[IntEnum]
    first: IntEnum
    cause: str


INTRODUCTION = """# State machines

Generated from the code by `make docs`; do not edit. These are the tables that the coordinator runs
(`outrider_coordinator.core.transitions`): a step that is not here cannot be taken, it would end the process.
"""

MACHINES: tuple[Machine, ...] = (
    Machine(
        "Task",
        "The *why* stands beside the state as a typed reason. A task that is ASSIGNED, RUNNING or BLOCKED has one "
        "attempt that counts; earlier ones on agents out of contact may still succeed, and then that is the outcome. "
        "A cancel that is committed decides.",
        TASK_STEPS,
        TaskState.PENDING,
        "submitted",
    ),
    Machine(
        "Attempt",
        "One try on one agent. States may be skipped: an outcome can be the first thing that is heard. A LOST attempt "
        "is not over for good, its agent may come back.",
        ATTEMPT_STEPS,
        AttemptState.OFFERED,
        "made",
    ),
    Machine(
        "Agent: connectivity",
        "Whether it can be reached. Independent of what operators want of it and of whether it is trusted.",
        CONNECTIVITY_STEPS,
        Connectivity.LEFT,
        "known by name",
    ),
    Machine("Agent: admin", "What operators want of it.", ADMIN_STEPS, Admin.ACTIVE, "registered"),
    Machine(
        "Breaker",
        "Whether an agent is trusted with work; the same for an agent and one kind of work, and for an outside system.",
        BREAKER_STEPS,
        BreakerState.CLOSED,
        "nothing is known yet",
    ),
)

STATUS = """
## Agent: the word people see

Derived from the three fields, what the last heartbeat said and what the agent holds. The first row that holds decides.

| word | when |
|---|---|
"""


def page() -> str:
    """The whole document."""
    machines = "".join("\n" + "".join(_section(machine)) for machine in MACHINES)
    return INTRODUCTION + machines + STATUS + "".join(f"| {rule.word} | {rule.when} |\n" for rule in STATUS_RULES)


def _section(machine: Machine) -> Iterator[str]:
    causes = _causes(machine)
    yield f"## {machine.title}\n\n{textwrap.fill(machine.text, 120)}\n\n```mermaid\nstateDiagram-v2\n"
    yield f"    [*] --> {machine.first.name} : {machine.cause}\n"
    for number, ((to, cause), sources) in enumerate(causes.items(), 1):
        label = str(number) if len(causes) > WORDS_MAX else cause
        yield from (f"    {was.name} --> {to.name} : {label}\n" for was in sources)
    yield from (f"    {state.name} --> [*]\n" for state, steps in machine.steps.items() if not steps)
    yield "```\n\n| | from | to | cause |\n|---|---|---|---|\n"
    for number, ((to, cause), sources) in enumerate(causes.items(), 1):
        yield f"| {number} | {', '.join(was.name for was in sources)} | {to.name} | {cause} |\n"


def _causes(machine: Machine) -> dict[tuple[IntEnum, str], list[IntEnum]]:
    """What leads to a state, and from where, in the order of the states."""
    found: dict[tuple[IntEnum, str], list[IntEnum]] = {}
    for was, steps in machine.steps.items():
        for to, cause in sorted(steps.items()):
            found.setdefault((to, cause), []).append(was)
    return found


def main() -> None:
    """Write the page to the file named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", type=Path, help="file to write")
    parser.parse_args().target.write_text(page())


if __name__ == "__main__":
    main()
