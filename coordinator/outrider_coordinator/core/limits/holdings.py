"""Who holds which named limits and write scopes: taken with an offer, all or none, and given back once.

A live attempt (OFFERED to BLOCKED) holds what its task claims and what it has waited for since; one that is LOST does
not, its task must be able to go elsewhere. Nothing here is stored but definitions and the state of rates: who holds
what follows from live attempts and their waits. It must not know who waits, nor in which order (`limits.lines`).

Invariants: I21 as in `limits.book`; an attempt's holding is made and ended here only.
"""

from __future__ import annotations

from collections.abc import Iterable

from outrider_coordinator.core.effects import Effects, Refused, Reply
from outrider_coordinator.core.events import LimitDefined
from outrider_coordinator.core.limits.book import LOCK, AttemptKey, Holding, LimitBook, LimitKey, LimitKind, Pool, Tally
from outrider_coordinator.core.limits.scopes import conflict
from outrider_coordinator.core.model import Attempt, Task, Wait
from outrider_coordinator.core.spec import Claim
from outrider_coordinator.core.state import State


def claims_of(task: Task, attempt: Attempt | None) -> dict[str, Claim]:
    """What a live attempt must hold, by the name of the limit: its task's claims and what it waited for and got.

    Without an attempt: what a new one would.
    """
    claims = {claim.key: claim for claim in task.spec.demands.claims}
    for wait in task.waits:
        if wait.claim is not None and attempt is not None and wait.held_by == attempt.number:
            known = claims.get(wait.claim.key)
            claims[wait.claim.key] = wait.claim if known is None else known.with_(wait.claim)
    return claims


def may_take(state: State, task: Task, attempt: Attempt | None = None) -> bool:
    """Whether all that an attempt, or a new one, would hold is free now, whoever else waits; rates do not count."""
    book = state.limits
    for claim in claims_of(task, attempt).values():
        pool = book.pools.get((task.namespace, claim.key))
        if pool is not None and pool.definition.kind is not LimitKind.RATE and not pool.admits(claim, state.now_us):
            return False
    return not task.spec.demands.scopes or scope_holder(book, task) is None


def take(state: State, effects: Effects, task: Task, attempt: Attempt) -> None:
    """A new attempt takes everything its task claims; a rate's units are used up for good."""
    for claim in task.spec.demands.claims:
        _use(state, effects, (task.namespace, claim.key), claim)
    hold(state, task, attempt)


def take_more(state: State, effects: Effects, task: Task, attempt: Attempt, wait: Wait) -> None:
    """A live attempt gets what it waits for, and holds it to its end."""
    claim = wait.claim
    assert claim is not None
    key = (task.namespace, claim.key)
    _use(state, effects, key, claim, attempt.key)
    if attempt.holding is None:
        attempt.holding = Holding(task.namespace)
    attempt.holding.claims.add(claim.key)
    state.limits.pools[key].hold(attempt.key, claim)
    wait.held_by = attempt.number


def hold(state: State, task: Task, attempt: Attempt) -> None:
    """Write down what a live attempt holds: a new one, one that came back, one found on disk."""
    book, scopes = state.limits, task.spec.demands.scopes
    claims = claims_of(task, attempt)
    if not (claims or scopes):
        return
    attempt.holding = Holding(task.namespace, set(claims), scopes)
    for claim in claims.values():
        book.pool((task.namespace, claim.key)).hold(attempt.key, claim)
    if scopes:
        book.scopes.setdefault(task.namespace, {})[attempt.key] = scopes


def release(state: State, attempt: Attempt) -> None:
    """An attempt is no longer live: everything it holds is free. Called where slots are released, and only there."""
    holding, attempt.holding = attempt.holding, None
    assert holding is not None, f"attempt {attempt.key} holds nothing"
    book = state.limits
    for name in sorted(holding.claims):
        key = (holding.namespace, name)
        book.pools[key].release(attempt.key)
        book.drop_if_idle(key)
    if holding.scopes:
        of_namespace = book.scopes[holding.namespace]
        del of_namespace[attempt.key]
        if not of_namespace:
            del book.scopes[holding.namespace]
    changed(state)


def changed(state: State) -> None:
    """Somebody who waits for a limit may have it now, or has to wait for somebody new."""
    state.limits.is_changed = True
    state.placement_is_due = True


def scope_holder(book: LimitBook, task: Task) -> tuple[AttemptKey, tuple[str, str]] | None:
    """The oldest live attempt whose scopes conflict with the task's, and the pair that does."""
    for holder, scopes in book.scopes.get(task.namespace, {}).items():
        pair = conflict(task.spec.demands.scopes, scopes)
        if pair is not None:
            return holder, pair
    return None


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
    state.limits.drop_if_idle(key)
    effects.limits[key] = pool
    changed(state)
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
    changed(state)


def _use(state: State, effects: Effects, key: LimitKey, claim: Claim, own: AttemptKey | None = None) -> None:
    pool = state.limits.pool(key)
    assert pool.admits(claim, state.now_us, own=own), f"I21: {claim} is given out of a limit that has no room for it"
    pool.take(claim, state.now_us)
    if pool.definition.kind is LimitKind.RATE:
        effects.limits[key] = pool


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
