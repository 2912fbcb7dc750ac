"""``outrider limit ...``: named limits as operators define and see them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from outrider.cli import output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import JsonFlag, session_of
from outrider.errors import InvalidRequest

app = Commands(
    help="Locks, semaphores and rates that tasks hold while they run.",
    epilog=epilog(
        [
            "outrider limit put db:main --capacity 5",
            "outrider limit put api:anthropic --rate 10 --burst 20",
            "outrider limit show db:main",
        ],
        """A task claims limits with `outrider submit --limit`. A name that nobody defined is a lock: one task at a time
        holds it, or any number of those that claim it with `:shared`.""",
    ),
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Name of the limit.")]


@app.command(examples=["outrider limit put db:main --capacity 5", "outrider limit put api:anthropic --rate 10"])
def put(
    context: typer.Context,
    key: Key,
    capacity: Annotated[int, typer.Option(min=0, metavar="N", help="A semaphore: units held at once.")] = 0,
    rate: Annotated[float, typer.Option(min=0, metavar="N", help="A rate: units given out per second.")] = 0.0,
    burst: Annotated[int, typer.Option(min=0, metavar="N", help="Of a rate: most units that gather.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Define a limit or change it; who holds it keeps it. Without options it is a lock."""
    from outrider.v1 import limit_service_pb2

    if (capacity and rate) or (burst and not rate):
        raise InvalidRequest("a limit is a semaphore (--capacity) or a rate (--rate, with --burst), not both")
    spec = limit_service_pb2.LimitSpec(key=key)
    if capacity:
        spec.semaphore.capacity = capacity
    if rate:
        spec.rate.per_second, spec.rate.burst = rate, burst
    session = session_of(context)
    request = limit_service_pb2.PutLimitRequest(namespace=session.namespace, spec=spec)
    limit = session.call(session.limits.PutLimit, request).limit
    if as_json:
        output.emit(limit)
    else:
        output.line(f"{key}: {_kind(limit)}")


@app.command("list", examples=["outrider limit list"])
def list_limits(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List limits that are defined, held or waited for."""
    from outrider.v1 import limit_service_pb2

    session = session_of(context)
    request = limit_service_pb2.ListLimitsRequest(namespace=session.namespace)
    limits = session.call(session.limits.ListLimits, request).limits
    if as_json:
        for limit in limits:
            output.emit(limit)
        return
    if not limits:
        output.say("no limit is defined, held or waited for; see `outrider limit put --help`")
        return
    rows = [[one.spec.key, _kind(one), _number(one.available_units), *_counts(one)] for one in limits]
    output.table(("KEY", "KIND", "FREE", "HOLDERS", "WAITERS"), rows)


@app.command(examples=["outrider limit show db:main"])
def show(context: typer.Context, key: Key, as_json: JsonFlag = False) -> None:
    """One limit: who holds it and who waits for it, first come first."""
    from outrider.v1 import limit_service_pb2

    session = session_of(context)
    request = limit_service_pb2.GetLimitRequest(namespace=session.namespace, key=key)
    limit = session.call(session.limits.GetLimit, request).limit
    if as_json:
        output.emit(limit)
        return
    output.facts(
        [
            ("key", limit.spec.key),
            ("kind", _kind(limit) + ("" if limit.defined else ", not defined")),
            ("free", _number(limit.available_units)),
            *(("holder", _party(party)) for party in limit.holders),
            *(("waiter", _party(party)) for party in limit.waiters),
        ]
    )


@app.command(examples=["outrider limit delete db:main"])
def delete(context: typer.Context, key: Key) -> None:
    """Forget a definition: the name is a plain lock again."""
    from outrider.v1 import limit_service_pb2

    session = session_of(context)
    request = limit_service_pb2.DeleteLimitRequest(namespace=session.namespace, key=key)
    session.call(session.limits.DeleteLimit, request)
    output.line(f"{key} is not defined any more")


def _kind(limit: Any) -> str:
    kind = limit.spec.WhichOneof("kind")
    if kind == "semaphore":
        return f"semaphore of {limit.spec.semaphore.capacity}"
    if kind == "rate":
        return f"{limit.spec.rate.per_second:g} a second, burst {limit.spec.rate.burst}"
    return "lock"


def _number(value: float) -> str:
    return f"{value:g}"


def _counts(limit: Any) -> list[str]:
    """Holders and waiters; the coordinator names at most 100 of each."""
    return [
        f"{len(parties)}+" if len(parties) >= 100 else str(len(parties)) for parties in (limit.holders, limit.waiters)
    ]


def _party(party: Any) -> str:
    claim = "shared" if party.claim.shared else f"{party.claim.units} units" if party.claim.units > 1 else ""
    attempt = f"attempt {party.attempt}" if party.attempt else "queued"
    return ", ".join(part for part in (f"task {output.short(party.task_id)}", attempt, claim) if part)
