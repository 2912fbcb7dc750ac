"""``outrider agent ...``: the fleet as operators see it, and the agent daemon itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from outrider.cli import breakers, output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import AgentName, JsonFlag, session_of
from outrider.cli.values import duration_s

app = Commands(
    help="Look at agents, hold them back or let them go; run one.",
    epilog=epilog(["outrider agent list", "outrider agent run --coordinator 127.0.0.1:7420 --slots 4"]),
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("list", examples=["outrider agent list"])
def list_agents(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List agents: what they do, and why one gets no work."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    agents = session.call(session.fleet.ListAgents, fleet_service_pb2.ListAgentsRequest()).agents
    if as_json:
        for agent in agents:
            output.emit(agent)
        return
    if not agents:
        output.say("no agent has registered yet; start one with `outrider agent run --coordinator ADDRESS`")
        return
    output.table(("NAME", "STATUS", "SLOTS", "BREAKER", "LABELS", "HEARD", "NOTE"), [_row(agent) for agent in agents])


def _row(agent: Any) -> list[Any]:
    labels = " ".join(f"{key}={value}" for key, value in sorted(agent.labels.items()))
    slots = f"{agent.slots_used}/{agent.slots}" + (f" +{agent.parked} parked" if agent.parked else "")
    status = output.styled(agent.status)
    return [agent.id, status, slots, _breaker(agent), labels, output.age(agent.last_heard_time), agent.no_work_reason]


def _breaker(agent: Any) -> str:
    """Its own breaker, and how many kinds of work it has lost."""
    lost = f", {len(agent.type_breakers)} for types of work" if agent.type_breakers else ""
    return breakers.word(agent.breaker) + lost


def _breakers(agent: Any) -> list[tuple[str, str]]:
    """Its own breaker, and one line for each type of work that it is not trusted with."""
    own = ("breaker", breakers.line(agent.breaker, agent.breaker_reset_time))
    return [own, *((f"for {one.task_type}", breakers.line(one.state, one.reset_time)) for one in agent.type_breakers)]


@app.command(examples=["outrider agent show agent-1"])
def show(context: typer.Context, name: AgentName, as_json: JsonFlag = False) -> None:
    """Everything about one agent."""
    agent = _agent(context, name)
    if as_json:
        output.emit(agent)
        return
    output.facts(
        [
            ("name", agent.id),
            ("status", output.styled(agent.status)),
            ("gets no work", agent.no_work_reason),
            ("slots", f"{agent.slots_used} of {agent.slots} in use"),
            ("parked", str(agent.parked or "")),
            *_breakers(agent),
            ("labels", " ".join(f"{key}={value}" for key, value in sorted(agent.labels.items()))),
            ("resources", _resources(agent)),
            ("task types", " ".join(agent.task_types)),
            ("runners", " ".join(agent.runners)),
            ("secrets", " ".join(agent.secrets)),
            ("host", agent.host),
            ("version", agent.version),
            ("connected", output.age(agent.session_start_time)),
            ("heard", output.age(agent.last_heard_time)),
            ("load", f"{agent.load_average:.2f}, CPU {agent.cpu_fraction:.0%}, memory {agent.memory_fraction:.0%}"),
            ("succeeded", str(agent.succeeded_count)),
            ("failed", str(agent.failed_count)),
            ("unacknowledged", str(agent.outbox_pending or "")),
        ]
    )


def _resources(agent: Any) -> str:
    """Every resource with what live tasks have taken of it, memory in GiB."""
    words = []
    for name, amount in sorted(agent.resources.items()):
        used, scale, unit = agent.resources_used.get(name, 0.0), 1.0, ""
        if name == "memory":
            scale, unit = 2.0**30, " GiB"
        words.append(f"{name} {used / scale:g} of {round(amount / scale, 1):g}{unit}")
    return ", ".join(words)


def _agent(context: typer.Context, name: str) -> Any:
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    return session.call(session.fleet.GetAgent, fleet_service_pb2.GetAgentRequest(agent_id=name)).agent


@app.command(examples=["outrider agent workers agent-1"])
def workers(context: typer.Context, name: AgentName, as_json: JsonFlag = False) -> None:
    """The worker processes of an agent."""
    agent = _agent(context, name)
    if as_json:
        for worker in agent.workers:
            output.emit(worker)
        return
    rows = [_worker(worker) for worker in agent.workers]
    output.table(("PID", "STATE", "TASK", "DONE", "MEMORY", "LAST ERROR"), rows)


def _worker(worker: Any) -> list[str]:
    memory = f"{worker.rss_bytes / 2**20:.0f} MiB" if worker.rss_bytes else ""
    task = output.short(worker.task_id)
    return [str(worker.pid), worker.state, task, str(worker.tasks_done), memory, worker.last_error]


def _order(context: typer.Context, method: str, request: Any) -> None:
    session = session_of(context)
    reply = session.call(getattr(session.fleet, method), request)
    output.line(f"{reply.agent.id} is {reply.agent.status}")


@app.command(examples=["outrider agent pause agent-1"])
def pause(context: typer.Context, name: AgentName) -> None:
    """Give an agent no new work; what runs goes on."""
    from outrider.v1 import fleet_service_pb2

    _order(context, "PauseAgent", fleet_service_pb2.PauseAgentRequest(agent_id=name))


@app.command(examples=["outrider agent resume agent-1"])
def resume(context: typer.Context, name: AgentName) -> None:
    """Give a paused or draining agent work again."""
    from outrider.v1 import fleet_service_pb2

    _order(context, "ResumeAgent", fleet_service_pb2.ResumeAgentRequest(agent_id=name))


@app.command(examples=["outrider agent drain agent-1 --timeout 10m"])
def drain(
    context: typer.Context,
    name: AgentName,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="Then stop what still runs.")] = "",
) -> None:
    """Let an agent finish what it runs, hand back the rest, and leave."""
    from outrider.v1 import fleet_service_pb2

    request = fleet_service_pb2.DrainAgentRequest(agent_id=name)
    if timeout:
        request.timeout.FromMilliseconds(int(duration_s(timeout) * 1000))
    _order(context, "DrainAgent", request)


@app.command(examples=["outrider agent remove agent-1"])
def remove(
    context: typer.Context,
    name: AgentName,
    force: Annotated[bool, typer.Option("--force", help="Also when it is online.")] = False,
) -> None:
    """Forget an agent and free its name; its work goes elsewhere."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    request = fleet_service_pb2.RemoveAgentRequest(agent_id=name, force=force)
    session.call(session.fleet.RemoveAgent, request)
    output.line(f"{name} removed")


