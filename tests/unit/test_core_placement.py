"""Strategies, wishes, lines and preemption, one claim each."""

from __future__ import annotations

from collections import Counter

import pytest

from outrider_coordinator.core.effects import PushRevoke
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsAccepted,
    AttemptsReturned,
    HeartbeatReceived,
)
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.settings import CoreSettings, Preemption
from outrider_coordinator.core.spec import SECOND_US, Claim, Constraint, Demands, Operator, Strategy
from outrider_coordinator.core.states import Reason, TaskState
from support.core_world import ModelAgent, World


def where(world: World, *tasks: str) -> list[str]:
    """The agents that tasks were offered to; empty for those that wait."""
    attempts = [world.state.tasks[task].attempt for task in tasks]
    return [attempt.agent_id if attempt else "" for attempt in attempts]


def beat(world: World, agent: ModelAgent, cpu: float) -> None:
    """A heartbeat with this much processor use."""
    world.do(HeartbeatReceived(agent.id, agent.epoch, HostFacts(cpu_fraction=cpu)))


def finish(world: World, agent: ModelAgent, *tasks: str) -> None:
    """Tasks start and succeed."""
    for task in tasks:
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.complete(agent, ref)


@pytest.mark.parametrize(
    "strategy", [Strategy.LEAST_LOADED, Strategy.ROUND_ROBIN, Strategy.RANDOM, Strategy.PERFORMANCE]
)
@pytest.mark.parametrize("is_removed", [False, True])
def test_an_agent_that_comes_back_with_other_labels_gets_other_tasks(strategy: Strategy, is_removed: bool) -> None:
    """Whatever it was given before: what a task asks for must hold now."""
    world = World()
    demands = Demands((Constraint("gpu", Operator.IN, ("yes",)),), strategy=strategy)
    agent = world.connect("a", 2, labels={"gpu": "yes"})
    finish(world, agent, *world.submit(demands=demands))
    world.disconnect(agent)
    if is_removed:
        world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    world.connect("a", 2)
    assert where(world, *world.submit(demands=demands)) == [""]
    world.connect("a", 2, labels={"gpu": "yes"}, instance_id="next", instance_start_ms=2)
    assert where(world, *world.submit(demands=demands)) == ["a"]


# --- strategies ------------------------------------------------------------------------------------------------------


def test_between_equally_loaded_agents_the_less_busy_machine_wins() -> None:
    """Reported host load decides between agents with the same share of slots in use."""
    world = World()
    busy, idle = world.connect("a", 2), world.connect("b", 2)
    beat(world, busy, 0.9)
    beat(world, idle, 0.1)
    assert where(world, *world.submit(4)) == ["b", "a", "b", "a"]


def test_between_equally_loaded_agents_the_quicker_to_answer_wins() -> None:
    """Recent latency from offer to first word decides when load and machine are equal."""
    world = World()
    slow, fast = world.connect("a", 2), world.connect("b", 2)
    first, second = world.submit(2)
    world.do(AttemptsAccepted("b", fast.epoch, [world.ref(fast, second)]), after_us=1_000)
    world.do(AttemptsAccepted("a", slow.epoch, [world.ref(slow, first)]), after_us=2 * SECOND_US)
    finish(world, slow, first)
    finish(world, fast, second)
    assert where(world, *world.submit(1)) == ["b"]


def test_round_robin_takes_turns_whatever_the_load() -> None:
    """One after the other, also when one has more slots free."""
    world = World(CoreSettings(placement=Strategy.ROUND_ROBIN))
    for name, slots in (("a", 8), ("b", 4), ("c", 2)):
        world.connect(name, slots)
    assert where(world, *world.submit(6)) == ["a", "b", "c", "a", "b", "c"]


def test_random_spreads_over_all_and_is_decided_by_the_seed() -> None:
    """Every agent gets some; the same seed gives each the same."""
    spreads = []
    for _ in range(2):
        world = World()
        for number in range(8):
            world.connect(f"a{number}", 100)
        spreads.append(where(world, *world.submit(400, demands=Demands(strategy=Strategy.RANDOM))))
    assert spreads[0] == spreads[1]
    counted = Counter(spreads[0])
    assert len(counted) == 8
    assert max(counted.values()) < 100


def test_two_choices_balance_far_better_than_chance() -> None:
    """With the less loaded of two the fullest agent has hardly more than the mean."""
    fullest = {}
    for strategy in (Strategy.RANDOM, Strategy.TWO_CHOICES):
        world = World()
        for number in range(50):
            world.connect(f"a{number:02}", 200)
        counted = Counter(where(world, *world.submit(1000, demands=Demands(strategy=strategy))))
        fullest[strategy] = max(counted.values())
    assert fullest[Strategy.TWO_CHOICES] <= 24
    assert fullest[Strategy.TWO_CHOICES] < fullest[Strategy.RANDOM]


