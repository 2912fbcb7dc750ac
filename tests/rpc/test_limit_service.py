"""LimitService over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from outrider import errors, status
from outrider.v1 import limit_service_pb2, task_pb2, task_service_pb2
from support.coordinator_process import CoordinatorProcess, ScriptedAgent

LimitSpec, Rate, Semaphore = limit_service_pb2.LimitSpec, limit_service_pb2.Rate, limit_service_pb2.Semaphore


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    """A running coordinator for all tests of this file, each with limits of its own."""
    folder: Path = tmp_path_factory.mktemp("coordinator")
    process = CoordinatorProcess(folder)
    process.start()
    yield process
    process.kill()


def put(coordinator: CoordinatorProcess, key: str, **kind: Any) -> limit_service_pb2.Limit:
    """Define a limit."""
    request = limit_service_pb2.PutLimitRequest(spec=LimitSpec(key=key, **kind))
    return coordinator.limits.PutLimit(request, timeout=20).limit


def submit(coordinator: CoordinatorProcess, *claims: task_pb2.LimitClaim) -> str:
    """A function that claims limits; its id."""
    spec = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"), limits=claims)
    return coordinator.tasks.Submit(task_service_pb2.SubmitRequest(spec=spec), timeout=20).task_id


def test_a_limit_is_put_seen_and_deleted(coordinator: CoordinatorProcess) -> None:
    """A definition is listed with its holders and waiters in order; deleting it leaves a plain lock, then nothing."""
    agent = ScriptedAgent(coordinator, "a", slots=4)
    limit = put(coordinator, "db", semaphore=Semaphore(capacity=3))
    assert (limit.defined, limit.available_units) == (True, 3)
    tasks = [submit(coordinator, task_pb2.LimitClaim(key="db", units=2)) for _ in range(2)]
    agent.next("assign")
    get = limit_service_pb2.GetLimitRequest(key="db")
    limit = coordinator.limits.GetLimit(get, timeout=20).limit
    assert [(party.task_id, party.attempt, party.claim.units) for party in limit.holders] == [(tasks[0], 1, 2)]
    assert [(party.task_id, party.attempt) for party in limit.waiters] == [(tasks[1], 0)]
    assert limit.available_units == 1
    listed = coordinator.limits.ListLimits(limit_service_pb2.ListLimitsRequest(), timeout=20).limits
    assert [one.spec.key for one in listed if one.spec.key == "db"] == ["db"]
    other = coordinator.limits.ListLimits(limit_service_pb2.ListLimitsRequest(namespace="other"), timeout=20).limits
    assert not other
    coordinator.limits.DeleteLimit(limit_service_pb2.DeleteLimitRequest(key="db"), timeout=20)
    limit = coordinator.limits.GetLimit(get, timeout=20).limit
    assert (limit.defined, limit.spec.WhichOneof("kind"), limit.available_units) == (False, None, 0)


def test_a_rate_begins_full(coordinator: CoordinatorProcess) -> None:
    """A rate's burst defaults to one second's worth, which is there at once."""
    limit = put(coordinator, "api", rate=Rate(per_second=2.5))
    assert (limit.spec.rate.burst, limit.available_units, limit.HasField("refill_time")) == (2, 2, False)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (LimitSpec(), "spec.key"),
        (LimitSpec(key="k" * 201), "spec.key"),
        (LimitSpec(key="k", semaphore=Semaphore()), "spec.semaphore.capacity"),
        (LimitSpec(key="k", rate=Rate()), "spec.rate.per_second"),
        (LimitSpec(key="k", rate=Rate(per_second=-1)), "spec.rate.per_second"),
        (LimitSpec(key="k", rate=Rate(per_second=float("nan"))), "spec.rate.per_second"),
        (LimitSpec(key="k", rate=Rate(per_second=1e9)), "spec.rate.per_second"),
        (LimitSpec(key="k", rate=Rate(per_second=1e-12)), "spec.rate.per_second"),
    ],
)
def test_a_bad_definition_names_its_field(coordinator: CoordinatorProcess, spec: LimitSpec, field: str) -> None:
    """A definition that cannot be is refused with the field that is wrong."""
    with pytest.raises(grpc.RpcError) as refused:
        coordinator.limits.PutLimit(limit_service_pb2.PutLimitRequest(spec=spec), timeout=20)
    error = status.from_rpc_error(refused.value)
    assert isinstance(error, errors.InvalidRequest)
    assert [violation.field for violation in error.violations] == [field]


def test_what_nobody_knows_is_not_found(coordinator: CoordinatorProcess) -> None:
    """A limit that is neither defined nor held nor wanted is not found, and cannot be deleted."""
    for method, request in (
        (coordinator.limits.GetLimit, limit_service_pb2.GetLimitRequest(key="nobody")),
        (coordinator.limits.DeleteLimit, limit_service_pb2.DeleteLimitRequest(key="nobody")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            method(request, timeout=20)
        assert isinstance(status.from_rpc_error(refused.value), errors.NotFound)
