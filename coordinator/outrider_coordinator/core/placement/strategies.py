"""Which of the agents that may take a task gets it: the strategies, and what they measure.

LEAST_LOADED: the smallest share of slots in use; between equals the least pressure, that is how busy the machine says
it is and how long its agent took to answer offers of late. ROUND_ROBIN: whose last offer is longest ago. RANDOM: any
of them. TWO_CHOICES: the less loaded of two drawn by chance. PERFORMANCE: where work of this kind takes the least time
per success, failures that speak against the agent counted in; one that has not tried it yet is tried first.

Tasks with wishes (`wishes`) are given to the best of the first agents by strategy. Short plain functions may also wait
in line on a busy agent; nothing else ever does.

Invariant: whoever is chosen meets every hard rule of `eligibility` at that moment.
"""

from __future__ import annotations

from outrider_coordinator.core.model import Agent, Attempt, Measured, Task
from outrider_coordinator.core.placement import resources, wishes
from outrider_coordinator.core.placement.eligibility import fits, is_open
from outrider_coordinator.core.placement.fleet import Index, Key, KeyOf, Lot, Ranking, hard_of
from outrider_coordinator.core.placement.queue import Need
from outrider_coordinator.core.spec import Strategy
from outrider_coordinator.core.state import KINDS_MAX, State
from outrider_coordinator.core.states import BreakerState
from outrider_coordinator.core.trust import breaker

_CLOSED = BreakerState.CLOSED

#: Share by which one more sample moves an average.
SMOOTHING = 0.2
#: Kinds of work that are measured on one agent at most.
KINDS_PER_AGENT_MAX = 256
#: A tenth of the processor's use weighs more than any latency.
_TENTH = 32


def choose(state: State, need: Need, task: Task) -> tuple[Agent, bool] | None:
    """Who is to get a task, and whether it has to wait in line there; None when nobody can take it now."""
    index = need.index
    if index is None:
        index = _prepare(state, need)
    agent = _with_a_slot(state, need, index, task)
    if agent is not None:
        return agent, False
    line_max = _line_max(state, need) if need.is_plain else 0.0
    if not line_max:
        return None
    assert need.reach is not None
    line = need.reach.index("line", lambda: Ranking(line_key))
    assert isinstance(line, Ranking)
    agent = _first(state, line, need)
    if agent is not None and len(agent.ahead) / agent.slots < line_max:
        return agent, True
    return None


def _with_a_slot(state: State, need: Need, index: Index, task: Task) -> Agent | None:
    if need.has_wishes:
        return wishes.best(state, need.demands, task, _candidates(state, need, index, task))
    if isinstance(index, Ranking):
        return _first(state, index, need)
    return _drawn(state, need, index)


def _first(state: State, index: Ranking, need: Need) -> Agent | None:
    """The best agent whose breakers let this kind through."""
    agent = index.first(state.agents)
    if agent is None or breaker.may_offer(agent, need.kind):
        return agent
    return next((agent for agent in index.each(state.agents) if breaker.may_offer(agent, need.kind)), None)


def _drawn(state: State, need: Need, lot: Lot) -> Agent | None:
    """RANDOM and TWO_CHOICES."""
    agent = lot.draw(state.agents, state.random.randrange)
    if agent is not None and not breaker.may_offer(agent, need.kind):
        others = (state.agents[agent_id] for agent_id in lot.ids)
        agent = next((one for one in others if lot.key_of(one) and breaker.may_offer(one, need.kind)), None)
    if agent is None or _strategy(state, need) is Strategy.RANDOM:
        return agent
    other = lot.draw(state.agents, state.random.randrange)
    if other is not None and not breaker.may_offer(other, need.kind):
        return agent
    return agent if other is None or (slot_key(agent) or ()) <= (slot_key(other) or ()) else other


def _candidates(state: State, need: Need, index: Index, task: Task) -> list[Agent]:
    """The first agents by strategy, best first, and those that the task names."""
    agents, reach = state.agents, need.reach
    assert reach is not None
    if isinstance(index, Ranking):
        found = index.best(agents, wishes.CANDIDATES)
    else:
        draws = (_drawn(state, need, index) for _ in range(wishes.CANDIDATES))
        found = list({agent.id: agent for agent in draws if agent is not None}.values())
    key_of = slot_key_of(reach.hard.resources)
    for agent_id in (*(name for name, _ in need.demands.affinities), task.near_agent_id):
        agent = reach.members.get(agent_id)
        if agent is not None and agent not in found and key_of(agent) is not None:
            found.append(agent)
    return [agent for agent in found if breaker.may_offer(agent, need.kind)]


