"""Every method of every service against every kind of caller, on real sockets. The methods come from reflection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from outrider_coordinator.access import audit
from outrider_coordinator.access.principals import Role
from outrider_coordinator.access.rules import RULES, need_of
from support.daemons import refusal
from support.secured import ROLES, TIMEOUT_S, SecuredCoordinator

DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
#: A stream that is let in may say nothing for long.
LOOK_S = 0.3


class Method(NamedTuple):
    """One method as reflection tells it."""

    path: str
    descriptor: MethodDescriptor


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCoordinator]:
    """One coordinator for all."""
    with SecuredCoordinator(tmp_path_factory.mktemp("matrix")) as made:
        yield made


@pytest.fixture(scope="module")
def methods(secured: SecuredCoordinator) -> list[Method]:
    """Everything that can be called at the join port, which has all services."""
    channel = secured.by_token(secured.token("reflector", "VIEWER"))
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    found = []
    for name in database.get_services():
        service = pool.FindServiceByName(name)
        found += [Method(f"/{name}/{method.name}", method) for method in service.methods]
    return found


def code_of(channel: grpc.Channel, method: Method) -> grpc.StatusCode | None:
    """How a call with an empty request ends; None when it is answered, or goes on."""
    kind = method.descriptor
    request = message_factory.GetMessageClass(kind.input_type)()
    is_fed, is_stream = kind.client_streaming, kind.server_streaming
    make = getattr(channel, f"{'stream' if is_fed else 'unary'}_{'stream' if is_stream else 'unary'}")
    call = make(method.path, type(request).SerializeToString, lambda data: data)
    try:
        if not is_stream:
            call(request, timeout=TIMEOUT_S)
            return None
        next(iter(call(iter([request]) if is_fed else request, timeout=LOOK_S)), None)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return None if is_stream and code is grpc.StatusCode.DEADLINE_EXCEEDED else code
    return None


def let_in(code: grpc.StatusCode | None) -> bool:
    """The call got as far as its handler, whatever that made of an empty request."""
    return code not in (DENIED, UNKNOWN)


def test_every_method_has_a_rule_and_every_rule_a_method(methods: list[Method]) -> None:
    """A new RPC without a rule fails here, and nobody may call it before; no rule is left of an old one."""
    known = {method.path.removeprefix("/").removeprefix("outrider.v1.") for method in methods}
    assert known == set(RULES)
    assert need_of("/outrider.v1.TaskService/Brew") is None


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_what_the_table_says_and_nothing_else(
    secured: SecuredCoordinator, methods: list[Method], role: str
) -> None:
    """Viewer, submitter, operator and admin, by token: each method is answered or denied as the table says."""
    channel = secured.by_token(secured.token(f"matrix-{role.lower()}", role))
    wrong = []
    for method in methods:
        need = need_of(method.path)
        assert need is not None, method.path
        expected = need.role is None or Role[role].includes(need.role)
        if method.descriptor.name in {"RotateAuthority", "RetireAuthority"} and expected:
            continue  # shown by the tests of the authority; here it would end everybody else's credentials
        if let_in(code_of(channel, method)) != expected and need.role is not None:
            wrong.append(method.path)
    assert not wrong


def test_an_agent_reaches_its_session_and_nothing_else(secured: SecuredCoordinator, methods: list[Method]) -> None:
    """By certificate, as agents come: only a session is opened, everything else is denied."""
    channel = secured.by_certificate(secured.joined("matrix-agent"))
    known = [method for method in methods if not method.path.startswith("/outrider.v1.JoinService/")]
    reached = {method.path for method in known if let_in(code_of(channel, method))}
    assert reached == {"/outrider.v1.AgentService/Session"}


def test_nobody_reaches_joining_and_nothing_else(secured: SecuredCoordinator, methods: list[Method]) -> None:
    """Without a token every method but those of joining says that it does not know who calls."""
    open_to_all = {method.path for method in methods if code_of(secured.anonymous, method) is not UNKNOWN}
    # Empty requests are refused by what they lack, not by who sends them.
    assert open_to_all == {"/outrider.v1.JoinService/Join", "/outrider.v1.JoinService/Renew"}


def test_a_namespace_is_a_wall(secured: SecuredCoordinator, methods: list[Method]) -> None:
    """A submitter of one namespace is denied every method that names another, submissions in streams included."""
    channel = secured.by_token(secured.token("walled", "SUBMITTER", "theirs"))
    for method in methods:
        need = need_of(method.path)
        assert need is not None
        if need.is_namespaced and need.role is not None and Role.SUBMITTER.includes(need.role):
            request = message_factory.GetMessageClass(method.descriptor.input_type)()
            fields: Any = request.DESCRIPTOR.fields_by_name
            if "namespace" in fields:
                assert code_of(channel, method) is DENIED, method.path


def test_submissions_of_a_batch_and_a_stream_are_held_against_the_wall(secured: SecuredCoordinator) -> None:
    """A batch with one task for another namespace is denied whole, and a stream ends with its first such frame."""
    from outrider.v1 import task_service_pb2, task_service_pb2_grpc

    stub = task_service_pb2_grpc.TaskServiceStub(secured.by_token(secured.token("walled", "SUBMITTER", "theirs")))
    mine = task_service_pb2.SubmitRequest(namespace="theirs")
    mine.spec.command.argv.append("true")
    other = task_service_pb2.SubmitRequest(namespace="ours")
    other.spec.command.argv.append("true")
    with pytest.raises(grpc.RpcError) as caught:
        stub.SubmitBatch(task_service_pb2.SubmitBatchRequest(tasks=[mine, other]), timeout=TIMEOUT_S)
    assert caught.value.code() is DENIED
    assert stub.Submit(mine, timeout=TIMEOUT_S).task_id
    frames = [
        task_service_pb2.SubmitStreamRequest(submissions=task_service_pb2.Submissions(tasks=[task]))
        for task in (mine, other)
    ]
    answers = stub.SubmitStream(iter(frames), timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError) as ended:
        list(answers)
    assert ended.value.code() is DENIED
    lines = [line for line in audit.read(secured.state / "audit.log") if line["what"].endswith("SubmitStream")]
    assert lines[-1]["who"] == "walled"
    assert lines[-1]["verdict"] == "PERMISSION_DENIED"
    assert {task.namespace for task in stub.List(task_service_pb2.ListRequest(namespace="theirs")).tasks} == {"theirs"}


def test_streams_beyond_the_bound_are_refused_in_words(tmp_path: Path) -> None:
    """The second watch of a user who may have one: RATE_LIMITED as any other refusal, in the audit log too."""
    from outrider.v1 import task_service_pb2, task_service_pb2_grpc

    with SecuredCoordinator(tmp_path, OUTRIDER_COORDINATOR_CALLER_STREAMS="1") as secured:
        stub = task_service_pb2_grpc.TaskServiceStub(secured.by_token(secured.token("ann", "VIEWER")))
        first = stub.Watch(task_service_pb2.WatchRequest(after_cursor=0), timeout=TIMEOUT_S)
        next(first)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(task_service_pb2.WatchRequest(after_cursor=0), timeout=TIMEOUT_S))
        assert refusal(caught.value).reason == "RATE_LIMITED"
        first.cancel()
        lines = [line for line in audit.read(secured.state / "audit.log") if line["what"].endswith("Watch")]
        assert [line["verdict"] for line in lines] == ["RESOURCE_EXHAUSTED"]


def test_nobody_submits_on_another_ones_behalf(secured: SecuredCoordinator) -> None:
    """Whatever the request says, a task is that of the caller; this machine's own user may speak for others."""
    from outrider.v1 import task_service_pb2, task_service_pb2_grpc

    request = task_service_pb2.SubmitRequest(submitter="the-boss")
    request.spec.command.argv.append("true")
    for channel, expected in ((secured.by_token(secured.token("eve")), "eve"), (secured.local, "the-boss")):
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        task_id = stub.Submit(request, timeout=TIMEOUT_S).task_id
        assert stub.Get(task_service_pb2.GetRequest(task_id=task_id), timeout=TIMEOUT_S).task.submitter == expected


