"""Exclusive attempts on a real agent: they live no longer than its lease."""

from __future__ import annotations

from pathlib import Path

from outrider.v1 import task_pb2
from support.agent_process import is_gone
from support.agent_tasks import daemon_argv
from support.scripted_coordinator import ScriptedCoordinator, at_most_once, command, exclusive, function
from support.waiting import eventually

#: Shell that ignores SIGTERM and says who it is.
STUBBORN = "trap '' TERM; echo $$ > {0}; while :; do sleep 0.1; done"


def pid_of(path: Path) -> int:
    """What a command wrote about itself."""
    return int(eventually(lambda: path.exists() and path.read_text().strip()))


def test_an_exclusive_attempt_dies_with_its_lease(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """Out of contact for its lease it is killed, soon and whatever it ignores; others run on, and say so later."""
    coordinator.lease_s = 2.0
    start_agent("--slots", "2", OUTRIDER_AGENT_KILL_GRACE_S="60")
    coordinator.wait_session()
    coordinator.assign(
        exclusive(command("alone", ["sh", "-c", STUBBORN.format(tmp_path / "alone")])),
        command("other", ["sh", "-c", STUBBORN.format(tmp_path / "other")]),
    )
    alone, other = pid_of(tmp_path / "alone"), pid_of(tmp_path / "other")
    coordinator.wait_for("alone", "started")
    coordinator.stop()
    eventually(lambda: is_gone(alone), 4, "the end of the exclusive attempt")
    assert not is_gone(other)
    coordinator.start()
    assert coordinator.outcome("alone").failed.error.reason == task_pb2.TASK_REASON_LEASE_EXPIRED


def test_an_exclusive_attempt_dies_with_its_lease_while_the_keeper_stands_still(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """Keeper and link get SIGSTOP: the worker ends a function, what it forked and its daemon; others run on."""
    coordinator.lease_s = 2.0
    agent = start_agent("--slots", "2", OUTRIDER_AGENT_KILL_GRACE_S="60")
    coordinator.wait_session()
    coordinator.assign(
        exclusive(function("alone", "support.agent_tasks:stay_with_company", f'"{tmp_path}"')),
        function("other", "support.agent_tasks:stubborn", f'"{tmp_path}/other"'),
    )
    alone = [pid_of(tmp_path / name) for name in ("own", "child", "daemon")]
    other = pid_of(tmp_path / "other")
    agent.suspend()
    try:
        eventually(lambda: all(map(is_gone, alone)), 5, "the end of the exclusive attempt")
        assert not is_gone(other)
    finally:
        agent.resume()
    assert coordinator.outcome("alone").failed.error.reason == task_pb2.TASK_REASON_LEASE_EXPIRED
    assert not is_gone(other)


def test_a_command_dies_with_its_lease_while_the_keeper_stands_still(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """The program, and the daemon that it left with a session of its own; no worker counts as having died of it."""
    coordinator.lease_s = 2.0
    agent = start_agent("--slots", "1", OUTRIDER_AGENT_KILL_GRACE_S="60")
    coordinator.wait_session()
    argv = daemon_argv(tmp_path / "daemon", 1000.0)
    script = f'echo $$ > {tmp_path}/own; exec "$@"'
    coordinator.assign(exclusive(command("t", ["sh", "-c", script, "sh", *argv])))
    pids = [pid_of(tmp_path / name) for name in ("own", "daemon")]
    coordinator.wait_for("t", "started")
    agent.suspend()
    try:
        eventually(lambda: all(map(is_gone, pids)), 5, "the end of the exclusive attempt")
    finally:
        agent.resume()
    assert coordinator.outcome("t").failed.error.reason == task_pb2.TASK_REASON_LEASE_EXPIRED


def test_heartbeats_that_are_answered_keep_an_exclusive_attempt(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """As long as leases come it runs for longer than one of them."""
    coordinator.lease_s = 0.8
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(exclusive(command("t", ["sleep", "2.5"])))
    assert coordinator.outcome("t").HasField("completed")


def test_a_cancel_that_is_slow_does_not_outlast_the_lease(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """An attempt that is given a long grace to clean up loses it with the lease."""
    coordinator.lease_s = 2.0
    start_agent("--slots", "1", OUTRIDER_AGENT_KILL_GRACE_S="60")
    coordinator.wait_session()
    coordinator.assign(exclusive(command("t", ["sh", "-c", STUBBORN.format(tmp_path / "t")])))
    pid = pid_of(tmp_path / "t")
    coordinator.wait_for("t", "started")
    coordinator.cancel("t")
    coordinator.stop()
    eventually(lambda: is_gone(pid), 4, "its end")


def test_at_most_once_is_on_disk_before_it_starts(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """Taken is the first word of such an attempt, and comes back from the outbox when its keeper dies at once."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.is_acking = False
    coordinator.assign(at_most_once(command("t", ["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"])))
    pid_of(tmp_path / "pid")
    agent.kill()
    coordinator.applied.clear()
    coordinator.reports.clear()
    agent.start()
    hello = coordinator.wait_session(2)
    assert hello.previous_instance_id == coordinator.hellos[0].instance_id
    assert coordinator.wait_for("t", "taken").number == 1
    assert [held.ref.task_id for held in hello.held] == []
