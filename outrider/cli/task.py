"""``outrider task ...``: look at tasks, wait for them, cancel and answer them, ask why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli import answer, follow, output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import (
    EXIT_CODES,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TIMEOUT,
    JsonFlag,
    LastFlag,
    TaskId,
    session_of,
)
from outrider.cli.values import duration_s, state_numbers

if TYPE_CHECKING:
    from outrider.v1 import task_pb2

app = Commands(
    help="Look at tasks, wait for them, cancel and answer them, ask why.",
    epilog=epilog(["outrider task list", "outrider task explain --last"]),
)


@app.command("list", examples=["outrider task list --state running --state blocked", "outrider task list --all --json"])
def list_tasks(
    context: typer.Context,
    state: Annotated[
        list[str], typer.Option("--state", "-s", metavar="STATE", help="Only in this state; repeatable.")
    ] = [],
    run: Annotated[str, typer.Option(metavar="RUN", help="Only tasks of this run.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most this many.")] = 20,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All there are.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List tasks, newest first."""
    from outrider.v1 import run_service_pb2, task_service_pb2

    session = session_of(context)
    request = task_service_pb2.ListRequest(namespace=session.namespace, states=state_numbers(state))  # type: ignore[arg-type]  # enum numbers
    if run:
        asked = run_service_pb2.GetRunRequest(namespace=session.namespace, run_id=run)
        request.run_id = session.call(session.runs.GetRun, asked).run.id
    found: list[Any] = []
    while everything or len(found) < limit:
        request.page_size = 1000 if everything else min(1000, limit - len(found))
        page = session.call(session.tasks.List, request)
        found += page.tasks
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    if as_json:
        for task in found:
            output.emit(task)
        return
    if not found:
        output.say(_nothing(state, run))
        return
    output.table(("ID", "STATE", "TITLE", "AGENT", "AGE", "TOOK", "NOTE"), [_row(task) for task in found])


def _nothing(states: list[str], run: str) -> str:
    if states or run:
        return "no such task; leave --state and --run out to see all"
    return "no task yet; submit one with `outrider submit -- echo hello`"


def _row(task: task_pb2.Task) -> list[Any]:
    name = follow.state_name(task.state)
    agent = task.attempts[-1].agent_id if task.attempts else ""
    took = output.took(task.start_time, task.end_time)
    return [
        output.short(task.id),
        output.styled(name),
        task.spec.title,
        agent,
        output.age(task.create_time),
        took,
        _note(task),
    ]


def _note(task: task_pb2.Task) -> str:
    from outrider.views import wait_text

    if task.open_waits:
        return f"waits: {wait_text(task.open_waits[0])}"
    if task.HasField("error"):
        return task.error.message.partition("\n")[0][:80]
    return follow.progress_text(task.progress) if task.HasField("progress") and not task.HasField("end_time") else ""


@app.command(examples=["outrider task show 01a1fd16", "outrider task show --last --json"])
def show(context: typer.Context, task_id: TaskId = "", last: LastFlag = False, as_json: JsonFlag = False) -> None:
    """Everything about one task."""
    task = session_of(context).task(task_id, last)
    if as_json:
        output.emit(task)
        return
    _show(task)


