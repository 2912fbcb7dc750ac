"""The gate of an agent: what a coordinator may have run here, whatever it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from outrider.errors import InvalidRequest
from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import task_pb2
from outrider.work import Options, command_spec, function_spec
from outrider_agent.policy.gate import Gate, open_gate
from outrider_agent.policy.settings import PolicySettings, load
from support.signed import assigned, new_key, signed_by, statement, trusted

ANN, BOB = new_key(), new_key()
Judge = Callable[..., str]


@pytest.fixture
def gate_of(tmp_path: Path) -> Callable[..., Judge]:
    """Makes a gate, and gives what judges assignments."""

    def made(**settings: Any) -> Judge:
        gate = Gate(PolicySettings(**settings), tmp_path)
        return lambda assignment, held=False: gate.judge(assignment, lambda *ref: held or None)

    return made


def strict(gate_of: Callable[..., Judge], **settings: Any) -> Judge:
    """A gate that asks for signatures of ann."""
    return gate_of(require_signature=True, trusted_keys=[trusted(ANN)], **settings)


def plain(*argv: str) -> wire.Assignment:
    """A command that nobody signed."""
    return assigned(command_spec(argv or ["echo", "plain"], Options()))


# --- signatures -------------------------------------------------------------------------------------------------------


def test_without_a_policy_everything_passes_as_it_is() -> None:
    """Also what is signed, whoever signed it: what runs is what was signed."""
    gate = open_gate()
    assert gate.judge(plain(), lambda *ref: None) == ""
    assignment = assigned(signed_by(BOB))
    assert gate.judge(assignment, lambda *ref: None) == ""
    assert list(assignment.spec.command.argv) == ["echo", "signed"]
    assert gate.labels == {}
    assert gate.bounds is None


def test_an_agent_that_asks_for_signatures_runs_what_was_signed_and_nothing_else(gate_of: Any) -> None:
    """The coordinator's own words around it do not count: not the work, not the times, not the title."""
    judge = strict(gate_of)
    assert "not signed" in judge(plain())
    spec = signed_by(ANN)
    spec.title, spec.exclusive = "something harmless", True
    spec.timeout.seconds = 1_000_000
    assignment = assigned(spec)
    assert judge(assignment) == ""
    assert assignment.spec == command_spec(["echo", "signed"], Options())


@pytest.mark.parametrize(
    ("spec", "namespace", "words"),
    [
        (signed_by(BOB), "default", "not among policy.trusted_keys"),
        (signed_by(ANN, namespace="lab"), "default", "signed it for namespace 'lab', and it comes as of 'default'"),
        (signed_by(ANN), "lab", "signed it for namespace 'default', and it comes as of 'lab'"),
        (statement(ANN, expires_s=-1), "default", "submit it again, signed anew"),
        (statement(ANN, nonce=b"x"), "default", "nonce"),
        (statement(ANN, spec=task_pb2.TaskSpec()), "default", "no function and no command"),
        (task_pb2.TaskSpec(signed=task_pb2.SignedWork(statement=b"\xff")), "default", "cannot be read"),
        (task_pb2.TaskSpec(), "default", "not signed"),
    ],
)
def test_what_a_taken_over_coordinator_might_try_is_refused(
    gate_of: Any, spec: task_pb2.TaskSpec, namespace: str, words: str
) -> None:
    """Another key, another namespace, a statement that is over, and things that are no statements."""
    assert words in strict(gate_of)(assigned(spec, namespace=namespace))


def test_a_statement_that_was_changed_is_refused_under_any_key_it_names(gate_of: Any) -> None:
    """Neither a changed command nor a signature taken from another statement passes."""
    judge = strict(gate_of)
    other = signed_by(ANN, command_spec(["rm", "-rf", "/"], Options()))
    forged = signed_by(ANN)
    forged.signed.statement = signed_by(BOB, command_spec(["rm"], Options())).signed.statement
    assert "was changed on the way" in judge(assigned(forged))
    other.signed.signature = signed_by(ANN).signed.signature
    assert "was changed on the way" in judge(assigned(other))
    mixed = signed_by(BOB)
    mixed.signed.key_id = signed_by(ANN).signed.key_id
    assert "was changed on the way" in judge(assigned(mixed))


