"""From submits on the wire to facts: every field of a request checked here, with its path in the error."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass

from outrider.errors import TooLarge
from outrider.v1 import run_service_pb2, task_service_pb2
from outrider_coordinator.core.events import RunMember, Submission
from outrider_coordinator.core.model import NO_TRACE, Trace
from outrider_coordinator.core.schedule_book import REQUEST_ID_MARK
from outrider_coordinator.rpc.fields import invalid
from outrider_coordinator.rpc.ids import IdMaker
from outrider_coordinator.rpc.specs import SpecReader

DEPENDENCIES_MAX = 10_000
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
        dependency_ids = _dependencies(request, path)
        spec = self.specs.read(request.spec, f"{path}spec")
        identity = spec.body + "".join(dependency_ids).encode() if dependency_ids else spec.body
        trace = request.trace if request.HasField("trace") else None
        return Submission(
            self.ids.next(),
            sys.intern(request.namespace or "default"),
            spec,
            request_id,
            hashlib.blake2b(identity, digest_size=16).digest(),
            sys.intern(request.client_id),
            Trace(trace.traceparent, trace.tracestate) if trace else NO_TRACE,
            dependency_ids,
            submitter(request.submitter, path),
        )

    def members(self, run: run_service_pb2.RunSpec) -> list[RunMember]:
        """The tasks of a graph."""
        if not run.tasks:
            raise invalid("run.tasks", "a run needs at least one task")
        if len(run.tasks) > 10_000:
            raise TooLarge("run.tasks: more than 10,000 tasks in one run; submit several runs")
        members = []
        for position, task in enumerate(run.tasks):
            path = f"run.tasks[{position}]"
            if not 1 <= len(task.key) <= 128:
                raise invalid(f"{path}.key", "must have 1 to 128 characters")
            spec = self.specs.read(task.spec, f"{path}.spec")
            members.append(RunMember(self.ids.next(), task.key, spec, tuple(dict.fromkeys(task.after_keys))))
        return members


def submitter(name: str, path: str = "") -> str:
    """On whose behalf, checked; kept once however many tasks name it."""
    if len(name) > SUBMITTER_CHARACTERS_MAX:
        raise invalid(f"{path}submitter", f"is longer than {SUBMITTER_CHARACTERS_MAX} characters")
    return sys.intern(name)


def _dependencies(request: task_service_pb2.SubmitRequest, path: str) -> tuple[str, ...]:
    named = request.dependency_ids
    if not named:
        return ()
    dependency_ids = tuple(dict.fromkeys(named))
    if len(dependency_ids) > DEPENDENCIES_MAX:
        raise invalid(f"{path}dependency_ids", f"more than {DEPENDENCIES_MAX}")
    return dependency_ids