def _show(task: task_pb2.Task) -> None:
    from outrider.v1 import task_pb2

    reason = task_pb2.TaskReason.Name(task.reason).removeprefix("TASK_REASON_") if task.reason else ""
    output.facts(
        [
            ("id", task.id),
            ("title", task.spec.title),
            ("description", task.spec.description),
            ("state", output.styled(follow.state_name(task.state))),
            ("reason", reason),
            ("work", _work(task)),
            ("secrets", " ".join(f"{one.variable}={one.secret}" for one in task.spec.secrets)),
            ("signed with", task.spec.signed.key_id),
            ("priority", str(task.spec.priority) if task.spec.HasField("priority") else ""),
            ("run", f"{output.short(task.run_id)} ({task.run_key})" if task.run_id else ""),
            ("retry of", output.short(task.retry_of_task_id)),
            ("after", " ".join(output.short(one) for one in task.dependency_ids)),
            ("submitted", f"{output.time_of(task.create_time):%Y-%m-%d %H:%M:%S}"),
            ("took", output.took(task.start_time, task.end_time)),
            ("progress", follow.progress_text(task.progress) if task.HasField("progress") else ""),
            ("summary", task.summary),
            ("error", task.error.message),
            ("trace", task.trace.traceparent),
        ]
    )
    for issue in task.remaining_issues:
        output.line(f"left to do: {issue}")
    for attempt in task.attempts:
        output.line(_attempt(attempt))
    for wait in task.open_waits:
        output.line(f"waits: {_wait(wait)}")
    if task.error.traceback:
        output.line(task.error.traceback.rstrip())


def _work(task: task_pb2.Task) -> str:
    from outrider.signing import signed_spec

    spec = signed_spec(task.spec)
    if spec.HasField("command"):
        return " ".join(spec.command.argv)
    arguments = spec.function.arguments.data.decode(errors="replace")
    return f"{spec.function.function} {arguments[:200]}".rstrip()


def _attempt(attempt: task_pb2.Attempt) -> str:
    from outrider.v1 import task_pb2

    state = task_pb2.AttemptState.Name(attempt.state).removeprefix("ATTEMPT_STATE_")
    took = output.took(attempt.start_time, attempt.end_time)
    error = f": {attempt.error.message}" if attempt.error.message else ""
    at_fault = {task_pb2.BLAME_AGENT: " (the agent is blamed)", task_pb2.BLAME_SYSTEM: " (an outside system is blamed)"}
    return f"attempt {attempt.number} on {attempt.agent_id} {state} {took}{error}{at_fault.get(attempt.blame, '')}"


def _wait(wait: task_pb2.BlockedReason) -> str:
    from outrider.views import wait_text

    options = f" [{' / '.join(wait.clarification.options)}]" if wait.clarification.options else ""
    return f"{wait_text(wait)}{options} (key {wait.key})"


