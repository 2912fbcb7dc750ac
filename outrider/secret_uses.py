"""Which secrets a task asks for, as a TaskSpec says it. Values are nobody's business here: agents have them."""

from __future__ import annotations

from collections.abc import Mapping

from outrider.errors import InvalidRequest
from outrider.names import RULE, is_name
from outrider.secret_names import USES_MAX, variable_fault
from outrider.v1 import task_pb2

__all__ = ["add"]


def add(by_value: Mapping[str, str], by_descriptor: Mapping[str, str], spec: task_pb2.TaskSpec) -> None:
    """Write secrets, by the variable that gets them, into ``spec``. Raises `InvalidRequest`."""
    if len(by_value) + len(by_descriptor) > USES_MAX:
        raise InvalidRequest(f"a task can ask for {USES_MAX} secrets, not {len(by_value) + len(by_descriptor)}")
    twice = sorted(by_value.keys() & by_descriptor.keys())
    if twice:
        raise InvalidRequest(f"the variable {twice[0]} is to get a secret both by value and by descriptor; choose one")
    _add(by_value, task_pb2.SECRET_DELIVERY_ENVIRONMENT, spec)
    _add(by_descriptor, task_pb2.SECRET_DELIVERY_DESCRIPTOR, spec)


def _add(uses: Mapping[str, str], delivery: task_pb2.SecretDelivery.ValueType, spec: task_pb2.TaskSpec) -> None:
    for variable, secret in sorted(uses.items()):
        fault = variable_fault(variable)
        if fault:
            raise InvalidRequest(f"secret {secret!r} cannot be handed over: {fault}")
        if not is_name(secret):
            raise InvalidRequest(
                f"{secret!r} is no name of a secret ({RULE}); name one that an agent defines: {variable}=NAME"
            )
        spec.secrets.add(variable=variable, secret=secret, delivery=delivery)
