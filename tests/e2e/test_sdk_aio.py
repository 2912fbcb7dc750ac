"""The asyncio client against a real cluster: the same promises as the blocking one's."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import outrider
from outrider import aio, errors
from outrider.views import TaskState, Wait
from support.agent_tasks import ask
from support.cluster import Cluster, cluster
from support.sdk_tasks import add, boom, count_start, double, merge, pass_gate, report, talk
from support.waiting import POLL_S
from support.witness import Gate

TIMEOUT_S = 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and an agent with two slots, for all tests here."""
    with cluster(tmp_path_factory.mktemp("aio")) as started:
        yield started


@pytest.fixture
async def client(running: Cluster) -> AsyncIterator[aio.Client]:
    """A client on the test's loop."""
    async with aio.Client(running.address) as connected:
        yield connected


async def in_state(handle: aio.TaskHandle[object], state: TaskState) -> None:
    """Wait until the task is there."""
    pause = asyncio.Event()
    async with asyncio.timeout(TIMEOUT_S):
        while await handle.state() is not state:
            try:
                await asyncio.wait_for(pause.wait(), POLL_S)
            except TimeoutError:
                continue


async def test_submit_and_await(client: aio.Client) -> None:
    """By object, by name, with keyword arguments, commands: awaiting the handle gives the result."""
    handle = await client.submit(double, 21)
    assert await handle == 42
    assert handle.id == await handle.accepted()
    assert handle.done()
    assert await handle.exception() is None
    assert await (await client.submit("math:sqrt", 16)) == 4.0
    assert await (await client.submit(add, 1, right=2)) == 3
    assert (await (await client.command(["echo", "hello"])))["output"] == "hello\n"


async def test_many_at_once(client: aio.Client) -> None:
    """map keeps the order, singly and in batches; gather works on handles."""
    assert await client.map(double, range(20)) == [2 * item for item in range(20)]
    assert await client.map(add, [1, 2, 3], [10, 20, 30], batch=2) == [11, 22, 33]
    handles = [await client.submit(double, number) for number in range(50)]
    assert await asyncio.gather(*handles) == [2 * number for number in range(50)]
    with pytest.raises(outrider.TaskFailed, match="math domain error"):
        await client.map(math.sqrt, [1, -1])


async def test_as_completed_gives_handles_as_they_end(client: aio.Client, tmp_path: Path) -> None:
    """The order is that of the ends; those that have ended come even when the time is over."""
    gates = [Gate(tmp_path, f"gate{number}") for number in range(2)]
    handles = [await client.submit(pass_gate, str(gate.path)) for gate in gates]
    ended = aio.as_completed(handles, timeout=TIMEOUT_S)
    gates[1].open()
    assert await anext(ended) is handles[1]
    gates[0].open()
    assert [handle async for handle in ended] == [handles[0]]
    assert len([handle async for handle in aio.as_completed(handles, timeout=0)]) == 2
    late = await client.submit(pass_gate, str(gates[0].path))
    with pytest.raises(TimeoutError, match="1 of 2 tasks"):
        _ = [handle async for handle in aio.as_completed([late, handles[0]], timeout=0.05)]
    with pytest.raises(TimeoutError, match="it goes on"):
        await late.result(timeout=0.05)
    gates[0].open()
    assert await late.result(TIMEOUT_S) is None
    for gate in gates:
        gate.close()


async def test_events_progress_and_logs(client: aio.Client, gate: Gate) -> None:
    """Events from beginning to end, progress up to the last report, output live."""
    handle = await client.submit(report, 4, str(gate.path))
    steps: asyncio.Queue[float] = asyncio.Queue()
    await handle.on_progress(lambda progress: steps.put_nowait(progress.completed))
    gate.open()
    types = [event.type async for event in handle.events()]
    assert (types[0], types[-1]) == ("TASK_SUBMITTED", "TASK_SUCCEEDED")
    async with asyncio.timeout(TIMEOUT_S):
        while await steps.get() < 4:
            pass
    talker = await client.submit(talk, str(gate.path))
    gate.open()
    assert "".join([text async for text in talker.logs(follow=True)]) == "before\nafter\n"


