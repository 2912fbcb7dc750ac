"""The gate in front of everything a coordinator asks this agent to run.

Owns the order of judgement: is it signed as this agent asks, then do the rules allow it. What was signed takes the
place of what the coordinator says. It must not know workers or the session.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from outrider import signing
from outrider.errors import InvalidRequest
from outrider.v1 import agent_service_pb2, task_pb2
from outrider.worker.output import ATTEMPT_BYTES_MAX
from outrider_agent.assignment import Dossier
from outrider_agent.policy.bounds import Bounds
from outrider_agent.policy.keys import TrustedKeys
from outrider_agent.policy.rules import Rules, read
from outrider_agent.policy.settings import PolicySettings
from outrider_agent.policy.statements import Statements

#: Tells a coordinator to offer signed tasks only; see `core/placement/eligibility.py` there.
SIGNED_LABEL, SIGNED_VALUE = "outrider.signed", "required"

#: Ids stand in the environment of signed work: they are words and nothing more.
_ID = re.compile(r"[0-9A-Za-z._-]{0,64}")

_logger = logging.getLogger(__name__)


class Gate:
    """The policy of one agent. Raises `InvalidRequest` for one that means nothing."""

    def __init__(self, settings: PolicySettings, folder: Path) -> None:
        check(settings)
        self._rules: Rules = read(settings)
        self._keys = TrustedKeys(settings.trusted_keys)
        self._requires_signature = settings.require_signature
        self._statements = Statements(folder / "statements.sqlite", settings.statements_max) if self._keys else None
        self._is_open = self._rules.allow_everything and not self._requires_signature
        #: What is put on attempts that pass; None for nothing, as for most agents.
        self.bounds = _bounds(settings, self._rules)

    @property
    def labels(self) -> dict[str, str]:
        """What a coordinator should know of it."""
        return {SIGNED_LABEL: SIGNED_VALUE} if self._requires_signature else {}

    def judge(self, assignment: agent_service_pb2.Assignment, find: Callable[[str, int, int], object | None]) -> str:
        """Why this agent will never run it; empty when it may, and then its spec is what it may run.

        An attempt that ``find`` has, by task, number and fence, is held already, and not counted as another start.
        """
        if self._is_open and assignment.spec.WhichOneof("work") != "signed":
            return ""
        refusal = self._judged(assignment, find)
        if refusal:
            _logger.warning("refused task %s: %s", assignment.ref.task_id, refusal)
        return refusal

    def bind(self, dossier: Dossier) -> None:
        """Bound an attempt that has passed and is taken."""
        if self.bounds is not None:
            self.bounds.put_on(dossier)

    def close(self) -> None:
        """Nothing more is judged."""
        if self._statements is not None:
            self._statements.close()

    def _judged(self, assignment: agent_service_pb2.Assignment, find: Callable[[str, int, int], object | None]) -> str:
        spec, namespace = assignment.spec, assignment.namespace or "default"
        statement: task_pb2.Statement | None = None
        if spec.WhichOneof("work") == "signed":
            try:
                statement = signing.statement_of(spec.signed)
            except InvalidRequest as error:
                return str(error)
            if refusal := self._signature(spec.signed, statement, namespace):
                return refusal
            if not (_ID.fullmatch(assignment.ref.task_id) and _ID.fullmatch(assignment.run_id)):
                return "its id is none; the coordinator may say which task it is, and nothing else"
            # From here on nothing counts but what was signed.
            spec.CopyFrom(statement.spec)
        elif self._requires_signature:
            return "policy.require_signature: this agent runs signed tasks only, and this one is not signed"
        elif spec.WhichOneof("work") is None:
            return ""  # a kind of work that this version does not know, which is said elsewhere
        refusal, ref = self._rules.refusal(spec, namespace), assignment.ref
        if refusal or statement is None or self._statements is None or find(ref.task_id, ref.attempt, ref.fence):
            return refusal
        return self._begin(self._statements, statement)

    def _signature(self, signed: task_pb2.SignedWork, statement: task_pb2.Statement, namespace: str) -> str:
        """An agent that trusts no key takes what is signed as what is not."""
        return self._keys.refusal(signed, statement, namespace, time.time()) if self._keys else ""

    def _begin(self, statements: Statements, statement: task_pb2.Statement) -> str:
        try:
            expires_s = statement.expire_time.seconds + 1
            return statements.begin(statement.nonce, expires_s, statement.starts_max, int(time.time()))
        except sqlite3.Error as error:
            return f"this agent cannot write down that it starts a signed task: {error}"


def check(settings: PolicySettings) -> None:
    """Raise `InvalidRequest` for a policy that means nothing, without keeping anything on disk."""
    keys = TrustedKeys(settings.trusted_keys)
    read(settings)
    if settings.require_signature and not keys:
        raise InvalidRequest(
            "policy.require_signature: nobody could sign for this agent; put what `outrider key show` prints "
            "into policy.trusted_keys"
        )


def open_gate() -> Gate:
    """One that lets everything pass and keeps nothing on disk."""
    return Gate(PolicySettings(), Path())


def _bounds(settings: PolicySettings, rules: Rules) -> Bounds | None:
    output = 0 if settings.output_bytes_max == ATTEMPT_BYTES_MAX else settings.output_bytes_max
    by_path = bool(rules.commands)
    if not (settings.time_max_s or output or rules.functions or by_path):
        return None
    return Bounds(int(settings.time_max_s * 1e6), output, rules.must_be_own, by_path)
