"""Signed tasks as the coordinator reads them: it believes nothing, and needs to know what they are."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.errors import IllegalTransition, InvalidRequest, TooLarge
from outrider.v1 import run_service_pb2, task_pb2, task_service_pb2
from outrider.work import Options, command_spec, function_spec
from outrider_coordinator.rpc.convert import Converter
from outrider_coordinator.rpc.ids import IdMaker
from outrider_coordinator.rpc.specs import (
    SpecReader,
    identity,
    repeated_spec,
    run_identity,
    stored_spec,
    tasks_identity,
)
from support.signed import new_key, signed_by, statement
from support.store_records import task as task_row

KEY = new_key()
READER = SpecReader(1 << 20)


def row(spec: task_pb2.TaskSpec) -> Any:
    """A stored task with this spec."""
    return task_row("t")._replace(body=spec.SerializeToString(deterministic=True))


@pytest.mark.parametrize(
    ("spec", "kind", "title", "is_function"),
    [
        (command_spec(["make", "test"], Options()), "make", "make test", False),
        (function_spec("m:f", [1], {}, Options()), "m:f", "m:f", True),
        (command_spec(["make"], Options(title="Build", type="build")), "build", "Build", False),
    ],
)
def test_a_signed_task_is_decided_about_like_any_other(
    spec: task_pb2.TaskSpec, kind: str, title: str, is_function: bool
) -> None:
    """Kind, title, defaults and demands are those of what was signed; only that it is signed is new."""
    signed = signed_by(KEY, spec)
    facts, plain = READER.read(signed, "spec", "default"), READER.read(spec, "spec", "default")
    assert (facts.kind, facts.title, facts.is_function) == (kind, title, is_function)
    assert facts.disconnect_grace_us == plain.disconnect_grace_us
    assert facts.demands == plain.demands._replace(is_signed=True)
    assert facts.body == signed.SerializeToString(deterministic=True)
    assert stored_spec(row(signed)) == facts


def test_a_statement_that_agents_would_refuse_is_refused_at_the_door() -> None:
    """Another namespace, words around it that say something else, and what is no statement."""
    signed = signed_by(KEY)
    with pytest.raises(InvalidRequest, match="signed for namespace 'default' and is submitted to 'lab'"):
        READER.read(signed, "spec", "lab")
    signed.priority = 9
    with pytest.raises(InvalidRequest, match="must repeat what the signed statement says"):
        READER.read(signed, "spec", "default")
    with pytest.raises(InvalidRequest, match="no function and no command"):
        READER.read(statement(KEY, spec=task_pb2.TaskSpec()), "spec", "default")
    with pytest.raises(InvalidRequest, match="at least a program"):
        READER.read(statement(KEY, spec=task_pb2.TaskSpec(command=task_pb2.Command())), "spec", "default")


def test_what_is_signed_has_the_bounds_of_what_is_not() -> None:
    """Arguments and standard input count inside a statement, too."""
    with pytest.raises(TooLarge, match="stdin"):
        SpecReader(10).read(signed_by(KEY, command_spec(["cat"], Options(), stdin=b"x" * 11)), "spec", "default")


def test_a_request_that_is_signed_once_more_is_the_same_request() -> None:
    """A client that repeats a submit under its request id signs anew; another task under that id shows."""
    converter = Converter(IdMaker(), READER)

    def digest(spec: task_pb2.TaskSpec) -> bytes:
        request = task_service_pb2.SubmitRequest(request_id="r", spec=spec)
        return converter.submission(request).digest

    assert digest(signed_by(KEY)) == digest(signed_by(KEY))
    assert digest(signed_by(KEY)) != digest(signed_by(KEY, command_spec(["echo", "other"], Options())))
    assert digest(signed_by(KEY)) != digest(signed_by(new_key()))
    assert digest(signed_by(KEY)) != digest(command_spec(["echo", "signed"], Options()))


def test_a_run_that_is_signed_once_more_is_the_same_run() -> None:
    """As are tasks that are added to one; what nobody signed is compared as it is."""

    def run(*specs: task_pb2.TaskSpec) -> run_service_pb2.RunSpec:
        tasks = [run_service_pb2.RunTask(key=str(at), spec=spec) for at, spec in enumerate(specs)]
        return run_service_pb2.RunSpec(title="r", tasks=tasks)

    plain = command_spec(["true"], Options())
    first, second = run(signed_by(KEY), plain), run(signed_by(KEY), plain)
    before = first.SerializeToString()
    assert run_identity(first) == run_identity(second)
    assert tasks_identity(first.tasks) == tasks_identity(second.tasks)
    assert first.SerializeToString() == before
    assert run_identity(first) != run_identity(run(plain, plain))
    assert run_identity(run(plain)) == run(plain).SerializeToString(deterministic=True)
    assert identity(plain.SerializeToString()) == plain.SerializeToString(deterministic=True)


def test_a_task_whose_signature_has_ended_is_not_done_again() -> None:
    """Agents would refuse it: that is said at once, with what helps."""
    assert repeated_spec(row(signed_by(KEY))).demands.is_signed
    assert not repeated_spec(row(command_spec(["true"], Options()))).demands.is_signed
    with pytest.raises(IllegalTransition, match="submit it again, signed anew"):
        repeated_spec(row(statement(KEY, expires_s=-1)))
