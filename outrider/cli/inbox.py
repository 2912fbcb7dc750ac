"""``outrider inbox``: the questions that wait for somebody."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from outrider.cli import output
from outrider.cli.options import EXIT_INTERRUPTED, JsonFlag, session_of
from outrider.cli.session import Session
from outrider.errors import Unreachable

EXAMPLES = ("outrider inbox", "outrider inbox --follow --json")
NOTES = (
    """KIND says what ends the wait: an answer (clarification), a grant of time (complexity: outrider answer ID
    --extend 10m), an outside system, another task or a limit. LEFT is how long it may still last, where it has
    a budget; then the task fails or moves on to another agent.""",
    "Every answer goes to a task: outrider answer ID TEXT.",
)
#: How often --follow looks.
LOOK_EVERY_S = 1.0
_PAGE = 1000

_Waiting = list[tuple[Any, Any]]


def inbox(
    context: typer.Context,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on, and show new ones as they come.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Who waits for an answer, and how to give it."""
    session = session_of(context)
    waiting = _waiting(session)
    _show(waiting, as_json=as_json)
    if not waiting and not as_json:
        output.say("nobody waits for an answer")
    try:
        while follow_on:
            shown = {_key(item) for item in waiting}
            threading.Event().wait(LOOK_EVERY_S)
            waiting = _look_again(session, waiting)
            _show([item for item in waiting if _key(item) not in shown], as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _waiting(session: Session) -> _Waiting:
    from outrider.v1 import task_service_pb2

    request = task_service_pb2.ListRequest(namespace=session.namespace, open_waits_only=True, page_size=_PAGE)
    tasks = session.call(session.tasks.List, request).tasks
    return [(task, wait) for task in tasks for wait in task.open_waits]


def _look_again(session: Session, before: _Waiting) -> _Waiting:
    """A coordinator that is away for a while changes nothing."""
    try:
        return _waiting(session)
    except Unreachable:
        return before


def _key(item: tuple[Any, Any]) -> tuple[str, str]:
    task, wait = item
    return task.id, wait.key


def _show(waiting: _Waiting, *, as_json: bool) -> None:
    if not waiting:
        return
    if as_json:
        _print_json(waiting)
        return
    rows = [_row(task, wait) for task, wait in waiting]
    output.table(("TASK", "KEY", "KIND", "WAITS FOR", "OPTIONS", "AGE", "LEFT", "TITLE"), rows)
    output.say(f"answer with: outrider answer {rows[0][0]} --key {rows[0][1]} TEXT")


def _row(task: Any, wait: Any) -> list[str]:
    from outrider.views import wait_text

    options = " / ".join(wait.clarification.options)
    kind = wait.WhichOneof("reason") or ""
    return [
        output.short(task.id),
        wait.key,
        kind,
        wait_text(wait),
        options,
        output.age(wait.open_time),
        _left(wait),
        task.spec.title,
    ]


def _left(wait: Any) -> str:
    """What is left of its budget; ``over`` when nothing is, empty when it has none."""
    left_s = left_seconds(wait)
    if left_s is None:
        return ""
    return output.span(left_s) if left_s > 0 else "over"


def left_seconds(wait: Any) -> float | None:
    """Seconds until the wait's budget ends, below 0 after that; None without a budget."""
    if not wait.HasField("expire_time"):
        return None
    end = wait.expire_time.ToDatetime(tzinfo=dt.UTC)
    return float((end - dt.datetime.now(dt.UTC)).total_seconds())


def _print_json(waiting: Iterable[tuple[Any, Any]]) -> None:
    from outrider.views import wait_text

    for task, wait in waiting:
        facts = {
            "task_id": task.id,
            "key": wait.key,
            "kind": wait.WhichOneof("reason"),
            "text": wait_text(wait),
            "options": list(wait.clarification.options),
            "title": task.spec.title,
            "context": wait.context,
            "open_time": wait.open_time.ToJsonString() if wait.HasField("open_time") else None,
            "left_s": left_seconds(wait),
        }
        print(json.dumps(facts), flush=True)
