"""Judges what is heard, applied, acknowledged and dropped: sessions, outboxes, fences.

Written from the protocol. Facts on their way into the core are material (they come from the wire); what the core makes
of them is known from records and from what is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outrider_coordinator.core import effects as sent
from outrider_coordinator.core import events as heard
from outrider_coordinator.core.records import InsertEvidence
from sim.oracle_names import NameJudge
from sim.oracle_records import CLOSED, FENCED, LOST, SUCCEEDED, RecordJudge
from sim.verdicts import Marks

_GAP_EVENT = 61
_COMPLETED = 15
_EPOCH_BITS = 40


class SessionJudge:
    """Sessions as they are opened and ended, and reports as they come, in the order the core was given them."""

    def __init__(self, marks: Marks, record_judge: RecordJudge) -> None:
        self.marks = marks
        self.current: dict[str, int] = {}
        #: Whose session it is or was: a Welcome may leave after its session has ended.
        self.agent_of: dict[int, str] = {}
        #: When each agent was last heard in its session, on the coordinator's clock.
        self.contact_us: dict[str, int] = {}
        self.listed: dict[str, set[heard.Ref]] = {}
        #: What must be applied of each outbox once everything heard is.
        self.applied: dict[tuple[str, str], int] = {}
        #: The highest session given, and of those that left the coordinator: others were never there.
        self.epoch_max = self._epoch_told = 0
        self._leaving: set[str] = set()
        #: By what answers it: whose Hello is on its way into the core, and the number of its stream.
        self._greetings: dict[Any, tuple[str, int]] = {}
        #: The newest stream on which each agent was given a session, and the boot of the machine that opened it.
        self._newest: dict[str, tuple[str, int]] = {}
        #: What each agent listed, Hello by Hello, in the step that is judged.
        self._hellos: dict[str, list[set[heard.Ref]]] = {}
        self._lost: set[tuple[str, int]] = set()
        self._records = record_judge
        self._names = NameJudge(marks, record_judge)
        self._terminals: dict[tuple[str, str], list[tuple[int, heard.Report]]] = {}
        self._acked: dict[str, int] = {}
        self._synced: dict[str, int] = {}
        #: Reports that the core may apply or keep in this step, by outbox: first and last.
        self._fresh: dict[tuple[str, str], tuple[int, int]] = {}
        #: What was applied of outboxes that are forgotten with their agents: no row says so any more.
        self._forgotten: dict[tuple[str, str], int] = {}
        self._successes: list[tuple[str, heard.Report]] = []

    def restarted(self, coordinator_epoch: int, now_us: int) -> None:
        """A coordinator begins with what is committed; all sessions are over."""
        self.current.clear()
        self._greetings.clear()
        self._newest.clear()
        self._names.restarted()
        self.applied = dict(self._records.outboxes)
        self.epoch_max = self._epoch_told
        above = coordinator_epoch << _EPOCH_BITS
        self.marks.demand("I17", above >= self.epoch_max >> _EPOCH_BITS << _EPOCH_BITS, "an epoch is used twice")
        self._terminals = {key: rows for key, rows in self._terminals.items() if rows}

    def rolled_back(self) -> None:
        """The coordinator's disk is as it was once: what was heard since is forgotten."""
        self._epoch_told = 0
        self._terminals.clear()
        rows = (row for view in self._records.tasks.values() for row in view.attempts.values())
        self._lost = {row[:2] for row in rows if row.state == LOST}

    # --- a step ----------------------------------------------------------------------------------------------------

    def stepped(self, events: Sequence[Any], effects: Any, now_us: int) -> None:
        """What went into one step and what came out of it."""
        self._successes = []
        self._fresh.clear()
        self._hellos = {}
        removed: set[str] = set()
        answers = {id(send.reply): send.value for send in effects.sends if isinstance(send, sent.Reply)}
        for event in events:
            if isinstance(event, heard.PauseNoticed):
                self.contact_us.update((agent_id, now_us) for agent_id, epoch in self.current.items() if epoch)
            elif isinstance(event, heard.ReportsReceived):
                self._reports(event, effects, now_us)
            elif isinstance(event, heard.SessionOpened):
                self._opened(event, answers.get(id(event.reply)), effects, now_us)
            elif isinstance(event, heard.SessionEnded):
                if self.current.get(event.agent_id) == event.epoch:
                    self.current[event.agent_id] = 0
            elif isinstance(event, heard.AgentOrdered):
                if event.order == "remove" and answers.get(id(event.reply)) is True:
                    removed.add(event.agent_id)
                    self._removed(event.agent_id)
                elif event.order == "resume":
                    self._names.resumed(event.agent_id)
            elif isinstance(event, heard.HeartbeatReceived):
                self._heartbeat(event, now_us)
            elif isinstance(event, heard.AttemptsAccepted | heard.AttemptsReturned):
                self._touch(event.agent_id, event.epoch, now_us)
        for send in effects.sends:
            if isinstance(send, sent.EndSession) and self.current.get(send.agent_id) == send.epoch:
                self.current[send.agent_id] = 0
            elif isinstance(send, sent.PushAssign):
                leaves = send.agent_id in self._leaving
                self.marks.demand("I10", not leaves, "task {} is offered to {}, which leaves", *send[2:0:-1])
        self._judge_lost(effects, removed, now_us)
        self._judge_outboxes(effects)
        self._judge_successes(effects)

    def _removed(self, agent_id: str) -> None:
        """An operator has the agent forgotten, with all that is known of its outboxes.

        What was applied in the same step is durable with that, though no row says so.
        """
        self.current[agent_id] = 0
        self._newest.pop(agent_id, None)
        self._names.removed(agent_id)
        self._forgotten |= {key: seq for key, seq in self.applied.items() if key[0] == agent_id}
        self.applied = {key: seq for key, seq in self.applied.items() if key[0] != agent_id}

    def _touch(self, agent_id: str, epoch: int, now_us: int) -> bool:
        is_current = bool(epoch) and self.current.get(agent_id) == epoch
        if is_current:
            self.contact_us[agent_id] = now_us
        return is_current

    def _heartbeat(self, event: heard.HeartbeatReceived, now_us: int) -> None:
        if self._touch(event.agent_id, event.epoch, now_us) and event.facts.is_leaving:
            self._leaving.add(event.agent_id)

    def says_hello(self, reply: Any, boot: str, number: int) -> None:
        """A Hello has arrived; ``number`` is that of its stream: a machine opens one after the other."""
        self._greetings[reply] = boot, number

    def _judge_newest(self, event: heard.SessionOpened, is_accepted: bool) -> None:
        """A newer stream supersedes an older one, in whatever order they are heard."""
        boot, number = self._greetings.pop(event.reply)
        newest = self._newest.get(event.agent_id, ("", 0))
        is_late = newest[0] == boot and number < newest[1]
        if is_late:
            self.marks.saw("saw:hello behind a newer one")
        story = "the Hello of stream {} of {} is believed, which said hello on stream {} since"
        self.marks.demand("I4", not (is_late and is_accepted), story, number, *newest)
        if is_accepted:
            self._newest[event.agent_id] = boot, number

    def _opened(self, event: heard.SessionOpened, answer: Any, effects: Any, now_us: int) -> None:
        self._judge_newest(event, isinstance(answer, sent.SessionAccepted))
        was_live = bool(self.current.get(event.agent_id))
        self._names.opened(event, answer, was_live=was_live, effects=effects, now_us=now_us)
        if not isinstance(answer, sent.SessionAccepted):
            return
        demand = self.marks.demand
        demand("I17", answer.epoch > self.epoch_max, "session {} after {}", answer.epoch, self.epoch_max)
        if event.coordinator_epoch:
            seen = answer.epoch >> _EPOCH_BITS >= event.coordinator_epoch
            demand("I17", seen, "session {}, and the agent has seen epoch {}", answer.epoch, event.coordinator_epoch)
        self.epoch_max = answer.epoch
        self.current[event.agent_id] = answer.epoch
        self.agent_of[answer.epoch] = event.agent_id
        self.contact_us[event.agent_id] = now_us
        self._leaving.discard(event.agent_id)
        # One that is over there is told by its report, or by nobody any more.
        listed = self.listed[event.agent_id] = {held.ref for held in event.held if held.state != CLOSED}
        self._hellos.setdefault(event.agent_id, []).append(listed)
        for facts in event.outboxes:
            key = (event.agent_id, facts.outbox_id)
            known = self.applied.get(key, 0)
            if facts.first_seq > known + 1:
                told = any(row.type == _GAP_EVENT for row in effects.events)
                demand("I5", told, "outbox {} begins at {} after {}, and no gap is recorded", *key, known)
                self.applied[key] = facts.first_seq - 1
            passed = answer.applied.get(facts.outbox_id, 0)
            demand(
                "I5",
                passed == self.applied.get(key, 0),
                "Welcome says {} of {}, not {}",
                passed,
                key,
                self.applied.get(key, 0),
            )

    def _reports(self, event: heard.ReportsReceived, effects: Any, now_us: int) -> None:
        key = (event.agent_id, event.outbox_id)
        if not self._touch(event.agent_id, event.epoch, now_us):
            self.marks.saw("I4")
            return
        known = self.applied.get(key, 0)
        if event.first_seq > known + 1:
            self.current[event.agent_id] = 0
            ended = any(isinstance(send, sent.EndSession) and send.epoch == event.epoch for send in effects.sends)
            self.marks.demand("I5", ended, "a gap in outbox {} does not end the session", key)
            return
        last_seq = event.first_seq + len(event.reports) - 1
        synced = self._synced.get(event.outbox_id, 0)
        self.marks.demand("I8", last_seq <= synced, "report {} of {} is sent, synced is {}", last_seq, key, synced)
        if last_seq > known:
            self._fresh[key] = self._fresh.get(key, (known + 1, 0))[0], last_seq
        for seq, report in enumerate(event.reports, event.first_seq):
            if seq > known:
                if report.terminal:
                    self._terminals.setdefault(key, []).append((seq, report))
                if report.kind == _COMPLETED:
                    self._successes.append((event.agent_id, report))
        self.applied[key] = max(known, last_seq)

    def _judge_outboxes(self, effects: Any) -> None:
        for row in effects.inserts:
            if isinstance(row, InsertEvidence):
                first, last = self._fresh.get((row.agent_id, row.outbox_id), (0, -1))
                good = first <= row.seq <= last
                self.marks.demand("I5", good, "report {} of {} is looked at again", row.seq, row.outbox_id)
        for key, seq in effects.outboxes.items():
            self.marks.demand(
                "I5",
                seq == self.applied.get(key, 0),
                "outbox {} is applied to {}, not {}",
                key,
                seq,
                self.applied.get(key, 0),
            )

    def _judge_successes(self, effects: Any) -> None:
        """A success is the outcome only if it carried the fence of a known attempt, in the agent's session."""
        for task in effects.tasks.values():
            if int(task.state) != SUCCEEDED:
                continue
            view = self._records.tasks.get(task.id)
            said = [(agent, one) for agent, one in self._successes if one.ref.task_id == task.id]
            good = [one for agent, one in said if one.body == task.outcome and self._is_of(view, effects, agent, one)]
            self.marks.demand("I4", bool(good), "task {} succeeds without a report under a known fence", task.id)

    def _is_of(self, view: Any, effects: Any, agent_id: str, report: heard.Report) -> bool:
        ref = report.ref
        row = effects.attempts.get((ref.task_id, ref.attempt)) or (view and view.attempts.get(ref.attempt))
        return bool(row) and row.fence == ref.fence and row.agent_id == agent_id

    # --- what is released ------------------------------------------------------------------------------------------

    def acked(self, agent_id: str, outbox_id: str, seq: int) -> None:
        """The coordinator tells an agent that everything up to ``seq`` is durable."""
        demand, key = self.marks.demand, (agent_id, outbox_id)
        durable = self._durable(key)
        demand("I7", seq <= durable, "outbox {} is acked to {}, durable is {}", key, seq, durable)
        self._acked[outbox_id] = max(seq, self._acked.get(outbox_id, 0))
        rest = []
        for at, report in self._terminals.get(key, ()):
            if at > seq:
                rest.append((at, report))
            else:
                demand("I7", self._is_kept(agent_id, outbox_id, at, report), "report {} of {} is lost", at, key)
        if key in self._terminals:
            self._terminals[key] = rest

    def _durable(self, key: tuple[str, str]) -> int:
        """Up to where the reports of an outbox are durable; an agent that is removed takes its positions along."""
        return max(self._records.applied_once.get(key, 0), self._forgotten.get(key, 0))

    def _is_kept(self, agent_id: str, outbox_id: str, seq: int, report: heard.Report) -> bool:
        """The end of an attempt shows in its row, or the report is kept as evidence."""
        if (agent_id, outbox_id, seq) in self._records.evidence:
            return True
        view = self._records.tasks.get(report.ref.task_id)
        row = view.attempts.get(report.ref.attempt) if view else None
        return row is not None and row.fence == report.ref.fence and row.state in (CLOSED, FENCED)

    def welcomed(self, agent_id: str, epoch: int, applied: dict[str, int]) -> None:
        """A Welcome leaves."""
        self._epoch_told = max(epoch, self._epoch_told)
        for outbox_id, seq in applied.items():
            durable = self._durable((agent_id, outbox_id))
            self.marks.demand("I7", seq <= durable, "Welcome acks {} of {}, durable is {}", seq, outbox_id, durable)
            self._acked[outbox_id] = max(seq, self._acked.get(outbox_id, 0))

    def synced(self, outbox_id: str, seq: int) -> None:
        """An agent's disk has its reports up to ``seq``."""
        self._synced[outbox_id] = max(seq, self._synced.get(outbox_id, 0))

    def dropped(self, outbox_id: str, seq: int) -> None:
        """An agent forgets its reports up to ``seq``."""
        acked = self._acked.get(outbox_id, 0)
        self.marks.demand("I8", seq <= acked, "outbox {} drops {}, acked is {}", outbox_id, seq, acked)

    # --- lost contact ----------------------------------------------------------------------------------------------

    def _judge_lost(self, effects: Any, removed: set[str], now_us: int) -> None:
        """Attempts given up in a step: only past their grace, or when the agent came back without them."""
        for key, attempt in effects.attempts.items():
            if int(attempt.state) != LOST:
                self._lost.discard(key)
            elif key not in self._lost:
                self._lost.add(key)
                self._judge_one(key, attempt, attempt.agent_id in removed, now_us)

    def _judge_one(self, key: tuple[str, int], attempt: Any, is_removed: bool, now_us: int) -> None:
        view, agent_id = self._records.tasks.get(key[0]), attempt.agent_id
        if view is None:
            return  # it is not even durable
        hellos = [*self._hellos.get(agent_id, ()), self.listed.get(agent_id, set())]
        ref = heard.Ref(*key, attempt.fence)
        came_back_without = self.current.get(agent_id, 0) and any(ref not in listed for listed in hellos)
        silent_us = now_us - self.contact_us.get(agent_id, 0)
        fair = is_removed or came_back_without or silent_us >= grace_us(view.spec)
        self.marks.demand("I2", bool(fair), "attempt {}/{} is given up after {} s", *key, silent_us / 1e6)


def grace_us(spec: Any) -> int:
    """How long after losing contact a task goes elsewhere: its own time, 5 s for functions, 2 min for the rest."""
    if spec.HasField("disconnect_grace"):
        return int(spec.disconnect_grace.ToMicroseconds())
    return 5_000_000 if spec.HasField("function") else 120_000_000
