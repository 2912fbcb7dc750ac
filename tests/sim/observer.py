"""What happens, told to the judges: the one place where the simulated system meets the oracle.

Owns the order of judging and the runs of user code. The system never asks it anything but when to rebuild.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.v1.task_pb2 import TaskSpec
from outrider_coordinator.core import records
from outrider_coordinator.core.effects import EndSession, PushAck, PushAssign, Reply, SessionAccepted
from outrider_coordinator.core.limits.survey import survey
from outrider_coordinator.core.settings import CoreSettings
from sim.kernel import Kernel
from sim.oracle_contact import ContactJudge
from sim.oracle_records import LIVE, TERMINAL, RecordJudge
from sim.oracle_sessions import SessionJudge
from sim.verdicts import Marks

REBUILD_EVERY = 200
#: Stands in the label of a machine between the name of its agent and a number, when it is not the only one.
DOUBLE = "+"


@dataclass(eq=False, slots=True)
class Run:
    """One stretch of user code: from its begin to the worker's last word or death."""

    task_id: str
    attempt: int
    fence: int
    agent: str
    number: int
    began_us: int
    ended_us: int = 0
    #: It waits for a resolution.
    is_waiting: bool = False
    #: It stopped waiting by itself, or its keeper is dead: it counts for no slot.
    is_apart: bool = False
    #: The coordinator knows nothing of it: its disk is as it was before that was offered.
    is_forgotten: bool = False


