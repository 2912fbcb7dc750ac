"""Who waits for named limits and write scopes, and in which order they get them.

Queued tasks and running attempts that wait for a limit stand in one order, that of the queue. When something changes
all are asked again in that order, `ASKED_MAX` classes of tasks a step, and what the first of them waits for is set
aside for it against all behind; until the next change only newcomers are asked, behind what is set aside. Only one that
has nobody before it in the line of any of its limits has things set aside, so that a long line for one limit does not
lock up others; and only while what it waits for is held by attempts that run: a blocked one may be waiting for those
behind, or for a person. As the first of all is always such a one, and holders that run end, nobody waits for ever
behind them.

It must not know how limits count (`limits.book`), nor what an attempt holds (`limits.holdings`).
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.limits import holdings
from outrider_coordinator.core.limits.book import FIRST, NOTHING, AttemptKey, LimitKey, LimitKind, Pool, Tally
from outrider_coordinator.core.limits.scopes import conflict
from outrider_coordinator.core.model import Attempt, Task, Wait
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.spec import Claim
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import AttemptState
from outrider_coordinator.core.waits import blockage

_NAMED_MAX = 3
#: Rank, order and id of a task: smaller goes first.
Place = tuple[int, int, str]
#: Classes that are asked again in one step, and how soon all are when something stays set aside.
ASKED_MAX, AGAIN_US = 128, 5_000_000


def begin_pass(state: State) -> None:
    """A placement pass begins, or goes on where the last step left off.

    After a change all that wait are asked again, some in each step, and what is set aside is decided anew. Otherwise
    only newcomers are asked, and what was set aside stays so.
    """
    book, queue = state.limits, state.queue
    if book.is_changed and not book.is_asking:
        book.is_asking, book.is_changed = True, False
        book.reserved.clear()
        book.reserved_scopes.clear()
        book.last = FIRST
        queue.ask_again()
        book.line = sorted(((place_of(state, state.tasks[task_id]), key) for task_id, key in book.waits), reverse=True)
    if queue.to_ask:
        queue.let_go(ASKED_MAX)


def held_back(state: State, effects: Effects, task: Task) -> Rule | None:
    """The first limit or scope for which this task must wait, None when it may go; asked in queue order.

    A task that waits and could otherwise be placed has its limits set aside for the rest of the pass.
    """
    demands = task.spec.demands
    if not (demands.claims or demands.scopes):
        return None
    if state.limits.line:
        _serve_waits(state, effects, before=task)
    rule, has_turn = _claims_wait(state, task)
    if demands.scopes:
        waits, turn = _scopes_wait(state, task)
        rule, has_turn = rule or waits, has_turn and turn
    if rule is None:
        return None
    book = state.limits
    if not has_turn and not book.is_asking and place_of(state, task) < book.last and holdings.may_take(state, task):
        holdings.changed(state)  # what it needs is set aside for somebody behind it: all are asked in order
    if has_turn:
        book.last = max(book.last, place_of(state, task))
        for claim in demands.claims:
            book.set_aside((task.namespace, claim.key), claim)
        if demands.scopes:
            book.reserved_scopes.append((task.namespace, task.id, demands.scopes))
    return rule


def end_pass(state: State, effects: Effects) -> None:
    """All who had to be asked in this step were: once nobody is left, running attempts get what there is."""
    book = state.limits
    if book.is_asking:
        if state.queue.to_ask or state.placement_is_due:
            state.placement_is_due = True
            return
        _serve_waits(state, effects)
        book.is_asking = False
    if book.reserved or book.reserved_scopes:
        _look_again(state)
    if book.is_changed:
        state.placement_is_due = True


def _look_again(state: State) -> None:
    """What is set aside for somebody for whom there is no agent any more must not stay so for long."""
    book = state.limits
    if book.again_us <= state.now_us:
        book.again_us = state.now_us + AGAIN_US
        state.set_timer(book.again_us, TimerKind.LIMIT, "")


def obstacles(state: State, task: Task) -> list[Rule]:
    """Every limit and scope that a queued task would have to wait for now, and every claim that can never be met."""
    book, rules = state.limits, []
    for claim in task.spec.demands.claims:
        pool = book.pools.get((task.namespace, claim.key))
        if pool is not None and not pool.admits(claim, state.now_us):
            rules.append(_limit_rule(pool, claim))
    holder = holdings.scope_holder(book, task) if task.spec.demands.scopes else None
    if holder is not None:
        rules.append(_scope_rule(*holder))
    return rules


def in_the_way(pool: Pool, claim: Claim, of: AttemptKey | None = None) -> list[AttemptKey]:
    """Holders for whom a claim may have to wait; not those that would hold a lock together with it, nor itself."""
    is_shared_lock = pool.definition.kind is LimitKind.LOCK and claim.shared
    return [
        holder
        for holder, held in pool.holders.items()
        if holder != of and not (is_shared_lock and held.shared) and pool.definition.kind is not LimitKind.RATE
    ]


def place_of(state: State, task: Task) -> Place:
    """Where a task stands in line: by its rank in the queue, which a restart forgets, then first come first served."""
    queue = state.queue
    rank_us = task.rank_us if task.rank_us is not None else queue.clock_us - task.spec.priority * queue.aging_us
    return rank_us, task.order, task.id


def _serve_waits(state: State, effects: Effects, before: Task | None = None) -> None:
    """Give running attempts what they wait for, in order; only those that sort before a task when one is given."""
    line = state.limits.line
    until = None if before is None else place_of(state, before)
    while line and (until is None or line[-1][0] < until):
        (_, _, task_id), key = line.pop()
        task = state.tasks.get(task_id)
        attempt, wait = (task.attempt, task.wait(key)) if task is not None else (None, None)
        if task is None or attempt is None or wait is None or not wait.is_pending or task.cancel_requested:
            continue
        agent = state.agents.get(attempt.agent_id)
        if agent is not None and agent.is_online:
            _serve(state, effects, task, attempt, wait)


def _serve(state: State, effects: Effects, task: Task, attempt: Attempt, wait: Wait) -> None:
    claim, book = wait.claim, state.limits
    assert claim is not None
    key = (task.namespace, claim.key)
    pool, beside = book.pools.get(key) or Pool(), book.reserved.get(key, NOTHING)
    if pool.admits(claim, state.now_us, beside, attempt.key):
        holdings.take_more(state, effects, task, attempt, wait)
        blockage.resource_granted(state, effects, task.id, wait.key)
        return
    _arm(state, key, pool, claim)
    if _has_turn(state, pool, claim, beside, attempt.key):
        book.last = max(book.last, place_of(state, task))
        book.set_aside(key, claim)


def _claims_wait(state: State, task: Task) -> tuple[Rule | None, bool]:
    """The first claim that must wait, and whether it is this task's turn in every line in which it stands."""
    book, now_us = state.limits, state.now_us
    first, has_turn = None, True
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
        has_turn = has_turn and _has_turn(state, pool, claim, beside)
        _arm(state, key, pool, claim)
    return first, has_turn


