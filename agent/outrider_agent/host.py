"""Facts about the machine: which one it is, which boot, how busy it is."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the machine is; fractions are 0 to 1, of all processors and all memory."""

    load_average: float
    cpu_fraction: float
    memory_fraction: float


def load() -> Load:
    """Now; the processor use is that since the last call."""
    return Load(os.getloadavg()[0], psutil.cpu_percent(interval=None) / 100, psutil.virtual_memory().percent / 100)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def resources() -> dict[str, float]:
    """What tasks can take of the machine unless the settings say otherwise: `cpu` in cores, `memory` in bytes."""
    return {"cpu": float(len(os.sched_getaffinity(0))), "memory": float(psutil.virtual_memory().total)}


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def host_name() -> str:
    """For people."""
    return socket.gethostname()


def machine_id(override: str, fallback: Path) -> str:
    """What tells this machine from others: hashed, because the id itself must not leave the machine.

    Taken from ``override``, else /etc/machine-id, else the file ``fallback``, which is made when it is missing.
    """
    source = override or _read(Path("/etc/machine-id")) or _read(fallback)
    if not source:
        source = uuid.uuid4().hex
        fallback.write_text(source + "\n")
    return hashlib.sha256(b"outrider agent " + source.encode()).hexdigest()[:32]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
