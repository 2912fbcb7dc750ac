"""Named limits and write scopes: who waits, who holds; taken with an offer, all or none, and given back once.

A live attempt (OFFERED to BLOCKED) holds what its task claims; one that is LOST does not, its task must be able to go
elsewhere. Nothing here is stored but definitions and the state of rates: who holds what follows from live attempts.

Fairness: within one placement pass, what a task waits for is set aside for it against those that sort behind it. Only
a task with nobody before it in line for any of its limits has things set aside, so that a long line for one limit
does not lock up the others. As the first of all waiting tasks always is such a one, and holders end, nobody waits for
ever.

Invariants: I21 as in `limit_book`; an attempt's holding is made and ended here only.
"""

from __future__ import annotations

from collections.abc import Iterable

from outrider_coordinator.core.effects import Effects, Refused, Reply
from outrider_coordinator.core.events import LimitDefined
from outrider_coordinator.core.limit_book import (
    LOCK,
    NOTHING,
    AttemptKey,
    Holding,
    LimitBook,
    LimitKey,
    LimitKind,
    Pool,
    Tally,
)
from outrider_coordinator.core.model import Attempt, Task
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.scopes import conflict
from outrider_coordinator.core.spec import Claim
from outrider_coordinator.core.state import State, TimerKind

_NAMED_MAX = 3


def begin_pass(state: State) -> None:
    """A placement pass begins: nothing is set aside for anybody yet."""
    book = state.limits
    if book.reserved or book.reserved_scopes:
        book.reserved.clear()
        book.reserved_scopes.clear()


def held_back(state: State, task: Task) -> Rule | None:
    """The first limit or scope for which this task must wait, None when it may go; asked in queue order.

    A task that waits and could otherwise be placed has its limits set aside for the rest of the pass.
    """
    demands = task.spec.demands
    if not (demands.claims or demands.scopes):
        return None
    rule, is_behind = _claims_wait(state, task)
    if demands.scopes:
        waits, behind = _scopes_wait(state, task)
        rule, is_behind = rule or waits, is_behind or behind
    if rule is not None and not is_behind:
        _set_aside(state.limits, task)
    return rule


def may_take(state: State, task: Task) -> bool:
    """Whether everything the task claims is free right now, whoever else waits for it; rates do not count."""
    book, demands = state.limits, task.spec.demands
    for claim in demands.claims:
        pool = book.pools.get((task.namespace, claim.key))
        if pool is not None and pool.definition.kind is not LimitKind.RATE and not pool.admits(claim, state.now_us):
            return False
    return not demands.scopes or _scope_holder(book, task) is None


def take(state: State, effects: Effects, task: Task, attempt: Attempt) -> None:
    """A new attempt takes everything its task claims; a rate's units are used up for good."""
    demands = task.spec.demands
    if not (demands.claims or demands.scopes):
        return
    for claim in demands.claims:
        key = (task.namespace, claim.key)
        pool = state.limits.pool(key)
        assert pool.admits(claim, state.now_us), f"I21: {attempt.key} takes {claim} of a limit that has no room"
        pool.take(claim, state.now_us)
        if pool.definition.kind is LimitKind.RATE:
            effects.limits[key] = pool
    hold(state, task, attempt)


def hold(state: State, task: Task, attempt: Attempt) -> None:
    """Write down what a live attempt of this task holds: a new one, one that came back, one found on disk."""
    demands = task.spec.demands
    if not (demands.claims or demands.scopes):
        return
    book, holding = state.limits, Holding(task.namespace, scopes=demands.scopes)
    attempt.holding = holding
    for claim in demands.claims:
        book.pool((task.namespace, claim.key)).hold(attempt.key, claim)
        holding.claims[claim.key] = claim
    if demands.scopes:
        book.scopes.setdefault(task.namespace, {})[attempt.key] = demands.scopes


def release(state: State, attempt: Attempt) -> None:
    """An attempt is no longer live: everything it holds is free. Called where slots are released, and only there."""
    holding, attempt.holding = attempt.holding, None
    if holding is None:
        return
    book = state.limits
    for name in holding.claims:
        key = (holding.namespace, name)
        book.pools[key].release(attempt.key)
        book.drop_if_idle(key)
    if holding.scopes:
        of_namespace = book.scopes[holding.namespace]
        del of_namespace[attempt.key]
        if not of_namespace:
            del book.scopes[holding.namespace]
    state.placement_is_due = True


