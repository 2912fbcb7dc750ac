"""The audit log: what was done to it shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from outrider_coordinator.access.audit import Audit, Entry, read, verify


def a_log(path: Path, count: int = 5) -> list[bytes]:
    """A log that was started, written and stopped; its lines."""
    log = Audit(path)
    for number in range(count):
        log.append(Entry(f"user-{number}", "token:x", "token", "ipv4:192.0.2.1:1", "Service/Method", "", "allowed"))
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def test_a_log_that_was_left_alone_is_sound(tmp_path: Path) -> None:
    """Over several runs of the coordinator, with names that try to be lines of their own."""
    path = tmp_path / "audit.log"
    a_log(path)
    log = Audit(path)
    log.append(Entry('eve"}\n{"number":1}', "", "", "", "x" * 1000, "\u2028", "allowed"))
    log.close()
    assert verify(path) == (10, None)
    assert [line["number"] for line in read(path)] == list(range(1, 11))
    assert max(len(line["what"]) for line in read(path)) == 256


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a changed line", lambda lines: [*lines[:2], lines[2].replace(b"user-1", b"user-9"), *lines[3:]]),
        ("a line left out", lambda lines: [*lines[:2], *lines[3:]]),
        ("two lines swapped", lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]]),
        ("a line twice", lambda lines: [*lines[:3], lines[2], *lines[3:]]),
        ("a seal made anew", lambda lines: [*lines[:2], _resealed(lines[2]), *lines[3:]]),
        ("rubbish", lambda lines: [*lines[:2], b"rubbish\n", *lines[3:]]),
        ("another kind of JSON", lambda lines: [*lines[:2], b"7\n", *lines[3:]]),
    ],
)
def test_what_was_done_to_it_shows(tmp_path: Path, name: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Changed, left out, put in, swapped: the first line that is not what was written is named."""
    path = tmp_path / "audit.log"
    path.write_bytes(b"".join(change(a_log(path))))
    count, flaw = verify(path)
    assert flaw is not None, name
    assert 2 <= count <= 3
    assert flaw.line == count + 1


def _resealed(line: bytes) -> bytes:
    """A changed line with a seal that looks like one."""
    document = json.loads(line)
    document["who"], document["seal"] = "eve", "0" * 64
    return json.dumps(document).encode() + b"\n"


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes only the beginning of a line: an error, and what comes after it is sound."""
    path = tmp_path / "audit.log"
    log = Audit(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
    with pytest.raises(OSError, match="No space left"):
        log.append(Entry("ann", "", "", "", "x", "", "allowed"))
    monkeypatch.undo()
    log.append(Entry("bob", "", "", "", "x", "", "allowed"))
    log.close()
    assert verify(path) == (3, None)
    assert [line["who"] for line in read(path)] == ["coordinator", "bob", "coordinator"]


def test_a_line_that_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    """The next start goes on after the last whole line, says how much was lost, and the log is sound."""
    path = tmp_path / "audit.log"
    lines = a_log(path)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    Audit(path).close()
    assert verify(path) == (8, None)
    assert [line["target"] for line in read(path)][6] == "torn_bytes=20"