class Witness:
    """Hears everything; raises `Broken` where a promise is broken."""

    def __init__(
        self, kernel: Kernel, marks: Marks, settings: CoreSettings, rebuild: Callable[[Any, Sequence[Any], Any], None]
    ) -> None:
        self.kernel = kernel
        self.marks = marks
        self.records = RecordJudge(marks, settings)
        self.sessions = SessionJudge(marks, self.records)
        self.contact = ContactJudge(marks, self.records, self.sessions)
        self.runs: list[Run] = []
        self.step = 0
        #: What the coordinator's core was given, and how often something happened to an agent's.
        self.core_events = self.agent_events = 0
        self.accepted: dict[str, int] = {}
        self._backup: RecordJudge | None = None
        self._is_rolled_back = False
        self._rebuild = rebuild
        self._active: dict[Run, None] = {}
        self._by_task: dict[str, list[Run]] = {}
        self._rebuild_due = REBUILD_EVERY
        self._events: Sequence[Any] = ()

    # --- the coordinator -------------------------------------------------------------------------------------------

    def started(self, state: Any) -> None:
        """A coordinator has read its store."""
        self.sessions.restarted(state.epoch, self.kernel.now_us)
        self.contact.restarted()
        for task_id in self.accepted:
            there = self.records.tasks.get(task_id)
            known = there is not None and (there.state in TERMINAL or task_id in state.tasks)
            self.marks.demand("I6", known, "task {} was accepted and is gone after a restart", task_id)

    def backed_up(self) -> None:
        """Somebody keeps a copy of the coordinator's disk."""
        self._backup = self.records.copy()

    def rolled_back(self) -> None:
        """The coordinator's disk is that copy again: promises made since are void, and what began since is unknown."""
        assert self._backup is not None
        self.marks.saw("saw:old backup restored")
        self._is_rolled_back = True
        self.records.become(self._backup)
        self.sessions.rolled_back()
        self.contact.rolled_back()
        self.accepted = {task_id: at_us for task_id, at_us in self.accepted.items() if task_id in self.records.tasks}
        for runs in self._by_task.values():
            for run in runs:
                run.is_forgotten = not self._is_remembered(run)
        self._by_task = {
            task_id: [run for run in runs if not run.is_forgotten] for task_id, runs in self._by_task.items()
        }

    def _is_remembered(self, run: Run) -> bool:
        """A task that runs at most once and was offered counts as started: its agent says that it lists it no more."""
        ref = run.task_id, run.attempt, run.fence
        if self.records.is_known(*ref) and self.records.tasks[run.task_id].spec.at_most_once:
            return True
        return self.records.is_started(*ref)

    def stepping(self, events: Sequence[Any]) -> None:
        """These go into the next step."""
        self.step += 1
        self._events = events
        self.core_events += len(events)
        tell = self.kernel.tell
        for event in events:
            tell("core", type(event).__name__, event)

    def stepped(self, effects: Any) -> None:
        """This came out of it."""
        now_us = self.kernel.now_us
        self.sessions.stepped(self._events, effects, now_us)
        self.contact.stepped(self._events, effects, now_us)
        self._events = ()

    def durable(self, batch: Any) -> None:
        """A transaction is on the disk."""
        for committed in batch.steps:
            if committed.rows:
                for attempt in self.records.durable(committed.rows, committed.at_us):
                    self.kernel.tell("store", "offered", attempt.task_id, attempt.number, attempt.agent_id)

    def releasing(self, committed: Any) -> None:
        """Everything of this step goes out now."""
        for send in committed.sends:
            kind = type(send)
            if kind is PushAssign:
                self._assigned(send)
            elif kind is Reply and isinstance(send.value, SessionAccepted):
                self._welcomed(send.value)
            elif kind is EndSession:
                self.kernel.tell("core", "ends session", send)

    def pushing(self, send: Any) -> None:
        """This goes to a session that is there."""
        if isinstance(send, PushAck):
            self.sessions.acked(send.agent_id, send.outbox_id, send.applied_seq)

    def _welcomed(self, accepted: SessionAccepted) -> None:
        self.sessions.welcomed(self.sessions.agent_of[accepted.epoch], accepted.epoch, accepted.applied)

    def _assigned(self, send: PushAssign) -> None:
        view = self.records.tasks.get(send.task_id)
        row = view.attempts.get(send.attempt) if view else None
        good = row is not None and (row.fence, row.agent_id) == (send.fence, send.agent_id)
        self.marks.demand("I7", good, "attempt {}/{} is sent before its row is durable", send.task_id, send.attempt)

    def says_hello(self, reply: Callable[[Any], None], boot: str, number: int) -> None:
        """A Hello has arrived, of the stream with this number of those that a machine opened since it was booted."""
        self.sessions.says_hello(reply, boot, number)

    def renewed(self, agent_id: str, epoch: int, instance_id: str) -> None:
        """A heartbeat of this session is answered with a lease; how long to wait for one that is over was settled."""
        is_current = self.sessions.current.get(agent_id) == epoch
        self.marks.demand("I13", is_current, "session {} of {} is over and gets a lease", epoch, agent_id)
        self.leased(instance_id, self.kernel.now_us)

    def leased(self, instance_id: str, asked_us: int) -> None:
        """A lease leaves for this keeper, which asked for it then and counts from there."""
        self.contact.leased(instance_id, asked_us)

    def is_rebuild_due(self) -> bool:
        """Whether so many steps have passed that I20 is judged."""
        if self.step < self._rebuild_due:
            return False
        self._rebuild_due = self.step + REBUILD_EVERY
        return True

    def rebuilt(self, state: Any, pending: Sequence[Any], tables: Any) -> None:
        """Judge I20, what people are shown of limits, and what memory keeps beside tasks (I16)."""
        self.marks.saw("I20")
        known, most = len(state.requests._order), state.settings.request_ids_max
        self.marks.demand("I16", known <= most, "{} request ids are kept, {} may be", known, most)
        self._rebuild(state, pending, tables)
        self._judge_limits(state, pending)

    def _judge_limits(self, state: Any, pending: Sequence[Any]) -> None:
        judge, specs = self.records.limits.copy(), {}
        for row in pending:
            if isinstance(row, records.InsertTask):
                specs[row.id] = TaskSpec.FromString(row.body)
            elif isinstance(row, records.PutAttempt):
                spec = specs.get(row.task_id) or self.records.tasks[row.task_id].spec
                judge.attempt(spec, row, is_live=row.state in LIVE, is_new=False)
            elif isinstance(row, records.PutWait):
                judge.wait(row, is_live=True)
            elif isinstance(row, records.PutLimit | records.DeleteLimit):
                judge.define(row)
        judge.judge_shown(survey(state, "default"))

    # --- clients ---------------------------------------------------------------------------------------------------

    def task_accepted(self, task_id: str) -> None:
        """A client has the coordinator's OK."""
        there = task_id in self.records.tasks
        self.marks.demand("I6", there, "task {} is acknowledged and not durable", task_id)
        self.accepted[task_id] = self.kernel.now_us

    def cancel_accepted(self, task_id: str) -> None:
        """A client was told that the cancel won."""
        view = self.records.tasks.get(task_id)
        decided = view is not None and view.state in (6, 9)
        self.marks.demand("I14", decided, "the cancel of task {} is acknowledged and not durable", task_id)
        assert view is not None
        view.cancel_is_promised = True

    def run_cancelled(self, run_id: str) -> None:
        """A client was told that what was open of a run is cancelled."""
        self.marks.saw("saw:run cancelled")
        run = self.records.runs.runs.get(run_id)
        for task_id in run.members.values() if run is not None else ():
            state = self.records.tasks[task_id].state
            self.marks.demand("I14", state >= 6, "run {} is cancelled, its task {} is not", run_id, task_id)
            if state == 6:
                self.cancel_accepted(task_id)

    # --- agents ----------------------------------------------------------------------------------------------------

    def synced(self, outbox_id: str, seq: int) -> None:
        """An agent's disk has these for good."""
        self.sessions.synced(outbox_id, seq)

    def dropped(self, outbox_id: str, seq: int) -> None:
        """An agent forgets its reports up to ``seq``."""
        self.sessions.dropped(outbox_id, seq)

    def run_began(self, task_id: str, attempt: int, fence: int, agent: str) -> Run:
        """User code begins."""
        run = Run(task_id, attempt, fence, agent, len(self.runs) + 1, self.kernel.now_us)
        self.kernel.tell(agent, "run begins", task_id, attempt)
        is_known = self.records.is_known(task_id, attempt, fence)
        demand = self.marks.demand
        demand("I7", is_known or self._is_rolled_back, "attempt {}/{} runs and is not durable", task_id, attempt)
        if is_known:
            self._judge_begin(run)
        else:
            self.marks.saw("saw:forgotten attempt begun")
            run.is_forgotten = True
        if any(one.agent == agent for one in self._active):
            self._judge_slots(run)
        self.runs.append(run)
        self._active[run] = None
        return run

    def _judge_begin(self, run: Run) -> None:
        """May it begin, beside what ran and runs of its task?"""
        view, demand, task_id = self.records.tasks[run.task_id], self.marks.demand, run.task_id
        demand("I9", self.records.holds(view), "task {} starts before its dependencies hold", task_id)
        earlier = self._by_task.setdefault(task_id, [])
        twice = any(one.attempt == run.attempt for one in earlier)
        demand("I2", not twice, "attempt {}/{} is started twice", task_id, run.attempt)
        if view.spec.at_most_once:
            demand("I12", not earlier, "task {} is started again, at most once", task_id)
        if view.spec.exclusive:
            active = any(not one.ended_us for one in earlier)
            demand("I13", not active, "two runs of exclusive task {}", task_id)
        earlier.append(run)

    def _judge_slots(self, run: Run) -> None:
        """On an agent no more user code works than it has slots, save what stopped waiting by itself."""
        agent = self.records.agents.get(run.agent.partition(DOUBLE)[0])
        there = [one for one in self._active if one.agent == run.agent and not one.is_apart]
        beside = [one for one in there if not one.is_waiting]
        if agent is not None:
            slots, room = agent.slots, agent.slots + agent.parked_max
            self.marks.demand("I11", len(beside) < slots, "{} runs beside {} on {} slots", run, beside, slots)
            self.marks.demand("I16", len(there) < room, "{} begins beside {} and room for {}", run, there, room)

    def run_ended(self, run: Run) -> None:
        """Nothing of it is left."""
        self.kernel.tell(run.agent, "run ends", run.task_id, run.attempt)
        run.ended_us = self.kernel.now_us
        self._active.pop(run, None)
        if not run.is_forgotten and self.records.tasks[run.task_id].spec.exclusive:
            self.contact.run_ended((run.task_id, run.attempt), run.ended_us)

    def active_runs(self) -> list[Run]:
        """User code that runs now."""
        return list(self._active)
