"""Sessions of agents: who an agent is, what it still holds, and what becomes of the work it does not list.

A newer session supersedes the older one. Work that an agent was given and does not name in Hello counts as lost only
once every report that Hello announced has been applied: the outcome may be among them.
"""

from __future__ import annotations

from outrider_coordinator.core.agents import drain, epochs, lease, liveness
from outrider_coordinator.core.attempts import stopping
from outrider_coordinator.core.attempts.outcome import fence
from outrider_coordinator.core.attempts.retry import (
    attempt_returned,
    may_have_started,
    stray_or_lose,
    struck_by_machine,
)
from outrider_coordinator.core.effects import (
    VERDICT_CLOSE,
    VERDICT_FENCE,
    VERDICT_RESUME,
    Effects,
    EndSession,
    PushCancel,
    Refused,
    Reply,
    SessionAccepted,
)
from outrider_coordinator.core.events import Held, OutboxFacts, Ref, SessionOpened
from outrider_coordinator.core.limits import caps, holdings
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement import slots
from outrider_coordinator.core.placement.eligibility import fits
from outrider_coordinator.core.records import DeleteAgent
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import (
    Admin,
    AttemptState,
    Blame,
    Connectivity,
    EventType,
    Intent,
    Reason,
    TaskState,
)
from outrider_coordinator.core.transitions import move_admin, move_attempt
from outrider_coordinator.core.trust import blame, breaker
from outrider_coordinator.core.waits.blockage import push_answer, stray_gone

#: What an agent lists so runs or has run.
_BEGUN = frozenset((AttemptState.STARTED, AttemptState.BLOCKED))


def opened(state: State, effects: Effects, event: SessionOpened) -> None:
    """An agent said hello: register or refuse it, judge what it holds, and send again what it may have missed."""
    agent = state.agents.get(event.agent_id)
    refused = _refusal(agent, event)
    if refused is not None:
        effects.sends.append(Reply(event.reply, refused))
        return
    if agent is None:
        agent = Agent(event.agent_id, event.machine_id)
        state.agents[agent.id] = agent
        state.agent_event(effects, EventType.AGENT_ADDED, agent.id)
    elif agent.epoch:
        _taken_over(state, effects, agent, event)
        superseded = Refused("SESSION_SUPERSEDED", f"a newer session of agent {agent.id!r} took over")
        effects.sends.append(EndSession(agent.epoch, agent.id, superseded))
    history = _history(state, effects, agent, event)
    # A doubt outlives a session that ended before everything was replayed.
    is_undecided = agent.is_unsure and bool(agent.unlisted or agent.unheard)
    is_other = agent.instance_id != event.instance_id
    asks_of_waits = bool(agent.unheard) or agent.session_start_us < state.started_us
    agent.is_unsure = is_undecided or epochs.is_unsure(state, agent, event)
    lease.taken_over(state, agent, event)
    _register(state, effects, agent, event, history)
    lease.sent(state, agent)
    struck_by_machine(state, effects, agent, is_dead=agent.has_rebooted)
    agent.facts.is_leaving = False
    agent.settle()
    applied = _outboxes(state, effects, agent, event.outboxes)
    verdicts = [(*held.ref, _verdict(state, effects, agent, held)) for held in event.held]
    accepted = SessionAccepted(agent.epoch, applied, verdicts, agent.admin is Admin.PAUSED, agent.heartbeat_us)
    effects.sends.append(Reply(event.reply, accepted))
    listed = {held.ref: held.state for held in event.held}
    found = {key: listed.get(Ref(*key, attempt.fence)) for key, attempt in agent.attempts.items()}
    # What ended under an earlier process is told by what that left on the disk, or was passed with a gap.
    told = (None, AttemptState.CLOSED) if is_other else (None,)
    agent.unlisted = [key for key, there in found.items() if there in told]
    is_asked = asks_of_waits or agent.is_unsure
    agent.unheard = [key for key, there in found.items() if is_asked and there is AttemptState.BLOCKED]
    if agent.is_unsure:
        _doubt(state, effects, agent)
    nothing_left_to_replay(state, effects, agent)
    _send_again(state, effects, agent)
    if agent.admin is Admin.DRAINING:
        drain.push(state, effects, agent)
    if state.limits.waits:
        holdings.changed(state)  # one of its attempts may have missed the limit that it waits for
    state.placement_is_due = True


