"""Named limits with real daemons: tasks that write down when they ran, and what never ran at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import outrider
from outrider.cli.output import short
from outrider.v1 import limit_service_pb2, task_pb2
from support.cluster import Cluster, cluster
from support.command_line import CommandLine
from support.intervals import MODULE, intervals, most_at_once
from support.waiting import eventually
from support.witness import Gate

STAY_S = 0.1
SLOTS = 4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and two agents, for all tests of this file."""
    with cluster(tmp_path_factory.mktemp("limits"), agents=2, slots=SLOTS) as made:
        yield made


@pytest.fixture
def client(running: Cluster) -> Iterator[outrider.Client]:
    """A client of it."""
    with running.connect() as made:
        yield made


def define(running: Cluster, key: str, **kind: object) -> None:
    """Say what a limit is."""
    spec = limit_service_pb2.LimitSpec(key=key, **kind)  # type: ignore[arg-type]
    running.coordinator.limits.PutLimit(limit_service_pb2.PutLimitRequest(spec=spec), timeout=20)


def test_twenty_tasks_of_a_semaphore_of_two(running: Cluster, client: outrider.Client, tmp_path: Path) -> None:
    """Of twenty tasks that claim a semaphore of two, never more than two run at once, and two do."""
    define(running, "pair", semaphore=limit_service_pb2.Semaphore(capacity=2))
    path = tmp_path / "intervals"
    stay = client.with_options(limits=["pair"])
    handles = [stay.submit(f"{MODULE}:stay", str(path), STAY_S) for _ in range(20)]
    for handle in handles:
        handle.result(timeout=60)
    found = intervals(path)
    assert len(found) == 20
    assert most_at_once(found) == 2