@pytest.mark.parametrize("name", ["a b", "$(x)", "x\n", "../../x", "x" * 65])
def test_what_a_coordinator_calls_signed_work_is_an_id_and_nothing_else(gate_of: Any, name: str) -> None:
    """The names that it gives stand in the environment of what was signed."""
    judge = strict(gate_of)
    by_run = assigned(signed_by(ANN))
    by_run.run_id = name
    assert "its id is none" in judge(assigned(signed_by(ANN), name))
    assert "its id is none" in judge(by_run)


def test_a_key_is_good_for_its_namespaces_only(gate_of: Any) -> None:
    """One that is trusted for the lab signs nothing for others."""
    judge = gate_of(require_signature=True, trusted_keys=[trusted(ANN, namespaces="lab,test"), trusted(BOB, "bob")])
    assert judge(assigned(signed_by(ANN, namespace="lab"), namespace="lab")) == ""
    assert "not good for namespace 'default'" in judge(assigned(signed_by(ANN)))
    assert judge(assigned(signed_by(BOB))) == ""


def test_an_agent_with_keys_that_asks_for_none_still_checks_what_is_signed(gate_of: Any) -> None:
    """A signature that is there must hold; what has none runs."""
    judge = gate_of(trusted_keys=[trusted(ANN)])
    assert judge(plain()) == ""
    assert "not among policy.trusted_keys" in judge(assigned(signed_by(BOB)))


def test_a_statement_is_started_as_often_as_it_says_also_by_another_process(gate_of: Any) -> None:
    """Whatever task and attempt a replay says it is of; an attempt that is held is not started again."""
    spec = statement(ANN, starts_max=2)
    judge = strict(gate_of)
    assert judge(assigned(spec, "one", 1)) == ""
    for _ in range(3):
        assert judge(assigned(spec, "one", 1), held=True) == ""
    judge = strict(gate_of)
    assert judge(assigned(spec, "two", 1)) == ""
    assert "started here 2 times" in judge(assigned(spec, "three", 9))
    assert judge(assigned(statement(ANN, starts_max=2, nonce=b"m" * 16), "four")) == ""


def test_what_the_rules_refuse_is_not_counted_as_a_start(gate_of: Any) -> None:
    """A signature does not make a command one that runs here, and a refusal uses up nothing."""
    judge = strict(gate_of, commands=["/usr/bin/true"])
    spec = statement(ANN, starts_max=1)
    for _ in range(3):
        assert "policy.commands" in judge(assigned(spec))
    assert strict(gate_of)(assigned(spec)) == ""


def test_an_agent_that_remembers_as_much_as_it_may_takes_no_more(gate_of: Any) -> None:
    """It refuses rather than forgets; what has expired makes room."""
    judge = strict(gate_of, statements_max=2)
    assert judge(assigned(statement(ANN, nonce=b"1" * 16))) == ""
    assert judge(assigned(statement(ANN, nonce=b"2" * 16))) == ""
    assert "policy.statements_max" in judge(assigned(statement(ANN, nonce=b"3" * 16)))
    assert judge(assigned(statement(ANN, nonce=b"2" * 16))) == ""


def test_asking_for_signatures_without_trusting_anybody_is_refused(gate_of: Any) -> None:
    """An agent that could never run anything says so at its start; so do lines that are no keys."""
    with pytest.raises(InvalidRequest, match="nobody could sign"):
        gate_of(require_signature=True)
    for line in ("ann", "ann ed25519:short", "ann ed25519:a b c"):
        with pytest.raises(InvalidRequest, match=r"policy\.trusted_keys"):
            gate_of(trusted_keys=[line])


def test_agents_say_that_they_ask_for_signatures(tmp_path: Path) -> None:
    """In a label that coordinators know."""
    gate = Gate(PolicySettings(require_signature=True, trusted_keys=[trusted(ANN)]), tmp_path)
    assert gate.labels == {"outrider.signed": "required"}


# --- rules ------------------------------------------------------------------------------------------------------------

TRUE = "/usr/bin/true"