@app.command(
    "reset-breaker",
    examples=["outrider agent reset-breaker agent-1", "outrider agent reset-breaker agent-1 --type build"],
)
def reset_breaker(
    context: typer.Context,
    name: AgentName,
    task_type: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="Only for this type of work, as `agent show` names it.")
    ] = "",
) -> None:
    """Trust an agent again at once, whatever made its circuit breakers open."""
    from outrider.v1 import fleet_service_pb2

    _order(context, "ResetBreaker", fleet_service_pb2.ResetBreakerRequest(agent_id=name, task_type=task_type))


@app.command(examples=["outrider agent explain agent-1"])
def explain(context: typer.Context, name: AgentName, as_json: JsonFlag = False) -> None:
    """Why an agent gets no work: what closes it, what waits for something else, and what would change that."""
    from outrider.cli.explain import show_agent
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    reply = session.call(session.fleet.ExplainAgent, fleet_service_pb2.ExplainAgentRequest(agent_id=name))
    if as_json:
        output.emit(reply)
    else:
        show_agent(reply, name)


@app.command(
    "run",
    examples=["outrider agent run --coordinator 127.0.0.1:7420 --slots 4"],
    context_settings=PASS_ON,
    add_help_option=False,
)
def run_agent(context: typer.Context) -> None:
    """Run an agent on this machine, in the foreground (--help shows its flags)."""
    from outrider_agent.__main__ import main

    raise typer.Exit(main(context.args, prog="outrider agent run"))