async def test_done_callbacks_run_on_the_loop(client: aio.Client) -> None:
    """Once each, before and after the end; one that raises harms nobody."""
    called: asyncio.Queue[object] = asyncio.Queue()
    trouble: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: trouble.append(context))

    def fail(handle: object) -> None:
        raise ZeroDivisionError

    handle = await client.submit(double, 1)
    handle.add_done_callback(fail)
    handle.add_done_callback(called.put_nowait)
    async with asyncio.timeout(TIMEOUT_S):
        assert await called.get() is handle
        handle.add_done_callback(called.put_nowait)
        assert await called.get() is handle
    assert isinstance(trouble[0]["exception"], ZeroDivisionError)


async def test_questions_cancel_and_explain(client: aio.Client, gate: Gate) -> None:
    """A question is seen and answered, a running task cancelled, a waiting one explained."""
    asking = await client.submit(ask, "Which way?")
    await in_state(asking, TaskState.BLOCKED)
    (wait,) = await asking.waits()
    assert wait == Wait("q", "clarification", "Which way?", opened=wait.opened)
    assert wait.opened is not None
    assert await asking.answer("left") == "q"
    assert await asking == "left"
    waiting = await client.with_options(labels={"gpu": "yes"}).submit(double, 1)
    assert "gpu" in str(await waiting.explain())
    assert await waiting.cancel("not wanted")
    with pytest.raises(outrider.TaskCancelled, match="not wanted"):
        await waiting


async def test_a_task_of_somebody_else(running: Cluster, client: aio.Client, gate: Gate, tmp_path: Path) -> None:
    """By id prefix from another client, live and when over; one request id is one task."""
    handle = await client.submit(pass_gate, str(gate.path))
    async with aio.Client(running.address) as other:
        same = await other.task((await handle.accepted())[:31])
        gate.open()
        assert await same.result(TIMEOUT_S) is None
        path = str(tmp_path / "starts")
        for submitter in (client, client, other):
            once = submitter.with_options(request_id="aio-once")
            assert await (await once.submit(count_start, path)).result(TIMEOUT_S) == 1
        with pytest.raises(errors.RequestIdReused):
            await (await once.submit(count_start, "another")).accepted()
        with pytest.raises(errors.NotFound):
            await other.task("0" * 32)


async def test_after_waits_for_handles(client: aio.Client) -> None:
    """Results of the tasks before come by id."""
    one, two = await client.submit(double, 1), await client.submit(double, 2)
    total = await client.with_options(after=[one, two], inputs_argument="inputs").submit(merge)
    assert await total == 6


async def test_runs(client: aio.Client) -> None:
    """A graph is accepted whole, gives results by key and events to its end; cycles are named; it can be cancelled."""
    run = client.run("fan-in")
    keys = [run.add(f"part{number}", double, number) for number in range(3)]
    run.add("sum", merge, after=keys, inputs_argument="inputs")
    handle = await run.submit()
    assert await handle.wait(TIMEOUT_S)
    assert await handle.result("sum") == 6
    assert [event.type async for event in handle.events()][-1] == "RUN_ENDED"
    assert (await run.submit()).id == handle.id
    bad = client.run()
    for key, before in itertools.permutations(("hen", "egg")):
        bad.add(key, double, 1, after=before)
    with pytest.raises(errors.GraphCycle, match="hen"):
        await bad.submit()
    stuck = client.run()
    stuck.add("one", double, 1, options=outrider.Options(labels={"no": "where"}))
    assert await (started := await stuck.submit()).cancel() == 1
    assert not await started.wait(TIMEOUT_S)


