"""``outrider schedule ...``: work that is submitted by the clock."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli import output
from outrider.cli.help import Commands, epilog
from outrider.cli.key import Sign, SignFor, signer
from outrider.cli.options import JsonFlag, session_of
from outrider.cli.placing import Secret, SecretFd
from outrider.cli.submit import (
    AtMostOnce,
    Attempts,
    Deadline,
    Duration,
    Exclusive,
    Label,
    Limit,
    Priority,
    StallTimeout,
    WriteScope,
    call_arguments,
)
from outrider.cli.values import duration_s, pairs
from outrider.errors import InvalidRequest

if TYPE_CHECKING:
    from outrider.schedules import When

app = Commands(
    help="Work that is submitted by the clock.",
    epilog=epilog(
        [
            "outrider schedule create report --cron '0 6 * * MON-FRI' --zone Europe/Berlin -- ./report.sh",
            "outrider schedule create poll --every 10m --overlap skip --python work:poll",
            "outrider schedule list",
        ],
        """Each time submits one task, once, whatever crashes meanwhile. Where clocks are changed, a cron line with a
        fixed hour fires once a day; one that goes by stars goes by elapsed time.""",
    ),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


@app.command(
    examples=[
        "outrider schedule create report --cron '0 6 * * MON-FRI' --zone Europe/Berlin -- ./report.sh",
        "outrider schedule create poll --every 10m --missed skip --python work:poll --args '[1]'",
        "outrider schedule create launch --at 2026-12-24T18:00 --priority high -- ./launch.sh",
    ],
    notes=[
        """A cron line has five fields (minute, hour, day of month, month, day of week), or six with the seconds first.
        A time is missed when it passes while no coordinator runs; of many that --missed all makes up for, the latest
        100."""
    ],
)
def create(
    context: typer.Context,
    name: Name,
    argv: Annotated[list[str] | None, typer.Argument(metavar="-- ARGV", help="Program and arguments.")] = None,
    at: Annotated[str, typer.Option(metavar="TIME", help="Once: 2026-12-24T18:00 (ours), or with +01:00 or Z.")] = "",
    every: Annotated[str, typer.Option(metavar="DURATION", help="Again and again: 90s, 30m, 2h.")] = "",
    cron: Annotated[str, typer.Option(metavar="LINE", help="By the calendar: '0 6 * * MON-FRI'.")] = "",
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Time zone of --cron, Europe/Berlin; else UTC.")] = "",
    overlap: Annotated[
        str, typer.Option(metavar="POLICY", help="When the one before has not ended: skip, allow, queue, replace.")
    ] = "skip",
    missed: Annotated[
        str, typer.Option(metavar="POLICY", help="After times that were missed: skip, once, all.")
    ] = "once",
    replace: Annotated[bool, typer.Option("--replace", help="In place of another one of this name.")] = False,
    python: Annotated[str, typer.Option(metavar="MODULE:FUNCTION", help="Call a Python function instead.")] = "",
    args: Annotated[str, typer.Option(metavar="JSON", help="Its arguments: a JSON list.")] = "",
    kwargs: Annotated[str, typer.Option(metavar="JSON", help="Its keyword arguments: a JSON object.")] = "",
    title: Annotated[str, typer.Option(metavar="TEXT", help="One line for people.")] = "",
    priority: Priority = "",
    label: Label = [],
    timeout: Duration = "",
    stall_timeout: StallTimeout = "",
    deadline: Deadline = "",
    attempts: Attempts = None,
    exclusive: Exclusive = False,
    at_most_once: AtMostOnce = False,
    limit: Limit = [],
    write_scope: WriteScope = [],
    secret: Secret = [],
    secret_fd: SecretFd = [],
    env: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Environment variable; repeatable.")] = [],
    cwd: Annotated[str, typer.Option(metavar="DIR", help="Working directory on the agent.")] = "",
    signing_key: Sign = "",
    sign_for: SignFor = "",
    as_json: JsonFlag = False,
) -> None:
    """Submit a command or a Python function at a time, at an interval, or by a cron line."""
    from outrider.schedules import schedule_spec, sign
    from outrider.v1 import schedule_service_pb2
    from outrider.work import Options, command_spec, function_spec

    spec = schedule_spec(name, _when(at, every, cron, zone), overlap.lower(), missed.lower())
    options = Options(
        title=title,
        priority=priority or None,
        labels=pairs(label, "--label"),
        timeout=duration_s(timeout) if timeout else None,
        stall_timeout=duration_s(stall_timeout) if stall_timeout else None,
        deadline=duration_s(deadline) if deadline else None,
        attempts=attempts or 0,
        exclusive=exclusive,
        at_most_once=at_most_once,
        limits=limit,
        write_scopes=write_scope,
        secrets=pairs(secret, "--secret"),
        secret_fds=pairs(secret_fd, "--secret-fd"),
    )
    if bool(argv) == bool(python):
        raise InvalidRequest("give a command after --, or a function with --python; see schedule create --help")
    if python:
        spec.task.CopyFrom(function_spec(python, *call_arguments(args, kwargs), options))
    else:
        folder = str(Path(cwd).absolute()) if cwd else ""
        spec.task.CopyFrom(command_spec(argv or [], options, env=pairs(env, "--env"), cwd=folder))
    session = session_of(context)
    sign(spec, signer(signing_key, sign_for), session.namespace)
    request = schedule_service_pb2.CreateScheduleRequest(namespace=session.namespace, spec=spec, replace=replace)
    _tell(session.call(session.schedules.CreateSchedule, request).schedule, as_json)


@app.command("list", examples=["outrider schedule list"])
def list_schedules(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List schedules: when each fires next and what it submitted last."""
    from outrider.v1 import schedule_service_pb2

    session = session_of(context)
    request = schedule_service_pb2.ListSchedulesRequest(namespace=session.namespace)
    schedules = session.call(session.schedules.ListSchedules, request).schedules
    if as_json:
        for schedule in schedules:
            output.emit(schedule)
        return
    if not schedules:
        output.say("nothing is scheduled; see `outrider schedule create --help`")
        return
    rows = [
        [
            one.spec.name,
            _times(one),
            _next(one),
            str(one.fired_count),
            str(one.skipped_count),
            output.short(one.last_id),
        ]
        for one in schedules
    ]
    output.table(("NAME", "WHEN", "NEXT", "FIRED", "SKIPPED", "LAST"), rows)


