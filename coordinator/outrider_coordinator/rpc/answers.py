"""Answers to waits, from a client or another task, as facts for the core."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from outrider.v1 import task_pb2, task_service_pb2
from outrider_coordinator.core.events import Answered
from outrider_coordinator.rpc.fields import invalid, positive_us

#: Answers that grant what a request for more time asks for.
_AGREES = frozenset(("yes", "y", "grant", "granted", "true", "ok"))


def event(task_id: str, request: task_service_pb2.AnswerRequest, reply: Callable[[Any], None]) -> Answered:
    """What a client says. Raises InvalidRequest when it both grants and refuses."""
    granted_us = 0
    if request.HasField("granted_duration"):
        granted_us = positive_us(request.granted_duration, "granted_duration")
        if request.refuse:
            raise invalid("refuse", "grants and refuses at once; say one of the two")
    return Answered(
        task_id,
        request.key,
        request.answer.SerializeToString(),
        reply,
        request.resolved_by or "person",
        granted_us,
        agrees(request.answer),
        request.refuse,
        text_of(request.answer) or "refused",
    )


def agrees(answer: task_pb2.Payload) -> bool:
    """Whether an answer means yes."""
    return text_of(answer).strip().lower() in _AGREES


def text_of(answer: task_pb2.Payload) -> str:
    """An answer as text: a JSON string is unwrapped, other JSON stays JSON."""
    text = answer.data.decode(errors="replace")
    if answer.content_type not in ("", "application/json") or not text:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text
