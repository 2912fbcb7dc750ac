"""Who is to blame for an attempt that ended: its agent, its task, an outside system (`systems`), or nobody.

What the agent itself broke (contact lost, work refused) counts against it at once, once for each time that it happened
however many attempts it took along. A failure of the task's own says nothing about the agent, until there is evidence:

- the same task succeeds elsewhere: every agent it failed on is charged then, for work of that kind only;
- the agent fails far above the fleet for that kind (`_stands_out`): its breaker for the kind opens at once;
- it was the probe of a breaker that is HALF_OPEN for that kind.

A worker that dies is such a failure too: a task that kills its worker everywhere must not cost every agent its name.
A task that failed on ``fails_everywhere`` agents is at fault, and what was charged because of it is taken back. A
breaker for a kind of work that opens is one failure of the agent as a whole.

Must not know how a breaker works. Invariant: `Task.failed_on` are the agents of its attempts whose row says TASK.
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects, Refused
from outrider_coordinator.core.events import BreakerReset
from outrider_coordinator.core.model import Agent, Attempt, Breaker, Task
from outrider_coordinator.core.placement import strategies
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Blame, BreakerState, Reason
from outrider_coordinator.core.trust import breaker, systems
from outrider_coordinator.core.trust.samples import Tally, Window, rate_bounds

#: Failures of a task that its agent may have caused, or not.
SUSPICIOUS = frozenset(
    (
        Reason.TASK_ERROR,
        Reason.TIMED_OUT,
        Reason.STALLED,
        Reason.WORKER_DIED,
        Reason.INVALID_WORK,
        Reason.SECRET_UNAVAILABLE,
    )
)
#: Failures of a probe that show that the agent itself does its work.
RAN = frozenset((Reason.TASK_ERROR, Reason.INVALID_WORK, Reason.RESULT_TOO_LARGE, Reason.RESULT_NOT_SERIALIZABLE))
#: Counts of one kind of work on one agent that are kept at once, over all kinds and agents.
COUNTS_MAX = 50_000

_CLOSED = BreakerState.CLOSED


def succeeded(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt) -> None:
    """An attempt ended well."""
    own = agent.breaker
    if own.window is not None or own.state is not _CLOSED:
        breaker.passed(state, effects, own, attempt)
    if agent.type_breakers:
        _passed_for_type(state, effects, agent, task.spec.kind, attempt)
    if state.tallies:
        _count_success(state, agent, task.spec.kind)
    if task.failed_on:
        _convict(state, effects, agent, task)
    if state.systems:
        systems.succeeded(state, effects, task, attempt)


def failed(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, reason: Reason) -> None:
    """An attempt ended without success, and not by our own order."""
    if reason in RAN and agent.breaker.state is BreakerState.HALF_OPEN:
        breaker.passed(state, effects, agent.breaker, attempt)
    if reason not in SUSPICIOUS:
        return
    if task.spec.demands.systems and systems.failed(state, effects, agent, task, attempt, reason):
        attempt.blame = Blame.SYSTEM
        return
    attempt.blame = Blame.TASK
    if agent.id not in task.failed_on:
        task.failed_on = tuple(sorted((*task.failed_on, agent.id)))
    kind = task.spec.kind
    known = agent.type_breakers.get(kind)
    if known is not None and known.state is BreakerState.HALF_OPEN:
        news = breaker.is_news(known, attempt)
        breaker.failed(state, effects, known, reason, news=news, culprit=task.id)
    if _counted_failure(state, agent, kind) and _stands_out(state, agent, kind):
        _charge(state, effects, agent, kind, reason, culprit=task.id, at_once=True)


def lost(state: State, effects: Effects, agent: Agent, attempt: Attempt) -> None:
    """An attempt was lost with its agent: all of one silence are one failure."""
    attempt.blame = Blame.AGENT
    incident_us = agent.session_start_us if agent.is_online else agent.suspect_us
    if incident_us > agent.charged_us:
        agent.charged_us = incident_us
        breaker.failed(state, effects, agent.breaker, Reason.AGENT_LOST, news=True)


def rejected(state: State, effects: Effects, agent: Agent) -> None:
    """An agent refused work that it has room for, and is not leaving."""
    breaker.failed(state, effects, agent.breaker, Reason.AGENT_REJECTED, news=True)


def fails_everywhere(state: State, task: Task) -> bool:
    """Whether a task has failed on so many agents that it is at fault."""
    return len(task.failed_on) >= state.settings.fails_everywhere


def acquit_agents(state: State, effects: Effects, task: Task) -> None:
    """A task is at fault: take back what its agents were charged because of it."""
    kind = task.spec.kind
    tally = state.tallies.get(kind)
    for agent_id in task.failed_on:
        agent = state.agents.get(agent_id)
        known = agent.type_breakers.get(kind) if agent is not None else None
        if known is not None:
            breaker.withdraw(state, effects, known, task.id)
        if tally is not None and agent_id in tally.agents:
            tally.fleet.take_back_failure()
            tally.agents[agent_id].take_back_failure()


def reset(state: State, effects: Effects, event: BreakerReset) -> Refused | bool:
    """An operator knows better: what is named is trusted at once."""
    if event.system:
        if systems.reset(state, effects, event.system):
            return True
        listing = "`outrider system list` shows what is"
        return Refused("NOT_FOUND", f"nothing is held against a system {event.system!r}; {listing}")
    agent = state.agents.get(event.agent_id)
    if agent is None:
        return Refused("NOT_FOUND", f"no agent {event.agent_id!r}; `outrider agent list` shows those there are")
    if event.kind and event.kind not in agent.type_breakers:
        listing = f"`outrider agent show {agent.id}` shows what is"
        return Refused("NOT_FOUND", f"nothing is held against agent {agent.id!r} for {event.kind!r}; {listing}")
    for kind in [event.kind] if event.kind else list(agent.type_breakers):
        breaker.close(state, effects, agent.type_breakers.pop(kind))
        if kind in state.tallies:
            state.tallies[kind].agents.pop(agent.id, None)
    if not event.kind:
        breaker.close(state, effects, agent.breaker)
    return True


def forget(state: State, effects: Effects, agent: Agent) -> None:
    """An agent is removed from the fleet."""
    for tally in state.tallies.values():
        tally.agents.pop(agent.id, None)
    for key in [key for key in effects.breakers if key[0] == agent.id]:
        del effects.breakers[key]


def _passed_for_type(state: State, effects: Effects, agent: Agent, kind: str, attempt: Attempt) -> None:
    known = agent.type_breakers.get(kind)
    if known is None:
        return
    was_closed = known.state is _CLOSED
    breaker.passed(state, effects, known, attempt)
    if known.state is _CLOSED and not was_closed and kind in state.tallies:
        state.tallies[kind].agents.pop(agent.id, None)  # a fresh start
    if breaker.is_quiet(known):
        del agent.type_breakers[kind]


def _convict(state: State, effects: Effects, agent: Agent, task: Task) -> None:
    """What failed elsewhere has passed here: charge each agent on which it failed."""
    for agent_id in task.failed_on:
        accused = state.agents.get(agent_id)
        if accused is not None and accused is not agent:
            _charge(state, effects, accused, task.spec.kind, Reason.TASK_ERROR)


def _charge(
    state: State,
    effects: Effects,
    agent: Agent,
    kind: str,
    reason: Reason,
    *,
    culprit: str = "",
    at_once: bool = False,
) -> None:
    if kind in state.fleet.measured_kinds:
        strategies.measure(state, agent, kind, None)
    known = breaker.of_type(agent, kind)
    was_closed = known.state is _CLOSED
    if at_once and was_closed:
        breaker.trip(state, effects, known, reason, culprit=culprit)
    else:
        breaker.failed(state, effects, known, reason)
    if was_closed and known.state is not _CLOSED and known is not agent.breaker:
        breaker.failed(state, effects, agent.breaker, reason)


def _counted_failure(state: State, agent: Agent, kind: str) -> bool:
    """Count a failure; the one that begins a tally is not counted, for it is why we look."""
    tally = state.tallies.pop(kind, None)
    is_new = tally is None
    if tally is None:
        tally = Tally(state.now_us, Window(state.settings.breaker_window_us))
        if len(state.tallies) >= max(1, COUNTS_MAX // len(state.agents)):
            del state.tallies[next(iter(state.tallies))]
    else:
        _count(state, tally, agent, failed=True)
    state.tallies[kind] = tally  # the latest one stands last
    return not is_new


def _count_success(state: State, agent: Agent, kind: str) -> None:
    tally = state.tallies.get(kind)
    if tally is None:
        return
    _count(state, tally, agent, failed=False)
    is_old = tally.since_us + state.settings.breaker_window_us < state.now_us
    if is_old and not tally.fleet.totals(state.now_us)[1]:
        del state.tallies[kind]


def _count(state: State, tally: Tally, agent: Agent, *, failed: bool) -> None:
    own = tally.agents.get(agent.id)
    if own is None:
        own = tally.agents[agent.id] = Window(state.settings.breaker_window_us)
    own.add(state.now_us, failed=failed)
    tally.fleet.add(state.now_us, failed=failed)


def _stands_out(state: State, agent: Agent, kind: str) -> bool:
    """Whether an agent fails far above the others for a kind of work.

    That is: the lower bound of its failure rate is above the upper bound of that of all others together (99 % Wilson
    score intervals, `rate_bounds`), with ``breaker_samples_min`` samples each. Two such intervals that do not touch
    are a stricter test than the usual one for two proportions (Schenker & Gentleman, The American Statistician 55,
    2001): we would rather be late than accuse a bystander.
    """
    tally, now_us = state.tallies[kind], state.now_us
    successes, failures = tally.agents[agent.id].totals(now_us)
    all_successes, all_failures = tally.fleet.totals(now_us)
    samples, failures_elsewhere = successes + failures, all_failures - failures
    samples_elsewhere = all_successes + all_failures - samples
    if min(samples, samples_elsewhere) < state.settings.breaker_samples_min:
        return False
    return rate_bounds(failures, samples)[0] > rate_bounds(failures_elsewhere, samples_elsewhere)[1]


def type_breakers(agent: Agent) -> list[Breaker]:
    """An agent's breakers for kinds of work that are not CLOSED, by kind."""
    return [known for _, known in sorted(agent.type_breakers.items()) if known.state is not _CLOSED]
