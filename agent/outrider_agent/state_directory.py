"""The agent's folder on disk: one keeper at a time, what it remembers, and what an earlier one left behind.

Owns the lock and the small files beside the outboxes. Layout: ``lock``, ``instance`` (id of the keeper that runs or ran
last), ``known.json`` (store and highest epoch of the coordinator), ``machine-id`` (only where the machine has none),
``outbox/``, ``scratch/``.

Invariant: while a `StateDirectory` is open no other keeper uses the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import msgspec

from outrider import sweep
from outrider.errors import InvalidRequest

_SWEEP_TIMEOUT_S = 2.0


class Known(msgspec.Struct, frozen=True):
    """What the agent knows of its coordinator; empty on first contact."""

    store_id: str = ""
    coordinator_epoch: int = 0
    #: The keeper that was welcomed last.
    instance_id: str = ""


class StateDirectory:
    """The folder, locked. Raises `InvalidRequest` saying why when it cannot be used."""

    def __init__(self, path: Path, instance_id: str) -> None:
        self.path = path
        self.outbox = path / "outbox"
        self.scratch = path / "scratch"
        try:
            for folder in (path, self.outbox, self.scratch):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            text = f"cannot use the state directory {path}: {error.strerror}; set agent.state_directory"
            raise InvalidRequest(text) from None
        self._claim()
        self.left_behind = self._sweep_earlier()
        self._write("instance", instance_id.encode())

    def known(self) -> Known:
        """What was remembered last; nothing when that cannot be read."""
        try:
            return msgspec.json.decode((self.path / "known.json").read_bytes(), type=Known)
        except (OSError, msgspec.DecodeError):
            return Known()

    def remember(self, known: Known) -> None:
        """Keep this for the next Hello of any keeper."""
        self._write("known.json", msgspec.json.encode(known))

    def close(self) -> None:
        """Let the next keeper in."""
        os.close(self._lock)

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise InvalidRequest(
                f"another agent (pid {holder}) uses {self.path}; stop it, or start this one with another --name "
                "or --state-directory"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _sweep_earlier(self) -> int:
        """Kill what the last keeper left, which was killed with its link; returns how many would not die."""
        left = 0
        try:
            earlier = (self.path / "instance").read_text().strip()
        except OSError:
            earlier = ""
        if earlier:
            left = sweep.kill_all(sweep.keeper_markers(earlier), _SWEEP_TIMEOUT_S)
        for leftover in self.scratch.iterdir():
            shutil.rmtree(leftover, ignore_errors=True)
        return left

    def _write(self, name: str, data: bytes) -> None:
        """Replace a small file whole; losing it to a power cut costs a line of history, never an outcome."""
        temporary = self.path / f"{name}.new"
        temporary.write_bytes(data)
        temporary.replace(self.path / name)