def _prepare(state: State, need: Need) -> Index:
    """Find the agents that a need could reach, and the index that its strategy reads."""
    hard = hard_of(need.demands)
    reach = need.reach = state.fleet.reach(hard, state.agents, fits)
    reach.needs += 1
    need.has_wishes = wishes.has_any(need.demands)
    strategy = _strategy(state, need)
    key_of = slot_key_of(hard.resources)
    if strategy is Strategy.PERFORMANCE:
        state.fleet.measured_kinds.add(need.kind)
        index = reach.index(f"performance {need.kind}", lambda: Ranking(_performance_key_of(key_of, need.kind)))
    elif strategy in (Strategy.RANDOM, Strategy.TWO_CHOICES):
        index = reach.index("lot", lambda: Lot(key_of))
    elif strategy is Strategy.ROUND_ROBIN:
        index = reach.index("turns", lambda: Ranking(_turn_key_of(key_of)))
    else:
        index = reach.index("slots", lambda: Ranking(key_of))
    need.index = index
    return index


def _strategy(state: State, need: Need) -> Strategy:
    return need.demands.strategy or state.settings.placement


# --- keys ------------------------------------------------------------------------------------------------------------


def slot_key(agent: Agent) -> Key | None:
    """Share of the slots in use, then pressure; None when no attempt may take a slot."""
    # Asked three times for each task: `is_open` is called only where a breaker is not CLOSED.
    if agent.slots_used < agent.slots and agent.takes_work and (agent.breaker.state is _CLOSED or is_open(agent)):
        return agent.slots_used / agent.slots, agent.pressure, agent.id
    return None


def slot_key_of(amounts: resources.Amounts) -> KeyOf:
    """As `slot_key`, for tasks that also take these amounts."""
    if not amounts:
        return slot_key
    return lambda agent: None if resources.in_use(agent, amounts) else slot_key(agent)


def line_key(agent: Agent) -> Key | None:
    """Attempts in line per slot; None when the agent's credit is used up.

    What went on beyond the slots (it stopped waiting by itself) keeps others of the line: the agent's room is slots and
    credit together.
    """
    credit = agent.prefetch_credit
    if not credit:
        return None
    length = len(agent.ahead)
    if agent.slots_used > agent.slots:
        length += agent.slots_used - agent.slots
    if length < credit and agent.slots and is_open(agent):
        return length / agent.slots, agent.id
    return None


def _turn_key_of(key_of: KeyOf) -> KeyOf:
    return lambda agent: None if key_of(agent) is None else (agent.turn, agent.id)


def _performance_key_of(key_of: KeyOf, kind: str) -> KeyOf:
    def key(agent: Agent) -> Key | None:
        load = key_of(agent)
        measured = agent.measured.get(kind)
        if load is None or measured is None:
            return None if load is None else (0.0, *load)
        return measured.cost_us, *load

    return key


def _line_max(state: State, need: Need) -> float:
    """How many per slot may wait in line: as many as end within the line's time, of a kind that always ended fast."""
    known = state.durations_us.get(need.kind)
    if known is None or known > state.settings.short_function_us:
        return 0.0
    return state.settings.line_us / max(1.0, known)


# --- what is measured ------------------------------------------------------------------------------------------------


def first_word(state: State, agent: Agent, attempt: Attempt) -> None:
    """The agent answered an offer: how long it took becomes a part of its pressure."""
    if not attempt.prefetched:
        agent.latency_us += SMOOTHING * (state.now_us - attempt.offered_us - agent.latency_us)
        if _doublings(agent.latency_us) != agent.pressure % _TENTH:
            press(state, agent)


def press(state: State, agent: Agent) -> None:
    """Set the pressure anew, in coarse steps, so that it does not change with every heartbeat.

    Tenths of the processor's use weigh most, then the latency: doublings of a millisecond.
    """
    busy = int(min(1.0, max(0.0, agent.facts.cpu_fraction)) * 10)
    pressure = busy * _TENTH + _doublings(agent.latency_us)
    if pressure != agent.pressure:
        agent.pressure = pressure
        state.fleet.changed(agent)


def _doublings(latency_us: float) -> int:
    return min(_TENTH - 1, int(latency_us / 1000).bit_length())


def measure(state: State, agent: Agent, kind: str, duration_us: int | None) -> None:
    """An attempt of a measured kind ended after so long, or (None) with a failure that speaks against the agent."""
    measured = agent.measured.get(kind)
    if measured is None:
        if len(agent.measured) >= KINDS_PER_AGENT_MAX or len(state.fleet.measured_kinds) > KINDS_MAX:
            return
        measured = agent.measured[kind] = Measured(duration_us or 0.0)
    failed = duration_us is None
    measured.failure_rate += SMOOTHING * (failed - measured.failure_rate)
    if duration_us is not None:
        measured.duration_us += SMOOTHING * (duration_us - measured.duration_us)
