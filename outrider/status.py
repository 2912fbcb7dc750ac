"""Errors to gRPC statuses and back: the one mapping, used by the coordinator, the SDK and the CLI.

A status carries exactly one ErrorInfo (domain ``outrider``, an UPPER_SNAKE reason), BadRequest where fields are
wrong, and RetryInfo where a later retry makes sense.
"""

from __future__ import annotations

import enum
import math
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from outrider import errors
from outrider.errors import FieldViolation, OutriderError

DOMAIN = "outrider"
_DETAILS_KEY = "grpc-status-details-bin"


def _classes(base: type[OutriderError]) -> dict[str, type[OutriderError]]:
    found = {base.reason: base}
    for child in base.__subclasses__():
        found |= _classes(child)
    return found


def error_class(reason: str) -> type[OutriderError]:
    """The class that travels under a reason; `errors.Internal` for one that is not known."""
    return _classes(OutriderError).get(reason, errors.Internal)


def to_status(error: OutriderError) -> status_pb2.Status:
    """The rich status of an error."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        _add(status, bad)
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        fraction, whole = math.modf(error.retry_after_s)
        retry.retry_delay.seconds, retry.retry_delay.nanos = int(whole), int(fraction * 1e9)
        _add(status, retry)
    return status


def trailing_metadata(error: OutriderError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, message and trailing metadata to abort a call with."""
    status = to_status(error)
    return grpc.StatusCode[error.code], error.message, ((_DETAILS_KEY, status.SerializeToString()),)


def from_rpc_error(error: grpc.RpcError, address: str = "") -> OutriderError:
    """The same error the other side raised. A status without our ErrorInfo is a fault of the connection or of us."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    status = _status_of(error)
    reason, violations, retry_after_s = _read(status)
    if reason:
        rebuilt = error_class(reason)(message, violations=violations)
        rebuilt.retry_after_s = retry_after_s
        return rebuilt
    trouble = tls_trouble(error)
    if trouble is not None:
        return errors.Untrusted(f"what answers{f' at {address}' if address else ''} {_ADVICE[trouble]}")
    return _without_reason(code, message, address)


class TlsTrouble(enum.Enum):
    """Why TLS with what answers does not come about, by what gRPC writes of it."""

    NAME = "Hostname Verification Check failed"
    AUTHORITY = "CERTIFICATE_VERIFY_FAILED"
    NO_TLS = "WRONG_VERSION_NUMBER"


_ADVICE = {
    TlsTrouble.NAME: (
        "shows a certificate for another name: call it by the name it was made for, or have one made for this name "
        "with `outrider coordinator init --host` there"
    ),
    TlsTrouble.AUTHORITY: (
        "shows a certificate (CERTIFICATE_VERIFY_FAILED) that the authority known here did not sign, or not for now: "
        "log in again with `outrider login`, or set OUTRIDER_TLS_CA (--tls-ca) to the file of its authority; "
        "if both are right, compare the clocks"
    ),
    TlsTrouble.NO_TLS: (
        "speaks no TLS: it is a coordinator for its own machine only, or another program; leave the certificates out "
        "or correct the address"
    ),
}


def tls_trouble(error: grpc.RpcError) -> TlsTrouble | None:
    """What is wrong with the TLS of who answered a call, None when it was something else."""
    message: str = error.details() or ""
    is_away = error.code() is grpc.StatusCode.UNAVAILABLE
    return next((trouble for trouble in TlsTrouble if is_away and trouble.value in message), None)


def _without_reason(code: grpc.StatusCode, message: str, address: str) -> OutriderError:
    at = f" at {address}" if address else ""
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return errors.Unreachable(f"no coordinator answers{at}: {message}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.TooLarge(f"the message is too large: {message}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.Unreachable(f"what answers{at} is no coordinator of this version: {message}")
    return errors.Internal(f"{code.name}: {message}")


def _add(
    status: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _status_of(error: grpc.RpcError) -> status_pb2.Status:
    metadata: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else ()
    for key, value in metadata or ():
        if key == _DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def _read(status: status_pb2.Status) -> tuple[str, tuple[FieldViolation, ...], float | None]:
    reason, violations, retry_after_s = "", [], None
    for detail in status.details:
        info, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif detail.Unpack(bad):
            violations = [FieldViolation(item.field, item.description) for item in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return reason, tuple(violations), retry_after_s
