"""How programs use the SDK, with the types they get: checked by mypy, run by nobody.

Every ignore here proves that mypy finds that mistake: an ignore that is not needed is an error itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import outrider
from outrider import aio, errors
from outrider.executor import TaskFuture
from outrider.views import Progress, TaskEvent, TaskState


def scale(value: int, factor: float = 1.0) -> float:
    """Some function of a user."""
    return value * factor


def blocking(client: outrider.Client) -> None:
    """The blocking client."""
    handle = client.submit(scale, 1, factor=2.0)
    assert_type(handle, outrider.TaskHandle[float])
    assert_type(handle.result(timeout=3), float)
    assert_type(handle.exception(), errors.OutriderError | None)
    assert_type(handle.state, TaskState)
    assert_type(handle.events(), Iterator[TaskEvent])
    assert_type(client.submit("module:name", 1, x=2), outrider.TaskHandle[Any])
    assert_type(client.command(["echo"]).result(), dict[str, Any])
    assert_type(client.with_options(priority="high").submit(scale, 1), outrider.TaskHandle[float])
    for ended in outrider.as_completed([handle]):
        assert_type(ended, outrider.TaskHandle[float])

    client.submit(scale, "1")  # type: ignore[call-overload]  # the function takes a number
    client.submit(scale)  # type: ignore[call-overload]  # an argument is missing
    client.submit(scale, 1, wrong=2)  # type: ignore[call-arg]  # no such argument
    client.submit(3)  # type: ignore[call-overload]  # no function
    wrong: str = handle.result()  # type: ignore[assignment]  # the function returns a float
    handle.on_progress(len)  # type: ignore[arg-type]  # a callback gets Progress
    client.map(3, [1])  # type: ignore[arg-type]  # no function
    del wrong


def callbacks(handle: outrider.TaskHandle[float]) -> None:
    """Callbacks know what they get."""

    def on_progress(progress: Progress) -> None:
        assert_type(progress.completed, float)

    def on_done(ended: outrider.TaskHandle[float]) -> None:
        assert_type(ended.result(), float)

    def on_other(ended: outrider.TaskHandle[str]) -> None: ...

    handle.on_progress(on_progress)
    handle.add_done_callback(on_done)
    handle.add_done_callback(on_other)  # type: ignore[arg-type]  # it is a task of another type


def executor() -> None:
    """The executor."""
    with outrider.Executor() as pool:
        future = pool.submit(scale, 1)
        assert_type(future, TaskFuture[float])
        assert_type(future.result(), float)
        assert_type(list(pool.map(scale, [1, 2])), list[float])
        pool.submit(scale, "1")  # type: ignore[arg-type]  # the function takes a number


def failures(error: outrider.TaskFailed) -> None:
    """What an error tells."""
    assert_type(error.exit_code, int | None)
    assert_type(error.cause, str)


async def asynchronous() -> None:
    """The asyncio client."""
    async with aio.Client() as client:
        handle = await client.submit(scale, 1)
        assert_type(handle, aio.TaskHandle[float])
        assert_type(await handle, float)
        assert_type(await handle.result(), float)
        assert_type(await client.submit("module:name"), aio.TaskHandle[Any])
        assert_type(await handle.state(), TaskState)
        async for event in handle.events():
            assert_type(event, TaskEvent)
        async for ended in aio.as_completed([handle]):
            assert_type(ended, aio.TaskHandle[float])

        await client.submit(scale, "1")  # type: ignore[call-overload]  # the function takes a number
        await client.submit(scale)  # type: ignore[call-overload]  # an argument is missing
        wrong: str = await handle  # type: ignore[assignment]  # the function returns a float
        del wrong
        handle.result().upper()  # type: ignore[attr-defined]  # nobody awaited it
