"""Every limit as people see it: what it is, who holds it, who waits. Reads memory, changes nothing, is bounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from outrider_coordinator.core.limits.book import LimitKey, LimitKind, Pool
from outrider_coordinator.core.limits.lines import Place, place_of
from outrider_coordinator.core.spec import Claim
from outrider_coordinator.core.state import State

#: Holders, and waiters, that one limit shows.
PARTIES_MAX = 100


class Party(NamedTuple):
    """A task that holds a limit, or waits for it; ``attempt`` is 0 for a queued one."""

    task_id: str
    attempt: int
    claim: Claim


@dataclass(slots=True)
class Survey:
    """One limit. Holders in the order in which they got it, waiters in that in which they will; `PARTIES_MAX` each."""

    key: str
    pool: Pool
    available: float
    refill_us: int = 0
    holders: list[Party] = field(default_factory=list)
    waiters: list[Party] = field(default_factory=list)


def survey(state: State, namespace: str, key: str = "") -> list[Survey]:
    """Every limit of a namespace that is defined, held or wanted, by key; with ``key`` only that one, if it is."""
    waiters = _waiters(state, namespace)
    known = {name for space, name in state.limits.pools if space == namespace}
    names = (known | waiters.keys()) & {key} if key else known | waiters.keys()
    return [_survey(state, (namespace, name), waiters.get(name, [])) for name in sorted(names)]


def _survey(state: State, key: LimitKey, waiters: list[Party]) -> Survey:
    pool, now_us = state.limits.pools.get(key, Pool()), state.now_us
    found = Survey(key[1], pool, pool.available(now_us), waiters=waiters)
    for (task_id, number), claim in pool.holders.items():
        found.holders.append(Party(task_id, number, claim))
        if len(found.holders) == PARTIES_MAX:
            break
    if pool.definition.kind is LimitKind.RATE and pool.full_us > now_us:
        interval_us = pool.definition.interval_us
        found.refill_us = now_us + (pool.full_us - now_us - 1) % interval_us + 1
    return found


def _waiters(state: State, namespace: str) -> dict[str, list[Party]]:
    """Queued tasks and running attempts that wait, by limit, in the order of the line."""
    waiters: dict[str, list[tuple[Place, Party]]] = {}
    for task in state.queue.claimants(PARTIES_MAX):
        if task.namespace == namespace:
            for claim in task.spec.demands.claims:
                waiters.setdefault(claim.key, []).append((place_of(state, task), Party(task.id, 0, claim)))
    for task_id, key in state.limits.waits:
        task = state.tasks[task_id]
        wait = task.wait(key)
        if task.namespace == namespace and task.attempt is not None and wait is not None and wait.claim is not None:
            party = Party(task_id, task.attempt.number, wait.claim)
            waiters.setdefault(wait.claim.key, []).append((place_of(state, task), party))
    return {name: [party for _, party in sorted(line)[:PARTIES_MAX]] for name, line in waiters.items()}