def _has_turn(state: State, pool: Pool, claim: Claim, beside: Tally, of: AttemptKey | None = None) -> bool:
    """Whether a claim waits for attempts that run, and not for others in line, nor for what can never be."""
    if not Pool(pool.definition).admits(claim, state.now_us, beside):
        return False
    return not any(_is_blocked(state, holder) for holder in in_the_way(pool, claim, of))


def _is_blocked(state: State, holder: AttemptKey) -> bool:
    attempt = state.tasks[holder[0]].attempt
    return attempt is not None and attempt.number == holder[1] and attempt.state is AttemptState.BLOCKED


def _arm(state: State, key: LimitKey, pool: Pool, claim: Claim) -> None:
    """One timer a rate, for the time when it has as many units as the first that waits needs."""
    if pool.definition.kind is not LimitKind.RATE or not pool.can_ever(claim):
        return
    due_us = pool.ready_us(claim.units, state.now_us)
    if due_us > state.now_us and not state.now_us < pool.timer_us <= due_us:
        pool.timer_us = due_us
        state.set_timer(due_us, TimerKind.LIMIT, *key)


def _scopes_wait(state: State, task: Task) -> tuple[Rule | None, bool]:
    book, scopes = state.limits, task.spec.demands.scopes
    holder = holdings.scope_holder(book, task)
    rule = _scope_rule(*holder) if holder is not None else None
    for namespace, task_id, reserved in book.reserved_scopes:
        pair = conflict(scopes, reserved) if namespace == task.namespace else None
        if pair is not None:
            return rule or _scope_rule((task_id, 0), pair), False
    return rule, holder is None or not _is_blocked(state, holder[0])


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