def _taken_over(state: State, effects: Effects, agent: Agent, event: SessionOpened) -> None:
    is_over = agent.instance_id != event.instance_id and liveness.taken_over(state, effects, agent)
    if is_over and agent.admin is not Admin.PAUSED:
        move_admin(agent, Admin.PAUSED)


def _doubt(state: State, effects: Effects, agent: Agent) -> None:
    """What is not listed may have run in a time that is forgotten: noted now, as the gap is that shows it (I12)."""
    for key in agent.unlisted:
        attempt = agent.attempts[key]
        if state.tasks[key[0]].spec.at_most_once and not attempt.last_number:
            attempt.last_number = 1
            effects.attempts[key] = attempt


def nothing_left_to_replay(state: State, effects: Effects, agent: Agent) -> None:
    """Once everything Hello announced is applied, attempts the agent did not list are gone."""
    if agent.replaying:
        return
    unlisted, agent.unlisted = agent.unlisted, []
    for key in unlisted:
        attempt = agent.attempts.get(key)
        if attempt is None:
            continue
        task = state.tasks[key[0]]
        over_us = lease.unlisted_over_us(state, agent, attempt)
        is_unclear = agent.is_unsure or not lease.knows(agent, attempt)
        if may_have_started(task, attempt) or (task.spec.at_most_once and is_unclear):
            task.worker_deaths += agent.has_rebooted and attempt.started_us > 0
            stray_or_lose(state, effects, agent, task, attempt, f"agent {agent.id} came back without it", over_us)
        else:
            message = "never reached its agent"
            attempt_returned(state, effects, agent, task, attempt, AttemptState.LOST, message, over_us)
    if agent.unheard:
        _move_unheard(state, effects, agent)


def _move_unheard(state: State, effects: Effects, agent: Agent) -> None:
    """What waits for something that a restored store has forgotten would wait for ever: it goes on elsewhere.

    An earlier start may have passed the gap that showed it, and died: at the first Hello whatever waits must be known.
    """
    unheard, agent.unheard = agent.unheard, []
    since_us = agent.session_start_us if agent.is_unsure else 0
    for key in unheard:
        attempt = agent.attempts.get(key)
        if attempt is None:
            continue
        task = state.tasks[key[0]]
        if not any(wait.is_open and wait.opened_us >= since_us for wait in task.waits):
            text = "it waits for something that was forgotten when the store was restored"
            stopping.stop_attempt(state, effects, task, attempt, Intent.MOVE, text)


def ended(state: State, effects: Effects, agent_id: str, epoch: int, *, goodbye: bool) -> None:
    """A stream ended. With a goodbye the agent left; without one contact is lost and the graces begin."""
    agent = state.agents.get(agent_id)
    if agent is None or not epoch or agent.epoch != epoch:
        return
    agent.epoch = 0
    if goodbye:
        _take_back_offers(state, effects, agent)
    if goodbye and not agent.attempts:
        liveness.moved(state, agent, Connectivity.LEFT)
        state.agent_event(effects, EventType.AGENT_LEFT, agent.id)
    else:
        suspect(state, effects, agent, state.now_us)
        if not goodbye:
            liveness.went_silent(state, effects, agent)
    effects.agents[agent.id] = agent


def _take_back_offers(state: State, effects: Effects, agent: Agent) -> None:
    """What an agent had not taken when it left goes elsewhere at once."""
    for attempt in list(agent.attempts.values()):
        if attempt.state is AttemptState.OFFERED:
            task = state.tasks[attempt.task_id]
            attempt_returned(state, effects, agent, task, attempt, AttemptState.REJECTED, "the agent left")


