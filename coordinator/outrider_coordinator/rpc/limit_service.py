"""LimitService: named limits as operators and clients define and see them."""

from __future__ import annotations

import math

from outrider import errors
from outrider.v1 import limit_service_pb2, limit_service_pb2_grpc, task_pb2
from outrider_coordinator.core.events import LimitDefined
from outrider_coordinator.core.limits.book import Definition, LimitKind
from outrider_coordinator.core.limits.survey import Party, Survey, survey
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc import render
from outrider_coordinator.rpc.calls import Context, Service, asked, unary
from outrider_coordinator.rpc.fields import amount, invalid, word
from outrider_coordinator.rpc.specs import CLAIM_KEY_CHARACTERS_MAX

#: More is no limit that a scheduler could keep.
PER_SECOND_MAX = 1e6
#: A rate below one unit in a year is a mistake.
PER_SECOND_MIN = 1 / (366 * 86_400)


class LimitService(Service, limit_service_pb2_grpc.LimitServiceServicer):
    """Handlers of LimitService over one engine."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    @unary
    async def PutLimit(
        self, request: limit_service_pb2.PutLimitRequest, context: Context
    ) -> limit_service_pb2.PutLimitResponse:
        """Define or change."""
        namespace, key = request.namespace or "default", _key(request.spec.key, "spec.key")
        definition = _definition(request.spec)
        await asked(self._engine, lambda reply: LimitDefined(namespace, key, definition, reply))
        return limit_service_pb2.PutLimitResponse(limit=self._limit(namespace, key))

    @unary
    async def GetLimit(
        self, request: limit_service_pb2.GetLimitRequest, context: Context
    ) -> limit_service_pb2.GetLimitResponse:
        """One limit, with holders and waiters."""
        namespace, key = request.namespace or "default", _key(request.key, "key")
        return limit_service_pb2.GetLimitResponse(limit=self._limit(namespace, key))

    @unary
    async def ListLimits(
        self, request: limit_service_pb2.ListLimitsRequest, context: Context
    ) -> limit_service_pb2.ListLimitsResponse:
        """All that are defined, held or wanted."""
        found = survey(self._engine.state, request.namespace or "default")
        return limit_service_pb2.ListLimitsResponse(limits=[_rendered(one) for one in found])

    @unary
    async def DeleteLimit(
        self, request: limit_service_pb2.DeleteLimitRequest, context: Context
    ) -> limit_service_pb2.DeleteLimitResponse:
        """Forget a definition."""
        namespace, key = request.namespace or "default", _key(request.key, "key")
        await asked(self._engine, lambda reply: LimitDefined(namespace, key, None, reply))
        return limit_service_pb2.DeleteLimitResponse()

    def _limit(self, namespace: str, key: str) -> limit_service_pb2.Limit:
        found = survey(self._engine.state, namespace, key)
        if not found:
            raise errors.NotFound(
                f"nobody defined limit {key!r}, holds it or waits for it; `outrider limit list` shows those there are"
            )
        return _rendered(found[0])


def _key(key: str, path: str) -> str:
    return word(key, path, CLAIM_KEY_CHARACTERS_MAX)


def _definition(spec: limit_service_pb2.LimitSpec) -> Definition:
    """What a limit shall be, checked."""
    if spec.HasField("semaphore"):
        if spec.semaphore.capacity == 0:
            raise invalid("spec.semaphore.capacity", "must be at least 1")
        return Definition(LimitKind.SEMAPHORE, capacity=spec.semaphore.capacity)
    if spec.HasField("rate"):
        per_second = amount(spec.rate.per_second, "spec.rate.per_second")
        if not PER_SECOND_MIN <= per_second <= PER_SECOND_MAX:
            raise invalid("spec.rate.per_second", f"must be {PER_SECOND_MIN:.1g} (one a year) to {PER_SECOND_MAX:g}")
        burst = spec.rate.burst or max(1, math.floor(per_second))
        return Definition(LimitKind.RATE, per_second=per_second, burst=burst)
    return Definition()


def _rendered(found: Survey) -> limit_service_pb2.Limit:
    pool, definition = found.pool, found.pool.definition
    limit = limit_service_pb2.Limit(
        spec=limit_service_pb2.LimitSpec(key=found.key),
        defined=pool.is_defined,
        holders=[_party(party) for party in found.holders],
        waiters=[_party(party) for party in found.waiters],
        available_units=found.available,
    )
    if definition.kind is LimitKind.SEMAPHORE:
        limit.spec.semaphore.capacity = definition.capacity
    elif definition.kind is LimitKind.RATE:
        limit.spec.rate.per_second, limit.spec.rate.burst = definition.per_second, definition.burst
    if found.refill_us:
        limit.refill_time.CopyFrom(render.timestamp(found.refill_us))
    return limit


def _party(party: Party) -> limit_service_pb2.LimitParty:
    claim = task_pb2.LimitClaim(key=party.claim.key, shared=party.claim.shared, units=party.claim.units)
    return limit_service_pb2.LimitParty(task_id=party.task_id, attempt=party.attempt, claim=claim)
