"""AgentService: one stream per agent session, one reader and one writer, neither ever cancelled in mid-operation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping

from google.protobuf.message import DecodeError

from outrider import errors
from outrider.names import RULE, is_name
from outrider.v1 import agent_service_pb2 as pb
from outrider.v1 import agent_service_pb2_grpc, task_pb2
from outrider_coordinator.access.principals import Role, caller
from outrider_coordinator.core.agents import lease
from outrider_coordinator.core.effects import EndSession, PushAck, PushAssign, Refused, Send, SessionAccepted
from outrider_coordinator.core.events import (
    AttemptsAccepted,
    AttemptsReturned,
    HeartbeatReceived,
    ReportsReceived,
    SessionEnded,
    SessionOpened,
)
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.pacing import PART_MAX
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc import agent_facts, frames, secrets
from outrider_coordinator.rpc.calls import Context, Service, asked, draining, encoded, raised, streaming, unreadable
from outrider_coordinator.rpc.fields import invalid, number
from outrider_coordinator.telemetry import DispatchTracer

#: What an agent may say of itself: names, values and what it offers, and the length of each.
_WORDS_MAX, _WORD_CHARACTERS_MAX = 2048, 1024
#: More than any machine has: lists of so many are made of them.
_SLOTS_MAX = 1 << 16
#: How long an acknowledgement waits for company: nobody waits for it, and each frame wakes three processes.
ACK_PATIENCE_S = 0.01


class AgentSession:
    """The sending side of one session. The engine pushes; the stream's writer takes whole frames."""

    def __init__(self, tracer: DispatchTracer | None = None) -> None:
        self.epoch = 0
        self.lease_us = 0
        self._tracer = tracer
        self.error: errors.OutriderError | None = None
        self.is_over = False
        self._urgent: deque[bytes] = deque()
        self._waiting: list[frames.Outbound] = []
        self._applied: dict[str, int] = {}
        self._ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ack_is_due = False

    def push(self, send: Send, outcomes: dict[str, bytes]) -> None:
        """Queue one push."""
        if self._tracer is not None and isinstance(send, PushAssign):
            send = self._tracer.traced(send)
        if not isinstance(send, PushAck):
            self._waiting.append((send, outcomes))
            self._ready.set()
            return
        self._applied[send.outbox_id] = send.applied_seq  # cumulative: the last one says it all
        if not self._ack_is_due:
            self._ack_is_due = True
            self._loop.call_later(ACK_PATIENCE_S, self._ready.set)

    def push_frame(self, frame: bytes) -> None:
        """Queue a frame that goes before everything else: Welcome and Lease."""
        self._urgent.append(frame)
        self._ready.set()

    def end(self, order: EndSession) -> None:
        """End the stream with a refusal, after what waits now."""
        self.error = raised(order.refused)
        self.close()

    def close(self) -> None:
        """End the stream."""
        self.is_over = True
        self._ready.set()

    async def next_frames(self) -> list[bytes]:
        """Everything that waits, as serialized SessionResponses; empty when the session is over."""
        await self._ready.wait()
        self._ready.clear()
        self._ack_is_due = False
        out = list(self._urgent)
        self._urgent.clear()
        waiting, self._waiting = self._waiting, []
        applied, self._applied = self._applied, {}
        out.extend(frames.frames(self.epoch, waiting, applied))
        return out


