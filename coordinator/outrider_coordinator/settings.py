"""Settings of the coordinator daemon: every default with its unit and its reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from outrider.errors import InvalidRequest
from outrider.settings import setting
from outrider_coordinator.core.settings import CoreSettings, Preemption, WaitBudgets
from outrider_coordinator.core.spec import SECOND_US, Strategy


def default_state_directory() -> str:
    """``$STATE_DIRECTORY`` under systemd, the user's XDG state directory otherwise."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return given or str(Path(base) / "outrider" / "coordinator")


class CoordinatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[coordinator]`` of the settings file."""

    listen: Annotated[
        list[str],
        setting("Addresses to serve on, HOST:PORT or unix:/PATH; loopback by default, so nobody else gets in."),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.1:7420"])
    listen_join: Annotated[
        list[str],
        setting(
            "Addresses where machines join and programs show tokens, HOST:PORT; only the server shows a certificate."
        ),
    ] = msgspec.field(default_factory=list)
    host: Annotated[str, setting("Name under which other machines reach this one; `coordinator init` writes it.")] = ""
    announce: Annotated[
        bool, setting("Let this user's commands on this machine find it by themselves, at its Unix socket.")
    ] = False
    agent_certificate_s: Annotated[
        float,
        setting(
            "How long an agent's certificate lives; it is renewed after two thirds of that, so a stolen one is soon "
            "worthless.",
            unit="s",
            ge=3,
            le=397 * 86_400,
        ),
    ] = 86_400.0
    caller_rate: Annotated[
        float,
        setting("Calls a second of each user from other machines, on average; streams count once.", unit="/s", ge=0.1),
    ] = 200.0
    caller_streams: Annotated[
        int, setting("Streams (watches, submissions) that a user from other machines may have open.", ge=1)
    ] = 100
    connections_max: Annotated[
        int,
        setting(
            "Connections that each address it listens on takes; more are hung up on. An agent has one, a client one.",
            ge=1,
        ),
    ] = 10_000
    submitter_open_max: Annotated[
        int,
        setting("Tasks that one user may have open at once, or whoever is named as their submitter.", ge=1),
    ] = 200_000
    state_directory: Annotated[
        str, setting("Folder of the database; empty means the user's XDG state directory, or systemd's.")
    ] = ""
    tls_certificate: Annotated[
        str, setting("PEM file of the server's certificate chain; needed to serve beyond this machine.")
    ] = ""
    tls_key: Annotated[str, setting("PEM file of the certificate's private key.")] = ""
    tls_client_ca: Annotated[
        str, setting("PEM file of the authority that signs clients and agents; set, every caller must show one.")
    ] = ""
    heartbeat_interval_s: Annotated[
        float, setting("How often agents report; short enough to notice a loss in seconds.", unit="s", ge=0.05)
    ] = 2.0
    suspect_after_s: Annotated[
        float, setting("Silence after which an agent is suspect: three missed heartbeats.", unit="s", ge=0.15)
    ] = 6.0
    lost_after_s: Annotated[
        float, setting("Silence after which an agent is shown as lost and keeps nothing.", unit="s", ge=1)
    ] = 300.0
    accept_timeout_s: Annotated[
        float, setting("An offer not accepted for so long is asked back.", unit="s", ge=0.1)
    ] = 5.0
    startup_hold_s: Annotated[
        float,
        setting("After a start agents get this long to say hello before their graces begin.", unit="s", ge=0),
    ] = 25.0
    alarm_hold_s: Annotated[
        float,
        setting("How long nothing is given away once half of the fleet went silent at once.", unit="s", ge=0),
    ] = 60.0
    alarm_interval_s: Annotated[
        float, setting("From one such alarm to the next; in between a silence is believed.", unit="s", ge=0)
    ] = 600.0
    stop_overdue_s: Annotated[
        float, setting("An attempt stopped at its task's deadline is fenced when it takes longer.", unit="s", ge=1)
    ] = 60.0
    retry_floor: Annotated[
        int, setting("Retries a minute that are always allowed, beside a tenth of all offers.", ge=1)
    ] = 60
    breaker_failures: Annotated[
        int, setting("Failures in a row that open a circuit breaker; fewer could be chance.", ge=1)
    ] = 5
    breaker_rate: Annotated[
        float, setting("Share of failures among the samples of its window that opens a breaker.", ge=0.01, le=1)
    ] = 0.5
    breaker_window_s: Annotated[float, setting("How far back failures are held against anybody.", unit="s", ge=1)] = (
        600.0
    )
    breaker_samples_min: Annotated[
        int, setting("Samples before a share says anything, also when agents are compared with the fleet.", ge=2)
    ] = 10
    breaker_reset_s: Annotated[
        float, setting("How long a breaker stays open at first; doubled with each further opening.", unit="s", ge=0.1)
    ] = 30.0
    breaker_reset_max_s: Annotated[
        float,
        setting("Longest a breaker stays open: what was repaired must not wait for hours.", unit="s", ge=0.1),
    ] = 600.0
    half_open_tests: Annotated[
        int, setting("Probes that must go well to close a breaker; one could be luck.", ge=1)
    ] = 2
    probe_time_s: Annotated[
        float,
        setting("A probe that still runs after this has gone well: long work holds nobody up.", unit="s", ge=0.1),
    ] = 60.0
    fails_everywhere: Annotated[
        int, setting("A task that fails on so many different agents is at fault and is not tried again.", ge=2)
    ] = 3
    system_failures: Annotated[
        int,
        setting("So many tasks or agents that complain of an outside system open its breaker; fewer may err.", ge=2),
    ] = 3
    queue_depth_max: Annotated[
        int, setting("Tasks that may be open at once; more are refused, so memory stays bounded.", ge=1)
    ] = 1_000_000
    payload_bytes_max: Annotated[
        int, setting("Largest arguments or standard input of a task.", unit="bytes", ge=1024)
    ] = 1024 * 1024
    message_bytes_max: Annotated[
        int,
        setting(
            "Largest gRPC message: batches fit, and a payload somewhat over its limit is refused with the reason.",
            unit="bytes",
            ge=1024 * 1024,
        ),
    ] = 16 * 1024 * 1024
    drain_timeout_s: Annotated[
        float, setting("How long calls in progress may go on after SIGTERM.", unit="s", ge=0)
    ] = 2.0
    short_function_ms: Annotated[
        float, setting("Functions this short are sent ahead of a free slot, to keep workers busy.", unit="ms", ge=0)
    ] = 50.0
    line_ms: Annotated[
        float,
        setting(
            "How long the line of such functions on an agent may be, by what they usually take: more would make what "
            "is urgent wait for what is not.",
            unit="ms",
            ge=0,
        ),
    ] = 250.0
    wait_budget_dependency_s: Annotated[
        float,
        setting(
            "How long a task may wait for another one or a limit when it does not say; 0: for ever.", unit="s", ge=0
        ),
    ] = 0.0
    wait_budget_external_s: Annotated[float, setting("The same for outside systems.", unit="s", ge=0)] = 0.0
    wait_budget_complexity_s: Annotated[float, setting("The same for a request for more time.", unit="s", ge=0)] = 0.0
    wait_budget_clarification_s: Annotated[float, setting("The same for a question.", unit="s", ge=0)] = 0.0
    placement: Annotated[
        Literal["least_loaded", "round_robin", "random", "performance", "two_choices"],
        setting("How agents are chosen for tasks that do not say: the least loaded suits most fleets."),
    ] = "least_loaded"
    preemption: Annotated[
        Literal["preemptible", "lower", "never"],
        setting(
            "Whose slot a CRITICAL task takes when there is none: of tasks that say they are preemptible, of any of a "
            "lower priority, or nobody's. The victim is queued again and uses up no try."
        ),
    ] = "preemptible"
    aging_s: Annotated[
        float,
        setting(
            "Being passed over for so long, while tasks of a higher priority start, raises a task by one priority: it "
            "bounds the wait, and what is urgent still goes first.",
            unit="s",
            ge=1,
        ),
    ] = 600.0
    shares: Annotated[
        dict[str, float],
        setting(
            "Weights of namespaces (name) and of submitters within them (namespace/name) when there is more to start "
            "than room; 1 where nothing is said."
        ),
    ] = {}
    running_max: Annotated[
        int, setting("Most tasks that run at once in the whole fleet; 0 for as many as there are slots.", ge=0)
    ] = 0
    type_running_max: Annotated[
        dict[str, int], setting("Most tasks of a type that run at once, by type; no bound where nothing is said.")
    ] = {}
    runner_running_max: Annotated[
        dict[str, int], setting("Most tasks with a runner that run at once, by runner; no bound where nothing is said.")
    ] = {}
    log_level: Annotated[str, setting("DEBUG, INFO, WARNING or ERROR.")] = "INFO"


def core_settings(settings: CoordinatorSettings) -> CoreSettings:
    """What the core needs of the settings. Raises `InvalidRequest` where two of them do not fit together."""
    if settings.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise InvalidRequest(f"coordinator.log_level is {settings.log_level!r}; use DEBUG, INFO, WARNING or ERROR")
    if settings.suspect_after_s < round(3 * settings.heartbeat_interval_s, 6):
        raise InvalidRequest(
            f"coordinator.suspect_after_s ({settings.suspect_after_s}) must be at least 3 heartbeat intervals "
            f"({3 * settings.heartbeat_interval_s:g})"
        )
    for name, weight in settings.shares.items():
        if not 0 < weight < float("inf"):
            raise InvalidRequest(f"coordinator.shares: {name!r} has weight {weight}; a weight is a number above 0")
    for table in (settings.type_running_max, settings.runner_running_max):
        for name, most in table.items():
            if most < 1:
                raise InvalidRequest(f"coordinator: at most {most} of {name!r} at once cannot be; leave it out")
    return CoreSettings(
        queue_depth_max=settings.queue_depth_max,
        submitter_open_max=settings.submitter_open_max,
        heartbeat_interval_us=_us(settings.heartbeat_interval_s),
        suspect_after_us=_us(settings.suspect_after_s),
        lost_after_us=_us(settings.lost_after_s),
        accept_timeout_us=_us(settings.accept_timeout_s),
        startup_hold_us=_us(settings.startup_hold_s),
        alarm_hold_us=_us(settings.alarm_hold_s),
        alarm_interval_us=_us(settings.alarm_interval_s),
        stop_overdue_us=_us(settings.stop_overdue_s),
        retry_floor=settings.retry_floor,
        breaker_failures=settings.breaker_failures,
        breaker_rate=settings.breaker_rate,
        breaker_window_us=_us(settings.breaker_window_s),
        breaker_samples_min=settings.breaker_samples_min,
        breaker_reset_us=_us(settings.breaker_reset_s),
        breaker_reset_max_us=_us(settings.breaker_reset_max_s),
        half_open_tests=settings.half_open_tests,
        probe_time_us=_us(settings.probe_time_s),
        fails_everywhere=settings.fails_everywhere,
        system_failures=settings.system_failures,
        short_function_us=int(settings.short_function_ms * 1000),
        line_us=int(settings.line_ms * 1000),
        placement=Strategy[settings.placement.upper()],
        preemption=Preemption(settings.preemption),
        aging_us=_us(settings.aging_s),
        shares=dict(settings.shares),
        running_max=settings.running_max,
        type_running_max=dict(settings.type_running_max),
        runner_running_max=dict(settings.runner_running_max),
        wait_budgets=WaitBudgets(
            _us(settings.wait_budget_dependency_s),
            _us(settings.wait_budget_external_s),
            _us(settings.wait_budget_complexity_s),
            _us(settings.wait_budget_clarification_s),
        ),
    )


def _us(seconds: float) -> int:
    return int(seconds * SECOND_US)