@app.command(examples=["outrider schedule show report"])
def show(context: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Everything about one schedule."""
    from outrider.v1 import schedule_service_pb2

    session = session_of(context)
    request = schedule_service_pb2.GetScheduleRequest(namespace=session.namespace, name=name)
    schedule = session.call(session.schedules.GetSchedule, request).schedule
    if as_json:
        output.emit(schedule)
        return
    facts = [
        ("name", schedule.spec.name),
        ("when", _times(schedule)),
        ("submits", _work(schedule.spec)),
        ("next", _next(schedule)),
        ("last", output.when(schedule.last_time) if schedule.HasField("last_time") else "not yet"),
        ("last id", schedule.last_id),
        ("fired", str(schedule.fired_count)),
        ("skipped", str(schedule.skipped_count)),
        ("overlap", _word(schedule.spec, "overlap", "SKIP")),
        ("missed", _word(schedule.spec, "missed", "ONCE")),
    ]
    output.facts([(title, text) for title, text in facts if text])


@app.command(examples=["outrider schedule pause report"])
def pause(context: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Submit nothing until it is resumed; times that pass meanwhile are passed over."""
    from outrider.v1 import schedule_service_pb2

    session = session_of(context)
    request = schedule_service_pb2.PauseScheduleRequest(namespace=session.namespace, name=name)
    _tell(session.call(session.schedules.PauseSchedule, request).schedule, as_json)


@app.command(examples=["outrider schedule resume report"])
def resume(context: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Submit again, from now on."""
    from outrider.v1 import schedule_service_pb2

    session = session_of(context)
    request = schedule_service_pb2.ResumeScheduleRequest(namespace=session.namespace, name=name)
    _tell(session.call(session.schedules.ResumeSchedule, request).schedule, as_json)


@app.command(examples=["outrider schedule delete report"])
def delete(context: typer.Context, name: Name) -> None:
    """Forget a schedule; what it submitted goes on."""
    from outrider.v1 import schedule_service_pb2

    session = session_of(context)
    request = schedule_service_pb2.DeleteScheduleRequest(namespace=session.namespace, name=name)
    session.call(session.schedules.DeleteSchedule, request)
    output.line(f"{name} is not scheduled any more")


def _when(at: str, every: str, cron: str, zone: str) -> When:
    from outrider.schedules import At, Cron, Every

    if sum(map(bool, (at, every, cron))) != 1:
        raise InvalidRequest("say when with one of --at, --every and --cron")
    if zone and not cron:
        raise InvalidRequest("--zone belongs to --cron; a time of --at has its offset, as in 2026-12-24T18:00+01:00")
    if every:
        return Every(duration_s(every))
    if cron:
        return Cron(cron, zone)
    try:
        return At(dt.datetime.fromisoformat(at))
    except ValueError:
        raise InvalidRequest(f"--at {at!r} is no time; write 2026-12-24T18:00 or 2026-12-24T18:00+01:00") from None


def _tell(schedule: Any, as_json: bool) -> None:
    if as_json:
        output.emit(schedule)
    else:
        output.line(f"{schedule.spec.name}: {_times(schedule)}; next {_next(schedule)}")


def _times(schedule: Any) -> str:
    spec = schedule.spec
    kind = spec.WhichOneof("when")
    if kind == "cron":
        return f"{spec.cron.line} ({spec.cron.time_zone or 'UTC'})"
    if kind == "repeat_interval":
        return f"every {output.span(spec.repeat_interval.ToNanoseconds() / 1e9)}"
    return f"at {output.when(spec.at_time)}"


def _next(schedule: Any) -> str:
    if schedule.paused:
        return "paused"
    return output.when(schedule.next_time) if schedule.HasField("next_time") else "never"


def _work(spec: Any) -> str:
    if spec.HasField("run"):
        return f"a run of {len(spec.run.tasks)} tasks"
    from outrider.signing import signed_spec

    task = signed_spec(spec.task)
    return str(task.title or task.function.function or " ".join(task.command.argv))


def _word(spec: Any, field: str, default: str) -> str:
    number = getattr(spec, field)
    values = spec.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    name: str = values[number].name if number else default
    return name.rpartition("_")[2].lower()
