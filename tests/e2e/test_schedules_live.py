"""Work by the clock with real daemons: from the command line and from both clients."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import grpc
import pytest

import outrider
from outrider import At, Cron, Every, aio, errors
from outrider.schedules import Missed, Overlap
from outrider.v1 import run_service_pb2, run_service_pb2_grpc
from support.cluster import Cluster, cluster
from support.command_line import CommandLine
from support.sdk_tasks import add, double
from support.waiting import eventually

TIMEOUT_S = 30
NEW_YEAR = Cron("0 0 1 1 *", "Europe/Berlin")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and an agent, for all tests here."""
    with cluster(tmp_path_factory.mktemp("schedules")) as started:
        yield started


@pytest.fixture(scope="module")
def client(running: Cluster) -> Iterator[outrider.Client]:
    """One client for all tests here, each with schedules of its own."""
    with running.connect() as connected:
        yield connected


def test_a_command_runs_again_and_again(cli: CommandLine) -> None:
    """`schedule create --every` runs a command each second; show and list tell of it; paused, nothing more comes."""
    made = cli.run("schedule", "create", "ticks", "--every", "1s", "--title", "a tick", "--", "echo", "tick")
    assert (made.code, made.out.split(";")[0]) == (0, "ticks: every 1.0s")
    eventually(lambda: int(cli.run("schedule", "list").rows[0][3]) >= 2, TIMEOUT_S)
    shown = cli.run("schedule", "show", "ticks", "--json").objects[0]
    task = shown["last_id"]
    eventually(lambda: cli.run("task", "result", task).code == 0, TIMEOUT_S)
    assert cli.run("task", "result", task).out == "tick\n"
    assert cli.run("task", "show", task, "--json").objects[0]["schedule_id"] == "ticks"
    assert cli.run("schedule", "pause", "ticks").out == "ticks: every 1.0s; next paused\n"
    paused = cli.run("schedule", "show", "ticks", "--json").objects[0]
    assert paused["paused"] is True
    text = cli.run("schedule", "show", "ticks").out
    assert "a tick" in text
    assert "skip" in text
    assert cli.run("schedule", "resume", "ticks").code == 0
    assert cli.run("schedule", "delete", "ticks").out == "ticks is not scheduled any more\n"
    assert cli.run("schedule", "show", "ticks").code == 3


def test_a_function_is_called_at_a_time(cli: CommandLine) -> None:
    """`schedule create --at` calls a function once; a time without an offset is ours."""
    soon = (dt.datetime.now() + dt.timedelta(seconds=2)).isoformat()
    made = cli.run("schedule", "create", "once", "--at", soon, "--python", "math:sqrt", "--args", "[16]")
    assert made.code == 0
    eventually(lambda: "last_id" in cli.run("schedule", "show", "once", "--json").objects[0], TIMEOUT_S)
    shown = cli.run("schedule", "show", "once", "--json").objects[0]
    eventually(lambda: cli.run("task", "result", shown["last_id"]).code == 0, TIMEOUT_S)
    assert cli.run("task", "result", shown["last_id"]).out == "4.0\n"
    assert "never" in cli.run("schedule", "show", "once").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cron", "61 * * * *", "--", "true"], "spec.cron.line"),
        (["--cron", "* * */20 * 1L", "--", "true"], "never comes"),
        (["--cron", "* * * * *", "--zone", "Mars/Olympus", "--", "true"], "no time zone"),
        (["--at", "2001-01-01", "--", "true"], "has passed"),
        (["--at", "soon", "--", "true"], "is no time"),
        (["--every", "0.1s", "--", "true"], "at least 1 s"),
        (["--every", "1m", "--overlap", "never", "--", "true"], "use one of skip, allow, queue, replace"),
        (["--every", "1m"], "give a command"),
        (["--", "true"], "one of --at, --every and --cron"),
        (["--every", "1m", "--zone", "UTC", "--", "true"], "--zone belongs to --cron"),
    ],
)
def test_what_cannot_be_scheduled_is_one_line(cli: CommandLine, words: list[str], said: str) -> None:
    """A time that never comes, a zone that is none: exit code 2 and a line that says what is wrong."""
    ended = cli.run("schedule", "create", "bad", *words)
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) <= 2


def test_the_client_schedules_what_it_can_submit(client: outrider.Client) -> None:
    """Functions, programs and graphs; made, found again, listed, held and forgotten."""
    schedules = client.with_options(priority="high").schedules
    made = schedules.create("yearly", NEW_YEAR, double, 4, overlap="queue", missed=Missed.ALL)
    assert (made.when, made.overlap, made.missed, made.fired_count) == (NEW_YEAR, Overlap.QUEUE, Missed.ALL, 0)
    assert made.next_time is not None
    assert (made.next_time.month, made.next_time.day, made.next_time.hour) == (12, 31, 23)
    assert schedules.create("yearly", NEW_YEAR, double, 4, overlap="queue", missed=Missed.ALL) == made
    with pytest.raises(errors.RequestIdReused, match="another schedule"):
        schedules.create("yearly", NEW_YEAR, double, 5)
    replaced = schedules.create_command("yearly", Every(dt.timedelta(hours=1)), ["true"], replace=True)
    assert replaced.when == Every(dt.timedelta(hours=1))
    assert [one.name for one in client.schedules.list()] == ["yearly"]
    assert client.schedules.pause("yearly").paused
    assert not client.schedules.resume("yearly").paused
    client.schedules.delete("yearly")
    with pytest.raises(errors.NotFound):
        client.schedules.get("yearly")


def test_a_graph_runs_by_the_clock(running: Cluster, client: outrider.Client) -> None:
    """A graph that was made and not submitted is submitted whole at its time, and its tasks run."""
    graph = client.run("sums")
    first = graph.add("first", double, 4)
    graph.add("second", add, 1, 2, after=[first])
    soon = At(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1))
    client.schedules.create_run("sums", soon, graph)
    eventually(lambda: client.schedules.get("sums").fired_count == 1, TIMEOUT_S)
    fired = client.schedules.get("sums")
    assert fired.next_time is None
    with grpc.insecure_channel(running.address) as channel:
        runs = run_service_pb2_grpc.RunServiceStub(channel)
        asked = run_service_pb2.GetRunRequest(run_id=fired.last_id)
        eventually(lambda: runs.GetRun(asked).run.state == run_service_pb2.RUN_STATE_SUCCEEDED, TIMEOUT_S)
        assert runs.GetRun(asked).run.schedule_id == "sums"


def test_options_that_make_no_sense_by_the_clock_are_refused(client: outrider.Client) -> None:
    """A task that comes after another one, with a request id or not before a time cannot be scheduled."""
    for options in ({"after": ["0" * 32]}, {"request_id": "mine"}, {"not_before": dt.datetime.now(dt.UTC)}):
        with pytest.raises(errors.InvalidRequest):
            client.with_options(**options).schedules.create("odd", NEW_YEAR, double, 1)


async def test_the_asyncio_client_schedules_too(running: Cluster) -> None:
    """The same on a loop: a call each second, until it is deleted."""
    async with aio.Client(running.address, namespace="aio") as client:
        made = await client.schedules.create("calls", Every(1), double, 2, overlap=Overlap.ALLOW)
        assert made.next_time is not None
        events = client.with_options(priority=3).schedules
        assert [one.name for one in await events.list()] == ["calls"]
        await client.schedules.delete("calls")
        assert await client.schedules.list() == []
