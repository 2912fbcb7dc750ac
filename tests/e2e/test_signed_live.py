"""Signed tasks and policies with real daemons, from the command line and the SDK."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider import errors, signing
from outrider.schedules import Every
from outrider.v1 import task_pb2
from support.command_line import CommandLine, command_line
from support.daemons import Daemons, command, function, reason_name, state_name
from support.waiting import eventually

TASKS = "support.agent_tasks"


class Fleet:
    """A coordinator, an agent ``strict`` that asks for signatures, and a command line with a key."""

    def __init__(self, daemons: Daemons, line: CommandLine) -> None:
        self.daemons = daemons
        self.line = line
        self.key = line.folder / "key.pem"
        made = json.loads(self.cli("key", "create", "--out", str(self.key), "--json"))
        self.trusted = f"ann {made['public_key']}"
        self.strict = self.agent("strict", require_signature=True, trusted_keys=[self.trusted])

    def cli(self, *words: str, stdin: str = "") -> str:
        """What a command that goes well writes."""
        outcome = self.line.run("--coordinator", self.daemons.address, *words, stdin=stdin)
        assert outcome.code == 0, outcome
        return outcome.out

    def agent(self, name: str, **rules: Any) -> Any:
        """An agent with a policy."""
        variables = {f"OUTRIDER_POLICY_{rule.upper()}": json.dumps(value) for rule, value in rules.items()}
        return self.daemons.agent(name, 2, **variables)

    def client(self, **options: Any) -> outrider.Client:
        """A client that signs."""
        return outrider.Client(self.daemons.address, **{"signing_key": self.key, **options})


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One for each test."""
    (tmp_path / "daemons").mkdir()
    (tmp_path / "home").mkdir()
    with Daemons(tmp_path / "daemons") as daemons, command_line(tmp_path / "home") as line:
        yield Fleet(daemons, line)


def test_signed_work_of_every_kind_runs(fleet: Fleet) -> None:
    """Functions, commands, maps, runs and what is added to them, schedules."""
    with fleet.client() as client:
        assert client.submit(f"{TASKS}:double", 21).result(60) == 42
        assert client.command(["sh", "-c", "cat"], stdin="in").result(60)["output"] == "in"
        assert list(client.map(f"{TASKS}:double", [1, 2, 3], timeout=60)) == [2, 4, 6]
        builder = client.run("signed")
        builder.add("a", f"{TASKS}:double", 1)
        builder.add("b", "builtins:dict", after="a", inputs_argument="inputs")
        builder.command("c", ["sleep", "3"])
        run = builder.submit()
        more = run.more()
        more.add("d", f"{TASKS}:double", 2)
        more.submit()
        assert run.result("b", 60) == {"inputs": {"a": 2}}
        assert run.result("d", 60) == 4
        client.schedules.create("s", Every(1), f"{TASKS}:double", 5)
        fired = eventually(lambda: client.schedules.get("s").last_id, 30)
        assert client.task(fired).result(60) == 10
        client.schedules.delete("s")


async def test_the_asyncio_client_signs(fleet: Fleet) -> None:
    """With the same key, given as a file."""
    async with outrider.aio.Client(fleet.daemons.address, signing_key=fleet.key) as client:
        handle = await client.submit(f"{TASKS}:double", 21)
        assert await handle == 42
    assert fleet.daemons.get(handle.id).spec.signed.key_id


def test_a_signed_task_gets_the_secrets_that_were_signed(fleet: Fleet) -> None:
    """It is placed where they are, and asks for those of its statement; the work that may have them is that of it."""
    rules = {"require_signature": True, "trusted_keys": [fleet.trusted]}
    variables = {f"OUTRIDER_POLICY_{rule.upper()}": json.dumps(value) for rule, value in rules.items()}
    secrets = '{token = {environment = "TOKEN_SOURCE", work = ["sh"]}}'
    fleet.daemons.agent("vault", 1, OUTRIDER_AGENT_SECRETS=secrets, TOKEN_SOURCE="s3cret-of-the-vault", **variables)
    script = 'test "$TOKEN" = s3cret-of-the-vault && echo right'
    with fleet.client() as client:
        handle = client.with_options(secrets={"TOKEN": "token"}).command(["sh", "-c", script])
        assert handle.result(60)["output"] == "right\n"
    assert fleet.daemons.get(handle.id).attempts[0].agent_id == "vault"


def test_unsigned_work_waits_and_is_told_why(fleet: Fleet) -> None:
    """It is offered to nobody who would refuse it, and holds up nothing that is signed; another agent takes it."""
    (unsigned,) = fleet.daemons.submit(command(["echo", "plain"]))
    eventually(lambda: "UNSIGNED" in fleet.cli("task", "explain", unsigned))
    with fleet.client() as client:
        assert client.command(["echo", "signed"]).result(60)["output"] == "signed\n"
    fleet.agent("open")
    (task,) = fleet.daemons.ended(unsigned)
    assert [attempt.agent_id for attempt in task.attempts] == ["open"]
    assert task.state == task_pb2.TASK_STATE_SUCCEEDED


