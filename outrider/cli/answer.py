"""``outrider answer``, also as ``outrider task answer``: end what a task waits for."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from outrider.cli import output
from outrider.cli.options import LastFlag, TaskId, session_of
from outrider.cli.values import duration_s
from outrider.errors import InvalidRequest

EXAMPLES = (
    "outrider answer 01a1fd16 csv",
    'outrider answer --last --as-json \'{"format": "csv"}\'',
    "outrider answer 01a1fd16 --extend 10m",
    "outrider answer 01a1fd16 --refuse 'not before Monday'",
)
NOTES = (
    """What waits is shown by outrider inbox. A request for more time is granted with yes, or so much of it with
    --extend; any other answer denies it. --refuse ends any wait: the task is told that it does not get what it waits
    for, and why. The same answer twice is harmless.""",
)


def answer(
    context: typer.Context,
    task_id: TaskId = "",
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The answer; quote several words.")] = None,
    key: Annotated[str, typer.Option(metavar="KEY", help="Which wait, when there are several; see inbox.")] = "",
    last: LastFlag = False,
    extend: Annotated[str, typer.Option(metavar="DURATION", help="Grant so much more running time.")] = "",
    refuse: Annotated[bool, typer.Option("--refuse", help="End the wait without what it waits for.")] = False,
    as_json_value: Annotated[bool, typer.Option("--as-json", help="The text is JSON, not plain text.")] = False,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who answers, for the record.")] = "",
) -> None:
    """Give a task the answer it waits for, or more time, or a refusal."""
    from outrider.v1 import task_pb2, task_service_pb2

    session = session_of(context)
    if last and text is None:
        task_id, text = "", task_id or None
    if bool(task_id) == last or (text is None and not (extend or refuse)):
        raise InvalidRequest("give the task (or --last) and one answer, such as: outrider answer --last yes")
    if extend and refuse:
        raise InvalidRequest("--extend grants and --refuse refuses; give one of the two")
    value = _parsed(text) if as_json_value and text is not None else text or ""
    payload = task_pb2.Payload(data=json.dumps(value).encode(), content_type="application/json")
    given = session.task_id(task_id, last)
    request = task_service_pb2.AnswerRequest(
        namespace=session.namespace,
        task_id=given,
        key=key,
        answer=payload,
        resolved_by=f"person:{by}" if by else "",
        refuse=refuse,
    )
    if extend:
        request.granted_duration.FromMilliseconds(int(duration_s(extend) * 1000))
    reply = session.call(session.tasks.Answer, request)
    output.line(f"{output.short(given)} {'refused' if refuse else 'answered'} ({reply.key})")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"the answer is not JSON ({error}); leave --as-json out for plain text") from None
