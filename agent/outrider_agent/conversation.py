"""The keeper's conversation with the coordinator: hello, verdicts, orders in; answers, reports, heartbeats out.

Owns the session's state and the order of what is sent. It must not know processes other than the link, nor decide what
runs: orders go to the `Runner`, and the runner's answers come back through the `Outlet` methods.

Invariants: nothing is sent from the outbox that is not synced; a frame of another session is dropped; a heartbeat
overtakes everything; after Welcome the outboxes are replayed from what the coordinator has applied.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import task_pb2
from outrider.worker import messages
from outrider_agent import clock, frames
from outrider_agent.core.board import Attempt, State
from outrider_agent.core.session import End, Phase, Session
from outrider_agent.frames import Identity, Ref
from outrider_agent.host import Load
from outrider_agent.link_frames import Kind, Target, decode_closed, encode_spans, encode_target
from outrider_agent.state_directory import Known, StateDirectory

if TYPE_CHECKING:
    from outrider_agent.link_process import LinkProcess
    from outrider_agent.outboxes import Outboxes
    from outrider_agent.runner import Runner

#: How long Accepted waits for a Started that makes it superfluous.
ACCEPT_DELAY_US = 50_000
#: More than this in the link's socket: reports wait, so that heartbeats do not.
LINK_PENDING_BYTES_MAX = 1 << 20
#: Spans that may wait for the next frame to the link; more are dropped, telemetry never holds up work.
SPANS_MAX = 4096

_logger = logging.getLogger(__name__)


class Conversation:
    """One agent's side of the protocol. It is the link's listener and the runner's outlet."""

    def __init__(
        self,
        identity: Identity,
        session: Session,
        state: StateDirectory,
        targets: dict[str, Target],
        *,
        wake: Callable[[], None],
        give_up: Callable[[str], None],
        drain: Callable[[float | None], None],
        renew: Callable[[], None],
        exports_spans: bool,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.session = session
        self.is_paused = False
        self.is_hung_up = False
        self._identity = identity
        self._state = state
        self._targets = targets
        self._wake = wake
        self._give_up = give_up
        self._drain = drain
        self._renew = renew
        self._exports_spans = exports_spans
        self._jitter = jitter
        self._link: LinkProcess
        self._outboxes: Outboxes
        self._runner: Runner
        #: Attempts that were taken together, and when to say so of those that have reported nothing; oldest first.
        self._accepts: deque[tuple[int, Sequence[Attempt]]] = deque()
        self._rejects: dict[tuple[str, bool], list[Ref]] = {}
        self._revokes: list[Ref] = []
        self._spans: list[messages.Span] = []
        self._workers_shown: list[wire.WorkerInfo] = []
        self._greeted_us = 0
        known = state.known()
        session.store_id, session.coordinator_epoch = known.store_id, known.coordinator_epoch

    def attach(self, link: LinkProcess, outboxes: Outboxes, runner: Runner) -> None:
        """Talk through this link about these."""
        self._link, self._outboxes, self._runner = link, outboxes, runner

    def move(self) -> None:
        """The files of the identity have changed: connect with them beside the stream, then move over."""
        if self.session.is_live:
            self._link.send_encoded(encode_target(self._targets[self.session.address], Kind.WARM))

    # --- the runner's outlet -----------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """True when the outbox takes no more."""
        return self._outboxes.current.is_full

    def accepted(self, attempts: Sequence[Attempt]) -> None:
        """Say so soon of those whose start is not reported before that, for a report says it too."""
        if attempts:
            self._accepts.append((clock.boot_us() + ACCEPT_DELAY_US, attempts))

    def rejected(self, attempt: Ref, message: str, *, by_policy: bool = False) -> None:
        """Say so with the next frames."""
        self._rejects.setdefault((message, by_policy), []).append(attempt)

    def revoked(self, attempt: Attempt) -> None:
        """Say so with the next frames."""
        self._revokes.append((attempt.task_id, attempt.number, attempt.fence))

    def span(self, span: messages.Span) -> None:
        """To the link with the next frames."""
        if self._exports_spans and len(self._spans) < SPANS_MAX:
            self._spans.append(span)

    # --- sending -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Write what the outbox has gathered and send what may be sent."""
        self._outboxes.current.flush()
        if self._spans:
            spans, self._spans = self._spans, []
            self._link.send_encoded(encode_spans(spans))
        if not self.session.is_live:
            return
        self._send_answers()
        self.pump()

    def pump(self) -> None:
        """Send reports while there are any and the link takes them."""
        while self.session.is_live and self._link.pending_bytes < LINK_PENDING_BYTES_MAX:
            frame = self._outboxes.next_frame(self.session.epoch)
            if frame is None:
                return
            self._link.send(Kind.DATA, frame)

    def tick(self, now_us: int) -> None:
        """Connect, give up on a stream that hangs, and send acceptances that have waited long enough."""
        order = self.session.tick(now_us)
        if order == "open":
            self._link.send_encoded(encode_target(self._targets[self.session.address]))
        elif order == "close":
            self._problem(f"{self.session.address} does not answer")
            self._link.send(Kind.CLOSE)
        if self.session.is_live:
            while self._accepts and self._accepts[0][0] <= now_us:
                self._accept(self._accepts.popleft()[1])

    def heartbeat(self, load: Load, workers: list[wire.WorkerInfo]) -> None:
        """Overtakes everything. Workers are named when something but their memory changed."""
        if not self.session.is_live:
            return
        shown = [_without_memory(worker) for worker in workers]
        changed, self._workers_shown = shown != self._workers_shown, shown
        board = self._runner.board
        free = max(0, board.limits.slots - board.slots_used)
        frame = frames.heartbeat(
            self.session.epoch,
            clock.boot_us(),
            free,
            load,
            workers if changed else (),
            self._outboxes.pending,
            is_leaving=board.is_draining,
        )
        self._link.send(Kind.URGENT, frame)

    def goodbye(self, message: str) -> None:
        """The last frame; then the stream is closed and not opened again."""
        if self.session.is_live:
            self._send_answers()
            self._link.send(Kind.DATA, frames.goodbye(self.session.epoch, message))
            self._link.send(Kind.CLOSE)
        self.session.leave()

    def _send_answers(self) -> None:
        epoch = self.session.epoch
        if self._revokes:
            self._link.send(Kind.DATA, frames.revoked(epoch, self._revokes))
            self._revokes = []
        for (text, by_policy), refs in self._rejects.items():
            self._link.send(Kind.DATA, frames.rejected(epoch, refs, text, by_policy=by_policy))
        self._rejects.clear()

    def _accept(self, attempts: Iterable[Attempt]) -> None:
        # Reports that a full disk does not take say nothing.
        silent = {State.ACCEPTED, State.STARTED, State.BLOCKED} if self.is_full else {State.ACCEPTED}
        refs = [_ref(attempt) for attempt in attempts if attempt.state in silent]
        if refs:
            self._link.send(Kind.DATA, frames.accepted(self.session.epoch, refs))

    # --- the link's listener -----------------------------------------------------------------------------------

    def link_said(self, kind: Kind, body: bytes) -> None:
        """One frame of the link."""
        if kind is Kind.DATA:
            self._heard(wire.SessionResponse.FromString(body))
        elif kind is Kind.OPENED and self.session.opened():
            self._say_hello()
        elif kind is Kind.CLOSED:
            closed = decode_closed(body)
            self._ended(End(closed.code, closed.reason, closed.message))
        elif kind is Kind.WARMED:
            self._warmed(body.decode())

    def link_lost(self) -> None:
        """The stream died with it; the next link connects at once."""
        self.session.lost_link(clock.boot_us())
        self._wake()

    def link_has_room(self) -> None:
        """Go on sending."""
        self.pump()

    def _warmed(self, problem: str) -> None:
        if problem:
            _logger.warning("cannot connect with the new certificate yet, the old connection goes on: %s", problem)
        elif self.session.move():
            self._link.send(Kind.CLOSE)

    def _say_hello(self) -> None:
        # What was waiting to be said in the last session is said by the inventory.
        self._accepts.clear()
        self._rejects.clear()
        self._revokes.clear()
        self._workers_shown = []
        session = self.session
        held = [(_ref(attempt), attempt.state) for attempt in self._runner.board.attempts.values()]
        for refs in self._outboxes.held.values():
            held += [(ref, State.CLOSED) for ref in refs]
        self._greeted_us = clock.boot_us()
        hello = frames.hello(
            self._identity,
            session.store_id,
            session.coordinator_epoch,
            held,
            self._outboxes.ranges(),
            self._greeted_us,
        )
        self._link.send(Kind.DATA, hello)

    def _ended(self, end: End) -> None:
        was_moving = self.session.is_moving
        final = self.session.closed(end, clock.boot_us(), self._jitter())
        self.is_hung_up = self.session.phase is Phase.ENDED
        if final:
            self._give_up(f"{self.session.address}: {final}")
        elif not self.is_hung_up and not was_moving:
            self._problem(end.message or end.code)
        self._wake()

    def _problem(self, text: str) -> None:
        """One line per change, not one per try."""
        if text != self.session.last_problem:
            self.session.last_problem = text
            _logger.warning("not connected to %s: %s; trying again", self.session.address, text)

    # --- orders ------------------------------------------------------------------------------------------------

    def _heard(self, response: wire.SessionResponse) -> None:
        kind = response.WhichOneof("frame")
        if kind == "welcome":
            self._welcomed(response.welcome)
        elif self.session.heard(response.session_epoch, clock.boot_us()):
            if kind == "assign":
                self._runner.assign(response.assign.assignments)
            elif kind == "ack":
                self._acknowledged(response.ack)
            elif kind is not None:
                self._ordered(kind, response)

    def _ordered(self, kind: str, response: wire.SessionResponse) -> None:
        if kind == "revoke":
            self._runner.revoke(map(frames.from_ref, response.revoke.refs))
        elif kind == "cancel":
            cancel = response.cancel
            grace_s = frames.seconds(cancel.grace) if cancel.HasField("grace") else None
            refs = map(frames.from_ref, cancel.refs)
            reason = cancel.reason or task_pb2.TASK_REASON_CANCEL_REQUESTED
            self._runner.cancel(refs, cancel.message, is_fenced=cancel.fenced, grace_s=grace_s, reason=reason)
        elif kind == "answer":
            self._runner.answer(
                frames.from_ref(response.answer.ref), frames.from_resolution(response.answer.resolution)
            )
        elif kind == "lease":
            lease = response.lease
            self._runner.lease_renewed(lease.boottime_ns // 1000, lease.lease_duration.ToMicroseconds())
        elif kind in ("pause", "resume"):
            # The coordinator sends nothing while an agent is paused; what was sent before is still run.
            self.is_paused = kind == "pause"
            _logger.info("an operator %s this agent", "paused" if self.is_paused else "resumed")
        elif kind == "renew_certificate":
            self._renew()
        elif kind == "drain":
            drain = response.drain
            self._drain(frames.seconds(drain.timeout) if drain.HasField("timeout") else None)

    def _welcomed(self, welcome: wire.Welcome) -> None:
        session = self.session
        heartbeat_us = welcome.heartbeat_interval.ToMicroseconds()
        now_us = clock.boot_us()
        if not session.welcomed(
            welcome.session_epoch, welcome.coordinator_epoch, welcome.store_id, heartbeat_us, now_us
        ):
            return
        _logger.info("connected to %s", session.address)
        self._state.remember(Known(session.store_id, session.coordinator_epoch, self._identity.instance_id))
        self.is_paused = welcome.paused
        self._runner.lease_renewed(self._greeted_us, welcome.lease_duration.ToMicroseconds())
        self._judged(welcome)
        applied = {one.outbox_id: one.applied_seq for one in welcome.applied}
        self._runner.acknowledged(self._outboxes.rewind(applied))
        self._wake()

    def _judged(self, welcome: wire.Welcome) -> None:
        """Obey the verdicts; what has none, or one that this version does not know, is fenced."""
        verdicts = {frames.from_ref(one.ref): one.verdict for one in welcome.verdicts}
        attempts = list(self._runner.board.attempts.values())
        fenced = [_ref(attempt) for attempt in attempts if _is_unwanted(verdicts.get(_ref(attempt)), attempt)]
        closed = [
            attempt.key
            for attempt in attempts
            if attempt.state is State.CLOSED and verdicts.get(_ref(attempt)) == wire.VERDICT_CLOSE
        ]
        if fenced:
            _logger.warning("the coordinator has fenced %d attempts; killing them", len(fenced))
        self._runner.cancel(fenced, "fenced", is_fenced=True)
        self._runner.acknowledged(closed)

    def _acknowledged(self, ack: wire.Ack) -> None:
        for one in ack.applied:
            self._runner.acknowledged(self._outboxes.acknowledge(one.outbox_id, one.applied_seq))
        self.pump()


def _is_unwanted(verdict: int | None, attempt: Attempt) -> bool:
    if verdict == wire.VERDICT_RESUME:
        return False
    return not (verdict == wire.VERDICT_CLOSE and attempt.state is State.CLOSED)


def _ref(attempt: Attempt) -> Ref:
    return attempt.task_id, attempt.number, attempt.fence


def _without_memory(worker: wire.WorkerInfo) -> wire.WorkerInfo:
    shown = wire.WorkerInfo()
    shown.CopyFrom(worker)
    shown.rss_bytes = 0
    return shown