class AgentService(Service, agent_service_pb2_grpc.AgentServiceServicer):
    """Handlers of AgentService over one engine."""

    def __init__(
        self, engine: Engine, labels_of: Callable[[str], Mapping[str, str]], tracer: DispatchTracer | None = None
    ) -> None:
        super().__init__()
        self._engine = engine
        self._labels_of = labels_of
        self._tracer = tracer

    def end_streams(self) -> None:
        """End every session with `Draining`, each by its own writer."""
        why = draining()
        for epoch, session in self._engine.sessions.items():
            session.end(EndSession(epoch, "", Refused(why.reason, why.message)))

    def order_renewal(self) -> None:
        """Every agent gets a new certificate now: the authority has changed."""
        for epoch, session in self._engine.sessions.items():
            if isinstance(session, AgentSession):
                session.push_frame(frames.renew_certificate(epoch))

    @encoded
    @streaming
    async def Session(self, request: AsyncIterator[pb.SessionRequest], context: Context) -> AsyncIterator[bytes]:
        """One session from Hello to its end."""
        first = await anext(aiter(request), None)
        if first is None or first.WhichOneof("frame") != "hello":
            raise errors.InvalidRequest("the first frame of a session must be Hello")
        session = AgentSession(self._tracer)
        await self._open(first.hello, session)
        agent_id = first.hello.agent_id
        reader = asyncio.create_task(self._read(request, agent_id, session))
        try:
            while not session.is_over:
                for frame in await session.next_frames():
                    yield frame
        finally:
            self._engine.sessions.pop(session.epoch, None)
            self._ended(agent_id, session, goodbye=False)
            reader.cancel()
        if session.error is not None:
            raise session.error

    async def _open(self, hello: pb.Hello, session: AgentSession) -> None:
        _check(hello)
        who = caller.get()
        if who.role is Role.AGENT and who.name != hello.agent_id:
            raise errors.PermissionDenied(
                f"the certificate is that of the agent {who.name!r}, and Hello says {hello.agent_id!r}; "
                "an agent goes by the name it joined with"
            )
        for name, value in self._labels_of(hello.agent_id).items():
            hello.labels[name] = value  # what the operator said when it joined wins

        def registered(accepted: SessionAccepted) -> None:
            session.epoch = accepted.epoch
            self._engine.sessions[accepted.epoch] = session
            state = self._engine.state
            session.lease_us = lease.duration_us(accepted.heartbeat_us)
            session.push_frame(frames.welcome(accepted, state.epoch, self._engine.store.store_id, session.lease_us))

        def opened(reply: object) -> SessionOpened:
            def answered(value: object) -> None:
                if isinstance(value, SessionAccepted):
                    registered(value)
                reply(value)  # type: ignore[operator]  # the callable that `asked` made

            return _hello(hello, answered)

        await asked(self._engine, opened)

    async def _read(self, request: AsyncIterator[pb.SessionRequest], agent_id: str, session: AgentSession) -> None:
        goodbye = False
        try:
            async for frame in request:
                if frame.session_epoch != session.epoch:
                    session.error = errors.InvalidRequest("a frame of another session; open a new one")
                    break
                if frame.WhichOneof("frame") == "goodbye":
                    goodbye = True
                    break
                await self._take(frame, agent_id, session)
        except errors.OutriderError as error:
            session.error = error
        except DecodeError:
            session.error = unreadable()
        finally:
            self._ended(agent_id, session, goodbye=goodbye)
            session.close()

    def _ended(self, agent_id: str, session: AgentSession, *, goodbye: bool) -> None:
        """Tell the core once; a second time finds another epoch there and changes nothing."""
        self._engine.post(SessionEnded(agent_id, session.epoch, goodbye))

    async def _take(self, frame: pb.SessionRequest, agent_id: str, session: AgentSession) -> None:
        epoch = session.epoch
        match frame.WhichOneof("frame"):
            case "reports":
                await self._engine.admit()
                reports = frame.reports
                if len(reports.outbox_id) > _WORD_CHARACTERS_MAX:
                    raise invalid("reports.outbox_id", f"is longer than {_WORD_CHARACTERS_MAX} characters")
                facts = [agent_facts.report(message) for message in reports.messages]
                outbox_id, first_seq = reports.outbox_id, reports.first_seq
                for start in range(0, len(facts) or 1, PART_MAX):
                    part = facts[start : start + PART_MAX]
                    self._engine.post(ReportsReceived(agent_id, epoch, outbox_id, first_seq + start, part))
            case "heartbeat":
                if lease.is_due(self._engine.state, agent_id, epoch):
                    session.push_frame(frames.lease(epoch, frame.heartbeat.boottime_ns, session.lease_us))
                self._engine.post(_heartbeat(agent_id, epoch, frame.heartbeat))
            case "accepted":
                refs = [agent_facts.ref(ref) for ref in frame.accepted.refs]
                self._engine.post(AttemptsAccepted(agent_id, epoch, refs))
            case "rejected":
                refs = [agent_facts.ref(ref) for ref in frame.rejected.refs]
                by_policy = frame.rejected.reason == task_pb2.TASK_REASON_REFUSED_BY_POLICY
                self._engine.post(AttemptsReturned(agent_id, epoch, refs, False, frame.rejected.message, by_policy))
            case "revoked":
                refs = [agent_facts.ref(ref) for ref in frame.revoked.refs]
                self._engine.post(AttemptsReturned(agent_id, epoch, refs, True))
            case "hello":
                raise errors.InvalidRequest("Hello may only be the first frame; open a new session")
            case _:
                pass


def _check(hello: pb.Hello) -> None:
    """Refuse what would be kept of an agent and is no name, or too much."""
    if not is_name(hello.agent_id):
        raise invalid("hello.agent_id", f"must be {RULE}")
    words = [*hello.labels, *hello.labels.values(), *hello.resources, *hello.task_types, *hello.runners]
    facts = [hello.machine_id, hello.boot_id, hello.instance_id, hello.version, hello.host, hello.store_id]
    words += [outbox.outbox_id for outbox in hello.outboxes]
    if len(words) > _WORDS_MAX or any(len(word) > _WORD_CHARACTERS_MAX for word in (*words, *facts)):
        raise invalid(
            "hello", f"at most {_WORDS_MAX} labels, offers and outboxes, of {_WORD_CHARACTERS_MAX} characters each"
        )


def _hello(hello: pb.Hello, reply: object) -> SessionOpened:
    return SessionOpened(
        agent_id=hello.agent_id,
        machine_id=hello.machine_id,
        instance_id=hello.instance_id,
        instance_start_ms=number(hello.instance_start_ms),
        version=hello.version,
        host=hello.host,
        labels=secrets.with_offers(hello.labels, hello.secrets),
        slots=min(hello.slots, _SLOTS_MAX),
        prefetch_credit=min(hello.prefetch_credit, _SLOTS_MAX),
        parked_max=min(hello.parked_max, _SLOTS_MAX),
        held=[agent_facts.held(item) for item in hello.held],
        outboxes=[agent_facts.outbox(item) for item in hello.outboxes],
        resources={name: amount for name, amount in hello.resources.items() if 0 < amount < float("inf")},
        task_types=tuple(hello.task_types),
        runners=tuple(hello.runners),
        boot_id=hello.boot_id,
        previous_instance_id=hello.previous_instance_id,
        store_id=hello.store_id,
        coordinator_epoch=hello.coordinator_epoch,
        boot_us=hello.boottime_ns // 1000,
        reply=reply,  # type: ignore[arg-type]  # a callable of one value
    )


def _heartbeat(agent_id: str, epoch: int, beat: pb.Heartbeat) -> HeartbeatReceived:
    facts = HostFacts(
        beat.free_slots,
        beat.load_average,
        beat.cpu_fraction,
        beat.memory_fraction,
        beat.outbox_pending,
        tuple(worker.SerializeToString() for worker in beat.workers),
        beat.leaving,
    )
    return HeartbeatReceived(agent_id, epoch, facts, workers_changed=bool(beat.workers))