@app.command(examples=["outrider task watch --last --wait-timeout 10m"], notes=[EXIT_CODES])
def watch(
    context: typer.Context,
    task_id: TaskId = "",
    last: LastFlag = False,
    wait_timeout: Annotated[str, typer.Option(metavar="DURATION", help="Give up after this long.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """What happens to a task, from its beginning to its end; exits as `submit --wait` does."""
    import threading

    session = session_of(context)
    found = session.task(task_id, last)
    stop = threading.Event()
    if wait_timeout:
        timer = threading.Timer(duration_s(wait_timeout), _give_up, (session, stop))
        timer.daemon = True
        timer.start()
    try:
        for event in follow.events(session, found.id, stop):
            output.emit(event) if as_json else output.line(follow.describe(event))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Exception:  # once the wait is over: closing the session ended the stream, with whatever error that gives
        if not stop.is_set():
            raise
    if stop.is_set():
        output.say(f"not over within {wait_timeout}; the task goes on")
        raise typer.Exit(EXIT_TIMEOUT)
    raise typer.Exit(follow.exit_code(session.task(found.id)))


def _give_up(session: Any, stop: Any) -> None:
    stop.set()
    session.channel.close()


@app.command(examples=["outrider task logs --last --follow"])
def logs(
    context: typer.Context,
    task_id: TaskId = "",
    last: LastFlag = False,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task ends.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of this attempt, not the latest.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Captured output, standard error on standard error."""
    from outrider.v1 import worker_message_pb2

    session = session_of(context)
    found = session.task(task_id, last)
    try:
        for chunk in follow.logs(session, found.id, follow=follow_on, attempt=attempt or 0):
            if as_json:
                stream = worker_message_pb2.Log.Stream.Name(chunk.log.stream).removeprefix("STREAM_").lower()
                text = chunk.log.data.decode(errors="replace")
                print(json.dumps({"attempt": chunk.attempt, "stream": stream, "text": text}), flush=True)
            else:
                output.raw(chunk.log.data, to_stderr=chunk.log.stream != worker_message_pb2.Log.STREAM_STDOUT)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


@app.command(examples=["outrider task result --last --wait"], notes=[EXIT_CODES])
def result(
    context: typer.Context,
    task_id: TaskId = "",
    last: LastFlag = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """What a task returned: a function's value as JSON, a command's output as it is."""
    session = session_of(context)
    task = session.task(task_id, last)
    if wait and not task.HasField("end_time"):
        for _ in follow.events(session, task.id):
            pass
        task = session.task(task.id)
    if not task.HasField("end_time"):
        output.say(
            f"task {output.short(task.id)} is {follow.state_name(task.state)}; wait for it with --wait, "
            f"or look with `outrider task watch {output.short(task.id)}`"
        )
        raise typer.Exit(EXIT_FAILED)
    if follow.state_name(task.state) == "SUCCEEDED":
        _print_result(task, as_json=as_json)
    raise typer.Exit(follow.report(task))


def _print_result(task: task_pb2.Task, *, as_json: bool) -> None:
    from outrider.signing import signed_spec

    if signed_spec(task.spec).HasField("command") and not as_json:
        output.raw(json.loads(task.result.data)["output"].encode())
    else:
        print(task.result.data.decode(errors="replace"))


@app.command(examples=["outrider task retry 01a1fd16"])
def retry(
    context: typer.Context,
    task_id: TaskId = "",
    last: LastFlag = False,
    request_id: Annotated[
        str, typer.Option(metavar="TEXT", help="Doing it again under the same id gives the same task.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Submit the work of an ended task again, with the results it had as inputs; prints the new task's id."""
    import secrets

    from outrider.v1 import task_service_pb2

    session = session_of(context)
    given = session.task_id(task_id, last)
    request = task_service_pb2.RetryRequest(
        namespace=session.namespace, task_id=given, request_id=request_id or f"cli-{secrets.token_hex(12)}"
    )
    made = session.call(session.tasks.Retry, request).task_id
    print(json.dumps({"task_id": made, "retry_of_task_id": session.task(given).id}) if as_json else made)


@app.command(examples=["outrider task cancel 01a1fd16 --message 'wrong branch'"])
def cancel(
    context: typer.Context,
    task_id: TaskId = "",
    last: LastFlag = False,
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why, for the record.")] = "",
) -> None:
    """Cancel a task: its whole process tree is ended; 1 when it had ended before."""
    from outrider.v1 import task_service_pb2

    session = session_of(context)
    given = session.task_id(task_id, last)
    request = task_service_pb2.CancelRequest(namespace=session.namespace, task_id=given, message=message)
    reply = session.call(session.tasks.Cancel, request)
    if reply.cancelled:
        output.line(f"{output.short(given)} cancelled")
        return
    output.say(f"{output.short(given)} had already ended: {follow.state_name(reply.state)}")
    raise typer.Exit(EXIT_FAILED)


app.command("answer", examples=("outrider task answer --last csv",), notes=answer.NOTES)(answer.answer)


@app.command(examples=["outrider task explain --last"])
def explain(context: typer.Context, task_id: TaskId = "", last: LastFlag = False, as_json: JsonFlag = False) -> None:
    """Why a task is where it is, agent by agent, and what would change it."""
    from outrider.cli.explain import show_task
    from outrider.v1 import task_service_pb2

    session = session_of(context)
    given = session.task_id(task_id, last)
    request = task_service_pb2.ExplainRequest(namespace=session.namespace, task_id=given)
    reply = session.call(session.tasks.Explain, request)
    if as_json:
        output.emit(reply)
        return
    show_task(reply)