@pytest.mark.parametrize(
    ("commands", "argv", "passes"),
    [
        ([TRUE], ["true"], True),
        ([TRUE], [TRUE], True),
        ([TRUE], [TRUE, "x"], False),
        ([f"{TRUE} **"], [TRUE], True),
        ([f"{TRUE} **"], [TRUE, "a", "b"], True),
        ([f"{TRUE} a*"], [TRUE, "abc"], True),
        ([f"{TRUE} a*"], [TRUE, "abc", "d"], False),
        ([f"{TRUE} fetch **"], [TRUE, "push"], False),
        ([f"{TRUE} fetch **"], [TRUE], False),
        ([f"{TRUE} 'a b'"], [TRUE, "a b"], True),
        ([TRUE], ["./true"], False),
        ([TRUE], ["/usr/bin/../bin/true"], False),
        ([TRUE], ["/tmp/true"], False),
        ([TRUE, "/usr/bin/env"], ["env"], True),
        ([], [TRUE], False),
    ],
)
def test_commands_that_run_here(gate_of: Any, commands: list[str], argv: list[str], passes: bool) -> None:
    """A program is known by its path, its arguments word by word."""
    refusal = gate_of(commands=commands)(plain(*argv))
    assert (refusal == "") == passes, refusal
    assert passes or refusal.startswith("policy.commands: ")


def test_a_program_of_a_tasks_own_path_is_not_the_one_that_is_meant(gate_of: Any, tmp_path: Path) -> None:
    """It is looked up on the agent's PATH, and a task sets no variables where commands are named."""
    spec = command_spec(["true"], Options(), env={"PATH": str(tmp_path)})
    assert gate_of(commands=[TRUE])(assigned(spec)) == "policy.environment: tasks may not set 'PATH' on this agent"


@pytest.mark.parametrize(
    ("functions", "name", "passes", "must_be_own"),
    [
        (["reports"], "reports:build", True, True),
        (["reports"], "reports.other:build", False, False),
        (["reports:build"], "reports:build", True, False),
        (["reports:build"], "reports:drop", False, False),
        ([], "reports:build", False, False),
    ],
)
def test_functions_that_run_here(
    gate_of: Any, tmp_path: Path, functions: list[str], name: str, passes: bool, must_be_own: bool
) -> None:
    """A module stands for what is defined in it, which its worker checks; a name for itself."""
    refusal = gate_of(functions=functions)(assigned(function_spec(name, [], {}, Options())))
    assert (refusal == "") == passes
    bounds = Gate(PolicySettings(functions=functions), tmp_path).bounds
    if passes:
        assert bounds is not None
        assert bounds.must_be_own(name) == must_be_own


def test_naming_what_may_run_closes_what_is_not_named(gate_of: Any) -> None:
    """Who names commands lets no function run, and the other way round."""
    call = assigned(function_spec("math:sqrt", [2], {}, Options()))
    assert gate_of(commands=[f"{TRUE} **"])(call).startswith("policy.functions: ")
    assert gate_of(functions=["math"])(plain()).startswith("policy.commands: ")
    both = gate_of(functions=["math"], commands=[TRUE])
    assert both(assigned(function_spec("math:sqrt", [2], {}, Options()))) == ""
    assert both(plain("true")) == ""


def test_variables_that_tasks_may_set(gate_of: Any) -> None:
    """By name, with patterns; the first that is not among them is named."""
    judge = gate_of(environment=["CI", "APP_*"])
    assert judge(assigned(command_spec(["a"], Options(), env={"CI": "1", "APP_X": "y"}))) == ""
    refusal = judge(assigned(command_spec(["a"], Options(), env={"CI": "1", "LD_PRELOAD": "x"})))
    assert refusal == "policy.environment: tasks may not set 'LD_PRELOAD' on this agent"


def test_variables_that_tasks_may_have_secrets_in(gate_of: Any) -> None:
    """The same: what a task chooses is the variable, by value or by descriptor, for programs and functions."""
    judge = gate_of(environment=["TOKEN", "APP_*"])
    for options in (Options(secrets={"BASH_ENV": "token"}), Options(secret_fds={"BASH_ENV": "token"})):
        for spec in (command_spec(["a"], options), function_spec("m:f", (), {}, options)):
            assert judge(assigned(spec)) == "policy.environment: tasks may not set 'BASH_ENV' on this agent"
    fine = Options(secrets={"TOKEN": "token"}, secret_fds={"APP_KEY": "key"})
    assert judge(assigned(command_spec(["a"], fine, env={"APP_X": "y"}))) == ""
    assert gate_of(functions=["m"])(assigned(function_spec("m:f", (), {}, fine))).startswith("policy.environment: ")
    assert (
        gate_of(functions=["m"], environment=["TOKEN", "APP_KEY"])(assigned(function_spec("m:f", (), {}, fine))) == ""
    )


