"""Ends attempts' processes: starts kill ladders, and sees to it that an attempt leaves nothing behind.

Owns the tasks that wait for processes to go. It must not know reports or the coordinator. An attempt is over for good
when `_gone` is called for it, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from outrider import sweep
from outrider.worker import messages
from outrider_agent import trees
from outrider_agent.assignment import Dossier
from outrider_agent.pool import Pool

_logger = logging.getLogger(__name__)


class Executioner:
    """Kills attempts and cleans up after them. ``say_stop`` asks the worker; ``gone`` hears when nothing is left."""

    def __init__(
        self, say_stop: Callable[[Dossier, float], None], gone: Callable[[Dossier], None], grace_s: float
    ) -> None:
        self._say_stop = say_stop
        self._gone = gone
        self._grace_s = grace_s
        self._pool: Pool
        self._tasks: set[asyncio.Task[None]] = set()
        self._own_pids: Callable[[], set[int]]

    def attach(self, pool: Pool, own_pids: Callable[[], set[int]]) -> None:
        """End attempts in these workers; ``own_pids`` are the keeper's children that are never orphans."""
        self._pool, self._own_pids = pool, own_pids

    def kill(self, dossier: Dossier, verdict: messages.Failed, grace_s: float | None) -> bool:
        """Start the ladder. False when the attempt is being killed already, or has ended; the first verdict counts.

        A shorter grace counts also for one that is being killed already.
        """
        if dossier.ladder is not None and grace_s is not None:
            dossier.ladder.hurry(grace_s)
        if dossier.ladder is not None or dossier.is_cleaning:
            return False
        worker = self._pool.workers.get(dossier.attempt.worker_id)
        if worker is None:
            return False
        dossier.verdict = verdict
        dossier.ladder = trees.KillLadder(
            trees.Target(worker.pid, dossier.attempt_key, dossier.attempt.is_command, dossier.command_pid)
        )
        grace_s = self._grace_s if grace_s is None else grace_s
        self._say_stop(dossier, grace_s)
        self._spawn(self._climb(dossier, dossier.ladder, grace_s))
        return True

    def is_clean(self, dossier: Dossier) -> bool:
        """The worker has said its last word. True: nothing is left; False: `gone` will be called when that is so."""
        if dossier.ladder is not None:
            dossier.ladder.ended.set()
            return False
        if dossier.is_cleaning:
            return False
        if dossier.attempt.is_command and self._orphans():
            self.clean(dossier)
            return False
        return True

    def clean(self, dossier: Dossier) -> None:
        """The attempt is over: SIGKILL what it left, then it is gone. Under a ladder the ladder does that."""
        if dossier.ladder is not None:
            dossier.ladder.ended.set()
        elif not dossier.is_cleaning:
            dossier.is_cleaning = True
            self._spawn(self._clean(dossier))

    def _orphans(self) -> set[int]:
        return trees.orphans(self._own_pids())

    async def _climb(self, dossier: Dossier, ladder: trees.KillLadder, grace_s: float) -> None:
        if not await ladder.run(grace_s):
            _logger.error("task %s: something of attempt %s outlived SIGKILL", dossier.run.task_id, dossier.attempt_key)
        self._end(dossier)

    async def _clean(self, dossier: Dossier) -> None:
        markers = sweep.attempt_markers(dossier.attempt_key)
        left = await asyncio.to_thread(sweep.kill_all, markers, trees.GONE_TIMEOUT_S)
        if left:
            _logger.error("task %s: %d processes outlived SIGKILL", dossier.run.task_id, left)
        self._end(dossier)

    def _end(self, dossier: Dossier) -> None:
        self._orphans()  # reaps the dead among them
        self._gone(dossier)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
