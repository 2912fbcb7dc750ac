"""What must hold in every state, for tests, simulation and a debug flag in production."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from outrider_coordinator.core.limits import caps, holdings
from outrider_coordinator.core.model import Agent, Attempt, Breaker, Run, Task
from outrider_coordinator.core.placement import fleet, resources
from outrider_coordinator.core.placement.eligibility import fits
from outrider_coordinator.core.placement.order import Strand
from outrider_coordinator.core.schedules import firing
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import TERMINAL, Admin, AttemptState, BreakerState, TaskState
from outrider_coordinator.core.trust import breaker
from outrider_coordinator.core.waits.blockage import OPEN_MAX, REMEMBERED_MAX, is_remembered

_WITH_ATTEMPT = frozenset((TaskState.ASSIGNED, TaskState.RUNNING, TaskState.BLOCKED, TaskState.CANCELLING))


def check(state: State) -> None:
    """Raises AssertionError with the story of the first broken invariant."""
    for task in state.tasks.values():
        _check_task(state, task)
    for run in state.runs.values():
        _check_run(state, run)
    named = Counter(task.submitter for task in state.tasks.values() if task.submitter)
    assert state.open_of == named, f"submitters have {named} open tasks, counted {state.open_of}"
    for agent in state.agents.values():
        _check_agent(state, agent)
        for key, attempt in agent.attempts.items():
            holder = state.tasks.get(key[0])
            assert holder is not None, f"I15: agent {agent.id} holds attempt {key} of a task that is over"
            assert holder.attempt is attempt, f"I2: agent {agent.id} holds attempt {key}, which does not count"
    for known in _breakers(state):
        _check_breaker(state, known)
    leased = {key for key, breakers in state.probes.items() for known in breakers if known.probe == key}
    assert leased == set(state.probes), f"I10: leases of {sorted(set(state.probes) - leased)} are held by no breaker"
    holdings.check(state)
    caps.check(state)
    firing.check(state)
    fleet.check(state.fleet, state.agents, fits)
    online = {agent.id for agent in state.agents.values() if agent.is_online}
    assert state.watch.online_count == len(online), f"{state.watch.online_count} counted online, {len(online)} are"
    _check_queue(state)
    found = Counter(task.state for task in state.tasks.values())
    queued = found[TaskState.QUEUED]
    assert len(state.queue) == queued, f"{len(state.queue)} in the queue, {queued} are QUEUED"
    for one in TaskState:
        assert state.count(one) == found[one], f"{one.name}: counted {state.count(one)}, are {found[one]}"


def _check_run(state: State, run: Run) -> None:
    story = f"run {run.id}"
    open_ids = [task_id for task_id in run.members.values() if task_id in state.tasks]
    assert run.open_count == len(open_ids), f"{story} counts {run.open_count} open tasks, has {len(open_ids)}"
    assert open_ids, f"{story} has no open task and is still in memory"
    for task_id in open_ids if run.phases else ():
        task, phase = state.tasks[task_id], run.phase_of(task_id)
        if phase > run.phase:
            assert run.id in (task.waiting_for or ()), f"I9: {story}: {task_id} does not wait for its phase"
            assert task.attempts_made == 0, f"I9: {story}: {task_id} of phase {phase} began in phase {run.phase}"
    counted = sum(run.phase_open.values())
    assert counted == (run.open_count if run.phases or run.phase_open else 0), f"{story} counts {counted} in phases"


def _check_queue(state: State) -> None:
    """Every need counts its tasks, every sleeping one is woken by its agents, and no tag runs ahead of its lanes."""
    queue = state.queue
    waiting: dict[tuple[object, ...], int] = {}
    lines: dict[Strand, set[int]] = {}
    queued = [task for task in state.tasks.values() if task.strand is not None]
    assert queue.waiting == len(queued), f"{queue.waiting} tasks are counted in the queue, {len(queued)} stand there"
    for task in queued:
        strand = task.strand
        assert task.state is TaskState.QUEUED, f"task {task.id} is {task.state.name} and stands in the queue"
        if strand not in lines:
            lines[strand] = {entry[1] for entry in strand.line if entry[2].strand is strand}
        need = strand.group.need
        waiting[need.name] = waiting.get(need.name, 0) + 1
        assert task.order in lines[strand], f"task {task.id} has no entry in its strand"
    for need in queue.needs.values():
        assert need.waiting == waiting.get(need.name, 0), f"{need.demands}: counted {need.waiting}, are {waiting}"
        assert need.is_awake or (need.reach and need in need.reach.asleep), f"{need.demands} sleeps for ever"
    active = sum(need.is_awake and need.waiting > 0 for need in queue.needs.values())
    assert queue.active == active, f"{active} needs are awake with tasks, counted {queue.active}"


def _check_task(state: State, task: Task) -> None:
    assert task.state not in TERMINAL, f"I1: {_name(task)} is terminal and still in memory"
    assert (task.attempt is not None) == (task.state in _WITH_ATTEMPT), f"I2: {_name(task)} has attempt {task.attempt}"
    _check_tries(task)
    if task.waits:
        _check_waits(state, task)
    for stray in task.strays:
        assert stray.state is AttemptState.LOST, f"I2: {_name(task)} has a stray in {stray.state.name}"
    if task.state is not TaskState.PENDING:
        assert not task.waiting_for, f"I9: {_name(task)} waits for {sorted(task.waiting_for)}"
    if task.refusals and task.attempt is not None and task.attempt.state is AttemptState.OFFERED:
        refused_by = [agent_id for agent_id, _ in task.refusals]
        assert task.attempt.agent_id not in refused_by, f"{_name(task)} was offered again to one that refuses it"
    if task.attempt is not None and task.attempt.agent_id in state.agents:
        agent = state.agents[task.attempt.agent_id]
        assert task.attempt.key in agent.attempts, f"{_name(task)}: agent {agent.id} does not know its attempt"


def _name(task: Task) -> str:
    return f"task {task.id} ({task.state.name})"


def _check_tries(task: Task) -> None:
    """Numbers of tries, and who may run beside whom."""
    counted, limit = task.attempts_counted, task.spec.max_attempts
    assert counted <= task.attempts_made, f"I3: {_name(task)} counted more tries than were made"
    assert not limit or counted < limit or task.cancel_requested, f"I3: {_name(task)} counts {counted} of {limit} tries"
    if task.attempt is None and not task.strays:
        return
    live = [task.attempt, *task.strays] if task.attempt is not None else [*task.strays]
    assert all(attempt.number <= task.attempts_made for attempt in live), f"I3: {_name(task)}: a try has no number"
    assert len({attempt.number for attempt in live}) == len(live), f"I2: {_name(task)} has one try twice"
    assert not (task.spec.exclusive and task.strays), f"I13: {_name(task)} is exclusive and has strays"
    assert not (task.spec.at_most_once and task.strays), f"I12: {_name(task)} runs at most once and has strays"


def _check_waits(state: State, task: Task) -> None:
    pending = sum(wait.is_pending for wait in task.waits)
    assert pending <= OPEN_MAX, f"I16: task {task.id} has {pending} open waits"
    assert len(task.waits) <= REMEMBERED_MAX + OPEN_MAX, f"I16: task {task.id} has {len(task.waits)} waits"
    for wait in task.waits:
        story = f"task {task.id} wait {wait.key!r}"
        assert not wait.is_open or task.attempt or task.strays, f"{story} is open and nobody runs"
        assert wait.is_open or is_remembered(wait), f"{story} is closed and kept for nothing"
        indexed = (task.id, wait.key) in state.system_waiters.get(wait.system, {})
        due = wait.is_pending and wait.kind == "external" and bool(wait.system)
        assert indexed == due, f"{story}: looked for by its system: {indexed}, must be {due}"
        if wait.is_pending and wait.kind == "dependency":
            entries = state.waiters.get(wait.required_task_id, {})
            assert (task.id, wait.key) in entries, f"{story} is looked for by nobody"


def _check_agent(state: State, agent: Agent) -> None:
    holding = sum(attempt.holds_slot for attempt in agent.attempts.values())
    assert holding == agent.slots_used, f"I11: agent {agent.id} holds {holding} slots, counts {agent.slots_used}"
    parked = sum(
        not attempt.holds_slot and attempt.state is AttemptState.BLOCKED for attempt in agent.attempts.values()
    )
    for key, attempt in agent.resuming.items():
        story = f"I11: {key} goes on on agent {agent.id}"
        assert agent.attempts.get(key) is attempt, f"{story} and is gone"
        assert not attempt.holds_slot, f"{story} and holds a slot already"
        assert agent.slots_used >= agent.slots or not agent.is_online, f"{story} while a slot is free"
    assert parked == agent.parked, f"I11: agent {agent.id} parks {parked}, counts {agent.parked}"
    resources.check(agent)
    assert agent.takes_work == _takes_work(agent), f"I10: agent {agent.id} takes work: {agent.takes_work}"
    for key, attempt in agent.ahead.items():
        assert key in agent.attempts, f"I11: agent {agent.id} has {key} ahead and does not hold it"
        assert attempt.prefetched, f"I11: agent {agent.id} has {key} ahead, which was not sent ahead"
    assert not agent.ahead or agent.id in state.fleet.lines, f"I11: nobody knows of the line of agent {agent.id}"


def _takes_work(agent: Agent) -> bool:
    is_staying = not agent.facts.is_leaving and not agent.is_quarantined
    return agent.is_online and agent.admin is Admin.ACTIVE and is_staying


def _breakers(state: State) -> Iterator[Breaker]:
    for agent in state.agents.values():
        yield agent.breaker
        yield from agent.type_breakers.values()
    for system in state.systems.values():
        yield system.breaker


def _check_breaker(state: State, known: Breaker) -> None:
    """What was offered since it opened are probes, one at a time; the one that it has leased is live."""
    if known.probe is not None:
        assert known.state is BreakerState.HALF_OPEN, f"I10: {known.name} is {known.state.name} and has leased a probe"
        assert breaker.probe_of(state, known) is not None, f"I10: {known.name} leased {known.probe}, which is not live"
        assert known in state.probes.get(known.probe, ()), f"I10: {known.name}: nobody knows of {known.probe}"
    if known.state is BreakerState.CLOSED:
        return
    for attempt in _offered_since(state, known):
        assert known.state is not BreakerState.OPEN, f"I10: {attempt.key} was offered though {known.name} is OPEN"
        assert attempt.is_probe, f"I10: {attempt.key} was offered and is no probe, though {known.name} is HALF_OPEN"
        if _is_excused(state, attempt):
            continue
        assert attempt.key == known.probe, f"I10: {attempt.key} and {known.probe} are probes of {known.name} at once"


def _offered_since(state: State, known: Breaker) -> Iterator[Attempt]:
    for task in state.tasks.values():
        attempt, spec = task.attempt, task.spec
        if attempt is None or attempt.fence < known.opened_fence:
            continue
        if known.system:
            if known.system in spec.demands.systems:
                yield attempt
        elif attempt.agent_id == known.agent_id and known.kind in ("", spec.kind):
            yield attempt


def _is_excused(state: State, attempt: Attempt) -> bool:
    """A probe that has been out for long, or was given up for lost meanwhile, is none any more."""
    agent = state.agents.get(attempt.agent_id)
    back_us = agent.session_start_us if agent is not None else state.now_us
    return attempt.offered_us + state.settings.probe_time_us <= state.now_us or back_us > attempt.offered_us
