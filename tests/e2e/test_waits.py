"""Waits of real tasks: answered by people, programs and other tasks, granted, refused, and over their budget."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider import errors
from outrider.v1 import task_service_pb2
from outrider.views import TaskState
from support import wait_tasks
from support.cluster import Cluster, cluster
from support.waiting import eventually

TIMEOUT_S = 20
TELL = f"{sys.executable} -m outrider.worker.task_command"
#: What a command is to find Outrider by when it is not installed.
ENVIRONMENT = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and two agents of two slots, for all tests here."""
    with cluster(tmp_path_factory.mktemp("waits"), agents=2) as started:
        yield started


@pytest.fixture(scope="module")
def client(running: Cluster) -> Iterator[outrider.Client]:
    """One client for all tests here."""
    with running.connect() as connected:
        yield connected


def blocked(handle: outrider.TaskHandle[Any], key: str = "q") -> None:
    """Wait until the task waits for this key."""
    eventually(lambda: [wait.key for wait in handle.waits()] == [key], TIMEOUT_S, f"waits for {key}")


def test_a_question_answered_by_another_task(client: outrider.Client) -> None:
    """A task answers another through its agent, without a connection of its own."""
    asking = client.submit(wait_tasks.asks, "which?")
    blocked(asking)
    client.submit(wait_tasks.answer_from_inside, asking.id, "this one").result(TIMEOUT_S)
    assert asking.result(TIMEOUT_S) == "this one"


def test_a_question_answered_by_a_client_in_a_task(running: Cluster, client: outrider.Client) -> None:
    """A task may also use the SDK; the same answer again is harmless."""
    asking = client.submit(wait_tasks.asks, "which?")
    blocked(asking)
    answering = client.submit(wait_tasks.answer_by_client, running.coordinator.address, asking.id, "that one")
    assert answering.result(TIMEOUT_S) == "q"
    assert asking.result(TIMEOUT_S) == "that one"


def test_a_question_answered_by_stubs(running: Cluster, client: outrider.Client) -> None:
    """Any gRPC client may answer; the second answer is accepted and changes nothing."""
    asking = client.submit(wait_tasks.finds, "which?")
    blocked(asking, "first")
    stub = running.coordinator.tasks
    for text in (b'"one"', b'"two"'):
        request = task_service_pb2.AnswerRequest(task_id=asking.id, key="first")
        request.answer.data = text
        stub.Answer(request, timeout=TIMEOUT_S)
    blocked(asking)
    asking.answer("x")
    assert asking.result(TIMEOUT_S)[1] == "x"


def test_a_wait_shows_since_when_and_how_long_yet(client: outrider.Client) -> None:
    """An open wait carries when it was opened and when its budget ends."""
    asking = client.with_options(wait_budgets={"any": 60}).submit(wait_tasks.asks, "which?")
    blocked(asking)
    (wait,) = asking.waits()
    assert wait.opened is not None
    assert wait.expires is not None
    assert (wait.expires - wait.opened).total_seconds() == 60
    asking.answer("x")
    assert asking.result(TIMEOUT_S) == "x"


def test_an_expired_question_fails(client: outrider.Client) -> None:
    """A question that nobody answers within its budget fails its task with WAIT_EXPIRED."""
    asking = client.with_options(wait_budgets={"clarification": "200ms"}, attempts=5).submit(wait_tasks.asks, "which?")
    with pytest.raises(outrider.TaskFailed) as caught:
        asking.result(TIMEOUT_S)
    assert caught.value.cause == "WAIT_EXPIRED"
    assert "'q'" in str(caught.value)


def test_an_expired_question_moves(client: outrider.Client) -> None:
    """It goes on as another attempt, no try used up, and finds what was answered and what ran out of time."""
    moving = client.with_options(wait_budgets={"clarification": "1s:move"}, attempts=1)
    asking = moving.submit(wait_tasks.finds, "which?")
    blocked(asking, "first")
    asking.answer("yes")
    events = list(_until(asking, "TASK_PREEMPTED"))
    assert "'q'" in events[-1].text
    eventually(lambda: _answered(asking), TIMEOUT_S, "the next attempt asks")
    agent, answer, expired, answers = asking.result(TIMEOUT_S)
    assert (answer, expired, answers["first"]) == ("moved", ["q"], "yes")
    assert agent != events[-1].agent


