"""``outrider run ...``: graphs of tasks, as a whole."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Annotated, Any

import typer

from outrider.cli import follow, output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import (
    EXIT_CODES,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    JsonFlag,
    LastFlag,
    RunId,
    session_of,
)
from outrider.cli.session import Session

app = Commands(
    help="Look at runs (graphs of tasks), watch and cancel them.",
    epilog=epilog(["outrider run list", "outrider run watch --last"]),
)


@app.command("list", examples=["outrider run list --limit 5"])
def list_runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="At most this many.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List runs, newest first."""
    from outrider.v1 import run_service_pb2

    session = session_of(context)
    request = run_service_pb2.ListRunsRequest(namespace=session.namespace, page_size=limit)
    runs = session.call(session.runs.ListRuns, request).runs
    if as_json:
        for run in runs:
            output.emit(run)
        return
    if not runs:
        output.say("no run yet; programs submit them: see docs/sdk.md")
        return
    rows = [
        [output.short(run.id), output.styled(_state(run)), run.title, _counts(run), output.age(run.create_time)]
        for run in runs
    ]
    output.table(("ID", "STATE", "TITLE", "TASKS", "AGE"), rows)


def _state(run: Any) -> str:
    from outrider.v1 import run_service_pb2

    return run_service_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_")


def _counts(run: Any) -> str:
    parts = [f"{entry.count} {follow.state_name(entry.state).lower()}" for entry in run.counts]
    return f"{run.task_count}: {', '.join(parts)}"


def _run(session: Session, given: str, last: bool) -> Any:
    from outrider.v1 import run_service_pb2

    request = run_service_pb2.GetRunRequest(namespace=session.namespace, run_id=session.run_id(given, last))
    return session.call(session.runs.GetRun, request).run


@app.command(examples=["outrider run show --last"])
def show(context: typer.Context, run_id: RunId = "", last: LastFlag = False, as_json: JsonFlag = False) -> None:
    """One run with its tasks."""
    from outrider.v1 import task_service_pb2

    session = session_of(context)
    run = _run(session, run_id, last)
    if as_json:
        output.emit(run)
        return
    output.facts(
        [
            ("id", run.id),
            ("title", run.title),
            ("description", run.description),
            ("state", output.styled(_state(run))),
            ("tasks", _counts(run)),
            ("submitted", f"{output.time_of(run.create_time):%Y-%m-%d %H:%M:%S}"),
            ("took", output.took(run.create_time, run.end_time)),
        ]
    )
    request = task_service_pb2.ListRequest(namespace=session.namespace, run_id=run.id, page_size=1000)
    tasks = {task.id: task for task in session.call(session.tasks.List, request).tasks}
    rows = []
    for member in run.task_ids:
        if task := tasks.get(member.task_id):
            agent = task.attempts[-1].agent_id if task.attempts else ""
            state, took = output.styled(follow.state_name(task.state)), output.took(task.start_time, task.end_time)
            rows.append([member.key, output.short(task.id), state, agent, took, task.error.message.partition("\n")[0]])
    output.table(("KEY", "ID", "STATE", "AGENT", "TOOK", "NOTE"), rows)
    if len(run.task_ids) > len(rows):
        output.say(f"{len(run.task_ids) - len(rows)} more: outrider task list --all --run {output.short(run.id)}")


@app.command(examples=["outrider run watch --last"], notes=[EXIT_CODES])
def watch(context: typer.Context, run_id: RunId = "", last: LastFlag = False, as_json: JsonFlag = False) -> None:
    """How a run goes, until its end: a live line on a terminal, an event a line in a pipe."""
    from outrider.v1 import run_service_pb2

    session = session_of(context)
    run = _run(session, run_id, last)
    request = run_service_pb2.WatchRunRequest(namespace=session.namespace, run_id=run.id)
    tally = _Tally(run.task_count)
    try:
        with contextlib.ExitStack() as stack:
            status = stack.enter_context(output.err.status(tally.text())) if output.is_live() else None
            for response in session.stream(session.runs.WatchRun, request):
                for event in response.events.events:
                    tally.take(event)
                    if as_json:
                        output.emit(event)
                    elif status is None and event.task_id:
                        output.line(f"{output.short(event.task_id)} {follow.describe(event)}")
                if status is not None:
                    status.update(tally.text())
    except KeyboardInterrupt:
        output.say(f"the run goes on; stop it with: outrider run cancel {output.short(run.id)}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    ended = _run(session, run.id, False)
    output.say(f"{_state(ended)}: {_counts(ended)}")
    codes = {"SUCCEEDED": 0, "CANCELLED": EXIT_STOPPED}
    raise typer.Exit(codes.get(_state(ended), EXIT_FAILED))


class _Tally:
    """How many tasks of a run are where, from its events."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._states: dict[str, str] = {}

    def take(self, event: Any) -> None:
        """Count one event."""
        from outrider.v1 import event_pb2

        name = event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_TASK_")
        names = {"STARTED": "running", "UNBLOCKED": "running", "BLOCKED": "blocked", "ASSIGNED": "assigned"}
        names |= dict.fromkeys(("SUBMITTED", "QUEUED", "RETRYING"), "waiting")
        names |= {end: end.lower() for end in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "SKIPPED")}
        if event.task_id and name in names:
            self._states[event.task_id] = names[name]

    def text(self) -> str:
        """One line."""
        counts = Counter(self._states.values())
        done = sum(counts[name] for name in ("succeeded", "failed", "cancelled", "expired", "skipped"))
        parts = [f"{count} {name}" for name, count in sorted(counts.items())]
        return f"{done}/{self._total} done: {', '.join(parts)}"


@app.command(examples=["outrider run cancel 01a1fd16"])
def cancel(
    context: typer.Context,
    run_id: RunId = "",
    last: LastFlag = False,
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why, for the record.")] = "",
) -> None:
    """Cancel every task of a run that has not ended."""
    from outrider.v1 import run_service_pb2

    session = session_of(context)
    given = session.run_id(run_id, last)
    request = run_service_pb2.CancelRunRequest(namespace=session.namespace, run_id=given, message=message)
    reply = session.call(session.runs.CancelRun, request)
    output.line(f"{output.short(given)}: {reply.cancelled_count} tasks cancelled")
