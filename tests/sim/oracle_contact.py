"""Judges what the coordinator owes its agents in time: who is silent, in doubt or fenced, and what a lease holds.

Written from the protocol: an agent is suspect on the end of its stream or after three missed heartbeats (6 s at least);
an offer that nobody accepts within 5 s is asked back; a fenced attempt is killed, so its agent is told as soon as it is
there; an exclusive task starts again only when its last attempt is known to be gone, or one lease and a tenth of it
after the last one that was sent. It sees what goes into a step and what comes out, never the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outrider_coordinator.core import effects as sent
from outrider_coordinator.core import events as heard
from sim.oracle_records import FENCED, LIVE, LOST, RecordJudge
from sim.oracle_sessions import SessionJudge
from sim.verdicts import Marks

S = 1_000_000
SUSPECT_AFTER_US = 6 * S
ACCEPT_WITHIN_US = 5 * S
#: The lease of a small fleet's agents, and a tenth for clocks that run apart.
LEASE_OVER_US = 15 * S * 11 // 10

Key = tuple[str, int]


class ContactJudge:
    """Step by step, in the order of the core's steps. ``now_us`` is true time."""

    def __init__(self, marks: Marks, records: RecordJudge, sessions: SessionJudge) -> None:
        self._marks = marks
        self._records = records
        self._sessions = sessions
        #: Offers on their way, in the order made: agent, session and time.
        self._offers: dict[Key, tuple[str, int, int]] = {}
        #: Who has each attempt and its state, as of the last step.
        self._attempts: dict[str, dict[int, tuple[str, int]]] = {}
        #: Attempts that their agent says it has not got.
        self._gone: set[Key] = set()
        #: Which process an agent's name stands for, and since when the last lease of each counts.
        self._instances: dict[str, str] = {}
        self._lease_us: dict[str, int] = {}
        self._offered_to: dict[Key, str] = {}
        #: When the lease of an attempt is over that gets no more of them.
        self._over_us: dict[Key, int] = {}

    def restarted(self) -> None:
        """What was sent may or may not have arrived; memory is what is committed."""
        self._offers.clear()
        self._attempts = {
            view.id: {row.number: (row.agent_id, row.state) for row in view.attempts.values()}
            for view in self._records.tasks.values()
        }

    def rolled_back(self) -> None:
        """The coordinator's disk is as it was once: numbers of attempts made since are given again."""
        known = {row[:2] for view in self._records.tasks.values() for row in view.attempts.values()}
        self._gone &= known
        self._offered_to = {key: instance for key, instance in self._offered_to.items() if key in known}
        self._over_us = {key: over_us for key, over_us in self._over_us.items() if key in known}

    def stepped(self, events: Sequence[Any], effects: Any, now_us: int) -> None:
        """To be told after `SessionJudge` was."""
        answers = {id(send.reply): send.value for send in effects.sends if isinstance(send, sent.Reply)}
        for event in events:
            if isinstance(event, heard.SessionOpened):
                answer = answers.get(id(event.reply))
                if isinstance(answer, sent.SessionAccepted):
                    self._opened(event, answer)
            elif isinstance(event, heard.AttemptsAccepted | heard.AttemptsReturned):
                self._answered(ref[:2] for ref in event.refs)
            elif isinstance(event, heard.ReportsReceived):
                self._answered(report.ref[:2] for report in event.reports)
        told = self._told(effects)
        if effects.attempts:
            self._judge_attempts(effects, told, now_us)
        self._judge_offers(effects, told, now_us)
        self._judge_silence(now_us)

    # --- what is heard ---------------------------------------------------------------------------------------------

    def _opened(self, event: heard.SessionOpened, answer: sent.SessionAccepted) -> None:
        """A keeper says what it holds; it knows that of its predecessor too, if there was no other between.

        What it is told to give up gets no new lease: whoever hears of the lease has heard that, too.
        """
        agent_id = event.agent_id
        for *ref, verdict in answer.verdicts:
            key = ref[0], ref[1]
            is_ours = self._records.is_known(*ref)  # and no other of its number, from a time that is forgotten
            if verdict != sent.VERDICT_RESUME and is_ours and key not in self._over_us:
                self._over_us[key] = self._lease_over_us(key)
        listed = self._sessions.listed[agent_id]
        for task_id, attempts in self._attempts.items():
            for number, (holder, _) in attempts.items():
                if holder != agent_id or (task_id, number) in listed:
                    continue
                if self._can_tell((task_id, number), event):
                    self._gone.add((task_id, number))
        self._instances[agent_id] = event.instance_id

    def _can_tell(self, key: Key, event: heard.SessionOpened) -> bool:
        """Whether an attempt that a Hello does not list is not there: a copy of a disk knows nothing of its original.

        A keeper's instance is named for its machine.
        """
        offered_to = self._offered_to.get(key, "")
        if offered_to:
            return offered_to.rpartition("-")[0] == event.instance_id.rpartition("-")[0]
        return self._instances.get(event.agent_id, "") in ("", event.instance_id, event.previous_instance_id)

    def leased(self, instance_id: str, asked_us: int) -> None:
        """A lease leaves for this keeper, with Welcome or in answer to a heartbeat; it counts from when it asked."""
        self._lease_us[instance_id] = max(asked_us, self._lease_us.get(instance_id, 0))

    def _answered(self, keys: Any) -> None:
        for key in keys:
            self._offers.pop(key, None)

    @staticmethod
    def _told(effects: Any) -> set[Key]:
        """Attempts whose agents are told to stop them or to give them back."""
        told: set[Key] = set()
        for send in effects.sends:
            if isinstance(send, sent.PushCancel | sent.PushRevoke):
                told.add((send.task_id, send.attempt))
            elif isinstance(send, sent.Reply) and isinstance(send.value, sent.SessionAccepted):
                told.update(ref[:2] for ref in send.value.verdicts if ref[3] != sent.VERDICT_RESUME)
        return told

    # --- judging ---------------------------------------------------------------------------------------------------

    def _judge_attempts(self, effects: Any, told: set[Key], now_us: int) -> None:
        for key, attempt in effects.attempts.items():
            known = self._attempts.setdefault(key[0], {})
            was = known.get(key[1])
            if was is None:
                self._offered_to[key] = self._instances.get(attempt.agent_id, "")
                self._over_us.pop(key, None)
                self._gone.discard(key)
                self._judge_again(key, known, now_us)
            if int(attempt.state) == FENCED and was is not None and was[1] in LIVE:
                epoch = self._sessions.current.get(attempt.agent_id, 0)
                self._marks.demand("I15", not epoch or key in told, "nobody tells {} that {} is fenced", was[0], key)
            known[key[1]] = attempt.agent_id, int(attempt.state)

    def _judge_again(self, key: Key, known: dict[int, tuple[str, int]], now_us: int) -> None:
        """An exclusive task is given another try: the ones before it are over, whatever was heard of them."""
        view = self._records.tasks.get(key[0])
        if view is None or not view.spec.exclusive:
            return
        for number, (_, state) in known.items():
            before = key[0], number
            if state in (LOST, FENCED) and before not in self._gone:
                over_us = self._lease_over_us(before)
                story = "exclusive attempt {}/{} is made {} s before the lease of {} is over"
                self._marks.demand("I13", now_us >= over_us, story, *key, (over_us - now_us) / 1e6, number)

    def run_ended(self, key: Key, now_us: int) -> None:
        """User code of an exclusive attempt is over: was it in time for those who rely on its lease?"""
        if key not in self._offered_to:
            return  # forgotten with an old backup, and found again where it ran
        over_us = self._lease_over_us(key)
        story = "exclusive attempt {}/{} ran on for {} s after its lease"
        self._marks.demand("I13", now_us <= over_us, story, *key, (now_us - over_us) / 1e6)

    def _lease_over_us(self, key: Key) -> int:
        last_us = self._lease_us.get(self._offered_to.get(key, ""), 0)
        return self._over_us.get(key, last_us + LEASE_OVER_US)

    def _judge_offers(self, effects: Any, told: set[Key], now_us: int) -> None:
        for send in effects.sends:
            if isinstance(send, sent.PushAssign):
                self._offers[send.task_id, send.attempt] = send.agent_id, send.epoch, now_us
        self._answered(told)
        for key, (agent_id, epoch, offered_us) in list(self._offers.items()):
            if now_us < offered_us + ACCEPT_WITHIN_US:
                return
            is_there = self._sessions.current.get(agent_id) == epoch
            story = "the offer of {} to {} is {} s old, and nobody asks for it back"
            self._marks.demand("I2", not is_there, story, key, agent_id, (now_us - offered_us) / 1e6)
            del self._offers[key]

    def _judge_silence(self, now_us: int) -> None:
        for agent_id, epoch in self._sessions.current.items():
            if epoch:
                silent_us = now_us - self._sessions.contact_us[agent_id]
                story = "agent {} is silent for {} s and not suspect"
                self._marks.demand("online", silent_us < SUSPECT_AFTER_US, story, agent_id, silent_us / 1e6)
