"""A small world around the coordinator's core: model agents that obey the protocol, time as an argument.

Nothing here is random or slow. A test drives it step by step and reads back effects; invariants are checked after
every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from outrider_coordinator.core import invariants
from outrider_coordinator.core.effects import Effects, PushAnswer, PushAssign, PushCancel, Reply, rows
from outrider_coordinator.core.events import (
    Ends,
    HeartbeatReceived,
    Held,
    OutboxFacts,
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    RunMember,
    RunSubmitted,
    SessionEnded,
    SessionOpened,
    Submission,
    TasksAdded,
    TasksSubmitted,
    Ticked,
    WaitFacts,
)
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.records import InsertEvent, Write
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Condition, Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.step import Event, new_state, next_due_us, step


@dataclass
class ModelAgent:
    """One agent: what it holds, and the next seq of its outbox."""

    id: str
    slots: int
    silent: bool = False
    machine_id: str = "m"
    epoch: int = 0
    seq: int = 0
    numbers: dict[Ref, int] = field(default_factory=dict)
    held: dict[Ref, AttemptState] = field(default_factory=dict)
    cancelled: list[Ref] = field(default_factory=list)
    #: What a stopped attempt is to report.
    reasons: dict[Ref, Reason] = field(default_factory=dict)
    answers: list[PushAnswer] = field(default_factory=list)


def member(key: str, *after: str, **fields: Any) -> RunMember:
    """A function of a run that comes after others."""
    spec = Spec(b"", "m:f", True, **{name: fields.pop(name) for name in ("weight", "max_attempts") if name in fields})
    return RunMember("", key, spec, after, **fields)


class World:
    """Core, model agents and everything the core ever wrote or replied."""

    def __init__(self, settings: CoreSettings | None = None) -> None:
        self.state: State = new_state(settings or CoreSettings(), coordinator_epoch=1, now_us=SECOND_US)
        self.now_us = SECOND_US
        self.agents: dict[str, ModelAgent] = {}
        self.log: list[InsertEvent] = []
        #: What the last step wrote.
        self.written: list[Write] = []
        self.replies: list[Any] = []
        self.ended: dict[str, TaskState] = {}
        self.ends: Ends = {}
        self.sent: list[Any] = []
        self.assigned: list[PushAssign] = []
        self.rows: list[Any] = []
        self.made = 0
        self.specs: dict[str, Spec] = {}

    def do(self, *events: Event, after_us: int = 0) -> Effects:
        """One step; pushes reach the model agents at once, invariants are checked."""
        self.now_us += after_us
        effects = step(self.state, list(events), self.now_us)
        self.take(effects)
        invariants.check(self.state)
        return effects

    def take(self, effects: Effects) -> None:
        """Carry out what a step, or a decision beside one, wants."""
        self.written = rows(effects)
        self.rows += self.written
        self.log.extend(effects.events)
        self._note_ends(effects)
        self.sent.extend(effects.sends)
        for send in effects.sends:
            self._deliver(send)

    def submit(
        self,
        count: int = 1,
        *,
        after: tuple[str, ...] = (),
        conditions: tuple[Condition, ...] = (),
        request_id: str = "",
        submitter: str = "",
        namespace: str = "default",
        **spec: Any,
    ) -> list[str]:
        """Submit functions (or what ``spec`` says) and return their ids."""
        fields: dict[str, Any] = {"body": b"", "kind": "m:f", "is_function": True} | spec
        submissions = []
        for _ in range(count):
            self.made += 1
            submission = Submission(
                f"t{self.made}",
                namespace,
                Spec(**fields),
                request_id,
                b"digest",
                dependency_ids=after,
                dependency_conditions=conditions,
                submitter=submitter,
            )
            submissions.append(submission)
            self.specs[submission.task_id] = submission.spec
        self.do(TasksSubmitted(submissions, self.replies.append, ended=dict(self.ends)))
        while self.state.placement_is_due:
            self.do()
        return [submission.task_id for submission in submissions]

    def submit_run(self, *edges: tuple[str, tuple[str, ...]], run_id: str = "run", **policies: Any) -> dict[str, str]:
        """Submit a graph given as (key, after keys) and return the id of each key."""
        return self.submit_members(*(member(key, *after) for key, after in edges), run_id=run_id, **policies)

    def submit_members(self, *members: RunMember, run_id: str = "run", **policies: Any) -> dict[str, str]:
        """Submit a graph, whatever it takes until it is in, and return the id of each key."""
        made = [one._replace(task_id=f"{run_id[0]}-{one.key}") for one in members]
        event = RunSubmitted(run_id, "default", "", "", made, self.replies.append, ended=dict(self.ends), **policies)
        self.do(event)
        self.settle()
        return {one.key: one.task_id for one in made}

    def add(self, *members: RunMember, run_id: str = "run", **facts: Any) -> Any:
        """Add tasks to a run; the reply."""
        made = [one._replace(task_id=f"{run_id[0]}-{one.key}") for one in members]
        self.do(TasksAdded(run_id, "default", made, self.replies.append, ended=dict(self.ends), **facts))
        self.settle()
        return self.replies[-1]

    def settle(self) -> None:
        """Step while work is left over, as the engine does."""
        while (due_us := next_due_us(self.state)) is not None and due_us <= self.state.now_us:
            self.do(Ticked())

    def connect(self, name: str, slots: int = 1, **hello: Any) -> ModelAgent:
        """Open a session for a new or known agent, holding what it holds."""
        agent = self.agents.setdefault(name, ModelAgent(name, slots))
        fields: dict[str, Any] = {
            "machine_id": agent.machine_id,
            "labels": {},
            "prefetch_credit": 0,
            "instance_id": "i",
            "instance_start_ms": 1,
            "outboxes": [OutboxFacts(f"box-{name}", agent.seq + 1, agent.seq)],
        } | hello
        held = [Held(ref, state) for ref, state in agent.held.items()]
        reply: list[Any] = []
        opened = SessionOpened(
            agent_id=name,
            version="1",
            host="h",
            slots=slots,
            parked_max=8,
            held=held,
            reply=lambda value: reply.append(value) or self._welcome(agent, value),
            **fields,
        )
        self.do(opened)
        self.replies.extend(reply)
        return agent

    def report(self, agent: ModelAgent, ref: Ref, kind: int, **facts: Any) -> Effects:
        """One report of an attempt through the agent's outbox."""
        return self.do(self.reporting(agent, ref, kind, **facts))

    def reporting(self, agent: ModelAgent, ref: Ref, kind: int, **facts: Any) -> ReportsReceived:
        """As `report`, for a step that has other events too."""
        agent.seq += 1
        agent.numbers[ref] = agent.numbers.get(ref, 0) + 1
        terminal = kind in (ReportKind.COMPLETED, ReportKind.FAILED)
        body = facts.pop("body", b"")
        report = Report(ref, agent.numbers[ref], self.now_us, kind, terminal, body, **facts)
        if terminal:
            agent.held.pop(ref, None)
        elif kind == ReportKind.STARTED:
            agent.held[ref] = AttemptState.STARTED
        return ReportsReceived(agent.id, agent.epoch, f"box-{agent.id}", agent.seq, [report])

    def start(self, agent: ModelAgent, ref: Ref) -> None:
        """User code begins."""
        self.report(agent, ref, ReportKind.STARTED)

    def complete(self, agent: ModelAgent, ref: Ref, **facts: Any) -> None:
        """The attempt succeeds."""
        self.report(agent, ref, ReportKind.COMPLETED, body=b"done", **facts)

    def fail(
        self,
        agent: ModelAgent,
        ref: Ref,
        reason: Reason = Reason.TASK_ERROR,
        recoverable: bool = True,
        **facts: Any,
    ) -> None:
        """The attempt fails."""
        self.report(agent, ref, ReportKind.FAILED, reason=reason, recoverable=recoverable, text="boom", **facts)

    def block(self, agent: ModelAgent, ref: Ref, key: str, kind: str = "clarification", **facts: Any) -> None:
        """The attempt waits."""
        agent.held[ref] = AttemptState.BLOCKED
        self.report(agent, ref, ReportKind.BLOCKED, wait=WaitFacts(key, kind, **facts))

    def unblock(self, agent: ModelAgent, ref: Ref, key: str) -> None:
        """The attempt goes on."""
        agent.held[ref] = AttemptState.STARTED
        self.report(agent, ref, ReportKind.UNBLOCKED, text=key)

    def disconnect(self, agent: ModelAgent) -> None:
        """The stream ends without a goodbye."""
        epoch, agent.epoch = agent.epoch, 0
        self.do(SessionEnded(agent.id, epoch, goodbye=False))

    def wait(self, seconds: float) -> None:
        """Time passes; connected agents that are not ``silent`` send their heartbeats."""
        end_us = self.now_us + int(seconds * SECOND_US)
        while self.now_us < end_us:
            beats = [
                HeartbeatReceived(agent.id, agent.epoch, HostFacts())
                for agent in self.agents.values()
                if agent.epoch and not agent.silent
            ]
            self.do(Ticked(), *beats, after_us=min(2 * SECOND_US, end_us - self.now_us))

    def ref(self, agent: ModelAgent, task_id: str) -> Ref:
        """The attempt of a task that an agent holds."""
        return next(ref for ref in agent.held if ref.task_id == task_id)

    def state_of(self, task_id: str) -> TaskState:
        """Where a task is, or how it ended."""
        return self.ended.get(task_id) or self.state.tasks[task_id].state

    def kinds(self, task_id: str) -> list[str]:
        """Names of a task's events so far."""
        return [EventType(event.type).name for event in self.log if event.task_id == task_id]

    def of(self, kind: EventType) -> list[InsertEvent]:
        """Events of one kind so far."""
        return [event for event in self.log if event.type == kind]

    def _welcome(self, agent: ModelAgent, value: Any) -> None:
        agent.epoch = getattr(value, "epoch", 0)
        for task_id, number, fence, verdict in getattr(value, "verdicts", ()):
            if verdict != 1:
                agent.held.pop(Ref(task_id, number, fence), None)

    def _note_ends(self, effects: Effects) -> None:
        for task in effects.tasks.values():
            if task.is_terminal:
                assert task.id not in self.ended, f"I1: {task.id} ended twice"
                self.ended[task.id], self.ends[task.id] = task.state, (task.state, task.reason)

    def _deliver(self, send: Any) -> None:
        if isinstance(send, Reply):
            send.reply(send.value)
            return
        agent = self.agents.get(getattr(send, "agent_id", ""))
        if agent is None or not agent.epoch or send.epoch != agent.epoch:
            return
        if isinstance(send, PushAssign):
            self.assigned.append(send)
            agent.held[Ref(send.task_id, send.attempt, send.fence)] = AttemptState.OFFERED
        elif isinstance(send, PushCancel):
            ref = Ref(send.task_id, send.attempt, send.fence)
            agent.cancelled.append(ref)
            agent.reasons[ref] = send.reason or Reason.CANCEL_REQUESTED
            if send.fenced:
                agent.held.pop(ref, None)
        elif isinstance(send, PushAnswer):
            agent.answers.append(send)