def test_performance_prefers_where_the_kind_was_fast() -> None:
    """Work goes where work of its kind took the least time; an agent that has not tried is tried first."""
    world = World()
    slow, fast = world.connect("a", 4), world.connect("b", 4)
    demands = Demands(strategy=Strategy.PERFORMANCE)
    first, second = world.submit(2, demands=demands)
    assert where(world, first, second) == ["a", "b"]
    for agent, task, seconds in ((fast, second, 1), (slow, first, 9)):
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.wait(seconds)
        world.complete(agent, ref)
    assert where(world, *world.submit(3, demands=demands)) == ["b", "b", "b"]
    assert where(world, *world.submit(1, kind="m:other", demands=demands)) == ["a"]


def test_a_task_may_choose_another_strategy_than_the_coordinator() -> None:
    """The strategy of a task wins over the default."""
    world = World(CoreSettings(placement=Strategy.ROUND_ROBIN))
    world.connect("a", 9)
    world.connect("b", 1)
    world.submit(1)
    assert where(world, *world.submit(2, demands=Demands(strategy=Strategy.LEAST_LOADED))) == ["b", "a"]


# --- wishes ----------------------------------------------------------------------------------------------------------


def test_affinity_is_a_wish_and_not_a_condition() -> None:
    """The heaviest wish wins while there is room, and keeps nothing waiting when there is none."""
    world = World()
    for name in "abc":
        world.connect(name, 1)
    wish = Demands(affinities=(("b", 10), ("c", 50), ("gone", 100)))
    assert where(world, *world.submit(3, demands=wish)) == ["c", "b", "a"]


def test_a_negative_affinity_sends_work_there_last() -> None:
    """An agent with a negative weight gets work only when no other can take it."""
    world = World()
    world.connect("a", 1)
    world.connect("b", 2)
    shun = Demands(affinities=(("a", -100),))
    assert where(world, *world.submit(3, demands=shun)) == ["b", "b", "a"]


def test_an_agent_beyond_the_first_candidates_is_found_by_its_name() -> None:
    """A wished-for agent is scored however many stand before it by load."""
    world = World()
    for number in range(200):
        world.connect(f"a{number:03}", 2)
    world.submit(1, demands=Demands(affinities=(("a199", 1),)))
    assert where(world, *world.submit(1, demands=Demands(affinities=(("a199", 100),)))) == ["a199"]


def test_tags_are_avoided_where_there_is_room_elsewhere() -> None:
    """A task keeps away from live attempts with a tag it avoids, as long as another agent can take it."""
    world = World()
    world.connect("a", 4)
    world.connect("b", 1)
    noisy = world.submit(1, tags=("noisy",))
    assert where(world, *noisy) == ["a"]
    quiet = Demands(avoid_tags=("noisy",))
    assert where(world, *world.submit(2, demands=quiet)) == ["b", "a"]


def test_spread_keeps_tasks_of_one_type_apart() -> None:
    """With spread the agent with the fewest live attempts of the type wins over the least loaded."""
    world = World()
    world.connect("a", 10)
    world.connect("b", 2)
    assert where(world, *world.submit(4, demands=Demands(spread=True))) == ["a", "b", "a", "b"]
    assert where(world, *world.submit(2, kind="m:other", demands=Demands(spread=True)))[0] == "a"


def test_sticky_follows_the_first_dependency() -> None:
    """A sticky task runs where its first dependency ran, though another agent is less loaded."""
    world = World()
    agents = {name: world.connect(name, 4) for name in "abc"}
    blocker, parent = world.submit(2)
    assert where(world, blocker, parent) == ["a", "b"]
    (child,) = world.submit(1, after=(parent,), demands=Demands(sticky=True))
    world.submit(1, demands=Demands(affinities=(("b", 1),)))
    finish(world, agents["b"], parent)
    assert where(world, child) == ["b"]


# --- lines -----------------------------------------------------------------------------------------------------------


def test_only_short_plain_tasks_wait_in_a_line() -> None:
    """What is long, unknown, exclusive, at most once, or takes resources never waits in line on an agent."""
    world = World()
    world.connect("a", 1, prefetch_credit=100, resources={"gpu": 9.0})
    world.state.durations_us["m:short"] = 1000.0
    world.state.durations_us["m:long"] = 60e6
    world.submit(1)
    waits = [
        *world.submit(1, kind="m:long"),
        *world.submit(1, kind="m:unknown"),
        *world.submit(1, kind="m:short", is_function=False),
        *world.submit(1, kind="m:short", exclusive=True),
        *world.submit(1, kind="m:short", at_most_once=True),
        *world.submit(1, kind="m:short", demands=Demands(resources=(("gpu", 1.0),))),
        *world.submit(1, kind="m:short", demands=Demands(claims=(Claim("lock"),))),
    ]
    assert where(world, *waits) == [""] * len(waits)
    (short,) = world.submit(1, kind="m:short")
    assert where(world, short) == ["a"]
    assert world.state.agents["a"].prefetched == 1