def suspect(state: State, effects: Effects, agent: Agent, since_us: int) -> None:
    """Contact is lost: each attempt may stay for its own grace from now on.

    A start may find an agent LOST with work whose grace is longer than that took: it stays so.
    """
    agent.suspect_us = since_us
    if agent.connectivity is not Connectivity.LOST:
        liveness.moved(state, agent, Connectivity.SUSPECT)
        state.agent_event(effects, EventType.AGENT_SUSPECT, agent.id)
    for attempt in agent.attempts.values():
        task = state.tasks[attempt.task_id]
        due_us = since_us + task.spec.disconnect_grace_us
        state.set_timer(due_us, TimerKind.GRACE, task.id, str(attempt.number))
    state.set_timer(since_us + state.settings.lost_after_us, TimerKind.LOST, agent.id)


def silence_checked(state: State, effects: Effects, agent: Agent) -> None:
    """The heartbeat timer: an online agent that was not heard for too long is suspect, its session over."""
    agent.silence_timer_is_set = False
    if not agent.is_online:
        return
    if agent.last_heard_us + liveness.patience_us(state, agent) > state.now_us:
        _watch_for_silence(state, agent)
        return
    refused = Refused("SESSION_SUPERSEDED", "no heartbeat arrived in time; open a new session")
    effects.sends.append(EndSession(agent.epoch, agent.id, refused))
    agent.epoch = 0
    effects.agents[agent.id] = agent
    suspect(state, effects, agent, state.now_us)
    liveness.went_silent(state, effects, agent)


def grace_ended(state: State, effects: Effects, task_id: str, number: int) -> None:
    """An attempt's agent has been out of contact for the attempt's whole grace."""
    task = state.tasks.get(task_id)
    attempt = task.attempt if task else None
    agent = state.agents.get(attempt.agent_id) if attempt else None
    if task is None or attempt is None or agent is None or attempt.number != number:
        return
    if agent.connectivity not in (Connectivity.SUSPECT, Connectivity.LOST):
        return
    if agent.suspect_us + task.spec.disconnect_grace_us > state.now_us:
        return
    held_until_us = liveness.held_until_us(state, agent)
    if held_until_us:
        state.set_timer(liveness.due_us(state, held_until_us), TimerKind.GRACE, task_id, str(number))
        return
    if lease.keeps(state, agent, task):
        state.set_timer(lease.over_us(state, agent), TimerKind.GRACE, task_id, str(number))
        return
    stray_or_lose(
        state, effects, agent, task, attempt, f"agent {agent.id} was out of contact for longer than its grace"
    )


def lost_after(state: State, effects: Effects, agent: Agent) -> None:
    """An agent has been silent for so long that people should see it as lost."""
    held_until_us = liveness.held_until_us(state, agent)
    if held_until_us:
        state.set_timer(liveness.due_us(state, held_until_us), TimerKind.LOST, agent.id)
        return
    if agent.connectivity is Connectivity.SUSPECT and (agent.suspect_us + state.settings.lost_after_us <= state.now_us):
        liveness.moved(state, agent, Connectivity.LOST)
        effects.agents[agent.id] = agent
        state.agent_event(effects, EventType.AGENT_LOST, agent.id)
        message, over_us = f"agent {agent.id} is lost", lease.over_us(state, agent)
        for key, attempt in list(agent.attempts.items()):
            task = state.tasks[key[0]]
            # A grace that is longer than this goes on: `grace_ended` takes the attempt from the lost agent.
            if agent.suspect_us + task.spec.disconnect_grace_us <= state.now_us:
                stray_or_lose(state, effects, agent, task, attempt, message, over_us)
        struck_by_machine(state, effects, agent, is_dead=True)


