"""What every method of every service asks of its caller. A method that is not named here is refused to everybody.

Pure. ``tests/rpc/test_role_matrix.py`` walks all methods by reflection and holds them against this table.
"""

from __future__ import annotations

from typing import NamedTuple

from outrider_coordinator.access.principals import Role

__all__ = ["RULES", "Need", "need_of"]


class Need(NamedTuple):
    """``role`` is the least that will do, None for nobody known at all. ``is_namespaced``: the request names a
    namespace that the caller must reach. ``is_change``: allowed calls are written to the audit log, not only refused.
    """

    role: Role | None
    is_namespaced: bool = False
    is_change: bool = False


_LOOK = Need(Role.VIEWER, is_namespaced=True)
_WORK = Need(Role.SUBMITTER, is_namespaced=True, is_change=True)
_WATCH_FLEET = Need(Role.VIEWER)
_OPERATE = Need(Role.OPERATOR, is_change=True)
_ADMINISTER = Need(Role.ADMIN, is_change=True)

#: ``Service/Method`` to what it needs.
RULES: dict[str, Need] = {
    "TaskService/Submit": _WORK,
    "TaskService/SubmitBatch": _WORK,
    "TaskService/SubmitStream": _WORK,
    "TaskService/Get": _LOOK,
    "TaskService/List": _LOOK,
    "TaskService/Cancel": _WORK,
    "TaskService/Retry": _WORK,
    "TaskService/Answer": _WORK,
    "TaskService/Watch": _LOOK,
    "TaskService/Explain": _LOOK,
    "TaskService/ReadLogs": _LOOK,
    "RunService/SubmitRun": _WORK,
    "RunService/GetRun": _LOOK,
    "RunService/ListRuns": _LOOK,
    "RunService/WatchRun": _LOOK,
    "RunService/CancelRun": _WORK,
    "RunService/RetryRun": _WORK,
    "RunService/AddTasks": _WORK,
    "ScheduleService/CreateSchedule": _WORK,
    "ScheduleService/GetSchedule": _LOOK,
    "ScheduleService/ListSchedules": _LOOK,
    "ScheduleService/DeleteSchedule": _WORK,
    "ScheduleService/PauseSchedule": _WORK,
    "ScheduleService/ResumeSchedule": _WORK,
    "LimitService/PutLimit": Need(Role.OPERATOR, is_namespaced=True, is_change=True),
    "LimitService/GetLimit": _LOOK,
    "LimitService/ListLimits": _LOOK,
    "LimitService/DeleteLimit": Need(Role.OPERATOR, is_namespaced=True, is_change=True),
    "FleetService/ListAgents": _WATCH_FLEET,
    "FleetService/GetAgent": _WATCH_FLEET,
    "FleetService/PauseAgent": _OPERATE,
    "FleetService/ResumeAgent": _OPERATE,
    "FleetService/DrainAgent": _OPERATE,
    "FleetService/RemoveAgent": _OPERATE,
    "FleetService/ResetBreaker": _OPERATE,
    "FleetService/ExplainAgent": _WATCH_FLEET,
    "FleetService/ListSystems": _WATCH_FLEET,
    "FleetService/GetCoordinator": _WATCH_FLEET,
    "FleetService/CreateJoinToken": _OPERATE,
    "FleetService/ListJoinTokens": Need(Role.OPERATOR),
    "FleetService/RevokeJoinToken": _OPERATE,
    "FleetService/RevokeAgent": _OPERATE,
    "AccessService/WhoAmI": Need(Role.VIEWER),
    "AccessService/PutUser": _ADMINISTER,
    "AccessService/ListUsers": Need(Role.ADMIN),
    "AccessService/RemoveUser": _ADMINISTER,
    "AccessService/CreateApiToken": _ADMINISTER,
    "AccessService/RevokeCredential": _ADMINISTER,
    "AccessService/IssueCertificate": _ADMINISTER,
    "AccessService/RotateAuthority": _ADMINISTER,
    "AccessService/RetireAuthority": _ADMINISTER,
    "AccessService/ReadAudit": Need(Role.ADMIN),
    "AgentService/Session": Need(Role.AGENT, is_change=True),
    "JoinService/Join": Need(None, is_change=True),
    "JoinService/Renew": Need(None, is_change=True),
    # The protocols of gRPC itself: who may call anything may ask what there is.
    "grpc.health.v1.Health/Check": Need(Role.VIEWER),
    "grpc.health.v1.Health/Watch": Need(Role.VIEWER),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Need(Role.VIEWER),
}


def need_of(path: str) -> Need | None:
    """What ``/package.Service/Method`` needs; None for a method without a rule, which nobody may call."""
    name = path.removeprefix("/").removeprefix("outrider.v1.")
    return RULES.get(name)
