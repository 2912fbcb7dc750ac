"""Trust: one circuit breaker, used for an agent, for an agent's work of one kind, and for an outside system.

CLOSED opens after ``breaker_failures`` failures in a row, or when ``breaker_rate`` of at least
``breaker_samples_min`` samples within ``breaker_window_us`` are failures. OPEN waits ``breaker_reset_us``, doubled with
each further opening up to ``breaker_reset_max_us``. HALF_OPEN lets one probe at a time through and closes after
``half_open_tests`` of them went well.

A probe is *leased*: the breaker remembers the attempt, and `give_back` (called where an attempt stops being live,
whatever ends it) returns the lease. A probe that still runs after ``probe_time_us`` has gone well: long work must not
keep everything else waiting. Samples are taken only from the first failure on, so that a breaker nobody complains of
costs nothing. This module must not know what counts as a failure (`blame`, `systems`).

Invariants: at most one lease a breaker, held by a live attempt; no lease unless HALF_OPEN; OPEN always has a timer.
State, how often and until when it is open, and the lease are durable; counts of failures and samples are not.
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects, PushRevoke
from outrider_coordinator.core.model import Agent, Attempt, Breaker, System, Task
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import AttemptState, BreakerState, EventType, Reason
from outrider_coordinator.core.transitions import move_breaker
from outrider_coordinator.core.trust.samples import Window

#: Kinds of work an agent may be watched for at once; beyond it what failed least recently is forgotten.
TYPES_MAX = 256

_CLOSED, _HALF_OPEN, _OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


def may_pass(breaker: Breaker) -> bool:
    """Whether one more attempt is let through."""
    return breaker.state is _CLOSED or (breaker.state is _HALF_OPEN and breaker.probe is None)


def may_offer(agent: Agent, kind: str) -> bool:
    """Whether an agent that is open to work is trusted with one more attempt of this kind of it."""
    breaker = agent.type_breakers.get(kind) if agent.type_breakers else None
    return breaker is None or may_pass(breaker)


def offered(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt) -> None:
    """An attempt goes out: whichever of the agent's breakers is HALF_OPEN leases it as its probe."""
    if agent.breaker.state is not _CLOSED:
        lease(state, effects, agent.breaker, attempt)
    if agent.type_breakers:
        breaker = agent.type_breakers.get(task.spec.kind)
        if breaker is not None and breaker.state is not _CLOSED:
            lease(state, effects, breaker, attempt)


def resumed(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt) -> None:
    """An attempt that was given up for lost runs on: if it was a probe that counts, it is again."""
    for breaker in (agent.breaker, agent.type_breakers.get(task.spec.kind)):
        if breaker is not None and breaker.state is _HALF_OPEN and attempt.fence >= breaker.opened_fence:
            lease(state, effects, breaker, attempt)


def lease(state: State, effects: Effects, breaker: Breaker, attempt: Attempt) -> None:
    """Make an attempt the probe of a HALF_OPEN breaker that has none."""
    assert may_pass(breaker), f"{breaker.name} is {breaker.state.name} and cannot lease {attempt.key}"
    breaker.probe = breaker.tested = attempt.key
    attempt.is_probe = True
    effects.breakers[breaker.key] = breaker
    _index(state, breaker, attempt)


def give_back(state: State, effects: Effects, attempt: Attempt) -> None:
    """A probe stopped being live: every breaker that leased it may lease another one."""
    for breaker in state.probes.pop(attempt.key, ()):
        breaker.probe = None
        effects.breakers[breaker.key] = breaker
        _eased(state, breaker)
        state.placement_is_due = True


def is_news(breaker: Breaker, attempt: Attempt) -> bool:
    """Whether an attempt says how things are since the breaker opened: it was offered since, or is the last probe."""
    return attempt.fence >= breaker.opened_fence or attempt.key == breaker.tested


def failed(
    state: State, effects: Effects, breaker: Breaker, reason: Reason, *, news: bool = False, culprit: str = ""
) -> None:
    """A failure counts against it: while it is HALF_OPEN only one that is news.

    ``culprit`` is the task whose failure as a probe may turn out to be its own fault (`withdraw`).
    """
    if breaker.state is _CLOSED:
        breaker.failures += 1
        if breaker.window is None:
            breaker.window = Window(state.settings.breaker_window_us)
        breaker.window.add(state.now_us, failed=True)
        if _is_over(state, breaker, breaker.window):
            trip(state, effects, breaker, reason)
    elif breaker.state is _HALF_OPEN and news:
        trip(state, effects, breaker, reason, culprit=culprit)


