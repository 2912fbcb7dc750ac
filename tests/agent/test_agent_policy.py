"""An agent whose coordinator was taken over: what it cannot make the agent do, whatever it sends."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import task_pb2
from outrider.work import Options, command_spec
from support.agent_process import AgentProcess
from support.scripted_coordinator import ScriptedCoordinator, command, function
from support.signed import assigned, new_key, signed_by, statement, trusted
from support.waiting import eventually

TASKS = "support.agent_tasks"
ANN = new_key()


def policy(**rules: Any) -> dict[str, str]:
    """Rules of [policy] as variables of the agent."""
    return {f"OUTRIDER_POLICY_{name.upper()}": json.dumps(value) for name, value in rules.items()}


def strict(**rules: Any) -> dict[str, str]:
    """As `policy`, for signed tasks only."""
    return policy(require_signature=True, trusted_keys=[trusted(ANN)], **rules)


def refusal(coordinator: ScriptedCoordinator, task_id: str) -> str:
    """Wait until the agent has refused a task by its policy; what it says."""

    def said() -> wire.Rejected | None:
        frames = [frame.rejected for frame in list(coordinator.frames) if frame.HasField("rejected")]
        return next((one for one in frames if task_id in [ref.task_id for ref in one.refs]), None)

    rejected = eventually(said, what=f"refusal of {task_id}")
    assert rejected.reason == task_pb2.TASK_REASON_REFUSED_BY_POLICY
    return str(rejected.message)


def printed(coordinator: ScriptedCoordinator, task_id: str) -> str:
    """What a command that succeeded printed."""
    outcome = coordinator.outcome(task_id)
    assert outcome.HasField("completed"), outcome
    return str(json.loads(outcome.completed.result.data)["output"])


# --- signed tasks -----------------------------------------------------------------------------------------------------


def test_a_coordinator_cannot_make_up_a_task(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """Not a command, not a function, not with a signature of somebody else or from another task: nothing is started."""
    agent = start_agent("--slots", "4", **strict())
    hello = coordinator.wait_session()
    assert hello.labels["outrider.signed"] == "required"
    witness = tmp_path / "witness"
    touch = command_spec(["touch", str(witness)], Options())
    forged = signed_by(ANN, touch)
    forged.signed.signature = signed_by(ANN).signed.signature
    coordinator.assign(
        command("plain", ["touch", str(witness)]),
        function("call", f"{TASKS}:double", "1"),
        assigned(signed_by(new_key(), touch), "stranger"),
        assigned(forged, "forged"),
        assigned(statement(ANN, spec=touch, expires_s=-1), "late"),
        assigned(signed_by(ANN, touch, namespace="lab"), "elsewhere"),
    )
    for task_id in ("plain", "call", "stranger", "forged", "late", "elsewhere"):
        assert refusal(coordinator, task_id)
    assert not witness.exists()
    assert coordinator.reports == []
    assert "refused task plain: policy.require_signature" in agent.log.read_text()


def test_what_was_signed_runs_whatever_is_said_around_it(coordinator: ScriptedCoordinator, start_agent) -> None:
    """The words around a statement, and another task's id and title, change nothing of what runs."""
    start_agent("--slots", "1", **strict())
    coordinator.wait_session()
    spec = signed_by(ANN, command_spec(["sh", "-c", "echo $WHO; cat"], Options(), env={"WHO": "ann"}, stdin="in"))
    spec.title = "another title"
    spec.constraints.add(key="x", values=["y"])
    spec.timeout.FromMilliseconds(1)
    coordinator.assign(assigned(spec))
    assert printed(coordinator, "t") == "ann\nin"


