"""``outrider submit``: one task, and with --wait its output and outcome."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli import follow, output
from outrider.cli.key import Sign, SignFor, signer
from outrider.cli.options import EXIT_CODES, EXIT_INTERRUPTED, EXIT_OK, JsonFlag, session_of
from outrider.cli.placing import (
    Affinity,
    AvoidTag,
    OnType,
    Preemptible,
    Resource,
    Runner,
    Secret,
    SecretFd,
    Spread,
    Sticky,
    Strategy,
    Tag,
    Where,
    placing,
)
from outrider.cli.session import Session
from outrider.cli.values import duration_s, pairs
from outrider.errors import InvalidRequest

if TYPE_CHECKING:
    from outrider.signing import Signer

EXAMPLES = (
    "outrider submit --wait --cwd . -- pytest -q",
    "outrider submit --priority high --label gpu=yes --timeout 2h -- ./train.sh",
    "outrider submit --limit db:main --limit api:anthropic:2 --write-scope 'src/**' -- ./migrate.sh",
    "outrider submit --resource gpu=1 --where zone=a,b --preemptible -- ./train.sh",
    "outrider submit --wait --python math:sqrt --args '[2]'",
    "outrider submit --secret TOKEN=github-token --secret-fd KEY_FILE=deploy-key -- ./release.sh",
)
NOTES = (
    """A command runs in an empty scratch directory on the agent unless --cwd names one. With --wait the exit code is
    the command's own, 128+N when signal N killed it. Ctrl-C leaves the task running and says how to get back to it.""",
    EXIT_CODES,
)

Priority = Annotated[str, typer.Option(help="0 (last) to 10 (first), or low, normal, high, critical.", metavar="P")]
Attempts = Annotated[int | None, typer.Option(min=1, metavar="N", help="Tries in all when it fails.")]
Label = Annotated[list[str], typer.Option("--label", metavar="KEY=VALUE", help="The agent must have it; repeatable.")]
Limit = Annotated[
    list[str],
    typer.Option("--limit", metavar="KEY[:shared|:UNITS]", help="Hold this limit while it runs; repeatable."),
]
WaitBudgets = Annotated[
    list[str],
    typer.Option(
        "--wait-budget",
        metavar="KIND=DURATION[:fail|:move|:keep|:move-or-keep]",
        help="How long dependency, external, complexity, clarification or any waits may last; repeatable.",
    ),
]
ExtensionMax = Annotated[
    str, typer.Option(metavar="DURATION", help="Running time granted without asking when it needs more.")
]
WriteScope = Annotated[
    list[str],
    typer.Option("--write-scope", metavar="GLOB", help="Not beside a task that may write the same; repeatable."),
]
System = Annotated[
    list[str], typer.Option("--system", metavar="NAME", help="Wait while this outside system is down; repeatable.")
]
TaskType = Annotated[str, typer.Option("--type", metavar="TYPE", help="What kind of work it is.")]
Duration = Annotated[str, typer.Option(metavar="DURATION", help="Bound on one attempt's running time: 90s, 30m, 2h.")]
StallTimeout = Annotated[str, typer.Option(metavar="DURATION", help="Stop an attempt that reports nothing so long.")]
Deadline = Annotated[str, typer.Option(metavar="DURATION", help="Bound on everything from now to the end.")]
QueueTimeout = Annotated[str, typer.Option(metavar="DURATION", help="Give up when it has not started after so long.")]
Exclusive = Annotated[bool, typer.Option("--exclusive", help="Never two at once, also when its agent is unreachable.")]
AtMostOnce = Annotated[bool, typer.Option("--at-most-once", help="Once it may have started, never start it again.")]
CancelOnInterrupt = Annotated[bool, typer.Option("--cancel-on-interrupt", help="With --wait: Ctrl-C cancels the task.")]
RequestId = Annotated[str, typer.Option(metavar="TEXT", help="Submitting again under the same id gives the same task.")]


