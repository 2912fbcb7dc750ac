"""The store's place on disk: one coordinator at a time, and no network file system."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from outrider_coordinator.store.errors import StoreRefused

#: Error numbers of a write for which there is no room.
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs"))


def lock(folder: Path) -> int:
    """Make the folder if needed and lock it for this process; returns the descriptor that holds the lock.

    Raises StoreRefused when another coordinator holds it, naming its pid, or when the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "coordinator.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreRefused(f"cannot use the state directory {folder}: {error.strerror}") from None
    _refuse_network(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreRefused(
            f"another coordinator (pid {pid}) uses {folder}; stop it or choose another --state-directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _refuse_network(folder: Path) -> None:
    kind = _file_system(folder.resolve())
    if kind in _NETWORK:
        raise StoreRefused(f"{folder} is on a network file system ({kind}); SQLite needs a local disk")


def _file_system(folder: Path) -> str:
    """Type of the file system that holds a folder: the longest mount point above it."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, type_name, *_ = line.split(" ")
        inside = mount == "/" or str(folder) == mount or str(folder).startswith(mount + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, type_name
    return kind