def passed(state: State, effects: Effects, breaker: Breaker, attempt: Attempt) -> None:
    """An attempt went well."""
    if breaker.state is _CLOSED:
        breaker.failures = 0
        if breaker.window is not None:
            breaker.window.add(state.now_us, failed=False)
            if not breaker.window.totals(state.now_us)[1]:
                breaker.window = None
    elif breaker.state is _HALF_OPEN and is_news(breaker, attempt):
        breaker.successes += 1
        state.placement_is_due = True
        if breaker.successes >= state.settings.half_open_tests:
            close(state, effects, breaker)


def trip(state: State, effects: Effects, breaker: Breaker, reason: Reason, *, culprit: str = "") -> None:
    """Open it, for longer each time, and take back what it was sent ahead of a slot."""
    settings = state.settings
    wait_us = min(settings.breaker_reset_us * 2 ** min(breaker.opened_count, 20), settings.breaker_reset_max_us)
    breaker.reset_us = state.now_us + wait_us
    breaker.opened_count += 1
    breaker.opened_fence, breaker.culprit = state.fence_next, culprit
    _move(state, effects, breaker, _OPEN, reason)
    state.set_timer(breaker.reset_us, TimerKind.BREAKER, breaker.agent_id, breaker.kind or breaker.system)
    agent = None if breaker.system else state.agents.get(breaker.agent_id)
    if agent is not None and agent.ahead and agent.is_online:
        _take_back(state, effects, breaker, agent)


def _take_back(state: State, effects: Effects, breaker: Breaker, agent: Agent) -> None:
    """What waits in line on the agent and has not started may still go elsewhere."""
    for attempt in agent.ahead.values():
        if breaker.kind in ("", state.tasks[attempt.task_id].spec.kind) and not attempt.revoke_sent:
            attempt.revoke_sent = True
            effects.sends.append(PushRevoke(agent.epoch, agent.id, *attempt.key, attempt.fence))


def close(state: State, effects: Effects, breaker: Breaker) -> None:
    """Trust it as if nothing had been: enough probes went well, or an operator says so."""
    breaker.opened_count = breaker.failures = breaker.reset_us = 0
    breaker.window = None
    _move(state, effects, breaker, _CLOSED)


def withdraw(state: State, effects: Effects, breaker: Breaker, task_id: str) -> None:
    """The task whose failure opened it is at fault itself: go back to where the breaker was before."""
    if breaker.state is not _OPEN or breaker.culprit != task_id:
        return
    if breaker.opened_count > 1:
        breaker.opened_count -= 1
        _move(state, effects, breaker, _HALF_OPEN)
        return
    close(state, effects, breaker)
    agent = state.agents.get(breaker.agent_id)
    if agent is not None and agent.breaker.window is not None and agent.breaker.state is _CLOSED:
        agent.breaker.failures = max(0, agent.breaker.failures - 1)
        agent.breaker.window.take_back_failure()


def is_quiet(breaker: Breaker) -> bool:
    """Whether it knows nothing that a fresh one would not."""
    return breaker.state is _CLOSED and breaker.window is None


def of_type(agent: Agent, kind: str) -> Breaker:
    """The breaker of an agent for one kind of work, made when it is missing.

    It is the agent's own breaker when those for `TYPES_MAX` kinds are not CLOSED: nothing is left to tell apart.
    """
    breaker = agent.type_breakers.pop(kind, None)
    if breaker is None and not _make_room(agent):
        return agent.breaker
    breaker = breaker or Breaker(agent_id=agent.id, kind=kind)
    agent.type_breakers[kind] = breaker  # the latest one stands last
    return breaker


def find(state: State, agent_id: str, name: str) -> Breaker | None:
    """The breaker of an agent (no name), of an agent for a kind of work, or (no agent id) of an outside system."""
    if not agent_id:
        system = state.systems.get(name)
        return system.breaker if system is not None else None
    agent = state.agents.get(agent_id)
    if agent is None:
        return None
    return agent.type_breakers.get(name) if name else agent.breaker


def reset_time_came(state: State, effects: Effects, agent_id: str, name: str) -> None:
    """The reset timeout of the breaker that `find` finds is over."""
    breaker = find(state, agent_id, name)
    if breaker is not None and breaker.state is _OPEN and breaker.reset_us <= state.now_us:
        _move(state, effects, breaker, _HALF_OPEN)
        if breaker.system:  # to look then whether anybody has become its probe
            state.set_timer(state.now_us + state.settings.probe_time_us, TimerKind.BREAKER, "", breaker.system)


