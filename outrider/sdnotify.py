"""Tells systemd how the daemon is: ``READY=1``, ``STOPPING=1``, ``WATCHDOG=1``, ``STATUS=...``.

Owns the datagram to ``$NOTIFY_SOCKET`` and nothing else. Without that variable every call does nothing, and a socket
that is gone never hurts the daemon.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

__all__ = ["notify", "watchdog_interval_s"]


def notify(state: str) -> bool:
    """Send ``state``, one ``NAME=value`` per line. False: nobody asked for it, or nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    # An abstract socket is written with @ in the environment.
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(state.encode(), target)
    except OSError:
        return False
    return True


def watchdog_interval_s(environment: Mapping[str, str] | None = None) -> float | None:
    """How often to send ``WATCHDOG=1``: half of what systemd allows; None when it does not watch this process."""
    environment = os.environ if environment is None else environment
    allowed_us = environment.get("WATCHDOG_USEC", "")
    watched_pid = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not allowed_us.isdigit() or watched_pid != str(os.getpid()):
        return None
    return int(allowed_us) / 2_000_000
