"""The agent's secrets: which it offers, and their values for one attempt, fetched beside the keeper's loop.

Owns the fetching, and the rule for what work a secret is, which is checked here whatever the coordinator believes.
It must not know the board: a caller is told once when everything is there, or what could not be had.

Invariant: values live in what `fetch` hands over and nowhere else; a fault that leaves the machine names the secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

from outrider.worker.messages import Secret
from outrider_agent.secret_settings import SecretSettings
from outrider_agent.secret_sources import SecretFault, Sources

_logger = logging.getLogger(__name__)


class SecretUse(NamedTuple):
    """A secret that a task asks for, and the variable it wants it in."""

    variable: str
    secret: str
    by_descriptor: bool = False


class Offer(NamedTuple):
    """A secret and for what work it is; an empty list means all."""

    name: str
    namespaces: tuple[str, ...] = ()
    work: tuple[str, ...] = ()


#: Hears the secrets of one attempt, or one line that says what is wrong.
Fetched = Callable[[list[Secret], str], None]


class Vault:
    """All secrets of one agent, by name."""

    def __init__(self, secrets: Mapping[str, SecretSettings], sources: Sources | None = None) -> None:
        self._secrets = secrets
        self._sources = sources or Sources(secrets, {})
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What the coordinator is told."""
        return tuple(
            Offer(name, tuple(secret.namespaces), tuple(secret.work)) for name, secret in sorted(self._secrets.items())
        )

    @property
    def pids(self) -> Set[int]:
        """Programs of the agent's own that are making secrets now."""
        return self._sources.pids

    def fetch(self, uses: Sequence[SecretUse], namespace: str, work: str, fetched: Fetched) -> None:
        """Look the secrets up for a task of this namespace that runs this function or program; `fetched` hears."""
        task = asyncio.get_running_loop().create_task(self._fetch(uses, namespace, work, fetched))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way; nobody hears of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sources.close()

    async def _fetch(self, uses: Sequence[SecretUse], namespace: str, work: str, fetched: Fetched) -> None:
        secrets: list[Secret] = []
        for use in uses:
            try:
                secrets.append(await self._handed(use, namespace, work))
            except SecretFault as fault:
                _logger.warning(
                    "secret %s cannot be had: %s (%s)", use.secret, fault, fault.detail or "no more is known"
                )
                fetched([], f"cannot come by secret {use.secret}: {fault}")
                return
            except Exception as error:  # a fault of ours: it must cost this attempt and not the agent
                _logger.error("secret %s cannot be had: %s", use.secret, type(error).__name__)
                fetched([], f"cannot come by secret {use.secret}: {type(error).__name__}")
                return
        fetched(secrets, "")

    async def _handed(self, use: SecretUse, namespace: str, work: str) -> Secret:
        settings = self._secrets.get(use.secret)
        if settings is None:
            raise SecretFault("it is not defined there")
        if not settings.is_for(namespace, work):
            raise SecretFault(f"there it is not for {work!r} of namespace {namespace!r}")
        value = await self._sources.value(settings)
        if b"\0" in value and not use.by_descriptor:
            raise SecretFault("its value has a zero byte, which no variable can hold; take it by descriptor")
        return Secret(use.variable, use.secret, value, use.by_descriptor, not settings.redact)
