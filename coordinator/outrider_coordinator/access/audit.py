"""The audit log: who did what with which verdict, append-only, each line sealed with the hash of all lines before it.

One JSON object a line in ``audit.log``: number, time, who, by which credential and door, from where, what, on what,
verdict. ``seal`` is the SHA-256 of the seal before and the line without its own seal, so that a line that is changed,
left out or put in breaks every seal after it. What is cut off the end shows against the mark that is written at every
start and stop, and against a copy that somebody keeps elsewhere.

A line is in the file before the call is answered, and on disk within `SYNC_S`: a crash of the process loses nothing, a
crash of the machine at most that. It must not know gRPC.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["SYNC_S", "Audit", "Entry", "Flaw", "read", "verify"]

#: How long a line may be in the file without being synced.
SYNC_S = 1.0
_FIRST_SEAL = "0" * 64


class Entry(NamedTuple):
    """One line. Texts are cut to 256 characters.

    ``verdict`` is ``allowed``, ``ended`` for a stream whose caller's credential was taken, the gRPC status of a
    refusal, or ``ok`` for what the coordinator itself does.
    """

    who: str
    credential: str
    door: str
    peer: str
    what: str
    target: str
    verdict: str


class Flaw(NamedTuple):
    """Where a log stops being what was written: number of the line, from 1, and what is wrong with it."""

    line: int
    problem: str


class Audit:
    """The log of one coordinator, open for appending."""

    def __init__(self, path: Path) -> None:
        """Go on with the file that is there; a torn last line is cut off and said so in the next."""
        self.path = path
        self._number, self._seal, torn_bytes = _last(path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        if torn_bytes:
            os.ftruncate(self._file, os.fstat(self._file).st_size - torn_bytes)
        self.is_unsynced = False
        self.append(Entry("coordinator", "", "", "", "start", f"torn_bytes={torn_bytes}" if torn_bytes else "", "ok"))

    def append(self, entry: Entry) -> None:
        """Write one line. Raises `OSError` when the disk does not take it."""
        line = {
            "number": self._number + 1,
            "time": _now(),
            **{key: text[:256] for key, text in entry._asdict().items()},
        }
        seal = _sealed(self._seal, line)
        data = json.dumps(line | {"seal": seal}, separators=(",", ":")).encode() + b"\n"
        self._write(data)
        self._number, self._seal = self._number + 1, seal
        self.is_unsynced = True

    def _write(self, data: bytes) -> None:
        """All of it or nothing: half a line would spoil every line after it."""
        written = os.write(self._file, data)
        if written != len(data):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def sync(self) -> None:
        """Put everything on disk; cheap when nothing is new. Raises `OSError`, and does not try that again."""
        if self.is_unsynced:
            self.is_unsynced = False
            os.fdatasync(self._file)

    def close(self) -> None:
        """Write the last mark and close."""
        self.append(Entry("coordinator", "", "", "", "stop", "", "ok"))
        self.sync()
        os.close(self._file)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """All lines, oldest first; one that is no JSON ends it."""
    with path.open("rb") as file:
        for data in file:
            try:
                line = json.loads(data)
            except ValueError:
                return
            yield line


def verify(path: Path) -> tuple[int, Flaw | None]:
    """How many lines are sound from the beginning, and the first flaw there is."""
    seal, number = _FIRST_SEAL, 0
    with path.open("rb") as file:
        for data in file:
            try:
                line = json.loads(data)
                found = line.pop("seal")
            except (ValueError, KeyError, AttributeError):
                return number, Flaw(number + 1, "is no line of an audit log")
            if line.get("number") != number + 1:
                return number, Flaw(number + 1, f"has number {line.get('number')}: lines were left out or put in")
            seal = _sealed(seal, line)
            if found != seal:
                return number, Flaw(number + 1, "does not fit its seal: it, or a line before it, was changed")
            number += 1
    return number, None


def _sealed(before: str, line: dict[str, Any]) -> str:
    text = json.dumps(line, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _last(path: Path) -> tuple[int, str, int]:
    """Number and seal of the last whole line, and how many bytes of a torn one follow it."""
    if not path.exists():
        return 0, _FIRST_SEAL, 0
    number, seal, end = 0, _FIRST_SEAL, 0
    with path.open("rb") as file:
        for data in file:
            try:
                line = json.loads(data) if data.endswith(b"\n") else {}
                number, seal = line["number"], line["seal"]
            except (ValueError, KeyError, TypeError):
                break
            end += len(data)
        size = file.seek(0, os.SEEK_END)
    return number, seal, size - end
