"""Starts the agent: logging, addresses, the state directory, the loop. Everything that can be wrong is said here.

`run` is what `outrider agent run` and `outrider-agent` call; it returns the process's exit code and prints one line for
each thing that keeps the agent from starting.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from outrider.endpoint import Endpoint
from outrider.errors import InvalidRequest, OutriderError
from outrider_agent import log_lines
from outrider_agent.identity import Cluster, IdentityFolder
from outrider_agent.link_frames import Target
from outrider_agent.policy.policy import Policy
from outrider_agent.policy.settings import PolicySettings
from outrider_agent.settings import AgentSettings, resolved
from outrider_agent.state_directory import StateDirectory

EXIT_CANNOT_START = 1


def run(settings: AgentSettings, own_policy: PolicySettings) -> int:
    """Serve until stopped: 0 after a drain, 1 when it cannot start or is refused, 70 when the disk fails."""
    try:
        settings = resolved(settings, os.environ)
        log_lines.set_up(settings.log_level, settings.log_format)
        targets = coordinator_targets(settings)
        instance_id = secrets.token_hex(8)
        state = StateDirectory(Path(settings.state_directory), instance_id)
        policy = Policy(own_policy, settings.working_directory, state)
    except OutriderError as error:
        print(f"outrider-agent: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    # Imported here, so that `--help` and wrong settings do not pay for them.
    import uvloop

    from outrider_agent.keeper import serve

    return uvloop.run(serve(settings, state, instance_id, targets, policy))


def coordinator_targets(settings: AgentSettings) -> list[Target]:
    """Where to connect, in the order to try. Raises `InvalidRequest` or `Unreachable` saying what to set."""
    joined = IdentityFolder(Path(settings.state_directory))
    cluster = None if settings.tls_ca else joined.cluster()
    if cluster is not None and all(not Endpoint.parse(address).path for address in settings.addresses):
        return _joined_targets(settings, cluster, joined)
    addresses = settings.addresses or (_found_address(),)
    for name in ("tls_ca", "tls_certificate", "tls_key"):
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            raise InvalidRequest(f"agent.{name}: cannot read {path}")
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise InvalidRequest("set both agent.tls_certificate and agent.tls_key, or neither")
    endpoints = [Endpoint.parse(address) for address in addresses]
    for endpoint in endpoints:
        if not endpoint.is_local and not settings.tls_ca:
            raise InvalidRequest(
                f"refusing to talk to {endpoint.target} in plain text: whoever is in between could run commands here; "
                "set --tls-ca to the coordinator's authority (and --tls-certificate, --tls-key for mutual TLS)"
            )
    tls = (settings.tls_ca, settings.tls_certificate, settings.tls_key)
    return [Target(endpoint.target, *tls) for endpoint in endpoints]


def _joined_targets(settings: AgentSettings, cluster: Cluster, joined: IdentityFolder) -> list[Target]:
    """The cluster that this agent has joined, by its own certificate."""
    if settings.name != cluster.agent_id:
        raise InvalidRequest(
            f"this agent has joined as {cluster.agent_id!r} and cannot go by the name {settings.name!r}; "
            "set agent.name to that, or join again"
        )
    tls = (str(joined.trust), str(joined.certificate), str(joined.certificate))
    endpoints = [Endpoint.parse(address) for address in settings.addresses or cluster.addresses]
    return [Target(endpoint.target, *tls) for endpoint in endpoints]


def _found_address() -> str:
    from outrider.discovery import coordinator_address

    return coordinator_address()
