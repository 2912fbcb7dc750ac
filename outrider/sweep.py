"""Finds and signals processes by the marker in their environment, wherever they have gone.

Owns the walk over /proc, by marker and by descent. A marker is the start of one ``NAME=value`` entry that a process
was started with: a process that double-forks and calls setsid still has it. Used by the keeper, the link and workers,
so it knows neither gRPC nor asyncio, and only the standard library.

Invariants: a signal goes only to the very process that was looked at, never to another one that got its pid; what
attempts started is signalled before the worker that looks after it, so that a sweep which is itself killed half-way
leaves nothing without somebody who ends it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

#: In the environment of workers: which keeper they belong to.
KEEPER_VARIABLE = "OUTRIDER_KEEPER"
#: In the environment of everything an attempt starts: ``<keeper instance>-<key>``.
ATTEMPT_VARIABLE = "OUTRIDER_ATTEMPT_KEY"

_PAUSE_S = 0.02


def keeper_markers(instance_id: str) -> tuple[bytes, ...]:
    """Markers of everything that a keeper process has started: of what its attempts did first, then of its workers."""
    return (f"{ATTEMPT_VARIABLE}={instance_id}-".encode(), f"{KEEPER_VARIABLE}={instance_id}\0".encode())


def attempt_markers(attempt_key: str) -> tuple[bytes, ...]:
    """Marker of everything that one attempt has started."""
    return (f"{ATTEMPT_VARIABLE}={attempt_key}\0".encode(),)


def find(markers: tuple[bytes, ...]) -> list[int]:
    """Pids of the living processes with one of the markers, in the order of these; the caller's own is left out."""
    places = ((_place(pid, markers), pid) for pid in _pids())
    return [pid for place, pid in sorted(places) if place < len(markers)]


def send(markers: tuple[bytes, ...], number: signal.Signals, *, spare: Callable[[int], bool] | None = None) -> int:
    """Signal every process with one of the markers, except those that ``spare`` names; returns how many."""
    count = 0
    for pid in find(markers):
        if spare is None or not spare(pid):
            count += signal_marked(pid, markers, number)
    return count


def signal_marked(pid: int, markers: tuple[bytes, ...], number: signal.Signals) -> bool:
    """Signal one process if it still is the one with the marker."""
    return _signal_if(pid, number, lambda: _place(pid, markers) < len(markers))


def kill_all(markers: tuple[bytes, ...], timeout_s: float) -> int:
    """SIGKILL until no process with a marker is left, for at most ``timeout_s``; returns how many are left.

    Looks twice before it believes that: the environment of a process that is becoming another program is empty for a
    moment.
    """
    deadline_s = time.monotonic() + timeout_s
    looks_without = 0
    while looks_without < 2:
        looks_without = 0 if send(markers, signal.SIGKILL) else looks_without + 1
        if time.monotonic() > deadline_s:
            return len(find(markers))
        time.sleep(_PAUSE_S)
    return 0


def send_below(pid: int, number: signal.Signals) -> int:
    """Signal every process below one, the deepest first; returns how many. Says nothing of who lost his parent."""
    children: dict[int, list[tuple[int, int]]] = {}
    for other in _pids():
        parent = _parent(other)
        children.setdefault(parent, []).append((other, parent))
    below = list(children.get(pid, ()))
    for child, _ in below:
        below += children.get(child, ())
    return sum(_signal_child(child, parent, number) for child, parent in reversed(below))


def _signal_child(pid: int, parent: int, number: signal.Signals) -> bool:
    return _signal_if(pid, number, lambda: _parent(pid) == parent)


def _signal_if(pid: int, number: signal.Signals, is_meant: Callable[[], bool]) -> bool:
    """Signal the process that has the pid now if that is the one: asked while no other can get the pid."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_meant():
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _pids() -> Iterator[int]:
    own = os.getpid()
    names = os.listdir("/proc")  # noqa: PTH208 - a quarter of the cost of Path.iterdir
    return (int(name) for name in names if name.isdigit() and int(name) != own)


def _parent(pid: int) -> int:
    """Who started a process, or inherited it; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - as below
            # The name before it is in parentheses and may itself hold anything.
            return int(file.read().rpartition(b") ")[2].split()[1])
    except OSError:
        return 0


def _place(pid: int, markers: tuple[bytes, ...]) -> int:
    """Which of the markers a process has, counted from 0, the first if several; their number if none."""
    try:
        # A plain read: this runs for every process of the machine.
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - half the cost of Path.read_bytes
            environment = b"\0" + file.read()
    except OSError:
        # Gone, or another user's: neither is ours. A zombie has no environment and counts as gone.
        return len(markers)
    found = (place for place, marker in enumerate(markers) if b"\0" + marker in environment)
    return next(found, len(markers))
