"""From submits on the wire to facts: every field of a request checked here, with its path in the error."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.errors import TooLarge
from outrider.v1 import run_service_pb2, task_service_pb2
from outrider_coordinator.access.principals import Door, caller
from outrider_coordinator.core.events import RunMember, Submission
from outrider_coordinator.core.model import NO_TRACE, Trace
from outrider_coordinator.core.runs.admission import EDGES_MAX, MEMBERS_MAX
from outrider_coordinator.core.schedules.book import REQUEST_ID_MARK
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.rpc import specs
from outrider_coordinator.rpc.fields import invalid
from outrider_coordinator.rpc.ids import IdMaker
from outrider_coordinator.rpc.specs import SpecReader

DEPENDENCIES_MAX = 10_000
#: Tasks of a graph that are read before the loop has its turn.
_MEMBERS_AT_ONCE = 100
SUBMITTER_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True)
class Converter:
    """Turns requests into facts for the core."""

    ids: IdMaker
    specs: SpecReader

    def submission(self, request: task_service_pb2.SubmitRequest, path: str = "") -> Submission:
        """One task to accept. Raises InvalidRequest or TooLarge with the field's path below ``path``."""
        request_id = request.request_id
        if len(request_id) > 64:
            raise invalid(f"{path}request_id", "is longer than 64 characters")
        if request_id.startswith(REQUEST_ID_MARK):
            raise invalid(f"{path}request_id", f"must not begin with {REQUEST_ID_MARK!r}: schedules do")
        dependency_ids, conditions = _dependencies(request, path)
        namespace = sys.intern(request.namespace or "default")
        spec = self.specs.read(request.spec, f"{path}spec", namespace)
        identity = specs.identity(spec.body) if spec.demands.is_signed else spec.body
        if dependency_ids:
            identity += "".join(dependency_ids).encode() + bytes(conditions)
        trace = request.trace if request.HasField("trace") else None
        return Submission(
            self.ids.next(),
            namespace,
            spec,
            request_id,
            hashlib.blake2b(identity, digest_size=16).digest(),
            sys.intern(request.client_id),
            Trace(trace.traceparent, trace.tracestate) if trace else NO_TRACE,
            dependency_ids,
            conditions,
            submitter=submitter(request.submitter, path),
        )

    async def members(self, tasks: Sequence[run_service_pb2.RunTask], path: str, namespace: str) -> list[RunMember]:
        """The tasks of a graph; everybody else has their turn between some and the next."""
        members = []
        for member in self._members(tasks, path, namespace):
            members.append(member)
            if len(members) % _MEMBERS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return members

    def members_at_once(self, tasks: Sequence[run_service_pb2.RunTask], path: str, namespace: str) -> list[RunMember]:
        """As `members`, for a graph that is small."""
        return list(self._members(tasks, path, namespace))

    def _members(self, tasks: Sequence[run_service_pb2.RunTask], path: str, namespace: str) -> Iterator[RunMember]:
        if not tasks:
            raise invalid(path, "a run needs at least one task")
        if len(tasks) > MEMBERS_MAX:
            raise TooLarge(f"{path}: {len(tasks)} tasks in one run, at most {MEMBERS_MAX}; submit several runs")
        edges = 0
        for position, task in enumerate(tasks):
            edges += len(task.after_keys) + len(task.after)
            if edges > EDGES_MAX:
                raise TooLarge(f"{path}: more than {EDGES_MAX} edges; let tasks of one phase wait for those of another")
            yield self._member(task, f"{path}[{position}]", namespace)

    def _member(self, task: run_service_pb2.RunTask, path: str, namespace: str) -> RunMember:
        if not 1 <= len(task.key) <= 128:
            raise invalid(f"{path}.key", "must have 1 to 128 characters")
        if len(task.milestone) > 128:
            raise invalid(f"{path}.milestone", "is longer than 128 characters")
        after = dict.fromkeys(task.after_keys, Condition.SUCCESS)
        for position, edge in enumerate(task.after):
            _add_edge(after, edge.key, edge.condition, f"{path}.after[{position}]")
        is_plain = all(condition is Condition.SUCCESS for condition in after.values())
        return RunMember(
            self.ids.next(),
            task.key,
            self.specs.read(task.spec, f"{path}.spec", namespace),
            tuple(after),
            () if is_plain else tuple(after.values()),
            phase=task.phase,
            milestone=task.milestone,
        )


def submitter(name: str, path: str = "") -> str:
    """On whose behalf, checked; kept once however many tasks name it.

    Who is known by a credential submits on its own behalf: nobody takes another one's share.
    """
    who = caller.get()
    if who.door is not Door.LOCAL:
        return sys.intern(who.name)
    if len(name) > SUBMITTER_CHARACTERS_MAX:
        raise invalid(f"{path}submitter", f"is longer than {SUBMITTER_CHARACTERS_MAX} characters")
    return sys.intern(name)


def policies(run: run_service_pb2.RunSpec, path: str) -> dict[str, Any]:
    """What of `RunSubmitted` says how a run goes, checked."""
    if run.failure_policy not in run_service_pb2.RunFailurePolicy.values():
        raise invalid(f"{path}.failure_policy", "must be CONTINUE or FAIL_FAST")
    return {
        "fails_fast": run.failure_policy == run_service_pb2.RUN_FAILURE_POLICY_FAIL_FAST,
        "max_parallel": run.max_parallel,
        "is_sequential": run.sequential,
    }


def _add_edge(after: dict[str, Condition], key: str, condition: int, path: str) -> None:
    if condition not in (0, *Condition):
        raise invalid(f"{path}.condition", f"{condition} is no condition; use SUCCESS, FAILURE or ALWAYS")
    asked = Condition(condition or Condition.SUCCESS)
    if after.setdefault(key, asked) is not asked:
        raise invalid(path, f"asks {asked.name} of {key!r}, of which something else is asked already")


def _dependencies(request: task_service_pb2.SubmitRequest, path: str) -> tuple[tuple[str, ...], tuple[Condition, ...]]:
    """Ids, and conditions beside them; no conditions when all must succeed."""
    named = request.dependency_ids
    if not named and not request.dependencies:
        return (), ()
    after = dict.fromkeys(named, Condition.SUCCESS)
    for position, dependency in enumerate(request.dependencies):
        _add_edge(after, dependency.task_id, dependency.condition, f"{path}dependencies[{position}]")
    if len(after) > DEPENDENCIES_MAX:
        raise invalid(f"{path}dependency_ids", f"more than {DEPENDENCIES_MAX}")
    is_plain = all(condition is Condition.SUCCESS for condition in after.values())
    return tuple(after), () if is_plain else tuple(after.values())