def submit(
    context: typer.Context,
    argv: Annotated[list[str] | None, typer.Argument(metavar="ARGV", help="Program and arguments.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Show the output and wait for the end.")] = False,
    python: Annotated[str, typer.Option(metavar="MODULE:FUNCTION", help="Call a Python function instead.")] = "",
    args: Annotated[str, typer.Option(metavar="JSON", help="Its arguments: a JSON list.")] = "",
    kwargs: Annotated[str, typer.Option(metavar="JSON", help="Its keyword arguments: a JSON object.")] = "",
    priority: Priority = "",
    label: Label = [],
    timeout: Duration = "",
    stall_timeout: StallTimeout = "",
    deadline: Deadline = "",
    attempts: Attempts = None,
    where: Where = [],
    resource: Resource = [],
    runner: Runner = "",
    on_type: OnType = "",
    strategy: Strategy = "",
    affinity: Affinity = [],
    avoid_tag: AvoidTag = [],
    spread: Spread = False,
    sticky: Sticky = False,
    tag: Tag = [],
    preemptible: Preemptible = False,
    secret: Secret = [],
    secret_fd: SecretFd = [],
    queue_timeout: QueueTimeout = "",
    limit: Limit = [],
    write_scope: WriteScope = [],
    system: System = [],
    task_type: TaskType = "",
    wait_budget: WaitBudgets = [],
    extension_max: ExtensionMax = "",
    exclusive: Exclusive = False,
    at_most_once: AtMostOnce = False,
    title: Annotated[str, typer.Option(metavar="TEXT", help="One line for people.")] = "",
    after: Annotated[list[str], typer.Option(metavar="ID", help="Start after this task succeeded; repeatable.")] = [],
    env: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Environment variable; repeatable.")] = [],
    cwd: Annotated[str, typer.Option(metavar="DIR", help="Working directory on the agent.")] = "",
    stdin: Annotated[str, typer.Option(metavar="FILE", help="Standard input; - takes ours.")] = "",
    cancel_on_interrupt: CancelOnInterrupt = False,
    shell: Annotated[bool, typer.Option("--shell", help="Run the words as one line of sh.")] = False,
    request_id: RequestId = "",
    sign: Sign = "",
    sign_for: SignFor = "",
    as_json: JsonFlag = False,
) -> None:
    """Submit a command or a Python function as a task; prints its id."""
    from outrider.work import Options, command_spec, function_spec

    session = session_of(context)
    options = Options(**_chosen(context.params))
    if bool(argv) == bool(python):
        raise InvalidRequest("give a command after --, or a function with --python; see outrider submit --help")
    if python:
        spec = function_spec(python, *call_arguments(args, kwargs), options)
    else:
        words = ["sh", "-c", " ".join(argv or [])] if shell else argv or []
        folder = str(Path(cwd).absolute()) if cwd else ""
        spec = command_spec(words, options, env=pairs(env, "--env"), cwd=folder, stdin=_stdin(stdin))
    task_id = _accept(session, spec, _full_ids(session, after), request_id, signer(sign, sign_for))
    if not wait:
        print(json.dumps({"task_id": task_id}) if as_json else task_id)
        return
    task = _followed(session, task_id, cancel_on_interrupt, as_json)
    if as_json:
        output.emit(task)
    elif python and follow.exit_code(task) == EXIT_OK:
        print(task.result.data.decode())
    raise typer.Exit(follow.report(task))


def _chosen(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The `Options` that the command line stands for."""
    durations = {
        name: duration_s(parameters[name]) if parameters[name] else None
        for name in ("timeout", "stall_timeout", "deadline", "queue_timeout", "extension_max")
    }
    return {
        "title": parameters["title"],
        "priority": parameters["priority"] or None,
        "labels": pairs(parameters["label"], "--label"),
        "attempts": parameters["attempts"] or 0,
        "limits": parameters["limit"],
        "write_scopes": parameters["write_scope"],
        "systems": parameters["system"],
        "type": parameters["task_type"],
        "wait_budgets": pairs(parameters["wait_budget"], "--wait-budget"),
        "exclusive": parameters["exclusive"],
        "at_most_once": parameters["at_most_once"],
        **durations,
        **placing(parameters),
    }


def _accept(session: Session, spec: Any, dependency_ids: list[str], request_id: str, signed_by: Signer | None) -> str:
    import secrets

    from outrider.identity import submitter
    from outrider.tracing import current_traceparent
    from outrider.transport.submit_spans import SubmitTracer
    from outrider.v1 import task_service_pb2

    name = spec.title or spec.function.function or spec.command.argv[0]
    if signed_by is not None:
        signed_by.sign(spec, session.namespace)
    request = task_service_pb2.SubmitRequest(
        namespace=session.namespace,
        request_id=request_id or f"cli-{secrets.token_hex(12)}",
        spec=spec,
        dependency_ids=dependency_ids,
        submitter=submitter(),
    )
    request.trace.traceparent = current_traceparent()
    tracer = SubmitTracer()
    span = tracer.begin(name, request.trace)
    task_id: str = session.call(session.tasks.Submit, request).task_id
    if span is not None:
        tracer.end(span)
        tracer.close(2.0)
    return task_id


def _followed(session: Session, task_id: str, cancel_on_interrupt: bool, as_json: bool) -> Any:
    from outrider.v1 import task_service_pb2

    name = output.short(task_id)
    try:
        return follow.Follower(session, task_id, only_stderr=as_json).follow()
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            message = "outrider submit was interrupted"
            request = task_service_pb2.CancelRequest(namespace=session.namespace, task_id=task_id, message=message)
            session.call(session.tasks.Cancel, request)
            output.say(f"interrupted; task {name} is cancelled")
        else:
            output.say(f"detached; the task goes on: outrider task logs -f {name} | outrider task cancel {name}")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _full_ids(session: Session, prefixes: list[str]) -> list[str]:
    return [session.task(prefix).id for prefix in prefixes]


def call_arguments(args: str, kwargs: str) -> tuple[list[Any], dict[str, Any]]:
    """What --args and --kwargs say. Raises `InvalidRequest` for what is no JSON list or object."""
    return _json(args, "--args", list), _json(kwargs, "--kwargs", dict)


def _json(text: str, option: str, kind: type) -> Any:
    if not text:
        return kind()
    example = "'[1, \"two\"]'" if kind is list else "'{\"name\": 1}'"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{option} is not JSON ({error}); write it like {example}") from None
    if not isinstance(value, kind):
        raise InvalidRequest(f"{option} must be a JSON {'list' if kind is list else 'object'}, like {example}")
    return value


def _stdin(name: str) -> bytes:
    if not name:
        return b""
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"--stdin {name}: {error.strerror}") from None
