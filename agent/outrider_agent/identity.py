"""The agent's identity on disk, once it has joined a cluster: a folder ``identity`` in its state directory.

``certificate.pem`` (certificate and key in one file, so they always fit together), ``trust.pem`` (the roots to
believe), ``cluster.json`` (`Cluster`). It must not know how they are got (`joining`). Invariant: a file is replaced as
a whole and synced, trust before certificate, so that a crash leaves an identity that works.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from outrider import whole_file
from outrider.errors import InvalidRequest

FOLDER = "identity"


class Cluster(msgspec.Struct, frozen=True):
    """What the agent knows of the cluster it has joined. Times are wall-clock microseconds."""

    agent_id: str
    #: Where certificates are renewed, and where sessions are opened: HOST:PORT.
    join_address: str
    addresses: tuple[str, ...]
    issued_us: int
    expires_us: int

    @property
    def renew_us(self) -> int:
        """When to get the next certificate: two thirds through the life of this one."""
        return self.issued_us + (self.expires_us - self.issued_us) * 2 // 3


class IdentityFolder:
    """The files, by name."""

    def __init__(self, state_directory: Path) -> None:
        self.path = state_directory / FOLDER
        self.certificate = self.path / "certificate.pem"
        self.trust = self.path / "trust.pem"
        self._cluster = self.path / "cluster.json"

    def cluster(self) -> Cluster | None:
        """What was joined; None when nothing was. Raises `InvalidRequest` for files that are damaged."""
        try:
            return msgspec.json.decode(self._cluster.read_bytes(), type=Cluster)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidRequest(f"cannot read the agent's identity in {self.path}: {error}; join again") from None

    def write(self, cluster: Cluster, certificate: bytes, trust: bytes) -> None:
        """Keep an identity, in place of the one before."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole_file.replace(self.trust, trust)
        whole_file.replace(self.certificate, certificate)
        whole_file.replace(self._cluster, msgspec.json.encode(cluster))