def obstacles(state: State, task: Task) -> list[Rule]:
    """Every limit and scope that a task would have to wait for now, and every claim that can never be met."""
    book, rules = state.limits, []
    for claim in task.spec.demands.claims:
        pool = book.pools.get((task.namespace, claim.key))
        if pool is not None and not pool.admits(claim, state.now_us):
            rules.append(_limit_rule(pool, claim))
    holder = _scope_holder(book, task) if task.spec.demands.scopes else None
    if holder is not None:
        rules.append(_scope_rule(*holder))
    return rules


def defined(state: State, effects: Effects, event: LimitDefined) -> None:
    """Somebody says what a limit is, or that it is nothing special any more; holders keep what they hold."""
    key = (event.namespace, event.key)
    if event.definition is None and not (key in state.limits.pools and state.limits.pools[key].is_defined):
        message = f"nobody defined limit {event.key!r}; `outrider limit list` shows those there are"
        effects.sends.append(Reply(event.reply, Refused("NOT_FOUND", message)))
        return
    pool = state.limits.pool(key)
    pool.define(event.definition or LOCK, state.now_us)
    pool.is_defined = event.definition is not None
    state.queue.ask_again()
    state.limits.drop_if_idle(key)
    effects.limits[key] = pool
    state.placement_is_due = True
    effects.sends.append(Reply(event.reply, True))


def restore(state: State, found: Iterable[tuple[LimitKey, Pool]]) -> None:
    """Definitions as they are on disk. A rate gets nothing for the time in which nobody was here to count it."""
    for key, pool in found:
        pool.full_us = state.now_us + max(0, pool.full_us - pool.taken_us)
        pool.taken_us = state.now_us
        state.limits.pools[key] = pool


def restored(state: State) -> None:
    """Every live attempt holds again what it held; a definition may have changed since it got it."""
    for pool in state.limits.pools.values():
        pool.was_changed = pool.is_over


def timer_fired(state: State, namespace: str, name: str) -> None:
    """A rate that somebody waits for has units again."""
    pool = state.limits.pools.get((namespace, name))
    if pool is not None:
        pool.timer_us = 0
    state.queue.ask_again()
    state.placement_is_due = True


def _claims_wait(state: State, task: Task) -> tuple[Rule | None, bool]:
    """The first claim that must wait, and whether somebody is before this task in the line for any of them."""
    book, now_us = state.limits, state.now_us
    first, is_behind = None, False
    for claim in task.spec.demands.claims:
        key = (task.namespace, claim.key)
        pool, beside = book.pools.get(key), book.reserved.get(key, NOTHING)
        if pool is None:
            if beside is NOTHING:
                continue
            pool = Pool()
        if pool.admits(claim, now_us, beside):
            continue
        first = first or _limit_rule(pool, claim)
        is_behind = is_behind or not Pool(pool.definition).admits(claim, now_us, beside)
        if pool.definition.kind is LimitKind.RATE and pool.can_ever(claim):
            _arm(state, key, pool, claim.units)
    return first, is_behind


def _arm(state: State, key: LimitKey, pool: Pool, units: int) -> None:
    """One timer a rate, for the time when it has as many units as the first that waits needs."""
    due_us = pool.ready_us(units, state.now_us)
    if due_us > state.now_us and not state.now_us < pool.timer_us <= due_us:
        pool.timer_us = due_us
        state.set_timer(due_us, TimerKind.LIMIT, *key)


def _scopes_wait(state: State, task: Task) -> tuple[Rule | None, bool]:
    book, scopes = state.limits, task.spec.demands.scopes
    holder = _scope_holder(book, task)
    rule = _scope_rule(*holder) if holder is not None else None
    for namespace, task_id, reserved in book.reserved_scopes:
        pair = conflict(scopes, reserved) if namespace == task.namespace else None
        if pair is not None:
            return rule or _scope_rule((task_id, 0), pair), True
    return rule, False


