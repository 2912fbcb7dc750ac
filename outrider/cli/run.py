"""``outrider run ...``: graphs of tasks, as a whole."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.cli import follow, output, run_watch
from outrider.cli.help import Commands, epilog
from outrider.cli.key import Sign, SignFor, signer
from outrider.cli.options import (
    EXIT_CODES,
    JsonFlag,
    LastFlag,
    RunId,
    session_of,
)
from outrider.cli.session import Session
from outrider.errors import InvalidRequest

RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="TOML, or JSON when it ends in .json.")]
RequestId = Annotated[str, typer.Option(metavar="TEXT", help="Doing it again under the same id changes nothing.")]

app = Commands(
    help="Submit runs (graphs of tasks), watch, extend, cancel and retry them.",
    epilog=epilog(["outrider run submit nightly.toml --wait", "outrider run list", "outrider run watch --last"]),
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
        output.say("no run yet; submit one with `outrider run submit FILE`: see docs/runs.md")
        return
    rows = [
        [
            output.short(run.id),
            output.styled(run_watch.state_name(run)),
            run.title,
            run_watch.counts(run),
            output.age(run.create_time),
        ]
        for run in runs
    ]
    output.table(("ID", "STATE", "TITLE", "TASKS", "AGE"), rows)


def _run(session: Session, given: str, last: bool) -> Any:
    from outrider.v1 import run_service_pb2

    request = run_service_pb2.GetRunRequest(namespace=session.namespace, run_id=session.run_id(given, last))
    return session.call(session.runs.GetRun, request).run


@app.command(examples=["outrider run show --last"])
def show(context: typer.Context, run_id: RunId = "", last: LastFlag = False, as_json: JsonFlag = False) -> None:
    """One run with its tasks."""
    from outrider.v1 import task_service_pb2
    from outrider.views import RunProgress

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
            ("state", output.styled(run_watch.state_name(run))),
            ("tasks", run_watch.counts(run)),
            ("progress", str(RunProgress.read(run)) if not run.HasField("end_time") else ""),
            ("milestones", ", ".join(_milestone(one) for one in run.progress.milestones)),
            ("policy", _policy(run)),
            ("retry of", output.short(run.retry_of_run_id)),
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


def _milestone(one: Any) -> str:
    reached = f" at {output.time_of(one.reach_time):%H:%M:%S}" if one.HasField("reach_time") else ""
    return f"{one.name} {one.succeeded_count}/{one.task_count}{reached}"


def _policy(run: Any) -> str:
    from outrider.v1 import run_service_pb2

    parts = ["fails fast"] if run.failure_policy == run_service_pb2.RUN_FAILURE_POLICY_FAIL_FAST else []
    return ", ".join([*parts, f"at most {run.max_parallel} at once"] if run.max_parallel else parts)


@app.command(
    examples=["outrider run submit nightly.toml", "outrider run submit nightly.toml --wait"],
    notes=[
        "The form of the file: docs/runs.md. The same file under the same --request-id is the same run.",
        EXIT_CODES,
    ],
)
def submit(
    context: typer.Context,
    file: RunFile,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Watch it until its end.")] = False,
    request_id: RequestId = "",
    sign: Sign = "",
    sign_for: SignFor = "",
    as_json: JsonFlag = False,
) -> None:
    """Submit the run that a TOML or JSON file describes, all or nothing; prints its id."""
    from outrider.run_file import read
    from outrider.signing import sign_each
    from outrider.tracing import current_traceparent
    from outrider.v1 import run_service_pb2

    session, spec = session_of(context), read(file).spec
    sign_each((task.spec for task in spec.tasks), signer(sign, sign_for), session.namespace)
    request = run_service_pb2.SubmitRunRequest(
        namespace=session.namespace, run=spec, request_id=request_id or _request_id()
    )
    request.trace.traceparent = current_traceparent()
    run = session.call(session.runs.SubmitRun, request).run
    if not wait:
        print(json.dumps(_ids(run)) if as_json else run.id)
        return
    output.say(f"run {output.short(run.id)}: {run.task_count} tasks")
    raise typer.Exit(run_watch.watch(session, run.id, as_json=as_json))


@app.command(examples=["outrider run add 01a1fd16 more.toml"])
def add(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="ID", help="Run id, or the beginning of it.")],
    file: RunFile,
    request_id: RequestId = "",
    sign: Sign = "",
    sign_for: SignFor = "",
    as_json: JsonFlag = False,
) -> None:
    """Add the tasks of a file to a run that is not over; they may come after any that are there."""
    import os

    from outrider.run_file import read
    from outrider.signing import sign_each
    from outrider.v1 import run_service_pb2

    session, spec = session_of(context), read(file).spec
    if spec.failure_policy or spec.max_parallel or spec.sequential:
        raise InvalidRequest(f"{file}: how a run goes is decided with its submit; leave fail_fast and the like out")
    sign_each((task.spec for task in spec.tasks), signer(sign, sign_for), session.namespace)
    full_id = _run(session, run_id, False).id
    is_member = os.environ.get("OUTRIDER_RUN_ID", "") == full_id
    request = run_service_pb2.AddTasksRequest(
        namespace=session.namespace,
        run_id=full_id,
        tasks=spec.tasks,
        request_id=request_id or _request_id(),
        parent_task_id=os.environ.get("OUTRIDER_TASK_ID", "") if is_member else "",
    )
    reply = session.call(session.runs.AddTasks, request)
    if as_json:
        print(json.dumps({"run_id": full_id, "tasks": {one.key: one.task_id for one in reply.task_ids}}))
        return
    output.table(("KEY", "ID"), [[one.key, one.task_id] for one in reply.task_ids])


@app.command(examples=["outrider run retry --last --wait"], notes=[EXIT_CODES])
def retry(
    context: typer.Context,
    run_id: RunId = "",
    last: LastFlag = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Watch the new run until its end.")] = False,
    request_id: RequestId = "",
    as_json: JsonFlag = False,
) -> None:
    """Do again what did not succeed of a run that is over, as a new run; prints its id."""
    from outrider.v1 import run_service_pb2

    session = session_of(context)
    given = session.run_id(run_id, last)
    request = run_service_pb2.RetryRunRequest(
        namespace=session.namespace, run_id=given, request_id=request_id or _request_id()
    )
    run = session.call(session.runs.RetryRun, request).run
    if not wait:
        print(json.dumps(_ids(run)) if as_json else run.id)
        return
    output.say(f"run {output.short(run.id)}: {run.task_count} tasks again")
    raise typer.Exit(run_watch.watch(session, run.id, as_json=as_json))


def _request_id() -> str:
    return f"cli-{secrets.token_hex(12)}"


def _ids(run: Any) -> dict[str, Any]:
    return {"run_id": run.id, "tasks": {one.key: one.task_id for one in run.task_ids}}


@app.command(
    examples=["outrider run watch --last"],
    notes=["On a terminal one line that is drawn again; in a pipe a line whenever something has changed.", EXIT_CODES],
)
def watch(
    context: typer.Context,
    run_id: RunId = "",
    last: LastFlag = False,
    events: Annotated[bool, typer.Option("--events", help="An event a line instead of how far it is.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """How far a run is, until its end: what is done, under way and waiting, when it may end, the speedup so far."""
    session = session_of(context)
    run = _run(session, run_id, last)
    raise typer.Exit(run_watch.watch(session, run.id, as_json=as_json, events=events))


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