def test_a_signed_function_gets_its_arguments(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Functions are signed with their arguments, and run in warm workers like others."""
    start_agent("--slots", "1", **strict())
    coordinator.wait_session()
    coordinator.assign(assigned(signed_by(ANN, function("x", f"{TASKS}:double", "21").spec)))
    assert coordinator.outcome("t").completed.result.data == b"42"


def test_a_statement_is_not_replayed_for_ever(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """As often as it says, whatever task it is said to be of; a keeper that is killed has not forgotten it."""
    agent = start_agent("--slots", "1", **strict())
    coordinator.wait_session()
    count = tmp_path / "count"
    spec = signed_by(ANN, command_spec(["sh", "-c", f"echo x >> {count}"], Options()), starts_max=2)
    coordinator.assign(assigned(spec, "one"))
    coordinator.outcome("one")
    agent.kill()
    agent.process.wait(10)
    agent.start()
    coordinator.wait_session(2)
    coordinator.assign(assigned(spec, "two", attempt=5))
    coordinator.outcome("two")
    coordinator.assign(assigned(spec, "three"))
    assert "started here 2 times" in refusal(coordinator, "three")
    assert count.read_text() == "x\nx\n"


def test_a_repeated_assignment_is_one_start(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """An assignment that comes twice while its attempt is held is accepted once more, and counted once."""
    start_agent("--slots", "1", **strict())
    coordinator.wait_session()
    gate, witness = tmp_path / "gate", tmp_path / "w"
    waits = function("x", f"{TASKS}:witness", f'"{witness}"', f'"{gate}"').spec
    spec = signed_by(ANN, waits, starts_max=1)
    coordinator.assign(assigned(spec))
    eventually(witness.exists)
    coordinator.assign(assigned(spec))
    eventually(lambda: coordinator.refs("accepted").count("t") >= 1)
    gate.touch()
    assert coordinator.outcome("t").HasField("completed")
    assert coordinator.refs("rejected") == []
    assert witness.read_text() == "t 1\n"


# --- the agent's own rules --------------------------------------------------------------------------------------------


def test_commands_and_folders_that_are_not_allowed_are_refused(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """With the rule that refused them; what is allowed runs, by the path that the rule names."""
    root = tmp_path / "root"
    root.mkdir()
    pwd_path = shutil.which("pwd")
    start_agent("--slots", "1", **policy(commands=[str(pwd_path)], directories=[str(root)]))
    coordinator.wait_session()
    elsewhere = command("elsewhere", ["pwd"])
    elsewhere.spec.command.working_directory = "/"
    variable = command("variable", ["pwd"])
    variable.spec.command.environment["LD_PRELOAD"] = "evil.so"
    coordinator.assign(command("other", ["sh", "-c", "pwd"]), elsewhere, variable)
    assert refusal(coordinator, "other").startswith("policy.commands: ")
    assert refusal(coordinator, "elsewhere").startswith("policy.directories: ")
    assert refusal(coordinator, "variable").startswith("policy.environment: ")
    allowed = command("allowed", ["pwd"])
    allowed.spec.command.working_directory = str(root)
    coordinator.assign(allowed)
    assert printed(coordinator, "allowed") == f"{root}\n"


def test_a_program_is_run_by_the_path_of_the_policy(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """Also when a task may set PATH, and has a program of that name on it."""
    fake = tmp_path / "bin" / "pwd"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho fake\n")
    fake.chmod(0o755)
    start_agent("--slots", "1", **policy(commands=[str(shutil.which("pwd"))], environment=["PATH"]))
    coordinator.wait_session()
    spoofed = command("t", ["pwd"])
    spoofed.spec.command.environment["PATH"] = str(fake.parent)
    coordinator.assign(spoofed)
    assert "fake" not in printed(coordinator, "t")


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.run", "Path.unlink", "double.__init__", "double.__globals__"]
)
def test_a_module_gives_its_own_functions_only(coordinator: ScriptedCoordinator, start_agent, name: str) -> None:
    """What an allowed module has imported from others does not run through it."""
    start_agent("--slots", "1", **policy(functions=[TASKS]))
    coordinator.wait_session()
    coordinator.assign(function("own", f"{TASKS}:double", "21"), function("other", "os:system", '"true"'))
    assert coordinator.outcome("own").completed.result.data == b"42"
    assert refusal(coordinator, "other").startswith("policy.functions: ")
    coordinator.assign(function("borrowed", f"{TASKS}:{name}", '"true"'))
    failed = coordinator.outcome("borrowed").failed
    assert failed.error.reason in (task_pb2.TASK_REASON_REFUSED_BY_POLICY, task_pb2.TASK_REASON_INVALID_WORK)
    assert not failed.recoverable


def test_running_time_is_bounded_whatever_is_granted(coordinator: ScriptedCoordinator, start_agent) -> None:
    """A task without a timeout gets the policy's; more time than that is not to be had."""
    start_agent("--slots", "2", **policy(time_max_s=1))
    coordinator.wait_session()
    coordinator.assign(command("long", ["sleep", "60"]), function("asks", f"{TASKS}:more_time", "60", "60"))
    coordinator.wait_for("asks", "blocked")
    key = coordinator.wait_for("asks", "blocked").blocked.key
    coordinator.answer("asks", key, "yes")
    for task_id in ("long", "asks"):
        failed = coordinator.outcome(task_id).failed
        assert failed.error.reason == task_pb2.TASK_REASON_TIMED_OUT
        assert "policy.time_max_s" in failed.error.message


def test_a_shorter_timeout_is_the_tasks_own(coordinator: ScriptedCoordinator, start_agent) -> None:
    """The policy lengthens nothing."""
    start_agent("--slots", "1", **policy(time_max_s=60))
    coordinator.wait_session()
    coordinator.assign(command("t", ["sleep", "60"], timeout_s=0.3))
    assert "policy" not in coordinator.outcome("t").failed.error.message


def test_output_is_bounded(coordinator: ScriptedCoordinator, start_agent) -> None:
    """What is more is dropped, the reader is told, and the task goes on."""
    start_agent("--slots", "1", **policy(output_bytes_max=1000))
    coordinator.wait_session()
    script = "for i in 1 2 3 4; do head -c 400 /dev/zero | tr '\\0' x; sleep 0.2; done"
    coordinator.assign(command("t", ["sh", "-c", script]))
    assert coordinator.outcome("t").HasField("completed")
    logs = [one.log for one in coordinator.said("t") if one.HasField("log")]
    assert sum(len(log.data) for log in logs if log.stream != 4) <= 1000
    assert b"policy.output_bytes_max" in b"".join(log.data for log in logs)


def test_the_kernel_bounds_what_tasks_take(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """Address space, file size and open files, for commands and for functions."""
    rules = {"memory_max_bytes": 1 << 30, "file_max_bytes": 1 << 20, "open_files_max": 64}
    start_agent("--slots", "1", **policy(**rules))
    coordinator.wait_session()
    coordinator.assign(command("limits", ["sh", "-c", "ulimit -v; ulimit -f; ulimit -n"]))
    assert printed(coordinator, "limits").split() == [str(1 << 20), str(2048), "64"]
    big = tmp_path / "big"
    coordinator.assign(command("file", ["head", "-c", str(2 << 20), "/dev/zero"]))
    assert coordinator.outcome("file").HasField("completed")  # a pipe is no file
    coordinator.assign(command("file2", ["sh", "-c", f"head -c {2 << 20} /dev/zero > {big}"]))
    assert coordinator.outcome("file2").HasField("failed")
    assert big.stat().st_size <= 1 << 20
    coordinator.assign(function("memory", "builtins:bytearray", str(2 << 30)))
    assert coordinator.outcome("memory").failed.error.exception_type == "MemoryError"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"require_signature": True}, "nobody could sign"),
        ({"commands": ["make"]}, "policy.commands"),
        ({"user": "nobody-of-that-name"}, "policy.user"),
        ({"comands": []}, "comands"),
    ],
)
def test_a_policy_that_cannot_be_kept_keeps_the_agent_from_starting(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path, rules: dict[str, Any], words: str
) -> None:
    """With one line that names the rule: no agent runs with less than its owner asked for."""
    config = tmp_path / "outrider.toml"
    config.write_text("[policy]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in rules.items()))
    agent = start_agent("--config", str(config))
    assert agent.process.wait(20) == 1
    assert words in agent.log.read_text()
    assert coordinator.hellos == []


# --- another user -----------------------------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of tests."""
    folder = Path(tempfile.mkdtemp(prefix="outrider-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def for_everybody() -> list[str]:
    """What to start an agent with, so that Python is where every user can reach it.

    Where it is in root's home, that has one more door, which nobody but the agent sees.
    """
    home = next((one for one in reversed(Path(sys.executable).resolve().parents) if not one.stat().st_mode & 1), None)
    if home is None:
        return []
    inside = home / Path(sys.executable).resolve().relative_to(home).parts[0]
    mounts = (
        'kept=$(mktemp -d) && mount --bind "$2" $kept && mount -t tmpfs -o mode=755 none "$1" && mkdir "$2" && '
        'mount --bind $kept "$2" && umount $kept && rmdir $kept && shift 2 && exec "$@"'
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", mounts, "sh", str(home), str(inside)]


@pytest.mark.needs("root", "unshare")
def test_tasks_run_as_the_user_of_the_policy(coordinator: ScriptedCoordinator, open_folder: Path) -> None:
    """Commands and functions, with that user's groups and home, scratch space of their own, and no way back to root.

    They are handed the agent's secrets, and cannot read them where the agent does.
    """
    user = pwd.getpwnam("nobody")
    token, config = open_folder / "token", open_folder / "outrider.toml"
    token.touch(0o600)
    token.write_text("a-value-of-root")
    config.write_text(f'[agent.secrets.token]\nfile = "{token}"\n')
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with ExitStack() as stack:
        environment = {"PYTHONPATH": path, **policy(user="nobody", processes_max=4096)}
        agent = stack.enter_context(
            AgentProcess(
                open_folder,
                coordinator.address,
                *("--slots", "1", "--config", str(config)),
                environment=environment,
                before=for_everybody(),
            )
        )
        coordinator.wait_session()
        script = "id -u; id -G; echo $HOME; touch here && echo wrote; grep NoNewPrivs /proc/self/status"
        coordinator.assign(command("who", ["sh", "-c", script]))
        uid, groups, home, wrote, privileges = printed(coordinator, "who").splitlines()
        assert (uid, home, wrote) == (str(user.pw_uid), user.pw_dir, "wrote")
        assert set(groups.split()) == {str(one) for one in os.getgrouplist("nobody", user.pw_gid)}
        assert privileges.split() == ["NoNewPrivs:", "1"]
        coordinator.assign(function("call", "os:getresuid"))
        assert json.loads(coordinator.outcome("call").completed.result.data) == [user.pw_uid] * 3
        coordinator.assign(function("back", "os:setuid", "0"))
        assert coordinator.outcome("back").failed.error.exception_type == "PermissionError"
        coordinator.assign(command("secrets", ["cat", str(agent.state / "lock")]))
        assert coordinator.outcome("secrets").HasField("failed")
        script = f'cat {token} 2>/dev/null || test "$(cat "$KEY_FILE")" = "$TOKEN" && echo "$TOKEN"'
        handed = command("handed", ["sh", "-c", script])
        handed.spec.secrets.add(variable="TOKEN", secret="token")
        handed.spec.secrets.add(variable="KEY_FILE", secret="token", delivery=task_pb2.SECRET_DELIVERY_DESCRIPTOR)
        coordinator.assign(handed)
        assert printed(coordinator, "handed") == "[secret token]\n"
        coordinator.assign(command("long", ["sleep", "60"]))
        coordinator.wait_for("long", "started")
        coordinator.cancel("long", grace_s=0.2)
        assert coordinator.outcome("long").HasField("failed")


@pytest.mark.needs("root", "unshare")
def test_a_worker_that_is_still_root_imports_nothing_of_the_tasks(
    coordinator: ScriptedCoordinator, open_folder: Path
) -> None:
    """A module put where tasks run, under the name of one of ours, is not run as root."""
    trap = open_folder / "resource.py"
    trap.write_text(f"import os\nif os.getuid() == 0: open('{open_folder}/trapped', 'w').close()\nraise ImportError\n")
    for package in ("outrider", "msgspec"):
        (open_folder / package).mkdir()
        (open_folder / package / "__init__.py").write_text(trap.read_text())
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    elsewhere = Path(tempfile.mkdtemp(prefix="outrider-test-"))
    elsewhere.chmod(0o755)
    flags = ("--slots", "1", "--working-directory", str(open_folder))
    try:
        environment = {"PYTHONPATH": path, **policy(user="nobody")}
        with AgentProcess(
            elsewhere, coordinator.address, *flags, environment=environment, before=for_everybody()
        ) as agent:
            # The worker itself, an ordinary user by then, imports what it finds there, and fails.
            eventually(lambda: "before it was ready" in agent.log.read_text(), 20)
            assert not (open_folder / "trapped").exists()
    finally:
        shutil.rmtree(elsewhere)


@pytest.mark.needs("root")
def test_a_user_that_cannot_reach_its_folders_is_told(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """The folder on the way that it cannot pass is named."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o700)
    agent = start_agent("--working-directory", str(closed), **policy(user="nobody"))
    assert agent.process.wait(20) == 1
    assert "policy.user: nobody cannot pass" in agent.log.read_text()