def test_folders_that_commands_may_begin_in(gate_of: Any, tmp_path: Path) -> None:
    """Those named and below, by their real path: neither .. nor a link leads out. Scratch space always may."""
    root, outside = tmp_path / "root", tmp_path / "root-not"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    judge = gate_of(directories=[str(root)])
    good = assigned(command_spec(["a"], Options(), cwd=str(root / "sub" / ".." / "sub")))
    assert judge(good) == ""
    assert good.spec.command.working_directory == str(root / "sub")
    assert judge(plain()) == ""
    for folder in (outside, root / "link", root / "..", Path("/")):
        refusal = judge(assigned(command_spec(["a"], Options(), cwd=str(folder))))
        assert refusal.startswith("policy.directories: "), folder


def test_namespaces_that_an_agent_works_for(gate_of: Any) -> None:
    """By name, with patterns; a task that says none is of the default one."""
    judge = gate_of(namespaces=["lab-*"])
    assert judge(assigned(command_spec(["a"], Options()), namespace="lab-1")) == ""
    assert judge(plain()).startswith("policy.namespaces: ")


def test_what_a_submitter_wrote_is_shown_short_and_on_one_line(gate_of: Any) -> None:
    """A refusal goes into logs and tables."""
    refusal = gate_of(commands=[])(plain("a\nb", "x" * 10_000))
    assert "\n" not in refusal
    assert len(refusal) < 250


def test_an_empty_command_and_unknown_work_are_somebody_elses_to_refuse(gate_of: Any) -> None:
    """Neither brings the gate down."""
    judge = gate_of(commands=[TRUE])
    empty = assigned(task_pb2.TaskSpec(command=task_pb2.Command()))
    assert judge(empty) == "the command is empty"
    assert judge(assigned(task_pb2.TaskSpec(title="from the future"))) == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"commands": [""]},
        {"commands": ["true"]},
        {"commands": ["/usr/bin/../bin/true"]},
        {"commands": ["/usr/bin/*"]},
        {"commands": [f"{TRUE} ** x"]},
        {"commands": ["/usr/bin/true 'open"]},
        {"functions": [":f"]},
        {"functions": ["m:"]},
        {"functions": ["m*"]},
        {"directories": ["relative"]},
    ],
)
def test_a_rule_that_means_nothing_is_refused_by_name(gate_of: Any, settings: dict[str, list[str]]) -> None:
    """An agent does not start with a policy that would not do what its owner thinks."""
    with pytest.raises(InvalidRequest, match=f"policy.{next(iter(settings))}: "):
        gate_of(**settings)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_policy_is_read_from_its_own_table(tmp_path: Path) -> None:
    """An unknown rule stops the agent, for it might have been meant to forbid something."""
    path = tmp_path / "o.toml"
    path.write_text('[policy]\ncommands = ["/usr/bin/true"]\n[agent]\nslots = 1\n')
    assert load(path=path, environment={}).commands == ["/usr/bin/true"]
    assert load(path=None, environment={}).is_default
    assert not load(path=None, environment={"OUTRIDER_POLICY_REQUIRE_SIGNATURE": "true"}).is_default
    path.write_text('[policy]\ncomands = ["/usr/bin/true"]\n')
    with pytest.raises(InvalidRequest, match=r"unknown setting policy\.comands"):
        load(path=path, environment={})


def test_every_rule_makes_a_policy_that_is_not_the_default() -> None:
    """What doctor calls open is open."""
    assert PolicySettings().is_default
    for field in msgspec.structs.fields(PolicySettings):
        value: Any = {"bool": True}.get(getattr(field.type, "__name__", ""), 1)
        assert not msgspec.structs.replace(PolicySettings(), **{field.name: value}).is_default