def removed(state: State, effects: Effects, agent: Agent) -> None:
    """An operator forgets an agent: its session ends and its attempts count as lost at once."""
    if agent.epoch:
        refused = Refused("AGENT_REMOVED", f"an operator removed agent {agent.id!r} from the fleet")
        effects.sends.append(EndSession(agent.epoch, agent.id, refused))
        lease.sent(state, agent)  # a heartbeat that waits behind this order was answered when it came
    message, over_us = f"agent {agent.id} was removed", lease.over_us(state, agent)
    liveness.moved(state, agent, Connectivity.LOST)
    agent.epoch = 0
    for key, attempt in list(agent.attempts.items()):
        stray_or_lose(state, effects, agent, state.tasks[key[0]], attempt, message, over_us)
    del state.agents[agent.id]
    state.fleet.left(agent)
    blame.forget(state, effects, agent)
    effects.agents.pop(agent.id, None)
    for outbox in [outbox for outbox in effects.outboxes if outbox[0] == agent.id]:
        del effects.outboxes[outbox]
    effects.inserts.append(DeleteAgent(agent.id))
    state.agent_event(effects, EventType.AGENT_REMOVED, agent.id)


def _refusal(agent: Agent | None, event: SessionOpened) -> Refused | None:
    if agent is None:
        return None
    if agent.machine_id != event.machine_id:
        return Refused(
            "AGENT_NAME_TAKEN",
            f"agent name {agent.id!r} belongs to another machine ({agent.host}); start this one with another --name, "
            f"or free the name with `outrider agent remove {agent.id}`",
        )
    if agent.boot_id == event.boot_id and 0 < event.boot_us < agent.hello_boot_us:
        # Held up on the way: the stream is given up, and what it lists is what was held before the newer one (I12).
        return Refused("SESSION_SUPERSEDED", f"agent {agent.id!r} has said hello again since; open a new session")
    other = agent.instance_id != event.instance_id
    if agent.epoch and other and event.instance_start_ms < agent.instance_start_ms:
        return Refused("SESSION_SUPERSEDED", f"a newer instance of agent {agent.id!r} is connected")
    return None


def _register(state: State, effects: Effects, agent: Agent, event: SessionOpened, history: str) -> None:
    came_back, had_left = not agent.is_online, agent.connectivity is Connectivity.LEFT
    liveness.moved(state, agent, Connectivity.ONLINE)
    agent.epoch = state.next_session()
    agent.has_rebooted = bool(agent.boot_id and event.boot_id and agent.boot_id != event.boot_id)
    agent.boot_id = event.boot_id or agent.boot_id
    agent.hello_boot_us = event.boot_us
    agent.instance_id, agent.instance_start_ms = event.instance_id, event.instance_start_ms
    agent.version, agent.host, agent.labels = event.version, event.host, event.labels
    agent.resources, agent.task_types, agent.runners = event.resources, event.task_types, event.runners
    agent.slots, agent.prefetch_credit, agent.parked_max = event.slots, event.prefetch_credit, event.parked_max
    agent.session_start_us = agent.last_heard_us = state.now_us
    agent.heartbeat_us = liveness.heartbeat_us(state)
    if agent.admin is Admin.DRAINING and had_left:
        move_admin(agent, Admin.ACTIVE)
        agent.drain_us = 0
    effects.agents[agent.id] = agent
    state.fleet.joined(agent, fits)
    _watch_for_silence(state, agent)
    if came_back or history:
        state.agent_event(effects, EventType.AGENT_ONLINE, agent.id, text=history)
    if came_back:
        liveness.heard_again(state, effects)


def _history(state: State, effects: Effects, agent: Agent, event: SessionOpened) -> str:
    """What of an agent's past an operator should know; most have none."""
    if epochs.has_seen_more(state, agent, event):
        was = state.epoch
        epochs.rise_above(state, effects, event.coordinator_epoch)
        return (
            f"it knows epoch {event.coordinator_epoch} of this store, which knew {was} as its latest: the store was "
            f"restored from a backup; going on as epoch {state.epoch}"
        )
    if event.store_id in ("", state.store_id) or not state.store_id:
        return ""
    return (
        f"it last worked for another coordinator, with store {event.store_id}; what it holds of that is not wanted here"
    )


def _watch_for_silence(state: State, agent: Agent) -> None:
    """One timer per agent, however often it reconnects."""
    if not agent.silence_timer_is_set:
        agent.silence_timer_is_set = True
        state.set_timer(agent.last_heard_us + liveness.patience_us(state, agent), TimerKind.SILENCE, agent.id)


