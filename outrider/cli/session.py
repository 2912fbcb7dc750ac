"""One invocation's connection: made on first use, its calls raising our errors, ids completed from prefixes.

gRPC is imported only when a command needs it, so that ``--help`` stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from outrider import errors

if TYPE_CHECKING:
    import grpc

    from outrider.channel import TlsFiles
    from outrider.client import Client
    from outrider.signing import Signer

CALL_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0


class Session:
    """Where commands talk to: ``address`` empty means the one that `discovery` finds."""

    def __init__(self, address: str = "", namespace: str = "default", tls_paths: tuple[str, str, str] = ("", "", "")):
        self._address = address
        self.namespace = namespace
        self._tls_paths = tls_paths

    @cached_property
    def address(self) -> str:
        """The coordinator's address. Raises `Unreachable` when none is known."""
        from outrider.discovery import coordinator_address

        return coordinator_address(self._address)

    @property
    def tls(self) -> TlsFiles | None:
        """Certificate files from the flags; None leaves it to the environment."""
        from outrider.channel import TlsFiles

        return TlsFiles(*self._tls_paths) if any(self._tls_paths) else None

    @cached_property
    def channel(self) -> grpc.Channel:
        """The channel."""
        from outrider.channel import connect

        return connect(self.address, self.tls)

    @cached_property
    def tasks(self) -> Any:
        """Stub of TaskService."""
        from outrider.v1.task_service_pb2_grpc import TaskServiceStub

        return TaskServiceStub(self.channel)

    @cached_property
    def runs(self) -> Any:
        """Stub of RunService."""
        from outrider.v1.run_service_pb2_grpc import RunServiceStub

        return RunServiceStub(self.channel)

    @cached_property
    def fleet(self) -> Any:
        """Stub of FleetService."""
        from outrider.v1.fleet_service_pb2_grpc import FleetServiceStub

        return FleetServiceStub(self.channel)

    @cached_property
    def limits(self) -> Any:
        """Stub of LimitService."""
        from outrider.v1.limit_service_pb2_grpc import LimitServiceStub

        return LimitServiceStub(self.channel)

    @cached_property
    def schedules(self) -> Any:
        """Stub of ScheduleService."""
        from outrider.v1.schedule_service_pb2_grpc import ScheduleServiceStub

        return ScheduleServiceStub(self.channel)

    @cached_property
    def access(self) -> Any:
        """Stub of AccessService."""
        from outrider.v1.access_service_pb2_grpc import AccessServiceStub

        return AccessServiceStub(self.channel)

    def client(self, signer: Signer | None = None) -> Client:
        """A client of the SDK, for commands that submit; it signs if somebody is to."""
        from outrider.client import Client

        return Client(
            self.address,
            namespace=self.namespace,
            tls=self.tls,
            connect_timeout=CONNECT_TIMEOUT_S,
            signing_key=signer or "",
        )

    def call(self, method: Callable[..., Any], request: Any) -> Any:
        """A unary call; raises the coordinator's error."""
        import grpc

        from outrider.status import from_rpc_error

        try:
            return method(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._explained(from_rpc_error(error, self.address)) from None

    def stream(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """The responses of a streaming call; raises the coordinator's error. Leaving early ends the call."""
        import grpc

        from outrider.status import from_rpc_error

        call = method(request)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._explained(from_rpc_error(error, self.address)) from None
        finally:
            call.cancel()

    def _explained(self, error: errors.OutriderError) -> errors.OutriderError:
        if isinstance(error, errors.Unreachable) and not isinstance(error, errors.Untrusted):
            return errors.Unreachable(
                f"no coordinator answers at {self.address}; is it running? Start one here with `outrider up`, "
                "or give its address with --coordinator or OUTRIDER_COORDINATOR"
            )
        return error

    def task_id(self, given: str, last: bool) -> str:
        """The id or prefix to use, or the newest task's. Raises `InvalidRequest` or `NotFound`."""
        from outrider.v1 import task_service_pb2

        if given and not last:
            return given
        if given or not last:
            raise errors.InvalidRequest("give a task id (a prefix will do), or --last for the newest task")
        request = task_service_pb2.ListRequest(namespace=self.namespace, page_size=1)
        found = self.call(self.tasks.List, request).tasks
        if not found:
            raise errors.NotFound("there is no task yet; submit one with `outrider submit -- echo hello`")
        newest: str = found[0].id
        return newest

    def run_id(self, given: str, last: bool) -> str:
        """As `task_id`, for runs."""
        from outrider.v1 import run_service_pb2

        if given and not last:
            return given
        if given or not last:
            raise errors.InvalidRequest("give a run id (a prefix will do), or --last for the newest run")
        request = run_service_pb2.ListRunsRequest(namespace=self.namespace, page_size=1)
        found = self.call(self.runs.ListRuns, request).runs
        if not found:
            raise errors.NotFound("there is no run yet; see docs/sdk.md for how to submit one")
        newest: str = found[0].id
        return newest

    def task(self, given: str, last: bool = False) -> Any:
        """The Task with this id or prefix."""
        from outrider.v1 import task_service_pb2

        request = task_service_pb2.GetRequest(namespace=self.namespace, task_id=self.task_id(given, last))
        return self.call(self.tasks.Get, request).task
