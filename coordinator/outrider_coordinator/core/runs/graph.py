"""The shape of a graph before it is accepted: keys unique and known, no cycle."""

from __future__ import annotations

from itertools import pairwise

from outrider_coordinator.core.effects import Refused
from outrider_coordinator.core.events import RunMember


def check(members: list[RunMember], *, is_sequential: bool = False, is_whole: bool = True) -> Refused | None:
    """The first thing wrong with a graph, None when it can run. A cycle is named key by key (I18).

    ``is_whole`` False is for additions: keys that are not among them are looked at where the run is known.
    """
    tasks = "run.tasks" if is_whole else "tasks"
    after: dict[str, tuple[str, ...]] = {}
    for position, member in enumerate(members):
        if member.key in after:
            return Refused("INVALID_REQUEST", f"key {member.key!r} is used twice", f"{tasks}[{position}].key")
        after[member.key] = member.after_keys
    for position, member in enumerate(members):
        for key in member.after_keys:
            if key not in after and is_whole:
                message = f"task {member.key!r} comes after {key!r}, which is no key of this run"
                return Refused("INVALID_REQUEST", message, f"{tasks}[{position}].after_keys")
    if is_sequential:
        for before, member in pairwise(members):
            after[member.key] = (*after[member.key], before.key)
    cycle = find_cycle({key: tuple(other for other in others if other in after) for key, others in after.items()})
    if cycle:
        return Refused("CYCLE", "the tasks depend on each other in a circle: " + " -> ".join(cycle), tasks)
    return _against_phases(members, after, tasks)


def _against_phases(members: list[RunMember], after: dict[str, tuple[str, ...]], tasks: str) -> Refused | None:
    """A task that comes after one of a later phase could never start."""
    phases = {member.key: member.phase for member in members}
    if not any(phases.values()):
        return None
    for position, member in enumerate(members):
        for key in after[member.key]:
            if phases.get(key, 0) > member.phase:
                message = (
                    f"task {member.key!r} of phase {member.phase} comes after {key!r} of phase {phases[key]}, "
                    "which starts once its own phase is over"
                )
                return Refused("INVALID_REQUEST", message, f"{tasks}[{position}].phase")
    return None


def find_cycle(after: dict[str, tuple[str, ...]]) -> list[str]:
    """The keys of one cycle, its first key repeated at the end; empty when there is none. Depth first, no recursion."""
    entered: set[str] = set()
    done: set[str] = set()
    for root in after:
        path: list[str] = []
        stack = [(root, iter(after[root]))] if root not in done else []
        while stack:
            key, rest = stack[-1]
            if not path or path[-1] != key:
                path.append(key)
                entered.add(key)
            following = next((other for other in rest if other not in done), None)
            if following is None:
                stack.pop()
                done.add(path.pop())
            elif following in entered:  # and not done: it is on the path
                return [*path[path.index(following) :], following]
            else:
                stack.append((following, iter(after[following])))
    return []
