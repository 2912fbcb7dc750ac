"""Secrets as placement sees them: what an agent offers is a label, and what a task asks for a constraint on it.

Owns both translations. The coordinator knows the names of secrets and for what work they are, never a value. A label is
called ``secret:NAME`` and lists whom it is for as words ``namespace/work``, each part quoted, or ``*`` for any. Labels
that somebody else calls so are dropped: only `with_offers` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from outrider.names import RULE, is_name
from outrider.secret_names import USES_MAX, variable_fault
from outrider.v1 import agent_service_pb2, task_pb2
from outrider_coordinator.core.spec import SECRET_PREFIX, Constraint, Operator
from outrider_coordinator.rpc.fields import at_most, invalid

#: Secrets of one agent, and words of one label.
OFFERS_MAX, WORDS_MAX = 1000, 1000
_ANY = "*"


def with_offers(labels: Mapping[str, str], offers: Sequence[agent_service_pb2.SecretOffer]) -> dict[str, str]:
    """An agent's labels, with one for each secret that it offers. Raises InvalidRequest."""
    at_most(len(offers), OFFERS_MAX, "hello.secrets")
    found = {name: value for name, value in labels.items() if not name.startswith(SECRET_PREFIX)}
    for position, offer in enumerate(offers):
        path = f"hello.secrets[{position}]"
        if not is_name(offer.name):
            raise invalid(f"{path}.name", f"{offer.name!r} must be {RULE}")
        at_most((len(offer.namespaces) or 1) * (len(offer.work) or 1), WORDS_MAX, path)
        found[SECRET_PREFIX + offer.name] = " ".join(
            f"{namespace}/{work}" for namespace in _words(offer.namespaces) for work in _words(offer.work)
        )
    return found


def names(labels: Mapping[str, str]) -> list[str]:
    """The secrets that an agent with these labels offers, in order."""
    return sorted(name.removeprefix(SECRET_PREFIX) for name in labels if name.startswith(SECRET_PREFIX))


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that are no secrets."""
    return {name: value for name, value in labels.items() if not name.startswith(SECRET_PREFIX)}


def constraints(uses: Sequence[task_pb2.SecretUse], namespace: str, work: str) -> tuple[Constraint, ...]:
    """What a task of this namespace that runs ``work`` asks of its agent, each secret once."""
    values = tuple(f"{one}/{other}" for one in (_ANY, quote(namespace, "")) for other in (_ANY, quote(work, "")))
    asked = sorted({use.secret for use in uses})
    return tuple(Constraint(SECRET_PREFIX + name, Operator.ADMITS, values) for name in asked)


def check(spec: task_pb2.TaskSpec, path: str) -> None:
    """Refuses what no agent could make sense of. Raises InvalidRequest with the field's path."""
    at_most(len(spec.secrets), USES_MAX, path)
    taken = set(spec.command.environment) if spec.HasField("command") else set()
    for position, use in enumerate(spec.secrets):
        where = f"{path}[{position}]"
        fault = variable_fault(use.variable)
        if fault:
            raise invalid(f"{where}.variable", fault)
        if use.variable in taken:
            raise invalid(f"{where}.variable", f"{use.variable} is set twice")
        if not is_name(use.secret):
            raise invalid(f"{where}.secret", f"{use.secret!r} must be {RULE}")
        if use.delivery not in task_pb2.SecretDelivery.values():
            raise invalid(f"{where}.delivery", "must be ENVIRONMENT or DESCRIPTOR")
        taken.add(use.variable)


def _words(names: Sequence[str]) -> list[str]:
    return sorted({quote(name, "") for name in names}) or [_ANY]
