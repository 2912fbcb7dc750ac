"""Who is still there: what may be said of an agent that is not heard, and when.

A verdict is that an attempt is lost because its agent was out of contact for too long. None is given while it may be us
who cannot hear: before an agent's Hello or ``startup_hold_us`` after a start, or after a pause that we notice in
ourselves; and for ``alarm_hold_us`` once much of the fleet went silent at once, at most once in ``alarm_interval_us``.
What was held back is then decided one by one, `PACE_US` apart. It must not know what a verdict leads to.
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import Connectivity, EventType
from outrider_coordinator.core.transitions import move_connectivity

#: So many heartbeats a second are enough for one coordinator: a larger fleet reports less often.
HEARTBEATS_PER_S = 500
MISSED_MAX = 3
#: An alarm is for so many agents at least, of which so many for each that was there, within so long.
ALARM_AGENTS_MIN, ALARM_SHARE, ALARM_WINDOW_US = 3, 0.5, 10 * SECOND_US
#: From one verdict that was held back to the next.
PACE_US = SECOND_US // 20
#: Another process takes a name over while its holder is there, so often within so long: neither gives way.
TAKEOVERS_MAX, TAKEOVERS_WINDOW_US = 3, 600 * SECOND_US


def moved(state: State, agent: Agent, to: Connectivity) -> None:
    """An agent comes, falls silent or goes: every step of its connectivity is taken here, and counted."""
    state.watch.online_count += (to is Connectivity.ONLINE) - agent.is_online
    move_connectivity(agent, to)


def heartbeat_us(state: State) -> int:
    """How often an agent that opens a session now is to report: less often in a large fleet."""
    return max(state.settings.heartbeat_interval_us, len(state.agents) * SECOND_US // HEARTBEATS_PER_S)


def patience_us(state: State, agent: Agent) -> int:
    """How long an agent with a session may be silent: three of its own heartbeats, at least the setting."""
    return max(state.settings.suspect_after_us, MISSED_MAX * agent.heartbeat_us)


def held_until_us(state: State, agent: Agent) -> int:
    """Before this no verdict is given on the agent; 0 when one may be given now."""
    watch, until_us = state.watch, 0
    if agent.session_start_us < max(state.started_us, watch.paused_us):
        until_us = max(state.started_us, watch.paused_us) + state.settings.startup_hold_us
    until_us = max(until_us, watch.alarm_until_us)
    return until_us if until_us > state.now_us else 0


def due_us(state: State, until_us: int) -> int:
    """When a verdict that is held until then may be given: each has its turn."""
    state.watch.held_count += 1
    return until_us + state.watch.held_count * PACE_US


def went_silent(state: State, effects: Effects, agent: Agent) -> None:
    """Contact with an agent is lost. Once that happens to half the fleet at once, we suspect ourselves."""
    watch, settings = state.watch, state.settings
    watch.silent.append((state.now_us, agent.id))
    while not watch.is_alarmed and watch.silent[0][0] < state.now_us - ALARM_WINDOW_US:
        watch.silent.popleft()
        watch.look_at = ALARM_AGENTS_MIN
    if watch.is_alarmed or state.now_us < watch.next_alarm_us or len(watch.silent) < watch.look_at:
        return
    # The next look comes when there are an eighth more, so that the silence of thousands costs a few looks.
    watch.look_at = len(watch.silent) + max(1, len(watch.silent) // 8)
    missing = {agent_id for _, agent_id in watch.silent if _is_missing(state, agent_id)}
    online = watch.online_count
    if len(missing) < max(ALARM_AGENTS_MIN, ALARM_SHARE * (online + len(missing))):
        return
    watch.is_alarmed, watch.held_count = True, 0
    watch.alarm_until_us = state.now_us + settings.alarm_hold_us
    watch.next_alarm_us = state.now_us + settings.alarm_interval_us
    state.set_timer(watch.alarm_until_us, TimerKind.ALARM, "")
    hold_s = settings.alarm_hold_us / SECOND_US
    what = f"{len(missing)} of {online + len(missing)} agents went silent within {ALARM_WINDOW_US // SECOND_US} s"
    text = f"{what}: their work is not given away for {hold_s:g} s; look at this machine and its network"
    state.agent_event(effects, EventType.FLEET_ALARM, "", text=text)


def heard_again(state: State, effects: Effects) -> None:
    """An agent is back. When all are that the alarm was for, it is over before its time."""
    watch = state.watch
    while watch.is_alarmed and watch.silent and not _is_missing(state, watch.silent[0][1]):
        watch.silent.popleft()
    if watch.is_alarmed and not watch.silent:
        _recovered(state, effects, "every agent is back")


def alarm_ended(state: State, effects: Effects) -> None:
    """The alarm's time is over: go on, at a stated pace."""
    watch = state.watch
    if watch.is_alarmed and watch.alarm_until_us <= state.now_us:
        missing = sum(agent.connectivity is Connectivity.SUSPECT for agent in state.agents.values())
        pace = f"at most {SECOND_US // PACE_US} attempts a second"
        _recovered(state, effects, f"{missing} agents are still missing; their work goes elsewhere, {pace}")


def pause_noticed(state: State) -> None:
    """We stood still: whatever agents said meanwhile is still on its way, and none is silent yet."""
    state.watch.paused_us = state.now_us
    for agent in state.agents.values():
        if agent.is_online:
            agent.last_heard_us = state.now_us


def taken_over(state: State, effects: Effects, agent: Agent) -> bool:
    """Another process took the agent's name while its holder had a session. True: they will not stop doing that."""
    agent.takeovers = [at_us for at_us in agent.takeovers if at_us > state.now_us - TAKEOVERS_WINDOW_US]
    agent.takeovers.append(state.now_us)
    if len(agent.takeovers) < TAKEOVERS_MAX or agent.is_quarantined:
        return False
    agent.is_quarantined = True
    agent.settle()
    text = f"{len(agent.takeovers)} times in {TAKEOVERS_WINDOW_US // SECOND_US} s another process took its name"
    advice = f"stop all but one of them, then `outrider agent resume {agent.id}`"
    state.agent_event(effects, EventType.AGENT_QUARANTINED, agent.id, text=f"{text}; {advice}")
    return True


def _is_missing(state: State, agent_id: str) -> bool:
    agent = state.agents.get(agent_id)
    return agent is not None and agent.connectivity is Connectivity.SUSPECT


def _recovered(state: State, effects: Effects, text: str) -> None:
    state.watch.is_alarmed, state.watch.alarm_until_us = False, 0
    state.watch.silent.clear()
    state.watch.look_at = ALARM_AGENTS_MIN
    state.agent_event(effects, EventType.FLEET_RECOVERED, "", text=text)
