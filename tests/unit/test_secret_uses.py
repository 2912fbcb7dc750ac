"""Asking for secrets: options, run files and the edge of the coordinator agree on what can be asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import InvalidRequest
from outrider.run_file import read
from outrider.v1 import agent_service_pb2, task_pb2
from outrider.work import Options, command_spec, function_spec
from outrider_coordinator.core.records import InsertTask
from outrider_coordinator.core.spec import Constraint, Operator
from outrider_coordinator.rpc import secrets
from outrider_coordinator.rpc.specs import SpecReader, stored_spec

READER = SpecReader(1 << 20)
BY_VALUE, BY_DESCRIPTOR = task_pb2.SECRET_DELIVERY_ENVIRONMENT, task_pb2.SECRET_DELIVERY_DESCRIPTOR


def uses(spec: task_pb2.TaskSpec) -> list[tuple[str, str, int]]:
    """What a spec asks for."""
    return [(one.variable, one.secret, one.delivery) for one in spec.secrets]


def test_options_name_secrets_by_the_variable_that_gets_them() -> None:
    """By value and by descriptor, for functions and commands."""
    options = Options(secrets={"TOKEN": "github-token", "A": "a"}, secret_fds={"KEY_FILE": "deploy-key"})
    wanted = [("A", "a", BY_VALUE), ("TOKEN", "github-token", BY_VALUE), ("KEY_FILE", "deploy-key", BY_DESCRIPTOR)]
    assert uses(command_spec(["true"], options)) == wanted
    assert uses(function_spec("m:f", (), {}, options)) == wanted


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"secrets": {"X": "s"}, "secret_fds": {"X": "s"}}, "the variable X is to get a secret both by value and by"),
        ({"secrets": {"A-B": "s"}}, "'A-B' is no environment variable"),
        ({"secrets": {"": "s"}}, "'' is no environment variable"),
        ({"secrets": {"TRACEPARENT": "s"}}, "is set by Outrider itself"),
        ({"secret_fds": {"OUTRIDER_X": "s"}}, "is set by Outrider itself"),
        ({"secrets": {"X": ""}}, "'' is no name of a secret"),
        ({"secrets": {f"X{number}": "s" for number in range(33)}}, "a task can ask for 32 secrets, not 33"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(options: dict[str, Any], text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidRequest, match=text):
        command_spec(["true"], Options(**options))


@pytest.mark.parametrize("form", ["toml", "json"])
def test_run_files_name_secrets_as_the_flags_do(tmp_path: Path, form: str) -> None:
    """A table, or a list of VARIABLE=NAME; defaults of the run too."""
    document = {
        "defaults": {"secret": ["TOKEN=github-token"]},
        "tasks": {
            "a": {"command": ["true"]},
            "b": {"command": ["true"], "secrets": {"X": "x"}, "secret-fd": ["K=key"]},
        },
    }
    text = '[defaults]\nsecret = ["TOKEN=github-token"]\n[tasks.a]\ncommand = ["true"]\n'
    text += '[tasks.b]\ncommand = ["true"]\nsecrets = {X = "x"}\nsecret-fd = ["K=key"]\n'
    path = tmp_path / f"run.{form}"
    path.write_text(json.dumps(document) if form == "json" else text)
    first, second = read(path).spec.tasks
    assert uses(first.spec) == [("TOKEN", "github-token", BY_VALUE)]
    assert uses(second.spec) == [("X", "x", BY_VALUE), ("K", "key", BY_DESCRIPTOR)]


def spec(**use: Any) -> task_pb2.TaskSpec:
    """A command that asks for one secret."""
    made = task_pb2.TaskSpec(command=task_pb2.Command(argv=["/bin/x y"], environment={"SET": "1"}))
    made.secrets.add(**{"variable": "TOKEN", "secret": "token", **use})
    return made


@pytest.mark.parametrize(
    ("use", "text"),
    [
        ({"variable": "1"}, r"secrets\[0\].variable: '1' is no environment variable"),
        ({"variable": "OUTRIDER_AGENT"}, "is set by Outrider itself"),
        ({"variable": "SET"}, "SET is set twice"),
        ({"secret": "No"}, r"secrets\[0\].secret: 'No' must be 1 to 63 of a-z"),
        ({"delivery": 7}, r"secrets\[0\].delivery: must be ENVIRONMENT or DESCRIPTOR"),
    ],
)
def test_the_coordinator_refuses_what_no_agent_could_do(use: dict[str, Any], text: str) -> None:
    """With the path of the field."""
    with pytest.raises(InvalidRequest, match=text):
        READER.read(spec(**use), "spec", "default")


def test_the_coordinator_bounds_how_many_and_takes_each_variable_once() -> None:
    """A secret may be asked for twice, a variable may not."""
    twice = spec()
    twice.secrets.add(variable="TOKEN", secret="other")
    with pytest.raises(InvalidRequest, match="TOKEN is set twice"):
        READER.read(twice, "spec", "default")
    many = spec()
    for number in range(32):
        many.secrets.add(variable=f"X{number}", secret="token")
    with pytest.raises(InvalidRequest, match="33 entries; at most 32"):
        READER.read(many, "spec", "default")


def test_a_task_may_be_called_by_four_words() -> None:
    """Its namespace or any, its work or any; each quoted, so that no name can pass for two."""
    asked = spec()
    asked.secrets.add(variable="AGAIN", secret="token")
    asked.constraints.add(key="zone", operator=task_pb2.LabelConstraint.OPERATOR_EXISTS)
    wanted = ("*/*", "*/%2Fbin%2Fx%20y", "a%2Fb/*", "a%2Fb/%2Fbin%2Fx%20y")
    facts = READER.read(asked, "spec", "a/b")
    assert facts.demands.constraints == (
        Constraint("zone", Operator.EXISTS),
        Constraint("secret:token", Operator.ADMITS, wanted),
    )
    row = InsertTask(*[None] * len(InsertTask._fields))._replace(body=facts.body, namespace="a/b")
    assert stored_spec(row).demands == facts.demands


def test_labels_that_look_like_secrets_are_nobodys() -> None:
    """Neither can an agent set one by hand, nor a task ask for one."""
    offers = [
        agent_service_pb2.SecretOffer(name="token", namespaces=["a/b", "c"], work=["m:f"]),
        agent_service_pb2.SecretOffer(name="any"),
    ]
    labels = secrets.with_offers({"zone": "x", "secret:forged": "*/*", "secret:any": "forged"}, offers)
    assert labels == {"zone": "x", "secret:token": "a%2Fb/m%3Af c/m%3Af", "secret:any": "*/*"}
    assert secrets.names(labels) == ["any", "token"]
    assert secrets.own_labels(labels) == {"zone": "x"}
    asked = spec()
    asked.constraints.add(key="secret:token", operator=task_pb2.LabelConstraint.OPERATOR_EXISTS)
    with pytest.raises(InvalidRequest, match="is no label"):
        READER.read(asked, "spec", "default")
    forged = spec()
    forged.constraints.add(key="x", operator=5, values=["*/*"])
    with pytest.raises(InvalidRequest, match="must be IN, NOT_IN, EXISTS or NOT_EXISTS"):
        READER.read(forged, "spec", "default")


@pytest.mark.parametrize(
    ("offer", "text"),
    [
        ({"name": "No"}, r"hello.secrets\[0\].name"),
        ({"name": "a", "namespaces": ["n"] * 40, "work": ["w"] * 40}, "1600 entries; at most 1000"),
    ],
)
def test_offers_that_make_no_sense_are_refused(offer: dict[str, Any], text: str) -> None:
    """As a request of anybody else would be."""
    with pytest.raises(InvalidRequest, match=text):
        secrets.with_offers({}, [agent_service_pb2.SecretOffer(**offer)])
    with pytest.raises(InvalidRequest, match=r"hello\.secrets: has 1001 entries"):
        secrets.with_offers({}, [agent_service_pb2.SecretOffer(name="a")] * 1001)
