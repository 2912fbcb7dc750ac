"""I20: what a start would rebuild from the disk equals what memory holds, but for what is never made durable.

Compares every field of the two states, whatever they are, so that a new field is compared without anybody thinking of
it. `VOLATILE` names what a restart may forget, each with the reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from outrider_coordinator.core.states import AttemptState, BreakerState
from outrider_coordinator.core.step import new_state
from outrider_coordinator.rpc.schedule_specs import stored_schedule
from outrider_coordinator.store.load import restore
from sim.model_coordinator import read_spec
from sim.model_store import Tables
from sim.verdicts import Broken

RATE = 2

#: Class and field: why a restart may know something else.
VOLATILE: dict[tuple[str, str], str] = {
    ("State", "epoch"): "each start has its own",
    ("State", "started_us"): "each start has its own",
    ("State", "now_us"): "time goes on",
    ("State", "timers"): "set again from what is due",
    ("State", "timer_next"): "only orders timers",
    (
        "State",
        "errands",
    ): "begun anew from what the rows leave undecided; what a run that stops has decided stays",
    ("State", "offers"): "what is in doubt is asked for by the next Hello",
    ("State", "queue"): "compared as the order in which it would be emptied",
    ("State", "durations_us"): "learned again",
    ("State", "tallies"): "learned again",
    ("State", "opened_waits"): "what the next step looks at; a start looks at all open waits",
    ("State", "probes"): "derived from breakers",
    ("State", "random"): "goes on from its seed",
    ("System", "failing"): "counted anew",
    ("Agent", "charged_us"): "counted anew",
    ("Breaker", "tested"): "the last probe that was given back; what ends after a start is judged by its fence",
    ("Breaker", "window"): "counted anew",
    ("State", "requests"): "the store is asked for what memory does not know",
    ("State", "order_next"): "above those of open tasks is enough",
    ("State", "cursor_next"): "recovery logs what it makes of the agents",
    ("State", "fence_next"): "each start has its own range",
    ("State", "session_next"): "each start has its own range",
    ("State", "ended_count"): "a figure of this start",
    ("State", "placement_is_due"): "the first step places",
    ("State", "counts"): "derived; invariants.check counts",
    ("State", "dependents"): "may name tasks that are over; compared as far as the disk knows them",
    ("State", "waiters"): "may name waits that are over; compared as far as the disk knows them",
    ("Task", "strays"): "what is lost for good is a stray again after a start; compared as far as memory has them",
    ("Task", "waits"): "those that matter are compared: open ones and resolved ones",
    ("State", "fleet"): "rankings of agents, derived; Fleet.check compares them",
    ("ScheduleBook", "entering"): "nothing of it is durable before it has entered; its time is dealt with anew",
    ("Agent", "reaches"): "where it stands in those rankings, derived",
    ("Task", "strand"): "its place in the queue; who is queued is compared",
    ("Task", "rank_us"): "a start ranks what is queued anew, in the order accepted",
    ("Agent", "pressure"): "the next heartbeat says it",
    ("Agent", "latency_us"): "measured anew",
    ("Agent", "heartbeat_us"): "said anew in the next Welcome",
    ("Agent", "lease_us"): "no lease is over before one that the start itself could have sent",
    ("Agent", "unlisted_over_us"): "the next Hello says who is unlisted",
    ("State", "retries"): "counted anew; a turn that was given is the task's ready time",
    ("State", "watch"): "a start waits for every agent anyway",
    ("State", "store_id"): "the shell says it",
    ("Agent", "takeovers"): "counted anew; their consequence is durable",
    ("State", "first_epoch"): "each start has its own",
    ("Agent", "is_unsure"): "the next Hello says it",
    ("Agent", "unheard"): "the next Hello says it",
    ("Agent", "has_rebooted"): "the next Hello says it",
    ("Attempt", "is_doubted"): "what is in doubt is asked for by the next Hello",
    ("Agent", "strayed"): "a machine's death is charged to what strayed since the start",
    ("Agent", "measured"): "learned again",
    ("LimitBook", "again_us"): "a start looks at once",
    ("LimitBook", "last"): "how far the last look came",
    ("LimitBook", "line"): "who waits is asked anew",
    ("LimitBook", "is_changed"): "a start asks at once",
    ("LimitBook", "look_us"): "a start looks at once",
    ("LimitBook", "is_asking"): "a start asks at once",
    ("LimitBook", "reserved_scopes"): "set aside anew by the next look",
    ("LimitBook", "reserved"): "set aside anew by the next look",
    ("Pool", "taken_us"): "a rate's bucket is never fuller after a start; compared so",
    ("Pool", "full_us"): "a rate's bucket is never fuller after a start; compared so",
    ("Pool", "timer_us"): "about a timer",
    ("Pool", "was_changed"): "only what is over the new definition, found again by counting",
    ("Schedule", "times"): "made of the body, which is compared",
    ("Schedule", "work"): "made of the body, which is compared",
    ("Schedule", "seen_us"): "passed times are judged anew",
    ("Schedule", "next_us"): "compared once the wall clock of now was looked at",
    ("Task", "failed_on"): "compared as a set: an earlier try may end after a later one",
    ("Schedule", "offset_us"): "how far the wall clock was when it was looked at",
    ("Schedule", "wake_us"): "a start looks at once",
    ("ScheduleBook", "wakes"): "a start looks at once",
    ("ScheduleBook", "timer_us"): "a start looks at once",
    ("ScheduleBook", "is_awake"): "a start looks at once",
    ("ScheduleBook", "wall_offset_us"): "each start begins with the wall clock",
    ("ScheduleBook", "ids_made"): "only makes ids",
    ("Task", "near_agent_id"): "stickiness is soft: where the parent ran is not looked up again",
    ("Task", "victim_key"): "chosen anew",
    ("Agent", "turn"): "only orders agents for a while",
    ("Task", "is_stored"): "what is read is stored",
    ("Task", "outcome"): "an open task has none",
    ("Task", "end_us"): "an open task has none",
    ("Task", "ready_us"): "an exclusive one may have to wait for a lease, counted anew from each start",
    ("Attempt", "state"): "Accepted is not made durable",
    ("Attempt", "holds_slot"): "who is promoted from the line is found again",
    ("Attempt", "last_number"): "the outbox's seq says what is applied; whether there was any is compared (I12)",
    ("Attempt", "revoke_sent"): "asking again is harmless",
    ("Agent", "connectivity"): "every agent is suspect until it says hello",
    ("Agent", "takes_work"): "follows from its connectivity and facts; invariants.check looks",
    ("Agent", "hello_boot_us"): "streams of an earlier start are over, so nothing of them comes late",
    ("Agent", "epoch"): "a session ends with the coordinator",
    ("Agent", "session_start_us"): "a session ends with the coordinator",
    ("Agent", "last_heard_us"): "every agent is suspect until it says hello",
    ("Agent", "suspect_us"): "every agent is suspect until it says hello",
    ("Agent", "slots_used"): "derived from attempts; invariants.check counts",
    ("Agent", "parked"): "derived from attempts; invariants.check counts",
    ("Agent", "ahead"): "derived from attempts",
    ("Agent", "resuming"): "derived from attempts and their waits; invariants.check looks",
    ("Agent", "facts"): "the next heartbeat says it",
    ("Agent", "succeeded_count"): "figures of this start",
    ("Agent", "failed_count"): "figures of this start",
    ("Agent", "replaying"): "the next Hello says it",
    ("Agent", "unlisted"): "the next Hello says it",
    ("Agent", "silence_timer_is_set"): "about a timer",
    ("Breaker", "failures"): "counted anew while CLOSED",
    ("Breaker", "successes"): "counted anew",
    ("Breaker", "probe"): "found again by its attempt",
}


def judge(state: Any, pending: Sequence[Any], tables: Tables) -> None:
    """Raises Broken at the first difference."""
    durable = tables.copy()
    durable.apply(pending)
    rebuilt = new_state(state.settings, coordinator_epoch=state.epoch + 1, now_us=state.now_us)
    rebuilt.schedules.wall_offset_us = state.schedules.wall_offset_us
    restore(rebuilt, durable, read_spec, stored_schedule)  # type: ignore[arg-type]  # reads like a Reader
    for path, was, now in differences("state", state, rebuilt):
        raise Broken("I20", f"{path}: memory has {was!r}, the disk gives {now!r}")


def differences(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Paths at which two values differ, with both."""
    if one is other:
        return
    if is_dataclass(one) and not isinstance(one, type) and type(one) is type(other):
        yield from _of_records(path, one, other)
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if one.get(key) != other.get(key) or is_dataclass(one.get(key)):
                yield from _of_values(f"{path}[{key!r}]", one.get(key), other.get(key))
    elif isinstance(one, tuple | list | deque) and isinstance(other, tuple | list | deque):
        if len(one) != len(other):
            yield path, one, other
        for position, (mine, theirs) in enumerate(zip(one, other, strict=False)):
            yield from differences(f"{path}[{position}]", mine, theirs)
    elif one != other and (one or other):
        yield path, one, other