def probe_time_came(state: State, effects: Effects, task_id: str, number: int) -> None:
    """A probe has been out for long: one that runs goes well, one that waits for something says nothing.

    Either way the next one may go. One that has not started keeps its lease; others ask what became of it.
    """
    breakers = state.probes.get((task_id, number))
    if not breakers:
        return
    attempt = probe_of(state, breakers[0])
    assert attempt is not None, f"{breakers[0].name} has leased {breakers[0].probe}, which is not live"
    if attempt.state not in (AttemptState.STARTED, AttemptState.BLOCKED):
        _watch(state, attempt)
        return
    give_back(state, effects, attempt)
    if attempt.state is AttemptState.STARTED:
        for breaker in breakers:
            passed(state, effects, breaker, attempt)


def probe_of(state: State, breaker: Breaker) -> Attempt | None:
    """The attempt that a breaker has leased."""
    task = state.tasks.get(breaker.probe[0]) if breaker.probe else None
    attempt = task.attempt if task else None
    return attempt if attempt is not None and attempt.key == breaker.probe else None


def restored(state: State, breaker: Breaker) -> None:
    """Put a breaker read from disk in its place, arm its timers, know its probe."""
    if breaker.system:
        state.systems[breaker.system] = System(breaker, is_down=True)
    else:
        agent = state.agents[breaker.agent_id]
        if breaker.kind:
            agent.type_breakers[breaker.kind] = breaker
        else:
            agent.breaker = breaker
    if breaker.state is _OPEN:
        state.set_timer(breaker.reset_us, TimerKind.BREAKER, breaker.agent_id, breaker.kind or breaker.system)
    attempt = probe_of(state, breaker)
    if attempt is None:
        breaker.probe = None
    else:
        breaker.tested = breaker.probe
        _index(state, breaker, attempt)


def _index(state: State, breaker: Breaker, attempt: Attempt) -> None:
    leases = state.probes.setdefault(attempt.key, [])
    leases.append(breaker)
    if len(leases) == 1:
        _watch(state, attempt)


def _watch(state: State, attempt: Attempt) -> None:
    due_us = state.now_us + state.settings.probe_time_us
    state.set_timer(due_us, TimerKind.PROBE, attempt.task_id, str(attempt.number))


def _is_over(state: State, breaker: Breaker, window: Window) -> bool:
    settings = state.settings
    if breaker.failures >= settings.breaker_failures:
        return True
    successes, failures = window.totals(state.now_us)
    samples = successes + failures
    return samples >= settings.breaker_samples_min and failures >= settings.breaker_rate * samples


def _make_room(agent: Agent) -> bool:
    """Forget the CLOSED breaker that was used least recently when there are as many as there may be."""
    if len(agent.type_breakers) < TYPES_MAX:
        return True
    kind = next((kind for kind, known in agent.type_breakers.items() if known.state is _CLOSED), None)
    if kind is None:
        return False
    del agent.type_breakers[kind]
    return True


def _move(state: State, effects: Effects, breaker: Breaker, to: BreakerState, reason: Reason = Reason.NONE) -> None:
    if breaker.state is to:
        return
    if breaker.probe is not None:
        leases = [other for other in state.probes.pop(breaker.probe) if other is not breaker]
        if leases:
            state.probes[breaker.probe] = leases
    move_breaker(breaker, to)
    breaker.successes, breaker.probe, breaker.tested = 0, None, None
    effects.breakers[breaker.key] = breaker
    _eased(state, breaker)
    state.placement_is_due = True
    if breaker.system:
        text = f"{breaker.system}: {to.name}"
        state.agent_event(effects, EventType.SYSTEM_BREAKER, "", reason=reason, text=text)
    elif breaker.kind:
        text = f"{breaker.kind}: {to.name}"
        state.agent_event(effects, EventType.AGENT_TYPE_BREAKER, breaker.agent_id, reason=reason, text=text)
    else:
        state.agent_event(effects, EventType.AGENT_BREAKER, breaker.agent_id, reason=reason, text=to.name)


def _eased(state: State, breaker: Breaker) -> None:
    """It may let more through than before: whoever it held up is looked at again."""
    if breaker.system:
        state.limits.is_changed = True
        return
    state.fleet.changed(state.agents[breaker.agent_id])