def test_a_task_of_another_namespace_is_not_there(secured: SecuredCoordinator, tmp_path: Path) -> None:
    """Its full id does not help: who reaches only another namespace is told that there is no such task."""
    from outrider.v1 import task_service_pb2, task_service_pb2_grpc

    request = task_service_pb2.SubmitRequest(namespace="ours")
    request.spec.command.argv.append("true")
    task_id = task_service_pb2_grpc.TaskServiceStub(secured.local).Submit(request, timeout=TIMEOUT_S).task_id
    stub = task_service_pb2_grpc.TaskServiceStub(secured.by_token(secured.token("walled", "SUBMITTER", "theirs")))
    for call, message in (
        (stub.Get, task_service_pb2.GetRequest(namespace="theirs", task_id=task_id)),
        (stub.Cancel, task_service_pb2.CancelRequest(namespace="theirs", task_id=task_id)),
        (stub.Explain, task_service_pb2.ExplainRequest(namespace="theirs", task_id=task_id)),
        (stub.Retry, task_service_pb2.RetryRequest(namespace="theirs", task_id=task_id)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(message, timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    dependent = task_service_pb2.SubmitRequest(namespace="theirs", dependency_ids=[task_id])
    dependent.spec.command.argv.append("true")
    with pytest.raises(grpc.RpcError) as refused:
        stub.Submit(dependent, timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