def _of_values(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if _is_nothing(one) and _is_nothing(other):
        return
    if (one is None) != (other is None) and (one or other):
        yield path, one, other
    else:
        yield from differences(path, one, other)


def _is_nothing(value: Any) -> bool:
    """A breaker that is CLOSED has no row."""
    breaker = getattr(value, "breaker", value) if not hasattr(value, "attempts") else value
    return not value or getattr(breaker, "state", None) is BreakerState.CLOSED


def _of_records(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    name = type(one).__name__
    if name == "Breaker" and one.state is other.state is BreakerState.CLOSED:
        return  # it has no row
    for field in _compared(type(one)):
        mine, theirs = getattr(one, field), getattr(other, field)
        if mine is not theirs:
            yield from differences(f"{path}.{field}", mine, theirs)
    if name == "State":
        yield from differences(f"{path}.queue", _order(one.queue), _order(other.queue))
        yield from _missing(f"{path}.dependents", other.dependents, one.dependents)
        yield from _missing(f"{path}.waiters", other.waiters, one.waiters)
    elif name == "Pool" and one.definition.kind == RATE and one.full_us > other.full_us:
        yield f"{path}.full_us", one.full_us, other.full_us
    elif name == "Schedule" and one.offset_us == other.offset_us:  # else it is about to be looked at
        yield from differences(f"{path}.next_us", one.next_us, other.next_us)
    elif name == "Task":
        yield from differences(f"{path}.failed_on", sorted(one.failed_on), sorted(other.failed_on))
        lost = {stray.number for stray in one.strays} - {stray.number for stray in other.strays}
        if lost:
            yield f"{path}.strays", lost, ()
        yield from differences(f"{path}.waits", _waits(one), _waits(other))
        if not one.spec.exclusive or one.ready_us > other.ready_us:
            yield from differences(f"{path}.ready_us", one.ready_us, other.ready_us)
        if one.spec.at_most_once and one.attempt and other.attempt:
            heard = one.attempt.last_number > 0, other.attempt.last_number > 0
            yield from differences(f"{path}.attempt.last_number", *heard)
    elif name == "Attempt":
        yield from differences(f"{path}.state", _durable_state(one.state), _durable_state(other.state))


@cache
def _compared(kind: type) -> tuple[str, ...]:
    """Names of the fields that are not volatile."""
    return tuple(field.name for field in fields(kind) if (kind.__name__, field.name) not in VOLATILE)


def _missing(path: str, wanted: dict[str, list[Any]], there: dict[str, list[Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Entries of one index that the other does not have."""
    for key, entries in wanted.items():
        missing = [entry for entry in entries if entry not in there.get(key, ())]
        if missing:
            yield f"{path}[{key!r}]", there.get(key), missing


def _order(queue: Any) -> list[str]:
    return sorted(task.id for task in queue)


def _waits(task: Any) -> list[Any]:
    return sorted((wait for wait in task.waits if wait.is_open or wait.is_resolved), key=lambda wait: wait.key)


def _durable_state(state: Enum) -> Any:
    return AttemptState.OFFERED if state is AttemptState.ACCEPTED else state
