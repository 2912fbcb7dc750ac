"""What `outrider doctor` finds: one finding for each thing looked at. Reads files and the system, changes nothing."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from outrider.cli.findings import Finding, Mark
from outrider.cli.secret_checkup import secret_findings
from outrider.errors import OutriderError

__all__ = ["Finding", "Mark", "findings"]

DISK_LOW_BYTES = 1 << 30
FILES_WANTED = 4096
#: File systems on which a flush does not mean that data is safe.
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "ceph"}


def findings(config: Path | None, *, with_security: bool) -> list[Finding]:
    """Everything about this machine; the settings file is None when there is none."""
    found, document = _settings(config)
    found += _machine()
    if "coordinator" in document:
        found += _guarded("coordinator", lambda: _coordinator(document["coordinator"], with_security))
    if "agent" in document or "policy" in document:
        found += _guarded("agent", lambda: _agent(document.get("agent", {}), document.get("policy", {}), with_security))
    return found


def _guarded(section: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """A section that cannot be looked at is a finding, too."""
    try:
        return look()
    except (OutriderError, OSError, ValueError) as error:
        return [Finding(Mark.WRONG, section, str(error))]


def _settings(config: Path | None) -> tuple[list[Finding], dict[str, Any]]:
    if config is None:
        text = "there is no settings file; daemons run with defaults, and this machine's own user is served only"
        return [Finding(Mark.FINE, "settings", text)], {}
    try:
        document = tomllib.loads(config.read_text())
    except (OSError, ValueError) as error:
        return [Finding(Mark.WRONG, "settings", f"{config} cannot be read: {error}", "mend it, or move it away")], {}
    found = [Finding(Mark.FINE, "settings", f"{config} has {', '.join(f'[{name}]' for name in document) or 'nothing'}")]
    for section in document:
        if section not in ("coordinator", "agent", "policy"):
            remedy = "tables are [coordinator], [agent] and [policy]"
            found.append(Finding(Mark.WARNING, "settings", f"[{section}] is read by nobody", remedy))
    if config.stat().st_mode & 0o022:
        remedy = f"chmod go-w {config}"
        found.append(Finding(Mark.WRONG, "settings", f"others can write {config}, and so run commands", remedy))
    return found, document


def _machine() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(Mark.FINE, "python", f"{version} at {sys.executable}")
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES_WANTED:
        yield Finding(
            Mark.WARNING,
            "open files",
            f"at most {soft} for a process of this user; a coordinator needs one for each agent and client",
            f"raise it: ulimit -n {FILES_WANTED}, or LimitNOFILE= in the unit",
        )


def _coordinator(values: dict[str, Any], with_security: bool) -> list[Finding]:
    from outrider_coordinator.settings import CoordinatorSettings, core_settings, default_state_directory

    settings = _loaded(CoordinatorSettings, "coordinator", values)
    core_settings(settings)
    folder = Path(settings.state_directory or default_state_directory())
    found = [*_state("coordinator", folder)]
    authority = folder / "authority"
    has_tls = bool(settings.tls_certificate) or authority.exists()
    found += _listens(settings.listen, has_tls)
    if authority.exists():
        found += _private("coordinator", authority)
        found += _authority(authority, settings.host)
    if with_security:
        found += _loopback(settings.listen, has_tls)
        found += _log(folder / "audit.log")
    return found


def _loaded(kind: Any, section: str, values: dict[str, Any]) -> Any:
    from outrider.settings import load

    return load(kind, section, environment={}, flags=values)


def _state(daemon: str, folder: Path, allowed: int = 0o700) -> Iterator[Finding]:
    if not folder.exists():
        yield Finding(Mark.WARNING, daemon, f"{folder} is not there yet", "it is made when the daemon starts first")
        return
    if folder.stat().st_mode & 0o777 & ~allowed:
        yield Finding(Mark.WRONG, daemon, f"others can look into {folder}", f"chmod {allowed:o} {folder}")
    free = shutil.disk_usage(folder).free
    if free < DISK_LOW_BYTES:
        text = f"only {free >> 20} MiB are free in {folder}"
        yield Finding(Mark.WARNING, daemon, text, "make room: a full disk stops the daemon from taking work")
    kind = _file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        text = f"{folder} is on {kind}, where what was flushed may be lost"
        yield Finding(Mark.WRONG, daemon, text, "set state_directory to a folder on a local disk")
    else:
        yield Finding(Mark.FINE, daemon, f"state in {folder}, {free >> 30} GiB free")


def _file_system(folder: Path) -> str:
    """What kind of file system a folder is on; empty when that cannot be found out."""
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    target = str(folder.resolve())
    for line in mounts:
        _, point, found, *_ = line.split(" ")
        if (target == point or target.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, found
    return kind


def _listens(addresses: list[str], has_tls: bool) -> Iterator[Finding]:
    from outrider.endpoint import Endpoint

    for address in addresses:
        endpoint = Endpoint.parse(address)
        if not endpoint.is_local and not has_tls:
            text = f"{endpoint} can be reached by other machines and there is no TLS; it will refuse to start"
            yield Finding(Mark.WRONG, "coordinator", text, "outrider coordinator init --host NAME")


def _loopback(addresses: list[str], has_tls: bool) -> Iterator[Finding]:
    from outrider.endpoint import Endpoint

    for address in addresses:
        endpoint = Endpoint.parse(address)
        if endpoint.is_local and not endpoint.path and not has_tls:
            text = f"every user of this machine can run commands as the agents' user through {endpoint}"
            remedy = 'listen on a Unix socket instead: listen = ["unix:/run/outrider/coordinator.sock"]'
            yield Finding(Mark.WARNING, "coordinator", text, remedy)


def _private(daemon: str, folder: Path) -> Iterator[Finding]:
    """Keys that others can read."""
    for path in (folder, *sorted(folder.iterdir())):
        if path.stat().st_mode & 0o077:
            wanted = "700" if path.is_dir() else "600"
            text = f"{path} is open to others ({stat.filemode(path.stat().st_mode)})"
            yield Finding(
                Mark.WRONG, daemon, text, f"chmod {wanted} {path}, and replace the keys in it if others log in here"
            )


def _authority(folder: Path, host: str) -> Iterator[Finding]:
    from cryptography import x509

    from outrider import certificates
    from outrider_coordinator.access.authority import Authority

    authority = Authority(folder)
    renew = "outrider coordinator authority rotate"
    for key_id, end in authority.roots:
        yield _dated(f"the authority {key_id}", end, timedelta(days=90), renew)
    if len(authority.roots) > 1:
        remedy = "when all agents have renewed: outrider coordinator authority retire"
        yield Finding(Mark.WARNING, "coordinator", "two authorities are believed", remedy)
    server = certificates.certificate_of(authority.server_pair()[1])
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    what = f"the certificate for {', '.join(hosts)}"
    yield _dated(what, server.not_valid_after_utc, timedelta(days=30), "start the coordinator: it renews it")
    if host and host not in hosts:
        text = f"machines are told to come to {host!r}, and the certificate is not for that name"
        yield Finding(Mark.WRONG, "coordinator", text, f"outrider coordinator init --host {host}")


def _dated(what: str, end: datetime, early: timedelta, remedy: str) -> Finding:
    left = end - datetime.now(UTC)
    text = f"{what} ends on {end:%Y-%m-%d}"
    if left <= timedelta(0):
        return Finding(Mark.WRONG, "coordinator", f"{what} ended on {end:%Y-%m-%d}", remedy)
    return Finding(*((Mark.WARNING, "coordinator", text, remedy) if left < early else (Mark.FINE, "coordinator", text)))


def _log(path: Path) -> Iterator[Finding]:
    from outrider_coordinator.access import audit

    if not path.exists():
        return
    count, flaw = audit.verify(path)
    if flaw is None:
        yield Finding(Mark.FINE, "audit log", f"all {count} lines are as they were written")
    else:
        remedy = "find out who could write there; everything before that line is sound"
        yield Finding(Mark.WRONG, "audit log", f"{path}: line {flaw.line} {flaw.problem}", remedy)


def _agent(values: dict[str, Any], rules: dict[str, Any], with_security: bool) -> list[Finding]:
    from outrider_agent.identity import IdentityFolder
    from outrider_agent.policy.gate import check
    from outrider_agent.policy.settings import SECTION, PolicySettings
    from outrider_agent.settings import AgentSettings, resolved

    settings = resolved(_loaded(AgentSettings, "agent", values), os.environ)
    policy = _loaded(PolicySettings, SECTION, rules)
    check(policy)
    folder = Path(settings.state_directory)
    found = [*_state("agent", folder, 0o711 if policy.user else 0o700)]
    identity = IdentityFolder(folder)
    cluster = identity.cluster()
    if cluster is not None:
        found += _private("agent", identity.path)
        found += _identity(cluster, settings.name)
    found += secret_findings(settings.secrets, os.environ)
    if with_security and os.geteuid() == 0 and not policy.user:
        text = "this command runs as root; an agent that does runs every task as root"
        remedy = "run the agent as a user that owns nothing else, or set policy.user"
        found.append(Finding(Mark.WARNING, "agent", text, remedy))
    if with_security:
        found += _policy(policy, (cluster.addresses if cluster else ()) or settings.addresses)
    return found


def _policy(policy: Any, addresses: Iterable[str]) -> Iterator[Finding]:
    """What a coordinator on another machine could have run here."""
    from outrider.endpoint import Endpoint

    remote = next((address for address in addresses if not Endpoint.parse(address).is_local), None)
    if policy.require_signature:
        yield Finding(Mark.FINE, "agent", f"runs what one of {len(policy.trusted_keys)} keys has signed, nothing else")
    elif remote is not None and policy.commands is None and policy.functions is None:
        text = f"whoever takes over the coordinator at {remote} can run anything here as the agent's user"
        remedy = "[policy] in the settings file: require_signature and trusted_keys, or commands and functions"
        yield Finding(Mark.WARNING, "agent", text, remedy)


def _identity(cluster: Any, name: str) -> Iterator[Finding]:
    if cluster.agent_id != name:
        text = f"it has joined as {cluster.agent_id!r}, and its settings call it {name!r}; it will refuse to start"
        yield Finding(Mark.WRONG, "agent", text, f'set agent.name = "{cluster.agent_id}"')
    end = datetime.fromtimestamp(cluster.expires_us / 1e6, UTC)
    if end < datetime.now(UTC):
        remedy = "start it: it renews by itself for 30 days after that, then it must join again"
        yield Finding(Mark.WARNING, "agent", f"its certificate ended at {end:%Y-%m-%d %H:%M}", remedy)
        return
    where = ", ".join(cluster.addresses)
    text = f"{cluster.agent_id} of the cluster at {where}, certificate good until {end:%Y-%m-%d %H:%M}"
    yield Finding(Mark.FINE, "agent", text)
