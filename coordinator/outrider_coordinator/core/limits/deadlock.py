"""Deadlocks: attempts that wait for each other through limits, write scopes, tasks and dependencies, and never end.

When a wait opens, everything that it waits for in turn is looked at. Of these, whatever could go on once the others end
is struck out, until nothing changes; what is left waits for itself. So a wait for one of several holders of a semaphore
is no deadlock while one of them can end. The youngest wait of a cycle is told, with the cycle, and may give up.

A cycle can also close without a wait opening (somebody gets a limit while it waits for something else), so all waits
are looked at again every `AGAIN_US` while limits are held. Bounded: `SEARCHES_MAX` a step, `TASKS_MAX` tasks each; what
waits for more than that is not judged. It must not know how waits are resolved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.limits.book import AttemptKey, Pool
from outrider_coordinator.core.limits.lines import in_the_way
from outrider_coordinator.core.limits.scopes import conflict
from outrider_coordinator.core.model import Task, Wait
from outrider_coordinator.core.spec import SECOND_US, Claim
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import EventType, Reason, TaskState
from outrider_coordinator.core.waits import blockage

AGAIN_US, SOON_US = 2 * SECOND_US, 1_000
SEARCHES_MAX = 16
TASKS_MAX = 256


class Edge(NamedTuple):
    """Whose end is waited for, in words, and by which wait of an attempt (None for a task that has not started)."""

    task_id: str
    text: str
    wait: Wait | None = None


def look(state: State, effects: Effects) -> None:
    """Judge the waits that were opened since, some now and the rest with the next step."""
    for task_id in state.opened_waits[:SEARCHES_MAX]:
        _look_from(state, effects, task_id)
    del state.opened_waits[:SEARCHES_MAX]
    book = state.limits
    if state.opened_waits:
        state.set_timer(state.now_us + SOON_US, TimerKind.DEADLOCK, "")
    elif book.look_us <= state.now_us and (book.pools or book.scopes):
        book.look_us = state.now_us + AGAIN_US
        state.set_timer(book.look_us, TimerKind.DEADLOCK, "")


def look_again(state: State) -> None:
    """Every wait for a task or a limit is to be judged once more, unless some have not been judged yet."""
    if state.opened_waits:
        return
    waiting = {task_id for task_id, _ in state.limits.waits}
    waiting.update(task_id for waits in state.waiters.values() for task_id, _ in waits)
    state.opened_waits = sorted(waiting)


def _look_from(state: State, effects: Effects, task_id: str) -> None:
    """Break every cycle behind one waiting task; each costs one wait, so it ends."""
    while True:
        edges = _reachable(state, task_id)
        cycle = _cycle(state, _stuck(state, edges), task_id)
        if not cycle:
            return
        _tell(state, effects, cycle)


def _tell(state: State, effects: Effects, cycle: list[tuple[Task, Edge]]) -> None:
    """End the youngest wait. There is one: only a live attempt holds things, and only its waits make it stuck."""
    waits = [(edge.wait.opened_us, task.order, task, edge.wait) for task, edge in cycle if edge.wait is not None]
    _, _, task, wait = max(waits, key=lambda found: found[:2])
    text = "deadlock: " + " -> ".join(f"{_name(waiter)} waits for {edge.text}" for waiter, edge in cycle)
    state.event(effects, EventType.TASK_DEADLOCK, task, task.attempt, reason=Reason.DEADLOCK, text=text)
    blockage.deadlocked(state, effects, task.id, wait.key, text)


def _reachable(state: State, start: str) -> dict[str, list[Edge]]:
    """What a task waits for, and what that waits for in turn; empty when it is too much to look at."""
    found: dict[str, list[Edge]] = {}
    waiting = [start]
    while waiting:
        task = state.tasks.get(waiting.pop())
        if task is None or task.id in found:
            continue
        if len(found) == TASKS_MAX:
            return {}
        found[task.id] = edges = list(_edges(state, task))
        waiting += [edge.task_id for edge in edges]
    return found


def _edges(state: State, task: Task) -> Iterator[Edge]:
    """Everything whose end a task waits for."""
    if task.state is TaskState.PENDING:
        for task_id in sorted(other for other in task.waiting_for or () if other in state.tasks):
            yield Edge(task_id, f"{_name(state.tasks[task_id])} (dependency)")
    elif task.state is TaskState.QUEUED:
        for claim in task.spec.demands.claims:
            yield from _limit_edges(state, task, claim)
        if task.spec.demands.scopes:
            yield from _scope_edges(state, task)
    elif task.state is TaskState.BLOCKED:
        for wait in _stopping(task):
            if wait.claim is not None:
                yield from _limit_edges(state, task, wait.claim, wait)
            elif wait.required_task_id in state.tasks:
                yield Edge(wait.required_task_id, f"{_name(state.tasks[wait.required_task_id])} (task)", wait)


def _stopping(task: Task) -> list[Wait]:
    """What a blocked attempt must get before it goes on."""
    return [wait for wait in task.waits if wait.is_pending and not wait.keeps_running]


def _limit_edges(state: State, task: Task, claim: Claim, wait: Wait | None = None) -> Iterator[Edge]:
    pool = state.limits.pools.get((task.namespace, claim.key))
    own = _own(task)
    if pool is None or pool.admits(claim, state.now_us, own=own):
        return
    if wait is not None and not _comes(state, task, claim, {}):
        yield Edge(task.id, f"{claim.key} held by itself", wait)
        return
    for holder in in_the_way(pool, claim, own):
        yield Edge(holder[0], f"{claim.key} held by {_name(state.tasks[holder[0]])}", wait)


def _scope_edges(state: State, task: Task) -> Iterator[Edge]:
    for holder, scopes in state.limits.scopes.get(task.namespace, {}).items():
        pair = conflict(task.spec.demands.scopes, scopes)
        if pair is not None:
            yield Edge(holder[0], f"write scope {pair[1]} of {_name(state.tasks[holder[0]])}")


def _own(task: Task) -> AttemptKey | None:
    return task.attempt.key if task.attempt is not None else None


def _stuck(state: State, edges: dict[str, list[Edge]]) -> dict[str, list[Edge]]:
    """Those that cannot go on even if all others end, with what they wait for among themselves."""
    waiters: dict[str, list[str]] = {}
    for task_id, found in edges.items():
        for edge in found:
            waiters.setdefault(edge.task_id, []).append(task_id)
    stuck = dict.fromkeys(edges)
    to_judge = list(edges)
    while to_judge:
        task_id = to_judge.pop()
        if task_id in stuck and _can_go(state, state.tasks[task_id], stuck):
            del stuck[task_id]
            to_judge += waiters.get(task_id, ())
    return {task_id: [edge for edge in edges[task_id] if edge.task_id in stuck] for task_id in stuck}


def _can_go(state: State, task: Task, stuck: dict[str, None]) -> bool:
    """Whether a task gets on once everybody who is not stuck has ended."""
    if task.state is TaskState.PENDING:
        return not any(task_id in stuck for task_id in task.waiting_for or ())
    if task.state is TaskState.QUEUED:
        claims_come = all(_comes(state, task, claim, stuck) for claim in task.spec.demands.claims)
        return claims_come and not any(edge.task_id in stuck for edge in _scope_edges(state, task))
    if task.state is not TaskState.BLOCKED:
        return True
    return all(
        _comes(state, task, wait.claim, stuck) if wait.claim is not None else wait.required_task_id not in stuck
        for wait in _stopping(task)
    )


def _comes(state: State, task: Task, claim: Claim, stuck: dict[str, None]) -> bool:
    """Whether a claim is met once only the stuck hold something. One that can never be met is no deadlock."""
    pool = state.limits.pools.get((task.namespace, claim.key))
    if pool is None or not pool.can_ever(claim):
        return True
    left, own = Pool(pool.definition), _own(task)
    for holder, held in pool.holders.items():
        if holder[0] in stuck or holder == own:
            left.hold(holder, held)
    return left.admits(claim, state.now_us, own=own)


def _cycle(state: State, stuck: dict[str, list[Edge]], start: str) -> list[tuple[Task, Edge]]:
    """One cycle of those that are stuck, found from ``start``; empty when that is not stuck."""
    path: dict[str, Edge] = {}
    task_id = start
    while task_id in stuck and task_id not in path:
        path[task_id] = stuck[task_id][0]
        task_id = path[task_id].task_id
    ids = list(path)
    return [(state.tasks[one], path[one]) for one in ids[ids.index(task_id) :]] if task_id in path else []


def _name(task: Task) -> str:
    return task.run_key or task.id
