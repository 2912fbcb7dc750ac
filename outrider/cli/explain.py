"""What `explain` answers, for people: the sentence, then what holds it up, agent by agent, then what would help."""

from __future__ import annotations

import datetime as dt
from typing import Any

from outrider.cli import follow, output

#: Agents that are listed one by one; of more, those with the same answer share a line.
AGENTS_MAX = 20


def show_task(reply: Any) -> None:
    """Why a task is where it is (ExplainResponse)."""
    output.line(f"{follow.state_name(reply.state)}: {reply.summary}")
    if reply.queue_position:
        output.line(f"  place in the queue: {reply.queue_position}")
    for field, words in (("ready_time", "becomes ready"), ("predicted_start_time", "likely to start")):
        if reply.HasField(field):
            output.line(f"  {words} in about {_until(getattr(reply, field))}")
    for text in reply.held_back_by:
        output.line(f"  held back: {text}")
    for line in _agents(reply.agents):
        output.line(f"  {line}")
    _hints(reply.suggestions)


def show_agent(reply: Any, name: str) -> None:
    """Why an agent gets no work (ExplainAgentResponse)."""
    output.line(f"{name}: {reply.summary}")
    for text in reply.closed_by:
        output.line(f"  closed by {text}")
    for group in reply.tasks:
        output.line(f"  {group.task_count} x {group.rule}: {group.text} (next: task {output.short(group.task_id)})")
    _hints(reply.suggestions)


def _agents(verdicts: Any) -> list[str]:
    said = [(verdict.agent_id, _verdict(verdict)) for verdict in verdicts]
    if len(said) <= AGENTS_MAX:
        return [f"{agent_id}: {text}" for agent_id, text in said]
    by_rule: dict[str, list[tuple[str, str]]] = {}
    for verdict, one in zip(verdicts, said, strict=True):
        by_rule.setdefault(verdict.rule or "could take it now", []).append(one)
    return [f"{len(ones)} agents: {rule}, such as {ones[0][0]}: {ones[0][1]}" for rule, ones in by_rule.items()]


def _verdict(verdict: Any) -> str:
    return "could take it now" if verdict.eligible else f"{verdict.rule}: {verdict.text}"


def _hints(suggestions: Any) -> None:
    for text in suggestions:
        output.line(f"  hint: {text}")


def _until(stamp: Any) -> str:
    left_s = (stamp.ToDatetime(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()
    return output.span(max(0.0, left_s))