def _scope_holder(book: LimitBook, task: Task) -> tuple[AttemptKey, tuple[str, str]] | None:
    """The oldest live attempt whose scopes conflict with the task's, and the pair that does."""
    for holder, scopes in book.scopes.get(task.namespace, {}).items():
        pair = conflict(task.spec.demands.scopes, scopes)
        if pair is not None:
            return holder, pair
    return None


def _set_aside(book: LimitBook, task: Task) -> None:
    for claim in task.spec.demands.claims:
        book.reserved.setdefault((task.namespace, claim.key), Tally()).add(claim)
    if task.spec.demands.scopes:
        book.reserved_scopes.append((task.namespace, task.id, task.spec.demands.scopes))


def _limit_rule(pool: Pool, claim: Claim) -> Rule:
    definition = pool.definition
    if not pool.can_ever(claim):
        room = definition.capacity if definition.kind is LimitKind.SEMAPHORE else definition.burst
        text = f"it claims {claim.units} units of limit {claim.key}, which never has more than {room}"
        return Rule("LIMIT", f"{text}; `outrider limit put` can raise that")
    if definition.kind is LimitKind.RATE:
        return Rule("LIMIT", f"limit {claim.key} gives out {definition.per_second:g} units a second")
    if not pool.holders:
        return Rule("LIMIT", f"limit {claim.key} is kept for a task before it")
    held = f"{pool.held.units} of {definition.capacity} units of limit {claim.key} are"
    lock = f"limit {claim.key} is"
    return Rule("LIMIT", f"{held if definition.kind is LimitKind.SEMAPHORE else lock} held by {_named(pool)}")


def _named(pool: Pool) -> str:
    names = [f"task {task_id}" for task_id, _ in list(pool.holders)[:_NAMED_MAX]]
    more = len(pool.holders) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _scope_rule(holder: AttemptKey, pair: tuple[str, str]) -> Rule:
    mine, theirs = pair
    what = "has" if holder[1] else "waits for"
    return Rule("WRITE_SCOPE", f"it writes {mine}; task {holder[0]} {what} write scope {theirs}")


def claims_of(task: Task, attempt: Attempt) -> dict[str, Claim]:
    """What a live attempt must hold, by the name of the limit: the books of `check` and of a start."""
    return {claim.key: claim for claim in task.spec.demands.claims}


def check(state: State) -> None:
    """I21: the books equal what live attempts must hold, and nothing is held beyond what is allowed."""
    book = state.limits
    holders: dict[LimitKey, dict[AttemptKey, Claim]] = {}
    scopes: dict[str, dict[AttemptKey, tuple[str, ...]]] = {}
    for agent in state.agents.values():
        for attempt in agent.attempts.values():
            task = state.tasks[attempt.task_id]
            for name, claim in claims_of(task, attempt).items():
                holders.setdefault((task.namespace, name), {})[attempt.key] = claim
            if task.spec.demands.scopes:
                scopes.setdefault(task.namespace, {})[attempt.key] = task.spec.demands.scopes
    assert scopes == book.scopes, f"I21: write scopes held are {scopes}, the book says {book.scopes}"
    for key in {**holders, **book.pools}:
        pool, found = book.pools.get(key, Pool()), holders.get(key, {})
        assert pool.holders == found, f"I21: limit {key} is held by {found}, the book says {pool.holders}"
        tally = Tally()
        for claim in found.values():
            tally.add(claim)
        assert pool.held == tally, f"I21: limit {key} has {tally} held, the book says {pool.held}"
        assert pool.was_changed or not pool.is_over, f"I21: limit {key} is held beyond {pool.definition}: {found}"
        assert not pool.is_idle or key not in book.pools, f"limit {key} is kept for nothing"
    _check_scopes(scopes)


def _check_scopes(scopes: dict[str, dict[AttemptKey, tuple[str, ...]]]) -> None:
    for held in scopes.values():
        attempts = sorted(held.items())
        for position, (holder, mine) in enumerate(attempts):
            for other, theirs in attempts[position + 1 :]:
                assert conflict(mine, theirs) is None, f"I21: {holder} and {other} may both write {mine}, {theirs}"