def test_an_expired_question_that_cannot_move_is_kept(client: outrider.Client) -> None:
    """On the last agent it waits on, and an answer ends it; without `keep` it has failed there."""
    kept = client.with_options(wait_budgets={"clarification": "300ms:move-or-keep"}).submit(wait_tasks.asks, "which?")
    failing = client.with_options(wait_budgets={"clarification": "300ms:move"}).submit(wait_tasks.asks, "which?")
    with pytest.raises(outrider.TaskFailed) as caught:
        failing.result(TIMEOUT_S)
    assert caught.value.cause == "WAIT_EXPIRED"
    blocked(kept)
    kept.answer("late")
    assert kept.result(TIMEOUT_S) == "late"
    for handle in (kept, failing):
        agents = [event.agent for event in handle.events() if event.type == "TASK_ASSIGNED"]
        assert len(agents) == len(set(agents)) == 2


def test_a_budget_goes_on_while_the_coordinator_is_away(tmp_path: Path) -> None:
    """A coordinator that is killed and comes back ends the wait at the time that was stored."""
    with cluster(tmp_path) as started, started.connect() as client:
        asking = client.with_options(wait_budgets={"clarification": "3s"}).submit(wait_tasks.asks, "which?")
        blocked(asking)
        (before,) = asking.waits()
        started.coordinator.kill()
        started.coordinator.start()
        with pytest.raises(outrider.TaskFailed) as caught:
            asking.result(TIMEOUT_S)
        assert caught.value.cause == "WAIT_EXPIRED"
        assert before.expires is not None
        *_, end = asking.events()
        assert end.time >= before.expires


def _until(handle: outrider.TaskHandle[Any], kind: str) -> Iterator[outrider.views.TaskEvent]:
    for event in handle.events():
        yield event
        if event.type == kind:
            return


def _answered(handle: outrider.TaskHandle[Any]) -> bool:
    try:
        return handle.answer("moved", "q") == "q"
    except errors.IllegalTransition:
        return False


def test_time_granted_by_policy_outlasts_the_timeout(client: outrider.Client) -> None:
    """With an extension by policy a task that runs longer than its timeout succeeds, and is never asked about."""
    task = client.with_options(timeout=1, extension_max=30).submit(wait_tasks.needs_time, 1.5, 10.0, 10.0)
    assert task.result(TIMEOUT_S) == "done"


def test_time_beyond_the_policy_is_asked_for_and_granted(client: outrider.Client) -> None:
    """What the policy does not cover waits for a person, who grants so much of it."""
    task = client.with_options(timeout=1, extension_max=5).submit(wait_tasks.needs_time, 1.5, 6.0)
    eventually(lambda: task.state is TaskState.BLOCKED, TIMEOUT_S, "asks for time")
    (wait,) = task.waits()
    assert wait.kind == "complexity"
    task.extend(10)
    assert task.result(TIMEOUT_S) == "done"


def test_a_refusal_is_seen_by_the_worker(client: outrider.Client) -> None:
    """Time that is refused is False; a question that is refused raises WaitRefused with the reason."""
    task = client.submit(wait_tasks.needs_time_in_vain, 5.0)
    eventually(lambda: task.state is TaskState.BLOCKED, TIMEOUT_S, "asks for time")
    task.refuse()
    assert task.result(TIMEOUT_S) is False
    asking = client.submit(wait_tasks.refused, "which?")
    blocked(asking)
    asking.refuse("ask the others")
    assert asking.result(TIMEOUT_S) == "refused: ask the others"


def test_a_command_answers_and_knows(client: outrider.Client) -> None:
    """`outrider-task answer` answers another task, `answers` shows what earlier attempts were told."""
    asking = client.submit(wait_tasks.asks, "which?")
    blocked(asking)
    script = f'{TELL} answer --key q {asking.id} "from a command"'
    client.command(["sh", "-c", script], env=ENVIRONMENT).result(TIMEOUT_S)
    assert asking.result(TIMEOUT_S) == "from a command"
    moving = client.with_options(wait_budgets={"clarification": "1s:move"})
    moved = moving.command(
        ["sh", "-c", f"{TELL} answers; {TELL} ask --key first a; {TELL} ask --key q b"], env=ENVIRONMENT
    )
    blocked(moved, "first")
    moved.answer("one")
    list(_until(moved, "TASK_PREEMPTED"))
    eventually(lambda: _answered(moved), TIMEOUT_S, "asks again")
    known, *answers = moved.result(TIMEOUT_S)["output"].splitlines()
    assert json.loads(known)["first"] == "one"
    assert answers == ["one", "moved"]
