"""Caps on running tasks: of the fleet, a type of work, a runner."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.errors import InvalidRequest
from outrider_coordinator.core.limits import caps
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Claim, Demands
from outrider_coordinator.core.states import TaskState
from outrider_coordinator.settings import CoordinatorSettings, core_settings
from support.core_world import World
from support.limit_world import finish, held, start


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        ({"running_max": 2}, {}),
        ({"type_running_max": {"m:f": 2}}, {}),
        ({"runner_running_max": {"claude": 2}}, {"demands": Demands(runner="claude")}),
    ],
)
def test_no_more_run_than_a_cap_allows(settings: dict[str, Any], spec: dict[str, Any]) -> None:
    """Two run and the third waits for one of them to end, however many slots are free; Explain can say why."""
    world = World(CoreSettings(**settings))
    agent = world.connect("a", 8, runners=("claude",))
    tasks = world.submit(4, **spec)
    assert held(world, agent) == tasks[:2]
    rule = caps.held_back(world.state, world.state.tasks[tasks[2]])
    assert rule is not None
    assert (rule.name, "2 tasks" in rule.text) == ("CAP", True)
    finish(world, agent, tasks[0])
    assert held(world, agent) == tasks[1:3]


def test_a_cap_holds_back_only_what_it_is_about() -> None:
    """Tasks of other types run beside a type whose cap is reached."""
    world = World(CoreSettings(type_running_max={"slow": 1}))
    agent = world.connect("a", 8)
    slow, fast = world.submit(2, kind="slow"), world.submit(2, kind="fast")
    assert held(world, agent) == sorted([slow[0], *fast])


def test_a_blocked_attempt_does_not_count_and_keeps_its_limits() -> None:
    """It gives its place under the cap to the next; what it holds it keeps. Going on it may stand above the cap."""
    world = World(CoreSettings(running_max=1))
    agent = world.connect("a", 8)
    first = start(world, agent, "f")
    claims = Demands(claims=(Claim("f"),))
    (behind,), (free,), (later,) = world.submit(demands=claims), world.submit(), world.submit()
    world.block(agent, world.ref(agent, first), "question")
    assert held(world, agent) == sorted([first, free])
    world.unblock(agent, world.ref(agent, first), "question")
    assert sum(world.state.capped.values()) == 2
    finish(world, agent, free)
    assert held(world, agent) == [first]
    finish(world, agent, first)
    assert held(world, agent) == [behind]
    assert world.state_of(later) is TaskState.QUEUED


def test_a_cap_below_one_is_refused() -> None:
    """A cap of nothing at all would hold its tasks for ever."""
    with pytest.raises(InvalidRequest, match="leave it out"):
        core_settings(CoordinatorSettings(type_running_max={"m:f": 0}))