def _outboxes(state: State, effects: Effects, agent: Agent, outboxes: list[OutboxFacts]) -> dict[str, int]:
    """Where each outbox is applied up to.

    A piece that the agent no longer has (it was acknowledged before a backup was restored) is recorded and passed (I5).
    """
    applied, replaying = {}, {}
    for outbox in outboxes:
        known = agent.applied.get(outbox.outbox_id, 0)
        seq = max(known, outbox.first_seq - 1)
        if seq != known:
            text = f"outbox {outbox.outbox_id}: reports {known + 1} to {seq} are not there any more"
            state.agent_event(effects, EventType.AGENT_OUTBOX_GAP, agent.id, text=text)
            agent.applied[outbox.outbox_id] = seq
            agent.is_unsure = True
            effects.outboxes[agent.id, outbox.outbox_id] = seq
        applied[outbox.outbox_id] = seq
        if outbox.last_seq > seq:
            replaying[outbox.outbox_id] = outbox.last_seq
    agent.replaying = replaying or None
    return applied


def _verdict(state: State, effects: Effects, agent: Agent, held: Held) -> int:
    task = state.tasks.get(held.ref.task_id)
    attempt = _known(task, agent, held)
    if task is None or attempt is None:
        return VERDICT_CLOSE if held.state is AttemptState.CLOSED else VERDICT_FENCE
    if attempt in task.strays and held.state is not AttemptState.CLOSED:
        return _stray_returned(state, effects, agent, task, attempt, held)
    if attempt.state is AttemptState.OFFERED:
        move_attempt(attempt, AttemptState.ACCEPTED)
    has_begun = held.state in _BEGUN or (task.spec.at_most_once and held.state is AttemptState.CLOSED)
    if agent.is_unsure and has_begun and not attempt.started_us:
        attempt.started_us = state.now_us  # its agent said so before, and a restored store has forgotten it (I12)
        effects.attempts[attempt.key] = attempt
    return VERDICT_RESUME


def _known(task: Task | None, agent: Agent, held: Held) -> Attempt | None:
    if task is None:
        return None
    for attempt in (task.attempt, *task.strays):
        if attempt is not None and attempt.number == held.ref.attempt and attempt.fence == held.ref.fence:
            return attempt if attempt.agent_id == agent.id else None
    return None


def _stray_returned(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, held: Held) -> int:
    """A stray that still runs is taken back when nothing replaced it and its limits are free, and fenced otherwise.

    So is one that waits for something: its waits ended when it was lost, and nobody would ever resolve them.
    """
    task.drop_stray(attempt)
    is_waiting = held.state is AttemptState.BLOCKED
    if task.attempt is not None or is_waiting or not holdings.may_take(state, task, attempt):
        fence(state, effects, attempt, "went elsewhere")
        stray_gone(state, effects, task)
        return VERDICT_FENCE
    move_attempt(attempt, AttemptState.STARTED)
    task.attempts_counted -= attempt.counted
    attempt.reason, attempt.error, attempt.ended_us, attempt.counted = Reason.NONE, b"", 0, False
    attempt.blame = Blame.NONE
    task.attempt = attempt
    slots.take(state, agent, attempt)
    if attempt.is_probe:
        breaker.resumed(state, effects, agent, task, attempt)
    holdings.hold(state, task, attempt)
    caps.take(state, task, attempt)
    effects.attempts[attempt.key] = attempt
    state.move(task, TaskState.RUNNING, effects)
    return VERDICT_RESUME


def _send_again(state: State, effects: Effects, agent: Agent) -> None:
    """Cancels and answers that the last session may not have carried: both are harmless twice."""
    for attempt in agent.attempts.values():
        task = state.tasks[attempt.task_id]
        if task.cancel_requested:
            effects.sends.append(
                PushCancel(agent.epoch, agent.id, task.id, attempt.number, attempt.fence, "cancel requested")
            )
        else:
            stopping.send_again(effects, agent, attempt)
        for wait in task.waits:
            if wait.is_open and wait.is_resolved and task.attempt is attempt:
                push_answer(state, effects, task, wait)
