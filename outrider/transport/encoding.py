"""Submissions as bytes: put together from what stays the same and what differs, never parsed and written again.

Owns the wire form of what is sent for every task; a test compares it with what the message classes read. It must not
know of streams or tickets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from outrider.v1 import task_pb2
from outrider.v1 import task_service_pb2 as pb
from outrider.wire import block
from outrider.work import Options, call_arguments, check_size, function_name

#: So many functions are remembered by one client; a program has fewer, unless it makes up names.
FUNCTIONS_MAX = 1000
_DATA = task_pb2.Payload.DATA_FIELD_NUMBER
_ARGUMENTS = task_pb2.PythonFunction.ARGUMENTS_FIELD_NUMBER
_FUNCTION = task_pb2.TaskSpec.FUNCTION_FIELD_NUMBER
_REQUEST_ID = pb.SubmitRequest.REQUEST_ID_FIELD_NUMBER
_SPEC = pb.SubmitRequest.SPEC_FIELD_NUMBER
_TASKS = pb.Submissions.TASKS_FIELD_NUMBER
_SUBMISSIONS = pb.SubmitStreamRequest.SUBMISSIONS_FIELD_NUMBER


class CallEncoder:
    """Writes the TaskSpecs of calls with the same options: for a function called before, only what differs."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._is_default = options.is_default
        #: Serialized PythonFunction without arguments, by the function's name.
        self._known: dict[str, bytes] = {}

    def encode(
        self, function: Callable[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[str, bytes]:
        """The function's name, and serialized what `outrider.work.function_spec` makes; raises as that does."""
        known = self._known.get(function) if isinstance(function, str) else None
        if known is not None:
            name = str(function)
        else:
            name = function_name(function)
            known = self._known.get(name) or self._know(name)
        if args or kwargs:
            known += block(_ARGUMENTS, block(_DATA, call_arguments(name, args, kwargs)))
        spec = block(_FUNCTION, known)
        if not self._is_default:
            spec = self._options.apply(task_pb2.TaskSpec()).SerializeToString() + spec
        check_size(len(spec))
        return name, spec

    def _know(self, name: str) -> bytes:
        function = task_pb2.PythonFunction(function=name, inputs_argument=self._options.inputs_argument)
        if len(self._known) >= FUNCTIONS_MAX:
            self._known.clear()
        known = self._known[name] = function.SerializeToString()
        return known


class RequestEncoder:
    """Writes the SubmitRequests of one client."""

    def __init__(self, namespace: str, client_id: str, submitter: str = "") -> None:
        same = pb.SubmitRequest(namespace=namespace, client_id=client_id, submitter=submitter)
        self._same = same.SerializeToString()

    def encode(
        self, request_id: str, spec: bytes, dependency_ids: Sequence[str], trace: task_pb2.TraceContext
    ) -> bytes:
        """A request as it stands in a frame; ``spec`` is a serialized TaskSpec."""
        data = self._same + block(_REQUEST_ID, request_id.encode()) + block(_SPEC, spec)
        if dependency_ids:
            data += pb.SubmitRequest(dependency_ids=dependency_ids).SerializeToString()
        if trace.traceparent:
            data += pb.SubmitRequest(trace=trace).SerializeToString()
        return block(_TASKS, data)


def frame(requests: Sequence[bytes]) -> bytes:
    """A serialized SubmitStreamRequest with these requests."""
    return block(_SUBMISSIONS, b"".join(requests))
