"""The core explored: every order of events of a tiny system, and random ones of a larger (Hypothesis)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from sim.tiny import Tiny, spec_fields

#: Happenings in a row, from two tasks submitted to two agents, with two faults among them.
DEPTH = 4


def _tiny(tasks: int, faults: int) -> Tiny:
    world = Tiny(faults)
    for name in "ab":
        world.connect(name)
    world.submit(tasks, **spec_fields())
    return world


def _explored(world: Tiny, depth: int, seen: set[object]) -> Iterator[Tiny]:
    """Every world within ``depth`` happenings, each once."""
    yield world
    for action in world.actions() if depth else ():
        following = copy.deepcopy(world)
        following.act(action)
        digest = following.digest(), depth
        if digest not in seen:
            seen.add(digest)
            yield from _explored(following, depth - 1, seen)


def test_every_order_of_a_tiny_system_keeps_the_invariants() -> None:
    """One coordinator, two agents, two tasks, two crashes: whatever comes first, no invariant breaks, and all ends."""
    count = 0
    for world in _explored(_tiny(tasks=2, faults=2), DEPTH, set()):
        count += 1
        if count % 10 == 0:
            world = copy.deepcopy(world)
            world.settle()
            assert not world.state.tasks, f"left: {list(world.state.tasks.values())}"
    assert count > 100


class Walk(RuleBasedStateMachine):
    """Anything in any order; the world judges every step."""

    @initialize(tasks=st.integers(1, 5))
    def begin(self, tasks: int) -> None:
        """Some tasks and two agents."""
        self.world = _tiny(tasks, faults=6)

    @rule(choice=st.integers(0, 1_000))
    def happen(self, choice: int) -> None:
        """One of the things that may happen."""
        actions = self.world.actions()
        self.world.act(actions[choice % len(actions)])

    @rule(task=st.integers(1, 5))
    def cancel(self, task: int) -> None:
        """Somebody cancels."""
        self.world.act(("cancel", f"t{task}"))

    @rule(count=st.integers(1, 2))
    def submit(self, count: int) -> None:
        """More work."""
        self.world.submit(count, **spec_fields())

    def teardown(self) -> None:
        """Once faults stop, everything ends."""
        if hasattr(self, "world"):
            self.world.settle()
            assert not self.world.state.tasks


def test_random_orders_keep_the_invariants() -> None:
    """Whatever Hypothesis lets happen, no invariant breaks, and once faults stop everything ends."""
    run_state_machine_as_test(
        Walk,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
