"""Runs written down as TOML and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider.errors import InvalidRequest
from outrider.run_file import read
from outrider.v1 import run_service_pb2, task_pb2

WHOLE = """
title = "nightly"
description = "all of it"
fail-fast = true
max-parallel = 4

[defaults]
timeout = "30m"
priority = "high"
label = { site = "north" }

[tasks.fetch]
command = ["cat", "-"]
stdin = "words.txt"
cwd = "work"
env = { LANG = "C" }
milestone = "fetched"

[tasks.check]
shell = "wc -w | tee count"
label = ["gpu=yes"]
write-scope = "src/**"
limit = ["db:main", "api:2"]
wait_budget = ["any=10m:move"]
after = "fetch"
not-before = 2030-01-31T08:00:00+01:00

[tasks.report]
python = "math:sqrt"
args = [16]
inputs_argument = "inputs"
phase = 1
weight = 2.5
exclusive = true
after = { check = "always", fetch = "failure" }
"""


def written(folder: Path, text: str, name: str = "run.toml") -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text)
    return path


def test_everything_that_a_file_can_say_is_read(tmp_path: Path) -> None:
    """Policies, defaults, three kinds of work, conditions, phases, milestones and options by the names of flags."""
    (tmp_path / "words.txt").write_text("some words")
    run = read(written(tmp_path, WHOLE)).spec
    assert (run.title, run.max_parallel) == ("nightly", 4)
    assert run.failure_policy == run_service_pb2.RUN_FAILURE_POLICY_FAIL_FAST
    fetch, check, report = run.tasks
    assert (fetch.key, fetch.milestone, fetch.spec.command.stdin) == ("fetch", "fetched", b"some words")
    assert fetch.spec.command.working_directory == str(tmp_path / "work")
    assert dict(fetch.spec.command.environment) == {"LANG": "C"}
    assert (fetch.spec.timeout.seconds, fetch.spec.priority) == (1800, 7)
    assert [one.key for one in fetch.spec.constraints] == ["site"]
    assert list(check.spec.command.argv) == ["sh", "-c", "wc -w | tee count"]
    assert [(one.key, one.units) for one in check.spec.limits] == [("db:main", 1), ("api", 2)]
    assert list(check.spec.write_scopes) == ["src/**"]
    assert [one.key for one in check.spec.constraints] == ["gpu"]
    assert check.spec.HasField("not_before")
    assert report.spec.function.inputs_argument == "inputs"
    assert (report.phase, report.spec.weight, report.spec.exclusive) == (1, 2.5, True)
    edges = {one.key: task_pb2.DependencyCondition.Name(one.condition) for one in report.after}
    assert edges == {"check": "DEPENDENCY_CONDITION_ALWAYS", "fetch": "DEPENDENCY_CONDITION_FAILURE"}


def test_json_says_the_same_and_tasks_may_be_a_list(tmp_path: Path) -> None:
    """A .json file has the same form; a list of tasks gives each its key."""
    tasks = [{"key": "a", "command": ["true"]}, {"key": "b", "command": ["true"], "after": ["a"]}]
    listed = read(written(tmp_path, json.dumps({"sequential": True, "tasks": tasks}), "run.json")).spec
    table = "sequential = true\n[tasks.a]\ncommand = ['true']\n[tasks.b]\ncommand = ['true']\nafter = ['a']\n"
    assert listed == read(written(tmp_path, table)).spec


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("tasks = 1", ": tasks: must be a table"),
        ("", ": has no tasks"),
        ("[tasks.a", "is no TOML"),
        ("titel = 'x'", ".titel: there is no such field"),
        ("max-parallel = -1", ": max_parallel: must be a whole number"),
        ("[defaults]\nafter = ['x']", ": defaults.after: there is no such field"),
        ("[tasks.a]", ": task 'a': give one of command"),
        ("[tasks.a]\ncommand = 'ls -l'", ": task 'a'.command: must be a list of texts"),
        ("[tasks.a]\ncommand = ['x']\ntimeot = 3", ": task 'a'.timeot: there is no such field"),
        ("[tasks.a]\ncommand = ['x']\ntimeout = 'soon'", ": task 'a'.timeout: 'soon' is no duration"),
        ("[tasks.a]\ncommand = ['x']\ntimeout = true", ": task 'a'.timeout: must be a duration"),
        ("[tasks.a]\ncommand = ['x']\npriority = 11", ": task 'a': priority"),
        ("[tasks.a]\ncommand = ['x']\npriority = 1.5", ": task 'a'.priority: must be 0 to 10"),
        ("[tasks.a]\ncommand = ['x']\nargs = []", ": task 'a'.args: does not go with command"),
        ("[tasks.a]\npython = 'm:f'\nenv = {}", ": task 'a'.env: does not go with python"),
        ("[tasks.a]\npython = 'm:f'\nargs = {}", ": task 'a': args must be a list"),
        ("[tasks.a]\npython = 'nothing'", ": task 'a': 'nothing' is no function"),
        ("[tasks.a]\ncommand = ['x']\nafter = {b = 'never'}", ": task 'a': 'never' is no condition"),
        ("[tasks.a]\ncommand = ['x']\nafter = [1]", ": task 'a'.after: must be a list of texts"),
        ("[tasks.a]\ncommand = ['x']\nphase = 'one'", ": task 'a'.phase: must be a whole number"),
        ("[tasks.a]\ncommand = ['x']\nlabel = ['gpu']", ": task 'a'.labels: must be a table"),
        ("[tasks.a]\ncommand = ['x']\nexclusive = 1", ": task 'a'.exclusive: must be true or false"),
        ("[tasks.a]\ncommand = ['x']\nweight = 'big'", ": task 'a'.weight: must be a number"),
        ("[tasks.a]\ncommand = ['x']\nnot-before = 'noon'", ": task 'a'.not_before: must be a time"),
        ("[tasks.a]\ncommand = ['x']\nstdin = 'none.txt'", ": task 'a'.stdin: cannot read none.txt"),
        ("[[tasks]]\ncommand = ['x']", ": tasks[0]: has no key"),
        ("[[tasks]]\nkey = 'a'\ncommand = ['x']\n[[tasks]]\nkey = 'a'\ncommand = ['x']", ": task 'a': the run has"),
    ],
)
def test_what_is_wrong_is_named_by_file_task_and_field(tmp_path: Path, text: str, where: str) -> None:
    """Whatever is wrong, the message begins with the file and says where in it."""
    path = written(tmp_path, text)
    with pytest.raises(InvalidRequest) as caught:
        read(path)
    assert caught.value.message.startswith(str(path))
    assert where in caught.value.message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """No file, and one that is no text."""
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read(tmp_path / "bytes.toml")