def test_a_mutex_that_nobody_defined(client: outrider.Client, tmp_path: Path) -> None:
    """Tasks that claim the same name run one at a time; readers share it."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    writers = client.with_options(limits=["file:a"])
    readers = client.with_options(limits=["file:a:shared"])
    handles = [writers.submit(f"{MODULE}:stay", str(alone), STAY_S) for _ in range(6)]
    handles += [readers.submit(f"{MODULE}:stay", str(shared), 3 * STAY_S) for _ in range(4)]
    for handle in handles:
        handle.result(timeout=60)
    assert most_at_once(intervals(alone)) == 1
    assert most_at_once(intervals(shared)) > 1
    reading = [(begin, end) for begin, end in intervals(shared)]
    for begin, end in intervals(alone):
        assert all(end <= other or begin >= last for other, last in reading)


def test_a_rate_spaces_starts(running: Cluster, client: outrider.Client) -> None:
    """With a rate of 20 a second and a burst of 2, every third offer comes at least two intervals after the first."""
    define(running, "api", rate=limit_service_pb2.Rate(per_second=20, burst=2))
    calls = client.with_options(limits=["api"])
    handles = [calls.submit("math:sqrt", 4) for _ in range(8)]
    for handle in handles:
        handle.result(timeout=60)
    tasks = [running.get(handle.id) for handle in handles]
    offers = sorted(task.attempts[0].offer_time.ToMicroseconds() for task in tasks)
    assert all(later - offer >= 50_000 for offer, later in zip(offers, offers[2:], strict=False))


def test_write_scopes_keep_tasks_apart(client: outrider.Client, tmp_path: Path) -> None:
    """Tasks whose write scopes overlap run one at a time."""
    path = tmp_path / "scopes"
    scopes = [["src/**"], ["src/app/*.py"], ["src/a?p/main.*", "docs/x"]]
    handles = [
        client.with_options(write_scopes=scope).submit(f"{MODULE}:stay", str(path), STAY_S)
        for scope in scopes
        for _ in "12"
    ]
    for handle in handles:
        handle.result(timeout=60)
    assert most_at_once(intervals(path)) == 1


def test_a_limit_held_while_running(running: Cluster, client: outrider.Client, tmp_path: Path) -> None:
    """Tasks that take a lock in the middle of their run, and one that claims it, never have it at once."""
    path = tmp_path / "held"
    handles = [client.submit(f"{MODULE}:hold_and_stay", str(path), "middle", STAY_S) for _ in range(8)]
    handles.append(client.with_options(limits=["middle"]).submit(f"{MODULE}:stay", str(path), STAY_S))
    for handle in handles:
        handle.result(timeout=60)
    assert len(intervals(path)) == 9
    assert most_at_once(intervals(path)) == 1


def test_a_deadlock_is_found_and_named(running: Cluster, client: outrider.Client, tmp_path: Path, gate: Gate) -> None:
    """Two tasks that take two locks in two orders: one of them is told, with the cycle, and the other gets both."""
    one = client.submit(f"{MODULE}:cross", "left", str(gate.path), "right")
    two = client.submit(f"{MODULE}:cross", "right", str(gate.path), "left")

    def holders() -> list[str]:
        limits = running.coordinator.limits.ListLimits(limit_service_pb2.ListLimitsRequest(), timeout=20).limits
        return [party.task_id for limit in limits if limit.spec.key in ("left", "right") for party in limit.holders]

    eventually(lambda: len(holders()) == 2)
    gate.open(2)
    said = [handle.result(timeout=60) for handle in (one, two)]
    (told,) = filter(None, said)
    assert f"{one.id} waits for right held by {two.id}" in told
    assert f"{two.id} waits for left held by {one.id}" in told


def test_a_killed_coordinator_forgets_no_limit(tmp_path: Path) -> None:
    """After kill -9 of the coordinator a limit is still defined and held, and the next in line comes last."""
    with cluster(tmp_path / "cluster", agents=1, slots=4) as made:
        define(made, "one", semaphore=limit_service_pb2.Semaphore(capacity=1))
        path = tmp_path / "intervals"
        with made.connect() as client:
            stay = client.with_options(limits=["one"])
            first = stay.submit(f"{MODULE}:stay", str(path), 6.0)
            second = stay.submit(f"{MODULE}:stay", str(path), STAY_S)
            eventually(lambda: made.get(first.id).state == task_pb2.TASK_STATE_RUNNING)
            made.coordinator.kill()
            made.coordinator.start()
            eventually(lambda: made.online() == 1, 30)
            limit = made.coordinator.limits.GetLimit(limit_service_pb2.GetLimitRequest(key="one"), timeout=20).limit
            assert (limit.defined, limit.spec.semaphore.capacity, limit.available_units) == (True, 1, 0)
            assert [party.task_id for party in limit.holders] == [first.id]
            assert [party.task_id for party in limit.waiters] == [second.id]
            for handle in (first, second):
                handle.result(timeout=60)
        assert most_at_once(intervals(path)) == 1


def test_limits_on_the_command_line(cli: CommandLine) -> None:
    """A limit is defined, claimed, seen and forgotten from the command line; mistakes say what to write."""
    assert cli.run("limit", "put", "db:cli", "--capacity", "2").out == "db:cli: semaphore of 2\n"
    assert cli.run("limit", "put", "api:cli", "--rate", "10", "--json").objects[0]["spec"]["rate"]["burst"] == 10
    held = cli.run("submit", "--limit", "db:cli:2", "--limit", "file:a:shared", "--", "sleep", "30")
    behind = cli.run("submit", "--limit", "db:cli", "--write-scope", "src/**", "--", "true")
    rows = eventually(lambda: next((row for row in cli.run("limit", "list").rows if row[0] == "db:cli"), None))
    assert rows[1] == "semaphore of 2"
    eventually(lambda: f"task {short(held.id)}" in cli.run("limit", "show", "db:cli").out)
    shown = cli.run("limit", "show", "db:cli").out
    assert f"task {short(behind.id)}, queued" in shown
    assert cli.run("limit", "show", "file:a").out.count("shared") == 1
    cli.run("task", "cancel", held.id)
    eventually(lambda: cli.task(behind.id)["state"] == "TASK_STATE_SUCCEEDED")
    assert cli.run("limit", "delete", "db:cli").code == 0
    missing = cli.run("limit", "show", "db:cli")
    assert missing.code == 3
    assert "outrider limit list" in missing.err
    assert cli.run("limit", "delete", "db:cli").code == 3
    assert "not both" in cli.run("limit", "put", "x", "--capacity", "1", "--rate", "1").err
    assert cli.run("submit", "--limit", "x:0", "--", "true").code == 2
