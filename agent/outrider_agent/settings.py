"""The agent's settings: every default with its unit and its reason, and where the agent keeps its state.

Read with `load`; nothing else in the agent looks at settings files or at ``OUTRIDER_AGENT_*`` variables.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from outrider.errors import InvalidRequest
from outrider.names import RULE, is_name
from outrider.settings import load as load_settings
from outrider.settings import setting
from outrider_agent import secret_settings
from outrider_agent.secret_settings import SecretSettings

SECTION = "agent"


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about one agent that can be set; see `outrider.settings` for the sources."""

    name: Annotated[str, setting("Name in the fleet; empty takes the host's name. One agent of a name at a time.")] = ""
    coordinator: Annotated[
        str | list[str],
        setting("Addresses of the coordinator, comma-separated or a list; empty finds the one `outrider up` started."),
    ] = ""
    slots: Annotated[
        int, setting("Attempts that run at once; 0 takes the number of CPUs the agent may use.", ge=0, le=4096)
    ] = 0
    labels: Annotated[dict[str, str], setting("What tasks can ask for with constraints.")] = {}
    resources: Annotated[
        dict[str, float],
        setting(
            "Amounts that tasks can take, like {gpu = 2}; cpu (cores) and memory (bytes) default to the machine's. "
            "They count against tasks that claim some, and against no others."
        ),
    ] = {}
    task_types: Annotated[list[str], setting("Task types offered to tasks that ask for one by name.")] = []
    runners: Annotated[list[str], setting("Runners offered to tasks that ask for one by name.")] = []
    secrets: Annotated[
        dict[str, SecretSettings], setting("Secrets handed to tasks that ask for them, by name; see below.")
    ] = {}
    state_directory: Annotated[
        str,
        setting("Outbox and scratch space; empty takes $STATE_DIRECTORY, else the XDG state folder and the name."),
    ] = ""
    working_directory: Annotated[
        str, setting("Where workers run; Python modules in it can be imported by tasks. Empty: the agent's own.")
    ] = ""
    prefetch_credit: Annotated[
        int,
        setting(
            "Short functions taken beyond free slots, so that workers never idle for a round trip.", ge=0, le=16_384
        ),
    ] = 2048
    worker_queue_max: Annotated[
        int, setting("Of these, how many wait inside one worker; what a crash can disturb.", ge=1, le=256)
    ] = 32
    parked_max: Annotated[
        int, setting("Blocked attempts that give their slot back; each keeps a process.", ge=0, le=1024)
    ] = 32
    kill_grace_s: Annotated[float, setting("From SIGTERM to SIGKILL, time to clean up.", unit="s", ge=0)] = 10.0
    drain_timeout_s: Annotated[
        float, setting("How long SIGTERM lets running attempts finish before they are stopped.", unit="s", ge=0)
    ] = 30.0
    worker_idle_s: Annotated[
        float, setting("An idle worker beyond the slots leaves after this; parked attempts need them.", unit="s", ge=1)
    ] = 60.0
    worker_tasks_max: Annotated[
        int, setting("A worker is replaced after so many attempts, against slow leaks; 0 never.", ge=0)
    ] = 0
    outbox_bytes_max: Annotated[
        int,
        setting("Reports kept on disk while the coordinator is away; beyond it no new work is taken.", unit="bytes"),
    ] = 1 << 30
    outbox_memory_bytes: Annotated[
        int, setting("Of these, how much is also kept in memory for sending.", unit="bytes", ge=1 << 16)
    ] = 16 << 20
    ack_timeout_s: Annotated[
        float, setting("How long a stopping agent waits for its last reports to be acknowledged.", unit="s", ge=0)
    ] = 3.0
    tls_ca: Annotated[str, setting("PEM file with the coordinator's authority; set it to use TLS.")] = ""
    tls_certificate: Annotated[str, setting("PEM file with this agent's certificate, for mutual TLS.")] = ""
    tls_key: Annotated[str, setting("PEM file with its key.")] = ""
    machine_id: Annotated[
        str, setting("What tells machines apart; empty takes /etc/machine-id, else one made in the state directory.")
    ] = ""
    log_level: Annotated[str, setting("debug, info, warning or error.")] = "info"
    log_format: Annotated[str, setting("plain for people and journald, json for log collectors.")] = "plain"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The coordinator's addresses as given; empty means: find one."""
        given = self.coordinator.split(",") if isinstance(self.coordinator, str) else self.coordinator
        return tuple(address.strip() for address in given if address.strip())


def load(
    *,
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    preset: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> AgentSettings:
    """Settings from all sources, checked and with the defaults that depend on the machine filled in.

    Raises `InvalidRequest` naming the setting that is wrong.
    """
    environment = os.environ if environment is None else environment
    given = load_settings(AgentSettings, SECTION, path=path, environment=environment, preset=preset, flags=flags)
    return resolved(given, environment)


def resolved(settings: AgentSettings, environment: Mapping[str, str]) -> AgentSettings:
    """Fill in name, slots, working and state directory; raises `InvalidRequest`."""
    name = settings.name or _host_name()
    if not is_name(name):
        raise InvalidRequest(f"agent name {name!r} must be {RULE}; set --name")
    working_directory = Path(settings.working_directory or Path.cwd()).absolute()
    if not working_directory.is_dir():
        raise InvalidRequest(f"the working directory {working_directory} does not exist; set agent.working_directory")
    for name_of, amount in settings.resources.items():
        if not (name_of and 0 <= amount < float("inf")):
            raise InvalidRequest(
                f"agent.resources: {name_of!r} is {amount}; give each a name and an amount of 0 or more"
            )
    secret_settings.check(settings.secrets)
    for field, values in (("log_level", ("debug", "info", "warning", "error")), ("log_format", ("plain", "json"))):
        if getattr(settings, field) not in values:
            raise InvalidRequest(f"agent.{field} is {getattr(settings, field)!r}; use one of {', '.join(values)}")
    return msgspec.structs.replace(
        settings,
        name=name,
        slots=settings.slots or len(os.sched_getaffinity(0)),
        working_directory=str(working_directory),
        state_directory=settings.state_directory or _state_directory(name, environment),
    )


def _host_name() -> str:
    """The host's name in the form agents' names have."""
    lowered = re.sub(r"[^a-z0-9._-]", "-", socket.gethostname().lower()).lstrip("._-")
    return lowered[:63] or "agent"


def _state_directory(name: str, environment: Mapping[str, str]) -> str:
    # systemd sets $STATE_DIRECTORY; a colon separates several, the first is ours.
    if given := environment.get("STATE_DIRECTORY", "").partition(":")[0]:
        return given
    home = Path(environment.get("XDG_STATE_HOME") or Path(environment.get("HOME", "/var/lib")) / ".local/state")
    return str(home / "outrider" / "agents" / name)
