"""What an agent does with work: run, refuse, take back, block, stop at the timeout, kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import task_pb2
from support.agent_process import is_gone
from support.agent_tasks import daemon_argv
from support.scripted_coordinator import ScriptedCoordinator, bounded, command, function, ref
from support.waiting import eventually

TASKS = "support.agent_tasks"


def test_a_function_runs_and_reports(coordinator: ScriptedCoordinator, start_agent) -> None:
    """The start and the end arrive, in one message or in two, numbered from 1, under the assignment's fence."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(function("t", f"{TASKS}:double", "21"))
    assert coordinator.outcome("t").completed.result.data == b"42"
    assert coordinator.kinds("t") == ["started", "completed"]
    assert [(one.number, one.fence, one.attempt) for one in coordinator.said("t")] in (
        [(1, 7, 1)],
        [(1, 7, 1), (2, 7, 1)],
    )


def test_a_command_runs_and_its_output_is_reported(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Output arrives as Log, the result names the exit code, the environment says whose attempt it is."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(command("t", ["sh", "-c", "echo $OUTRIDER_TASK_ID $OUTRIDER_ATTEMPT $OUTRIDER_AGENT"]))
    result = json.loads(coordinator.outcome("t").completed.result.data)
    assert result["exit_code"] == 0
    assert b"".join(one.log.data for one in coordinator.said("t") if one.HasField("log")) == b"t 1 a\n"


def test_hello_says_what_the_agent_is(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Name, slots, labels and the current outbox stand in Hello; heartbeats follow."""
    start_agent("--slots", "3", "--label", "zone=b", "--label", "gpu=yes")
    hello = coordinator.wait_session()
    assert (hello.agent_id, hello.slots, dict(hello.labels)) == ("a", 3, {"zone": "b", "gpu": "yes"})
    assert {"cpu", "memory"} <= dict(hello.resources).keys()
    assert [(one.first_seq, one.last_seq) for one in hello.outboxes] == [(1, 0)]
    assert not hello.held
    eventually(lambda: coordinator.count("heartbeat") >= 2)


def test_workers_are_named_in_a_heartbeat(coordinator: ScriptedCoordinator, start_agent) -> None:
    """People can see each worker process and what it has done."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(function("t", f"{TASKS}:double", "1"))
    coordinator.outcome("t")

    def shown() -> bool:
        beats = [frame.heartbeat for frame in list(coordinator.frames) if frame.HasField("heartbeat")]
        return any(worker.tasks_done == 1 and worker.state == "idle" for beat in beats for worker in beat.workers)

    eventually(shown)


def test_work_over_capacity_is_rejected(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """With one slot and no credit the second attempt is refused, and not started."""
    start_agent("--slots", "1", OUTRIDER_AGENT_PREFETCH_CREDIT="0")
    coordinator.wait_session()
    gate = tmp_path / "gate"
    coordinator.assign(
        function("one", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{gate}"'), function("two", f"{TASKS}:double", "1")
    )
    eventually(lambda: coordinator.refs("rejected") == ["two"])
    gate.touch()
    coordinator.outcome("one")
    assert coordinator.said("two") == []


def test_an_unknown_kind_of_work_is_rejected(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Work that this version does not know is refused with the reason, not run and not dropped."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(wire.Assignment(ref=ref("t"), spec=task_pb2.TaskSpec(title="from the future")))
    eventually(lambda: coordinator.refs("rejected") == ["t"])


def test_a_long_attempt_is_accepted_and_a_duplicate_is_harmless(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """The same assignment sent twice runs once."""
    start_agent("--slots", "2")
    coordinator.wait_session()
    work = function("t", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"')
    coordinator.assign(work)
    coordinator.wait_for("t", "started")
    coordinator.assign(work)
    eventually(lambda: "t" in coordinator.refs("accepted"))
    (tmp_path / "gate").touch()
    coordinator.outcome("t")
    assert (tmp_path / "w").read_text() == "t 1\n"


def test_unstarted_work_is_given_back(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """Revoke takes back what waits, also from inside a worker; what runs goes on."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(
        function("one", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"', prefetched=True),
        function("two", f"{TASKS}:double", "1", prefetched=True),
    )
    coordinator.wait_for("one", "started")
    coordinator.send(revoke=wire.Revoke(refs=[ref("one"), ref("two"), ref("unknown")]))
    eventually(lambda: coordinator.refs("revoked") == ["two"])
    (tmp_path / "gate").touch()
    coordinator.outcome("one")


def test_many_short_functions_all_run_once(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Prefetched functions are spread over the workers; each has one outcome."""
    start_agent("--slots", "2", OUTRIDER_AGENT_PREFETCH_CREDIT="600")
    coordinator.wait_session()
    names = [f"t{index}" for index in range(500)]
    coordinator.assign(*[function(name, f"{TASKS}:double", "1", prefetched=True) for name in names])
    eventually(lambda: sum(one.terminal for _, _, one in list(coordinator.reports)) >= 500, 30)
    outcomes = [one.task_id for _, _, one in coordinator.reports if one.terminal]
    assert sorted(outcomes) == sorted(names)


def test_short_functions_are_one_report_each(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Each attempt says once that it started; of most short functions the start travels with the end."""
    start_agent("--slots", "2", OUTRIDER_AGENT_PREFETCH_CREDIT="600")
    coordinator.wait_session()
    names = [f"t{index}" for index in range(200)]
    coordinator.assign(*[function(name, f"{TASKS}:double", "1", prefetched=True) for name in names])
    for name in names:
        outcome = coordinator.outcome(name)
        assert coordinator.kinds(name) == ["started", "completed"]
        assert [one.number for one in coordinator.said(name)] == list(range(1, outcome.number + 1))
    merged = [one for _, _, one in coordinator.reports if one.HasField("start")]
    assert len(merged) > 100
    assert all(one.start.started.worker_pid for one in merged)
    assert all(one.start.event_time.ToNanoseconds() <= one.event_time.ToNanoseconds() for one in merged)


def test_a_long_function_says_at_once_that_it_started(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """While a function runs the coordinator knows that it does, and its end does not say so again."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(function("t", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"'))
    assert coordinator.wait_for("t", "started").number == 1
    (tmp_path / "gate").touch()
    outcome = coordinator.outcome("t")
    assert (outcome.number, outcome.HasField("start")) == (2, False)
    assert coordinator.refs("accepted") == []


def test_what_waits_behind_a_long_function_moves_on(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """A short function queued behind one that turns out long is run by another worker."""
    start_agent("--slots", "2")
    coordinator.wait_session()
    coordinator.assign(
        function("long", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"', prefetched=True),
        *[function(f"t{index}", f"{TASKS}:double", "1", prefetched=True) for index in range(6)],
    )
    for index in range(6):
        coordinator.outcome(f"t{index}")
    assert not any(one.terminal for one in coordinator.said("long"))
    (tmp_path / "gate").touch()
    coordinator.outcome("long")


def test_a_blocked_attempt_gives_its_slot_away(coordinator: ScriptedCoordinator, start_agent) -> None:
    """With one slot, work runs while another attempt waits for an answer; the answer brings it back."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(function("asks", f"{TASKS}:ask", '"how many?"'))
    blocked = coordinator.wait_for("asks", "blocked").blocked
    assert blocked.clarification.question == "how many?"
    coordinator.assign(function("other", f"{TASKS}:double", "2"))
    assert coordinator.outcome("other").completed.result.data == b"4"
    coordinator.answer("asks", blocked.key, "three")
    assert json.loads(coordinator.outcome("asks").completed.result.data) == "three"
    assert coordinator.kinds("asks") == ["started", "blocked", "unblocked", "completed"]


def test_beyond_parked_max_a_blocked_attempt_keeps_its_slot(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Parking is bounded: without room the next attempt waits until the blocked one has ended."""
    start_agent("--slots", "1", OUTRIDER_AGENT_PARKED_MAX="0")
    coordinator.wait_session()
    coordinator.assign(function("asks", f"{TASKS}:ask", '"q"'), function("other", f"{TASKS}:double", "2"))
    coordinator.wait_for("asks", "blocked")
    eventually(lambda: "other" in coordinator.refs("accepted"))
    assert coordinator.said("other") == []
    coordinator.answer("asks", "q", "yes")
    coordinator.outcome("other")
    order = [one.task_id for _, _, one in coordinator.reports if one.terminal]
    assert order == ["asks", "other"]


def test_progress_that_floods_is_coalesced(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Of 20,000 progress reports far fewer are stored; the last one is among them and the numbers have no gap."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(function("t", f"{TASKS}:flood", "20000"))
    coordinator.outcome("t")
    said = coordinator.said("t")
    progress = [one.progress.completed for one in said if one.HasField("progress")]
    assert len(progress) < 10_000
    assert progress == sorted(progress)
    assert progress[-1] == 20_000
    assert [one.number for one in said] == list(range(1, len(said) + 1))


def test_a_crashing_function_takes_only_itself_down(coordinator: ScriptedCoordinator, start_agent) -> None:
    """A killed worker fails the attempt it ran with WORKER_DIED; those queued behind it succeed."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(
        function("crash", f"{TASKS}:crash", prefetched=True),
        *[function(f"t{index}", f"{TASKS}:double", "1", prefetched=True) for index in range(4)],
    )
    failed = coordinator.outcome("crash").failed
    assert failed.error.reason == task_pb2.TASK_REASON_WORKER_DIED
    assert failed.recoverable
    assert "SIGKILL" in failed.error.message
    for index in range(4):
        assert coordinator.outcome(f"t{index}").HasField("completed")


@pytest.mark.parametrize("prefetched", [False, True])
def test_a_timeout_stops_a_function_that_ignores_everything(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path, prefetched: bool
) -> None:
    """A function that swallows the cancellation is killed with its worker and reported TIMED_OUT; the pool goes on."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(
        function("t", f"{TASKS}:stubborn", f'"{tmp_path}/pid"', timeout_s=0.3, prefetched=prefetched),
        function("next", f"{TASKS}:double", "1", prefetched=prefetched),
    )
    failed = coordinator.outcome("t").failed
    assert failed.error.reason == task_pb2.TASK_REASON_TIMED_OUT
    assert failed.recoverable
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert coordinator.outcome("next").HasField("completed")


def test_a_timeout_pauses_while_blocked(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """Waiting for an answer longer than the timeout does not time out."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    asks = function("asks", f"{TASKS}:ask", '"q"', timeout_s=0.5)
    coordinator.assign(asks)
    coordinator.wait_for("asks", "blocked")
    # Something else that takes longer than the timeout runs meanwhile.
    coordinator.assign(command("other", ["sleep", "0.8"]))
    coordinator.outcome("other")
    coordinator.answer("asks", "q", "yes")
    assert coordinator.outcome("asks").HasField("completed")


def test_an_attempt_that_reports_nothing_is_stalled(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Output keeps an attempt going for longer than its stall timeout; silence for so long ends it, recoverably."""
    start_agent("--slots", "2")
    coordinator.wait_session()
    lively = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.25; done"]
    coordinator.assign(
        bounded(command("lively", lively), stall_s=1), bounded(command("silent", ["sleep", "1000"]), stall_s=0.5)
    )
    failed = coordinator.outcome("silent").failed
    assert failed.error.reason == task_pb2.TASK_REASON_STALLED
    assert failed.recoverable
    assert coordinator.outcome("lively").HasField("completed")


def test_a_stall_timeout_stands_still_while_blocked(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Waiting for an answer is no silence."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(bounded(function("asks", f"{TASKS}:ask", '"q"'), stall_s=0.4))
    coordinator.wait_for("asks", "blocked")
    coordinator.assign(command("other", ["sleep", "1"]))
    coordinator.outcome("other")
    coordinator.answer("asks", "q", "yes")
    assert coordinator.outcome("asks").HasField("completed")


def test_an_agent_keeps_the_deadline_of_a_task(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """What is left when it arrives is all there is, for an attempt that runs and for one that waits for a slot."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    waits = function("waits", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/g"', prefetched=True)
    coordinator.assign(bounded(command("runs", ["sleep", "1000"]), remaining_s=1.2), bounded(waits, remaining_s=0.6))
    for task_id in ("waits", "runs"):
        assert coordinator.outcome(task_id).failed.error.reason == task_pb2.TASK_REASON_DEADLINE_EXCEEDED
    assert not (tmp_path / "w").exists()


def test_granted_time_extends_the_timeout(coordinator: ScriptedCoordinator, start_agent) -> None:
    """An attempt that was granted more time may use it."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(function("t", f"{TASKS}:more_time", "0.8", "30", timeout_s=0.4))
    blocked = coordinator.wait_for("t", "blocked").blocked
    assert blocked.complexity.additional_duration.seconds == 30
    coordinator.answer("t", blocked.key, "yes")
    assert coordinator.outcome("t").HasField("completed")


def test_cancel_of_a_command_kills_its_tree(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """A cancelled `sleep 1000` and its shell are gone when the cancel is confirmed, well before the grace ends."""
    start_agent("--slots", "1", OUTRIDER_AGENT_KILL_GRACE_S="60")
    coordinator.wait_session()
    coordinator.assign(command("t", ["sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/pid; wait"]))
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    coordinator.cancel("t")
    failed = coordinator.outcome("t").failed
    assert failed.error.reason == task_pb2.TASK_REASON_CANCEL_REQUESTED
    assert not failed.recoverable
    assert is_gone(pid)


def test_cancel_finds_a_daemon_that_ignores_sigterm(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """A double-forked process in a session of its own that ignores SIGTERM is dead when the cancel is confirmed."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(command("t", daemon_argv(tmp_path / "pid", 1000)))
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    coordinator.cancel("t")
    coordinator.outcome("t")
    eventually(lambda: is_gone(pid), 2)


def test_a_command_leaves_nothing_behind(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """A daemon started by a command that succeeded is killed before the success is reported."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(command("t", daemon_argv(tmp_path / "pid", 0)))
    assert coordinator.outcome("t").HasField("completed")
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: is_gone(pid), 2)


def test_cancel_before_the_start_starts_nothing(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """An attempt that waits is reported cancelled without ever having run."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(
        function("one", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"'),
        function("two", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"'),
    )
    coordinator.wait_for("one", "started")
    coordinator.cancel("two")
    assert coordinator.outcome("two").failed.error.reason == task_pb2.TASK_REASON_CANCEL_REQUESTED
    assert coordinator.kinds("two") == ["failed"]
    (tmp_path / "gate").touch()
    coordinator.outcome("one")
    assert (tmp_path / "w").read_text() == "one 1\n"


def test_a_stop_with_a_reason_is_reported_with_it(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """An attempt stopped for a reason reports it and could be tried again, whether it had started or not."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(
        command("one", ["sleep", "1000"]), function("two", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/g"')
    )
    coordinator.wait_for("one", "started")
    coordinator.cancel("two", reason=task_pb2.TASK_REASON_MOVED)
    coordinator.cancel("one", reason=task_pb2.TASK_REASON_PREEMPTED)
    moved, preempted = coordinator.outcome("two").failed, coordinator.outcome("one").failed
    assert moved.error.reason == task_pb2.TASK_REASON_MOVED
    assert preempted.error.reason == task_pb2.TASK_REASON_PREEMPTED
    assert moved.recoverable
    assert preempted.recoverable
    assert coordinator.kinds("two") == ["failed"]


def test_a_fenced_attempt_dies_without_a_word(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """Another attempt decided the task: this one is killed and reports nothing more."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(command("t", ["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"]))
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    eventually(lambda: coordinator.kinds("t"))
    coordinator.cancel("t", fenced=True)
    eventually(lambda: is_gone(pid))
    coordinator.assign(function("next", f"{TASKS}:double", "1"))
    coordinator.outcome("next")
    assert coordinator.kinds("t") == ["started"]
    assert agent.process.poll() is None


def test_printed_output_reaches_the_coordinator(coordinator: ScriptedCoordinator, start_agent) -> None:
    """What a function prints arrives as Log before its outcome."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(function("t", f"{TASKS}:say", '"hello"'))
    coordinator.outcome("t")
    assert coordinator.kinds("t") == ["started", "log", "completed"]
    assert coordinator.said("t")[1].log.data == b"hello\n"
