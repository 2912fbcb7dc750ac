"""Addresses of coordinators: ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:/PATH``. Pure text, no network."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from outrider.errors import InvalidRequest

DEFAULT_PORT = 7420
#: Longest path of a Unix socket that Linux takes (unix(7)), the final NUL not counted.
UNIX_PATH_BYTES_MAX = 107


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address. Either ``path`` is set (a Unix socket) or ``host`` and ``port`` are."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read an address as people write it; a missing port means 7420. Raises `InvalidRequest`."""
        if text.startswith("unix:"):
            return cls(path=_checked_path(text))
        host, port = _split(text)
        if not host or not 0 <= port <= 65535:
            raise InvalidRequest(f"{text!r} is no address; write HOST:PORT, [IPV6]:PORT or unix:/PATH")
        return cls(host=host, port=port)

    @property
    def target(self) -> str:
        """What gRPC connects or binds to."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether nobody outside this machine can be at the other end: loopback or a Unix socket."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.target


def _checked_path(text: str) -> str:
    path = text.removeprefix("unix:").removeprefix("//")
    if not Path(path).is_absolute():
        raise InvalidRequest(f"{text!r}: a Unix socket needs an absolute path, such as unix:/run/outrider.sock")
    if len(path.encode()) > UNIX_PATH_BYTES_MAX:
        raise InvalidRequest(f"{text!r}: the path is longer than {UNIX_PATH_BYTES_MAX} bytes; choose a shorter one")
    return path


def _split(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not port:
        return host, DEFAULT_PORT
    return (host, int(port)) if port.isdecimal() and len(port) < 6 else ("", -1)
