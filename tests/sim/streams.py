"""The coordinator's end of an agent's stream: what `rpc.agent_session` does, without gRPC and asyncio.

Real: frames both ways and their conversion to facts. Modelled: the reader and writer of the handler.
"""

from __future__ import annotations

from typing import Any

from outrider.v1 import agent_service_pb2 as pb
from outrider_coordinator.core.agents import lease
from outrider_coordinator.core.effects import PushAck, SessionAccepted
from outrider_coordinator.core.events import AttemptsAccepted, AttemptsReturned, ReportsReceived, SessionEnded
from outrider_coordinator.rpc import agent_facts, agent_session, frames
from sim.model_coordinator import STORE_ID, Process
from sim.network import Connection

WRITE_DELAY_US = (10, 300)
ACK_PATIENCE_US = 10_000
#: What a frame may hold, and a little for what is around it.
FRAME_BYTES_MAX = 260 * 1024


class AgentStream:
    """One stream: Hello, then frames until either side ends it."""

    def __init__(self, process: Process, connection: Connection, number: int, boot: str) -> None:
        self.number = number
        self._boot = boot
        self.epoch = 0
        self.agent_id = self._instance_id = ""
        self._process = process
        self._connection = connection
        self._is_over = False
        self._is_greeted = False
        self._greeted_us = 0
        self._waiting: list[Any] = []
        self._applied: dict[str, int] = {}
        self._is_writing = False
        self._lease_us = 0
        process.streams.add(self)

    # --- from the network ------------------------------------------------------------------------------------------

    def received(self, frame: bytes) -> None:
        """One frame of the link."""
        self._process.later(0, self._read, frame)

    def ended(self, code: str, reason: str, message: str) -> None:
        """The link has closed its side, or is gone."""
        self._process.later(0, self._read_end)

    def process_died(self) -> None:
        """The coordinator was killed: the kernel resets its connections."""
        self._connection.reset()

    def machine_vanished(self) -> None:
        """Power is lost: the link is not told."""
        self._connection.vanish()

    # --- from the engine -------------------------------------------------------------------------------------------

    def push(self, send: Any, outcomes: dict[str, bytes]) -> None:
        """Queue one push."""
        if isinstance(send, PushAck):
            self._applied[send.outbox_id] = send.applied_seq
            delay_us = ACK_PATIENCE_US
        else:
            self._waiting.append((send, outcomes))
            delay_us = self._process.kernel.stream("streams").randrange(*WRITE_DELAY_US)
        self._process.later(delay_us, self._write)

    def end(self, reason: str, message: str) -> None:
        """End the stream with a refusal, after what waits now."""
        self._write()
        self._close("FAILED_PRECONDITION", reason, message)

    # --- the handler -----------------------------------------------------------------------------------------------

    def _read(self, frame: bytes) -> None:
        if self._is_over:
            return
        request = pb.SessionRequest.FromString(frame)
        self._judge_size(frame, len(request.reports.messages))
        kind = request.WhichOneof("frame")
        if not self._is_greeted and kind != "hello":
            self._broken("the first frame of a session must be Hello")
        elif not self._is_greeted:
            self._is_greeted = True
            self._greeted_us = self._process.kernel.now_us
            self.agent_id, self._instance_id = request.hello.agent_id, request.hello.instance_id
            self._process.witness.says_hello(self._answered, self._boot, self.number)
            self._process.post(agent_session._hello(request.hello, self._answered))
        elif request.session_epoch != self.epoch:
            self._broken("a frame of another session; open a new one")
        elif kind == "goodbye":
            self._over(goodbye=True)
        elif kind == "hello":
            self._broken("Hello may only be the first frame; open a new session")
        else:
            self._take(kind or "", request)

    def _take(self, kind: str, request: pb.SessionRequest) -> None:
        agent_id, epoch, post = self.agent_id, self.epoch, self._process.post
        if kind == "reports":
            reports = request.reports
            facts = [agent_facts.report(message) for message in reports.messages]
            post(ReportsReceived(agent_id, epoch, reports.outbox_id, reports.first_seq, facts))
        elif kind == "heartbeat":
            if not self._is_over and lease.is_due(self._process.state, agent_id, epoch):
                self._process.witness.renewed(agent_id, epoch, self._instance_id)
                self._connection.down(frames.lease(epoch, request.heartbeat.boottime_ns, self._lease_us))
            post(agent_session._heartbeat(agent_id, epoch, request.heartbeat))
        elif kind == "accepted":
            post(AttemptsAccepted(agent_id, epoch, [agent_facts.ref(ref) for ref in request.accepted.refs]))
        elif kind == "rejected":
            refs = [agent_facts.ref(ref) for ref in request.rejected.refs]
            post(AttemptsReturned(agent_id, epoch, refs, False, request.rejected.message))
        elif kind == "revoked":
            refs = [agent_facts.ref(ref) for ref in request.revoked.refs]
            post(AttemptsReturned(agent_id, epoch, refs, True))

    def _answered(self, value: Any) -> None:
        if not isinstance(value, SessionAccepted):
            self._close("FAILED_PRECONDITION", value.reason, value.message)
            return
        process = self._process
        self.epoch = value.epoch
        process.sessions[value.epoch] = self
        self._lease_us = lease.duration_us(value.heartbeat_us)
        if not self._is_over:
            process.witness.leased(self._instance_id, self._greeted_us)
            self._connection.down(frames.welcome(value, process.state.epoch, STORE_ID, self._lease_us))

    def _write(self) -> None:
        if self._is_over or not (self._waiting or self._applied):
            return
        waiting, self._waiting = self._waiting, []
        applied, self._applied = self._applied, {}
        for frame in frames.frames(self.epoch, waiting, applied):
            if len(frame) > FRAME_BYTES_MAX:
                self._judge_size(frame, len(pb.SessionResponse.FromString(frame).assign.assignments))
            self._connection.down(frame)

    def _judge_size(self, frame: bytes, items: int) -> None:
        """A frame is large only where one thing in it is (I16)."""
        if len(frame) > FRAME_BYTES_MAX:
            marks = self._process.marks
            marks.saw("saw:large frame")
            marks.demand("I16", items <= 1, "{} bytes hold {} items", len(frame), items)

    def _read_end(self) -> None:
        self._over(goodbye=False)

    def _over(self, *, goodbye: bool) -> None:
        if not self._is_over:
            self._tell_end(goodbye=goodbye)
            self._write()
            self._close("OK", "", "")

    def _broken(self, message: str) -> None:
        self._tell_end(goodbye=False)
        self._close("INVALID_ARGUMENT", "INVALID_REQUEST", message)

    def _tell_end(self, *, goodbye: bool) -> None:
        """A session that never began does not end either."""
        if self.epoch:
            self._process.post(SessionEnded(self.agent_id, self.epoch, goodbye))

    def _close(self, code: str, reason: str, message: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._process.streams.discard(self)
        self._process.sessions.pop(self.epoch, None)
        self._tell_end(goodbye=False)
        self._connection.end_down(code, reason, message)
