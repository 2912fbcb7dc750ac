"""Outside systems that tasks declare: when one is down, what needs it waits, and one canary sees whether it is back.

A *complaint* about a system is an attempt that waits for it (ExternalDependency names it), or one that fails by its own
error, timeout or stall and whose task declares that system and no other. When complaints within ``breaker_window_us``
come from ``system_failures`` different tasks, or agents (and two tasks at least: one alone may be wrong), and no task
that declares the system has succeeded in between, its breaker opens. What declares it is then held back, and such a
failure is nobody else's fault (`is_suspect`). After the reset timeout the first task in queue order that declares it
is let through as the canary; where none is queued, or none gets through for a while, the first attempt that waits for
the system tries again. ``half_open_tests`` canaries that go well close the breaker and wake everybody who waits for it.

Must not know how a task is queued or how a wait is resolved. Invariant: a CLOSED system that stays has complaints.
"""

from __future__ import annotations

from collections.abc import Iterator

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.model import Agent, Attempt, Breaker, System, Task
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.spec import Demands
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import BreakerState, Reason
from outrider_coordinator.core.trust import breaker
from outrider_coordinator.core.waits import blockage

#: Systems that may be under suspicion at once; the one that was complained of least recently is forgotten.
SYSTEMS_MAX = 1_000
#: Complaints that are remembered of one system.
COMPLAINTS_MAX = 64

#: Ends of an attempt that may be the fault of a system it needs.
_COMPLAINTS = frozenset((Reason.TASK_ERROR, Reason.TIMED_OUT, Reason.STALLED))


def held_back(state: State, demands: Demands) -> Rule | None:
    """Why no task with these demands is started anywhere, None when nothing of this kind is in the way."""
    if not state.systems:
        return None
    for name in demands.systems:
        system = state.systems.get(name)
        if system is not None and not breaker.may_pass(system.breaker):
            return Rule("SYSTEM_DOWN", _describe(state, system.breaker))
    return None


def offered(state: State, effects: Effects, task: Task, attempt: Attempt) -> None:
    """An attempt goes out: it is the canary of every system it declares that is HALF_OPEN."""
    for name in task.spec.demands.systems:
        system = state.systems.get(name)
        if system is not None and system.breaker.state is not BreakerState.CLOSED:
            breaker.lease(state, effects, system.breaker, attempt)


def waited_for(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, name: str) -> None:
    """An attempt says that it waits for a system."""
    _complain(state, effects, name, agent, task, attempt, Reason.NONE)


def failed(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, reason: Reason) -> bool:
    """An attempt failed whose task declares systems. True when one of them is suspect, so that nobody else is."""
    if reason not in _COMPLAINTS:
        return False
    names = task.spec.demands.systems
    is_excused = any(_is_suspect(state, name, task) for name in names)
    for name in names:
        system = state.systems.get(name)
        was_canary = system is not None and system.breaker.tested == attempt.key
        if len(names) == 1 or was_canary:
            _complain(state, effects, name, agent, task, attempt, reason)
    return is_excused


def succeeded(state: State, effects: Effects, task: Task, attempt: Attempt) -> None:
    """A task that declares systems succeeded, so they work."""
    for name in task.spec.demands.systems:
        system = state.systems.get(name)
        if system is not None:
            system.failing.clear()
            breaker.passed(state, effects, system.breaker, attempt)


def reset(state: State, effects: Effects, name: str) -> bool:
    """An operator says that a system works. False: nothing is known against one of this name."""
    system = state.systems.get(name)
    if system is None:
        return False
    system.failing.clear()
    breaker.close(state, effects, system.breaker)
    return True


def held_count(state: State, name: str) -> int:
    """Queued tasks that a system holds back. Reads all of them: for people only."""
    known = state.systems.get(name)
    if known is None or known.breaker.state is BreakerState.CLOSED:
        return 0
    return sum(1 for _ in _queued(state, name))


def settle(state: State, effects: Effects) -> None:
    """After the events of a step: wake who waited for what works again, or one of them to see whether it does."""
    for name, system in list(state.systems.items()):
        if system.breaker.state is BreakerState.CLOSED:
            if system.is_down:
                recovered(state, effects, name)
            elif not system.failing:
                del state.systems[name]
        elif breaker.may_pass(system.breaker) and _needs_waiter(state, name, system.breaker):
            _wake_canary(state, effects, name, system.breaker)


def recovered(state: State, effects: Effects, name: str) -> None:
    """A system works again: forget it, and wake every attempt that waits for it."""
    del state.systems[name]
    blockage.system_recovered(state, effects, name)
    state.placement_is_due = True


def _describe(state: State, known: Breaker) -> str:
    if known.probe is not None:
        return f"system {known.system!r} was down; task {known.probe[0]} is seeing whether it works again"
    wait_s = max(0, known.reset_us - state.now_us) / 1e6
    return f"system {known.system!r} is down: its circuit breaker is OPEN, one task tries again in {wait_s:.0f} s"


def _complain(
    state: State, effects: Effects, name: str, agent: Agent, task: Task, attempt: Attempt, reason: Reason
) -> None:
    system = state.systems.get(name) or _new(state, name)
    if system is None:
        return
    known = system.breaker
    if known.state is not BreakerState.CLOSED:
        breaker.failed(state, effects, known, reason, news=breaker.is_news(known, attempt))
        return
    system.failing.pop((task.id, agent.id), None)
    system.failing[task.id, agent.id] = state.now_us
    _forget_old(state, system)
    tasks = {task_id for task_id, _ in system.failing}
    agents = {agent_id for _, agent_id in system.failing}
    if len(tasks) > 1 and max(len(tasks), len(agents)) >= state.settings.system_failures:
        system.failing.clear()
        system.is_down = True
        breaker.trip(state, effects, known, reason)


def _new(state: State, name: str) -> System | None:
    """None when as many systems are down as may be known."""
    if len(state.systems) >= SYSTEMS_MAX:
        suspect = next((name for name, known in state.systems.items() if not known.is_down), None)
        if suspect is None:
            return None
        del state.systems[suspect]
    system = state.systems[name] = System(Breaker(system=name))
    return system


def _forget_old(state: State, system: System) -> None:
    """The oldest stand first."""
    since_us = state.now_us - state.settings.breaker_window_us
    for key, time_us in list(system.failing.items()):
        if time_us >= since_us and len(system.failing) <= COMPLAINTS_MAX:
            return
        del system.failing[key]


def _is_suspect(state: State, name: str, task: Task) -> bool:
    """Whether others than this task have complained of a system lately, or it is known to be down."""
    system = state.systems.get(name)
    if system is None:
        return False
    if system.breaker.state is not BreakerState.CLOSED:
        return True
    _forget_old(state, system)
    return any(task_id != task.id for task_id, _ in system.failing)


def _needs_waiter(state: State, name: str, known: Breaker) -> bool:
    """Whether no queued task will be the canary soon."""
    if state.now_us >= known.reset_us + state.settings.probe_time_us:
        return True
    return next(_queued(state, name), None) is None


def _queued(state: State, name: str) -> Iterator[str]:
    """Queued tasks that declare a system."""
    for key, group in state.queue.classes.items():
        if name in key.demands.systems:
            for strand in group.strands.values():
                yield from (entry[2].id for entry in strand.line if entry[2].strand is strand)


def _wake_canary(state: State, effects: Effects, name: str, known: Breaker) -> None:
    task = blockage.system_tried(state, effects, name)
    if task is not None and task.attempt is not None:
        breaker.lease(state, effects, known, task.attempt)
        effects.attempts[task.attempt.key] = task.attempt