def test_the_command_line_signs(fleet: Fleet, tmp_path: Path) -> None:
    """submit, map, run submit, run add and schedule create; what was signed is shown, and by which key."""
    sign = ("--sign", str(fleet.key))
    assert fleet.cli("submit", "--wait", *sign, "--", "echo", "signed") == "signed\n"
    shown = fleet.cli("task", "show", "--last")
    assert "echo signed" in shown
    assert json.loads(fleet.cli("key", "show", str(fleet.key), "--json"))["key_id"] in shown
    assert fleet.cli("task", "result", "--last") == "signed\n"
    mapped = fleet.cli("map", *sign, "--python", f"{TASKS}:say", stdin="a\nb\n")
    assert [json.loads(line) for line in mapped.splitlines()] == ["a", "b"]
    file = tmp_path / "run.toml"
    file.write_text('[tasks.one]\ncommand = ["echo", "1"]\n[tasks.two]\ncommand = ["sleep", "1"]\n')
    run_id = fleet.cli("run", "submit", str(file), *sign, "--request-id", "r").strip()
    assert fleet.cli("run", "submit", str(file), *sign, "--request-id", "r").strip() == run_id
    more = tmp_path / "more.toml"
    more.write_text('[tasks.three]\ncommand = ["echo", "3"]\nafter = ["one"]\n')
    fleet.cli("run", "add", run_id, str(more), *sign)
    fleet.cli("run", "watch", run_id)
    assert set(fleet.daemons.states()) == {"SUCCEEDED"}
    fleet.cli("schedule", "create", "s", "--every", "1s", *sign, "--", "echo", "by the clock")
    assert "echo by the clock" in fleet.cli("schedule", "show", "s")
    eventually(lambda: len(fleet.daemons.states()) > 6 and set(fleet.daemons.states()) == {"SUCCEEDED"}, 30)


def test_a_retry_uses_the_signature_again_until_it_ends(fleet: Fleet) -> None:
    """After its end it is refused, with what helps."""
    signer = signing.Signer(signing.load_key(fleet.key), valid_s=5)
    with fleet.client(signing_key=signer) as client:
        handle = client.submit(f"{TASKS}:double", 1)
        assert handle.result(60) == 2
        assert handle.retry().result(60) == 2
        statement = signing.statement_of(fleet.daemons.get(handle.id).spec.signed)

        end_s = statement.expire_time.ToNanoseconds() / 1e9
        eventually(lambda: time.time() > end_s, 30)
        with pytest.raises(errors.IllegalTransition) as refused:
            handle.retry()
        said = str(refused.value)
        assert "submit it again, signed anew" in said
        assert statement.expire_time.ToJsonString() in said


def test_what_every_policy_refuses_fails_with_what_each_said(fleet: Fleet) -> None:
    """No try is used, no breaker moves, the agents go on; the reason is told to the caller."""
    fleet.agent("narrow", commands=["/usr/bin/true"])
    with fleet.client() as client:
        client.command(["/usr/bin/true"]).result(60)
        failing = client.command(["/usr/bin/false"])
        with pytest.raises(outrider.TaskFailed):  # by its own exit code, on the agent that takes any signed command
            failing.result(60)
    (unsigned,) = fleet.daemons.submit(command(["echo", "x"], retry=task_pb2.RetryPolicy(max_attempts=5)))
    (task,) = fleet.daemons.ended(unsigned)
    assert (state_name(task.state), reason_name(task.reason)) == ("FAILED", "REFUSED_BY_POLICY")
    assert task.error.message.startswith("no agent takes it: narrow: policy.commands: ")
    assert [(one.agent_id, one.counted, reason_name(one.error.reason)) for one in task.attempts] == [
        ("narrow", False, "REFUSED_BY_POLICY")
    ]
    shown = fleet.cli("agent", "show", "narrow")
    assert "closed" in shown
    done = fleet.daemons.submit(*[command(["/usr/bin/true"])] * 5)
    assert {one.state for one in fleet.daemons.ended(*done)} == {task_pb2.TASK_STATE_SUCCEEDED}


def test_a_task_that_one_agent_refuses_is_done_by_another(fleet: Fleet) -> None:
    """Each agent is asked once at most, also across a restart of the coordinator."""
    fleet.agent("narrow", functions=["math"])
    tasks = fleet.daemons.submit(*[function("math:sqrt", 4)] * 3)
    assert {one.state for one in fleet.daemons.ended(*tasks)} == {task_pb2.TASK_STATE_SUCCEEDED}
    fleet.agent("open")
    eventually(lambda: "open" in fleet.cli("agent", "list"))
    mixed = fleet.daemons.submit(*[function(f"{TASKS}:double", number) for number in range(20)])
    ended = fleet.daemons.ended(*mixed)
    assert {one.state for one in ended} == {task_pb2.TASK_STATE_SUCCEEDED}
    assert {one.attempts[-1].agent_id for one in ended} == {"open"}
    assert all([attempt.agent_id for attempt in one.attempts].count("narrow") <= 1 for one in ended)


def test_the_line_that_key_create_prints_is_what_agents_take(fleet: Fleet, tmp_path: Path) -> None:
    """Pasted into a settings file it is TOML, and an agent with it runs what the key signs."""
    printed = fleet.cli("key", "show", str(fleet.key)).splitlines()
    line = next(line.strip() for line in printed if "trusted_keys" in line)
    config = tmp_path / "outrider.toml"
    config.write_text(f"[policy]\nrequire_signature = true\n{line}\n")
    assert tomllib.loads(config.read_text())["policy"]["trusted_keys"]
    fleet.strict.kill()
    fleet.daemons.agent("pasted", 1, "--config", str(config))
    fleet.line.environment["OUTRIDER_SIGNING_KEY"] = str(fleet.key)
    assert fleet.cli("submit", "--wait", "--", "echo", "pasted") == "pasted\n"
