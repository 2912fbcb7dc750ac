"""Runs attempts: takes orders about them, follows what workers say, kills what must end, and reports.

Owns the dossiers and the step from the board's decisions to the workers. It must not know the session, the outbox or
the wire's frames: it reports through an `Outlet`. Every method changes state at once; `settle`, called once after a
batch of facts, carries out what the board then decides.

Invariants: one terminal report per attempt, after nothing of the attempt is left alive; an attempt that is fenced
reports nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from outrider.v1 import agent_service_pb2, task_pb2
from outrider.worker import messages
from outrider_agent import clock, endings
from outrider_agent.assignment import Dossier, Origin, open_dossier, receive_span
from outrider_agent.core.board import Admission, Attempt, Board, Limits, Returned, State, Unstarted
from outrider_agent.core.budgets import Budgets
from outrider_agent.core.lease import Lease
from outrider_agent.executioner import Executioner
from outrider_agent.outlet import Outlet, Ref
from outrider_agent.policy.bounds import cut
from outrider_agent.policy.gate import Gate
from outrider_agent.pool import Pool, WorkerProcess
from outrider_agent.preparation import Preparation
from outrider_agent.reporter import Reporter
from outrider_agent.vault import Vault

_logger = logging.getLogger(__name__)

#: From SIGTERM to SIGKILL of an exclusive attempt that may not run any more: less than the coordinator's margin.
LEASE_GRACE_S = 0.5
_ADMITTED = Admission.ACCEPTED


class Runner:
    """The attempts of this keeper. It is the pool's listener."""

    def __init__(
        self,
        limits: Limits,
        origin: Origin,
        outlet: Outlet,
        reporter: Reporter,
        wake: Callable[[], None],
        grace_s: float,
        gate: Gate,
        vault: Vault | None = None,
    ) -> None:
        self.board = Board(limits)
        self._gate = gate
        self.dossiers: dict[int, Dossier] = {}
        self.tasks_max = 0
        self._pool: Pool
        self._origin = origin
        self._outlet = outlet
        self._reporter = reporter
        self._wake = wake
        self._budgets = Budgets()
        self.lease = Lease()
        self._preparation = Preparation(self.board, reporter, vault or Vault({}), self._unprepared)
        self._patience_us = int(grace_s * 1e6)
        self._executioner = Executioner(self._said_stop, self._ended_for_good, grace_s)
        self._last_key = 0
        #: What each message of a worker about one attempt leads to.
        self._steps: dict[type, Callable[[WorkerProcess, Dossier, Any, int], None]] = {
            messages.Started: self._started,
            messages.Progress: self._progressed,
            messages.LogOutput: self._logged,
            messages.Blocked: self._blocked,
            messages.Unblocked: self._unblocked,
            messages.AnswerGiven: self._answered_another,
            messages.Completed: self._last_word,
            messages.Failed: self._failed,
        }

    def attach(self, pool: Pool, own_pids: Callable[[], set[int]]) -> None:
        """Use these workers; ``own_pids`` gives the keeper's children that belong to no attempt."""
        self._pool = pool
        self._executioner.attach(pool, own_pids)

    @property
    def is_idle(self) -> bool:
        """True when every attempt has ended."""
        return self.board.unfinished == 0

    # --- orders from the coordinator ---------------------------------------------------------------------------

    def assign(self, assignments: Iterable[agent_service_pb2.Assignment]) -> None:
        """Take in work, or refuse it; what is held already is accepted once more."""
        now_ns = clock.wall_ns()
        is_full = self._outlet.is_full
        accepted = []
        for assignment in assignments:
            self._last_key += 1
            if refusal := self._gate.judge(assignment, self.board.find):
                self._refuse(assignment, refusal, by_policy=True)
                continue
            dossier = open_dossier(self._last_key, assignment, self._origin, now_ns)
            if dossier is None:
                self._refuse(assignment, "unknown kind of work; this agent is older than the coordinator")
            elif is_full:
                self._refuse(assignment, "the outbox is full")
            else:
                attempt = dossier.attempt
                answer = self.board.admit(attempt, is_held=dossier.must_prepare)
                if answer is _ADMITTED:
                    self._take(dossier)
                    accepted.append(attempt)
                elif answer is Admission.DUPLICATE:
                    # As it is here, not begun: it is answered whatever the first one has reported.
                    accepted.append(attempt)
                else:
                    self._refuse(assignment, answer.value)
        self._outlet.accepted(accepted)
        self._wake()

    def lease_renewed(self, asked_us: int, duration_us: int) -> None:
        """The coordinator answered what was sent at ``asked_us``: exclusive attempts may run for so long from then."""
        self.lease.renewed(asked_us, duration_us)
        self._pool.publish_lease(self.lease.end_us)

    def _take(self, dossier: Dossier) -> None:
        """Look after an attempt from now on."""
        key = dossier.attempt.key
        self.dossiers[key] = dossier
        self._gate.bind(dossier)
        if dossier.remaining_us:
            self._budgets.assigned(key, dossier.remaining_us, clock.boot_us())
        if dossier.is_exclusive:
            self.lease.add(key)
        if dossier.must_prepare:
            self._preparation.begin(dossier)

    def _refuse(self, assignment: agent_service_pb2.Assignment, message: str, *, by_policy: bool = False) -> None:
        ref = assignment.ref
        self._outlet.rejected((ref.task_id, ref.attempt, ref.fence), message, by_policy=by_policy)

    def revoke(self, refs: Iterable[Ref]) -> None:
        """Give back what has not started."""
        for attempt in self._find(refs):
            if attempt.state is State.ACCEPTED:
                self._withdraw(attempt, Unstarted.REVOKE)
        self._wake()

    def cancel(
        self,
        refs: Iterable[Ref],
        message: str,
        *,
        is_fenced: bool,
        grace_s: float | None = None,
        reason: int = task_pb2.TASK_REASON_CANCEL_REQUESTED,
    ) -> None:
        """Kill these attempts; the fenced ones without a word, the others report ``reason``, a TaskReason number."""
        text = message or "cancelled"
        for attempt in self._find(refs):
            self.dossiers[attempt.key].is_silent |= is_fenced
            is_urgent = is_fenced and self.dossiers[attempt.key].is_exclusive
            self._stop(attempt, reason, text, LEASE_GRACE_S if is_urgent else grace_s)
        self._wake()

    def _stop(self, attempt: Attempt, reason: int, message: str, grace_s: float | None = None) -> None:
        """Kill an attempt, keep it from starting, or forget it: whatever is left to do."""
        dossier = self.dossiers[attempt.key]
        if attempt.state is State.ACCEPTED:
            dossier.stop = dossier.stop or (reason, message)
            self._withdraw(attempt, Unstarted.DROP if dossier.is_silent else Unstarted.CANCEL)
        elif attempt.state is State.CLOSED:
            self._forget_if_silent(attempt)
        else:
            self._kill(attempt, reason, message, grace_s)

    def answer(self, ref: Ref, resolve: messages.Resolve) -> None:
        """A wait of an attempt was resolved; a parked attempt hears of it when it has a slot."""
        attempt = self.board.find(*ref)
        if attempt is None or attempt.state is State.CLOSED or not attempt.worker_id:
            return
        dossier = self.dossiers[attempt.key]
        self._budgets.extend(attempt.key, dossier.grant(resolve))
        order = msgspec.structs.replace(resolve, key=attempt.key)
        if resolve.wait_key not in attempt.waits or self.board.answered(attempt.key):
            self._pool.send(attempt.worker_id, order)
        else:
            dossier.resolutions.append(order)
        self._wake()

    def acknowledged(self, keys: Iterable[int]) -> None:
        """The coordinator has the outcomes of these attempts."""
        now_us = clock.boot_us()
        dossiers, forget = self.dossiers, self._forget
        for key in keys:
            if key in dossiers:
                forget(key, now_us)

    def drain(self) -> None:
        """Take nothing new and give back what has not started."""
        self.board.is_draining = True
        for attempt in list(self.board.live()):
            if attempt.state is State.ACCEPTED:
                self._withdraw(attempt, Unstarted.REVOKE)
        self._wake()

    def stop(self, message: str, grace_s: float) -> None:
        """Kill everything that runs and report it as stopped by this agent."""
        for attempt in list(self.board.live()):
            if attempt.state is not State.ACCEPTED:
                self._kill(attempt, task_pb2.TASK_REASON_AGENT_STOPPED, message, grace_s)
        self._wake()

    # --- what workers say --------------------------------------------------------------------------------------

    def worker_ready(self, worker_id: int) -> None:
        """A worker takes work."""
        self.board.worker_ready(worker_id)
        self._pool.workers[worker_id].idle_since_us = clock.boot_us()
        self._wake()

    def worker_said(self, worker_id: int, said: list[messages.FromWorker]) -> None:
        """Follow a worker's messages in order."""
        now_us = clock.boot_us()
        worker = self._pool.workers[worker_id]
        for message in said:
            follow = self._steps.get(type(message))
            if follow is not None:
                dossier = self.dossiers.get(message.key)  # type: ignore[union-attr]  # all that have a step have a key
                if dossier is not None and dossier.last_word is None and not dossier.narrator.is_ended:
                    if dossier.silence_us:
                        self._budgets.heard(dossier.attempt.key, now_us)
                    follow(worker, dossier, message, now_us)
            elif isinstance(message, messages.Recalled):
                self._returned(self.board.recalled(worker_id, message.keys, now_us))
            elif isinstance(message, messages.Span):
                self._outlet.span(message)
        self._wake()

    def worker_gone(self, worker_id: int, running_key: int, how: str, *, by_lease: bool = False) -> None:
        """A worker died: the attempt it ran has failed, the others behind it go elsewhere."""
        if worker_id in self.board.workers:
            now_us = clock.boot_us()
            victims, returned = self.board.worker_gone(worker_id, running_key, now_us)
            for key in victims:
                self._died(self.dossiers[key], how, by_lease=by_lease)
            self._returned(returned)
        self._wake()

    def _started(self, worker: WorkerProcess, dossier: Dossier, message: messages.Started, now_us: int) -> None:
        attempt = dossier.attempt
        dossier.narrator.worker_pid = worker.pid
        dossier.command_pid = message.child_pid
        self.board.started(attempt.key, now_us)
        if dossier.is_bounded:
            self._budgets.started(attempt.key, dossier.timeout_us, dossier.silence_us, now_us)
        if attempt.is_command:
            self._reporter.report(dossier, message)
        else:
            self._reporter.hold_start(dossier, message, now_us)
        # It began before the recall reached its worker.
        if dossier.stop is not None and attempt.unstarted in (Unstarted.CANCEL, Unstarted.DROP):
            self._kill(attempt, *dossier.stop, None)

    def _progressed(self, worker: WorkerProcess, dossier: Dossier, message: messages.Progress, now_us: int) -> None:
        self._reporter.hold_progress(dossier, message)

    def _logged(self, worker: WorkerProcess, dossier: Dossier, message: messages.LogOutput, now_us: int) -> None:
        kept = cut(dossier, message)
        if kept is not None:
            self._reporter.report(dossier, kept)

    def _blocked(self, worker: WorkerProcess, dossier: Dossier, message: messages.Blocked, now_us: int) -> None:
        if message.kind == "complexity":
            dossier.more_time[message.wait_key] = message.additional_s
        if not message.keeps_running:
            self.board.blocked(message.key, message.wait_key)
            self._budgets.blocked(message.key, now_us)
        self._reporter.report(dossier, message)

    def _unblocked(self, worker: WorkerProcess, dossier: Dossier, message: messages.Unblocked, now_us: int) -> None:
        if message.wait_key in dossier.attempt.waits:
            self.board.unblocked(message.key, message.wait_key)
            if not dossier.attempt.waits:
                self._budgets.unblocked(message.key, now_us)
        dossier.more_time.pop(message.wait_key, None)
        self._reporter.report(dossier, message)

    def _answered_another(
        self, worker: WorkerProcess, dossier: Dossier, message: messages.AnswerGiven, now_us: int
    ) -> None:
        self._reporter.report(dossier, message)

    def _failed(self, worker: WorkerProcess, dossier: Dossier, message: messages.Failed, now_us: int) -> None:
        worker.last_error = message.message
        self._last_word(worker, dossier, message, now_us)

    def _last_word(
        self, worker: WorkerProcess, dossier: Dossier, message: messages.Completed | messages.Failed, now_us: int
    ) -> None:
        worker.tasks_done += 1
        worker.idle_since_us = now_us
        dossier.last_word = message
        if self._executioner.is_clean(dossier):
            self._end(dossier, now_us)

    def _died(self, dossier: Dossier, how: str, *, by_lease: bool) -> None:
        failed = endings.died(dossier, how, by_lease=by_lease)
        if dossier.ladder is None:
            _logger.warning("task %s attempt %d: %s", dossier.run.task_id, dossier.run.attempt, failed.message)
        dossier.last_word = dossier.last_word or failed
        self._executioner.clean(dossier)

    # --- ends --------------------------------------------------------------------------------------------------

    def _kill(self, attempt: Attempt, reason: int, message: str, grace_s: float | None) -> None:
        dossier = self.dossiers[attempt.key]
        if self._executioner.kill(dossier, endings.stopped(attempt.key, 0, reason, message), grace_s):
            self._budgets.drop(attempt.key)

    def _said_stop(self, dossier: Dossier, grace_s: float) -> None:
        verdict = dossier.verdict
        text = verdict.message if verdict is not None else "stopped"
        self._pool.send(dossier.attempt.worker_id, messages.Stop(dossier.attempt.key, text, grace_s))
        self._wake()

    def _ended_for_good(self, dossier: Dossier) -> None:
        """Nothing of the attempt is left, whatever ended it."""
        if dossier.attempt.key in self.dossiers and not dossier.narrator.is_ended:
            self._end(dossier, clock.boot_us())
            self._wake()

    def _unprepared(self, dossier: Dossier, fault: str) -> None:
        """Something that an attempt needs before it starts is not to be had; with no ``fault`` it may start now."""
        if fault:
            dossier.last_word = endings.without_secret(dossier, self._origin.agent, fault)
            self._ended_for_good(dossier)
        self._wake()

    def _end(self, dossier: Dossier, now_us: int) -> None:
        """Report the attempt's outcome and free its place."""
        outcome = endings.outcome(dossier)
        key = dossier.attempt.key
        self._free(dossier)
        if dossier.uses:
            dossier.run = msgspec.structs.replace(dossier.run, secrets=[])
        self.board.closed(key, now_us)
        if dossier.span is not None:
            self._trace(dossier, outcome)
        self._reporter.report(dossier, outcome)
        if dossier.is_silent:
            self._forget(key, now_us)

    def _trace(self, dossier: Dossier, outcome: messages.Completed | messages.Failed) -> None:
        span = receive_span(dossier, outcome.time_ns, outcome.message if isinstance(outcome, messages.Failed) else "")
        if span is not None:
            self._outlet.span(span)

    def _forget_if_silent(self, attempt: Attempt) -> None:
        if attempt.key in self.dossiers and self.dossiers[attempt.key].is_silent:
            self._forget(attempt.key, clock.boot_us())

    def _forget(self, key: int, now_us: int) -> None:
        self._free(self.dossiers.pop(key))
        self.board.acknowledged(key, now_us)

    def _free(self, dossier: Dossier) -> None:
        """No clock counts for the attempt any more."""
        if dossier.is_bounded:
            self._budgets.drop(dossier.attempt.key)
        if dossier.is_exclusive:
            self.lease.drop(dossier.attempt.key)

    def _withdraw(self, attempt: Attempt, fate: Unstarted) -> None:
        worker_id = attempt.worker_id
        if self.board.withdraw(attempt.key, fate):
            self._returned(Returned([(attempt.key, fate)]))
        else:
            self.board.recalling(worker_id)
            self._pool.send(worker_id, messages.Recall([attempt.key]))

    def _returned(self, returned: Returned) -> None:
        for key, fate in returned.fates:
            dossier = self.dossiers[key]
            if fate is Unstarted.CANCEL and dossier.stop is not None:
                dossier.last_word = endings.stopped(key, clock.wall_ns(), *dossier.stop)
                self._ended_for_good(dossier)
                continue
            if fate is Unstarted.REVOKE:
                self._outlet.revoked(dossier.attempt)
            self._forget(key, clock.boot_us())

    # --- decisions ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Carry out what the board decides now, and send everything that is queued for workers."""
        now_us = clock.boot_us()
        self._expire(now_us)
        self._preparation.settle()
        plan = self.board.plan(now_us)
        for key in plan.resume:
            dossier = self.dossiers[key]
            self._pool.send(dossier.attempt.worker_id, *dossier.resolutions)
            dossier.resolutions.clear()
        for worker_id, keys in plan.recall:
            self._pool.send(worker_id, messages.Recall(keys))
        for worker_id, keys in plan.start:
            first = self.dossiers[keys[0]]
            self._pool.send(worker_id, *[self.dossiers[key].run for key in keys])
            if first.uses and not first.attempt.is_command:
                # What a function leaves behind in its worker must not be there for the next one.
                self.board.worker_leaves(worker_id)
                self._pool.dismiss(worker_id)
        self._pool.ensure(plan.workers_wanted, now_us)
        self._reporter.settle()
        self._pool.flush()

    def retire_workers(self, now_us: int, idle_us: int) -> None:
        """Let idle workers go that are too many or have done enough; those that should have gone are killed."""
        spare = len(self._pool.workers) - self.board.limits.slots
        for worker_id, place in list(self.board.workers.items()):
            worker = self._pool.workers[worker_id]
            if place.queue:
                continue
            if place.is_leaving:
                if now_us - worker.idle_since_us > self._patience_us:
                    worker.process.kill()  # a thread that user code has left there keeps it
                continue
            is_spare = spare > 0 and now_us - worker.idle_since_us > idle_us
            if is_spare or 0 < self.tasks_max <= worker.tasks_done:
                spare -= 1
                self.board.worker_leaves(worker_id)
                self._pool.dismiss(worker_id)

    def _expire(self, now_us: int) -> None:
        for key, bound in self._budgets.expired(now_us, is_listening=not self._pool.is_hushed):
            dossier = self.dossiers.get(key)
            if dossier is not None:
                self._stop(dossier.attempt, *endings.expiry(dossier, bound))
        for key in self.lease.ended(now_us):
            reason = task_pb2.TASK_REASON_LEASE_EXPIRED
            self._stop(self.dossiers[key].attempt, reason, endings.LEASE_OVER, LEASE_GRACE_S)

    def _find(self, refs: Iterable[Ref]) -> list[Attempt]:
        return [attempt for ref in refs if (attempt := self.board.find(*ref)) is not None]
