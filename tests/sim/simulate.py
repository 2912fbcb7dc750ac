"""One seed, from plan to verdict."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Any

from sim import liveness, workload
from sim.kernel import START_US
from sim.plan import Plan
from sim.verdicts import Broken, Marks
from sim.world import Clocks, World


@dataclass
class Outcome:
    """What became of one plan. ``broken`` is the promise that did not hold, or the exception that ended it."""

    plan: Plan
    marks: Marks
    broken: BaseException | None = None
    invariant: str = ""
    core_events: int = 0
    agent_events: int = 0
    steps: int = 0
    simulated_us: int = 0
    story: list[tuple[Any, ...]] = field(default_factory=list)


def run(plan: Plan) -> Outcome:
    """Carry out a plan; what breaks is in the outcome."""
    marks = Marks()
    world = World(plan, marks)
    outcome = Outcome(plan, marks)
    gc.disable()
    try:
        with Clocks():
            world.begin()
            world.kernel.run_until(START_US + plan.quiet_us)
            world.calm()
            liveness.judge(world)
    except Broken as broken:
        outcome.broken, outcome.invariant = broken, broken.invariant
    except Exception as error:
        outcome.broken, outcome.invariant = error, type(error).__name__
    finally:
        gc.enable()
    outcome.core_events, outcome.steps = world.witness.core_events, world.witness.step
    outcome.agent_events = world.witness.agent_events
    outcome.simulated_us = world.kernel.now_us - START_US
    outcome.story = world.kernel.story
    return outcome


def run_seed(seed: int, *, brief: bool = False) -> Outcome:
    """Carry out a seed's plan, or its brief one."""
    return run(workload.make(seed, brief=brief))