def test_a_line_gives_back_what_a_free_slot_elsewhere_could_take() -> None:
    """Once a slot is free that could take it, what waits in a line is asked back; what only fits there is not."""
    world = World()
    world.connect("a", 1, prefetch_credit=9, labels={"zone": "a"})
    world.state.durations_us["m:short"] = 1000.0
    world.submit(1)
    (bound,) = world.submit(1, kind="m:short", demands=Demands((Constraint("zone", Operator.EXISTS),)))
    (free,) = world.submit(1, kind="m:short")
    assert world.state.agents["a"].prefetched == 2
    other = world.connect("b", 2)
    attempt = world.state.tasks[free].attempt
    assert attempt is not None
    assert attempt.revoke_sent
    stays = world.state.tasks[bound].attempt
    assert stays is not None
    assert not stays.revoke_sent
    holder = world.agents["a"]
    ref = world.ref(holder, free)
    del holder.held[ref]
    effects = world.do(AttemptsReturned("a", holder.epoch, [ref], revoked=True))
    assert not [send for send in effects.sends if isinstance(send, PushRevoke)]
    assert world.ref(other, free)


# --- preemption ------------------------------------------------------------------------------------------------------


def preempted(world: World, agent: ModelAgent) -> list[str]:
    """Tasks that the agent was told to stop."""
    return [ref.task_id for ref in agent.cancelled]


def test_a_critical_task_takes_the_slot_of_the_youngest_of_the_lowest_priority() -> None:
    """The victim stops, is queued again with no try used up, and the CRITICAL task has its slot."""
    world = World()
    agent = world.connect("a", 3)
    (older,) = world.submit(1, priority=2, preemptible=True)
    (younger,) = world.submit(1, priority=2, preemptible=True)
    world.submit(1, priority=5, preemptible=True)
    for task in (older, younger):
        world.start(agent, world.ref(agent, task))
    (urgent,) = world.submit(1, priority=10)
    assert preempted(world, agent) == [younger]
    assert "TASK_PREEMPTED" in world.kinds(younger)
    world.submit(3)
    world.wait(1)
    assert preempted(world, agent) == [younger], "one victim for one needy task"
    world.fail(agent, world.ref(agent, younger), Reason.PREEMPTED, recoverable=True)
    assert where(world, urgent) == ["a"]
    task = world.state.tasks[younger]
    assert (task.state, task.attempts_made, task.attempts_counted) == (TaskState.QUEUED, 1, 0)


@pytest.mark.parametrize(
    ("policy", "victims"), [(Preemption.PREEMPTIBLE, []), (Preemption.LOWER, ["t1"]), (Preemption.NEVER, [])]
)
def test_the_policy_says_who_may_be_stopped(policy: Preemption, victims: list[str]) -> None:
    """A task that does not say that it is preemptible is stopped only where the operator lets any be."""
    world = World(CoreSettings(preemption=policy))
    agent = world.connect("a", 1)
    world.submit(1)
    world.submit(1, priority=10)
    assert preempted(world, agent) == victims


def test_nobody_is_stopped_for_nothing() -> None:
    """No victim where its end would not help: wrong labels, too few resources, a limit held elsewhere, no urgency."""
    world = World()
    agent = world.connect("a", 1, labels={"zone": "a"}, resources={"gpu": 1.0})
    world.submit(1, preemptible=True)
    world.submit(1, priority=9)
    world.submit(1, priority=10, demands=Demands((Constraint("zone", Operator.IN, ("b",)),)))
    world.submit(1, priority=10, demands=Demands(resources=(("gpu", 2.0),)))
    assert preempted(world, agent) == []
    world.submit(1, priority=10, demands=Demands(resources=(("gpu", 1.0),)))
    assert len(preempted(world, agent)) == 1


def test_what_may_not_start_twice_is_no_victim() -> None:
    """An at_most_once task is never stopped for another."""
    world = World(CoreSettings(preemption=Preemption.LOWER))
    agent = world.connect("a", 1)
    world.submit(1, at_most_once=True, preemptible=True)
    world.submit(1, priority=10)
    assert preempted(world, agent) == []


def test_what_has_aged_past_the_urgent_is_not_stopped_for_it() -> None:
    """Under an endless stream of critical tasks a preemptible one starts in the end, and then runs on."""
    world = World(CoreSettings(aging_us=10 * SECOND_US, preemption=Preemption.LOWER))
    agent = world.connect("a", 1)
    world.submit(1, priority=10)
    (patient,) = world.submit(1, priority=5, preemptible=True)
    for _ in range(40):
        world.submit(1, priority=10)
        world.wait(4)
        (ref,) = agent.held
        if ref.task_id == patient:
            break
        finish(world, agent, ref.task_id)
    assert where(world, patient) == ["a"]
    world.wait(4)
    assert preempted(world, agent) == []


def test_two_needy_tasks_take_two_victims() -> None:
    """Each CRITICAL task gets a slot of its own."""
    world = World()
    agent = world.connect("a", 3)
    world.submit(3, preemptible=True, priority=1)
    world.submit(2, priority=10)
    assert len(set(preempted(world, agent))) == 2