async def test_runs_grow_and_are_done_again(running: Cluster, client: aio.Client, gate: Gate) -> None:
    """A run found by somebody else tells how far it is, takes more tasks, and is done again where it failed."""
    run = client.run("grows", sequential=True)
    run.add("wait", pass_gate, str(gate.path), milestone="passed")
    run.add("bad", boom, "no", after={"wait": "always"})
    submitted = await run.submit()
    async with aio.Client(running.address) as other:
        found = await other.find_run(submitted.id[:16])
        assert (await found.progress()).total == 2
        more = found.more()
        more.add("late", double, 4, after={"bad": "failure"})
        assert list((await more.submit()).tasks) == ["wait", "bad", "late"]
        assert await more.submit() is found
        gate.open()
        assert await found.result("late", TIMEOUT_S) == 8
        assert not await found.wait(TIMEOUT_S)
        progress = await found.progress()
        assert (progress.total, progress.completed, progress.milestones[0].name) == (3, 3, "passed")
        assert str(progress).startswith("3/3 done (100%)")
        again = await found.retry()
        assert list(again.tasks) == ["bad"]
        assert not await again.wait(TIMEOUT_S)
        repeated = await found.tasks["late"].retry()
        assert await repeated.result(TIMEOUT_S) == 8


@pytest.mark.parametrize(
    ("submit", "expected"),
    [
        (lambda client: client.submit(lambda: 1), errors.InvalidRequest),
        (lambda client: client.submit(double, object()), errors.InvalidRequest),
        (lambda client: client.with_options(priority=11).submit(double, 1), errors.InvalidRequest),
        (lambda client: client.command([]), errors.InvalidRequest),
        (lambda client: client.submit("builtins:len", "x" * 13 * 2**20), errors.TooLarge),
    ],
)
async def test_mistakes_are_told_at_once(
    client: aio.Client, submit: Callable[[aio.Client], AsyncIterator[object]], expected: type[Exception]
) -> None:
    """What needs no coordinator to be seen is raised by submit; the client goes on."""
    with pytest.raises(expected):
        await submit(client)  # type: ignore[misc]  # an awaitable of either kind of handle
    assert await (await client.submit(double, 1)) == 2


async def test_failures_and_refusals(client: aio.Client) -> None:
    """A function that raises, and 10 MiB that are refused alone."""
    failed = await client.submit(boom, "the text")
    big = await client.submit("builtins:len", "x" * 10 * 2**20)
    after = await client.submit(double, 1)
    with pytest.raises(outrider.TaskFailed, match="ValueError: the text"):
        await failed
    with pytest.raises(errors.TooLarge, match="file or object store"):
        await big.accepted()
    with pytest.raises(errors.TooLarge):
        await big
    assert await after == 2


async def test_opening_and_closing(running: Cluster) -> None:
    """A wrong address, use before `async with`, and use after it each say what is wrong."""
    with pytest.raises(errors.Unreachable, match=r"127\.0\.0\.1:1"):
        await aio.Client("127.0.0.1:1", connect_timeout=0.3).__aenter__()
    client = aio.Client(running.address)
    with pytest.raises(RuntimeError, match="async with"):
        await client.submit(double, 1)
    async with client:
        open_handle = await client.with_options(labels={"no": "where"}).submit(double, 1)
        await open_handle.cancel()
        left = await client.with_options(labels={"no": "where"}).submit(double, 1)
    with pytest.raises(errors.Unreachable, match="goes on"):
        await left
    with pytest.raises(RuntimeError, match="the client is closed"):
        await client.submit(double, 1)


async def test_a_close_wakes_readers_and_calls(running: Cluster, gate: Gate) -> None:
    """Events and followed logs that wait when the client closes raise why, and nothing is cancelled that was not."""
    async with aio.Client(running.address) as client:
        handle = await client.submit(pass_gate, str(gate.path))
        await in_state(handle, TaskState.RUNNING)
        readers = [drained(handle.events()), drained(handle.logs(follow=True)), handle.result()]
        tasks = [asyncio.create_task(reader) for reader in readers]
        await asyncio.sleep(0)  # each has begun
    for task in tasks:
        with pytest.raises(errors.Unreachable, match="the client was closed"):
            await asyncio.wait_for(task, TIMEOUT_S)
    for call in (handle.cancel, handle.explain):
        with pytest.raises(RuntimeError, match="the client is closed"):
            await call()


async def drained(items: AsyncIterator[object]) -> None:
    """Read to the end."""
    async for _ in items:
        pass
