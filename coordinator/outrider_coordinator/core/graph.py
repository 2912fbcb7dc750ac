"""The shape of a graph before it is accepted: keys unique and known, no cycle."""

from __future__ import annotations

from outrider_coordinator.core.effects import Refused
from outrider_coordinator.core.events import RunMember


def check(members: list[RunMember]) -> Refused | None:
    """The first thing wrong with a graph, None when it can run. A cycle is named key by key (I18)."""
    after: dict[str, tuple[str, ...]] = {}
    for position, member in enumerate(members):
        if member.key in after:
            return Refused("INVALID_REQUEST", f"key {member.key!r} is used twice", f"run.tasks[{position}].key")
        after[member.key] = member.after_keys
    for position, member in enumerate(members):
        for key in member.after_keys:
            if key not in after:
                message = f"task {member.key!r} comes after {key!r}, which is no key of this run"
                return Refused("INVALID_REQUEST", message, f"run.tasks[{position}].after_keys")
    cycle = find_cycle(after)
    if cycle:
        return Refused("CYCLE", "the tasks depend on each other in a circle: " + " -> ".join(cycle), "run.tasks")
    return None


def find_cycle(after: dict[str, tuple[str, ...]]) -> list[str]:
    """The keys of one cycle, its first key repeated at the end; empty when there is none. Depth first, no recursion."""
    done: set[str] = set()
    for root in after:
        path: list[str] = []
        on_path: set[str] = set()
        stack = [(root, iter(after[root]))] if root not in done else []
        while stack:
            key, rest = stack[-1]
            if not path or path[-1] != key:
                path.append(key)
                on_path.add(key)
            following = next((other for other in rest if other not in done), None)
            if following is None:
                stack.pop()
                done.add(path.pop())
                on_path.discard(key)
            elif following in on_path:
                return [*path[path.index(following) :], following]
            else:
                stack.append((following, iter(after[following])))
    return []
