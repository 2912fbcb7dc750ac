"""The board under random facts: workers that start, block, end and die whenever they like."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider_agent.core.board import Admission, Attempt, Board, Limits, State, Unstarted


class BoardWalk(RuleBasedStateMachine):
    """Model workers do what the board says; the model keeps what each of them really has."""

    @initialize(slots=st.integers(1, 3), credit=st.integers(0, 6), parked_max=st.integers(0, 2))
    def begin(self, slots: int, credit: int, parked_max: int) -> None:
        """An agent with some slots, and as many workers."""
        self.board = Board(Limits(slots, credit, parked_max, 4, 1))
        self.now_us = 0
        self.workers: dict[int, deque[int]] = {}
        self.recalls: dict[int, deque[list[int]]] = {}
        self.started: set[int] = set()
        self.resumable: set[int] = set()
        self.answered: set[int] = set()
        self.next_key = self.next_worker = 1
        self.gave_up_waiting = False
        for _ in range(slots):
            self.add_worker()

    @rule()
    def add_worker(self) -> None:
        """A worker process becomes ready."""
        if len(self.workers) < self.board.limits.slots + self.board.limits.parked_max:
            self.workers[self.next_worker] = deque()
            self.recalls[self.next_worker] = deque()
            self.board.worker_ready(self.next_worker)
            self.next_worker += 1

    @rule(is_short=st.booleans(), is_command=st.booleans())
    def admit(self, is_short: bool, is_command: bool) -> None:
        """An assignment arrives."""
        attempt = Attempt(self.next_key, f"t{self.next_key}", 1, 1, is_short and not is_command, is_command)
        before = self.board.unfinished - self.board.parked
        answer = self.board.admit(attempt)
        room = self.board.limits.slots + self.board.limits.prefetch_credit
        assert (answer is Admission.ACCEPTED) == (before < room)
        self.next_key += 1

    @rule(pass_us=st.sampled_from([0, 1_000, 200_000]))
    def plan(self, pass_us: int) -> None:
        """Time passes and the decisions are carried out."""
        self.now_us += pass_us
        plan = self.board.plan(self.now_us)
        for key in plan.resume:
            self.answered.discard(key)
            self.resumable.add(key)
        for worker_id, keys in plan.recall:
            self.recalls[worker_id].append(keys)
        for worker_id, keys in plan.start:
            assert not self.recalls[worker_id], "new work for a worker with a recall on its way"
            self.workers[worker_id].extend(keys)
        # What was answered and found no slot keeps new starts out.
        idle = [one for one in self.workers if not self.workers[one] and not self.recalls[one]]
        if idle and self.board.waiting_count and self.board.slots_used < self.board.limits.slots:
            assert self.answered

    @rule(data=st.data())
    def head_starts(self, data: st.DataObject) -> None:
        """A worker begins the next attempt of its queue."""
        heads = [queue[0] for queue in self.workers.values() if queue and queue[0] not in self.started]
        if heads:
            key = data.draw(st.sampled_from(heads))
            assert key not in self.started
            self.started.add(key)
            self.board.started(key, self.now_us)

    @rule(data=st.data())
    def head_ends(self, data: st.DataObject) -> None:
        """A running attempt ends; the coordinator acknowledges it."""
        running = self.running()
        if running:
            key = data.draw(st.sampled_from(running))
            self.owner(key).popleft()
            self.board.closed(key, self.now_us)
            self.forget(key)
            self.board.acknowledged(key, self.now_us)

    @rule(data=st.data(), wait=st.sampled_from("ab"))
    def head_blocks(self, data: st.DataObject, wait: str) -> None:
        """A running attempt waits for something."""
        running = [key for key in self.running() if key not in self.answered]
        if running:
            self.board.blocked(data.draw(st.sampled_from(running)), wait)

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """A blocked attempt is answered."""
        blocked = [key for key in self.started if self.board.attempts[key].waits]
        if blocked:
            key = data.draw(st.sampled_from(sorted(blocked)))
            if self.board.answered(key):
                self.resumable.add(key)
            else:
                self.answered.add(key)

    @rule(data=st.data())
    def unblock(self, data: st.DataObject) -> None:
        """An attempt that was told so goes on."""
        ready = sorted(key for key in self.resumable if self.board.attempts[key].waits)
        if ready:
            key = data.draw(st.sampled_from(ready))
            was_parked = self.board.attempts[key].is_parked
            self.board.unblocked(key, min(self.board.attempts[key].waits))
            # One of several waits parks it again; leaving that park on an old answer is a wake-up by itself.
            waits = self.board.attempts[key].waits
            self.gave_up_waiting |= was_parked and not waits
            if not waits:
                self.resumable.discard(key)
                self.answered.discard(key)

    @rule(data=st.data())
    def answer_recall(self, data: st.DataObject) -> None:
        """A worker gives back what it has not begun."""
        asked = sorted(worker_id for worker_id, recalls in self.recalls.items() if recalls)
        if asked:
            worker_id = data.draw(st.sampled_from(asked))
            wanted = self.recalls[worker_id].popleft()
            back = [key for key in self.workers[worker_id] if key in wanted and key not in self.started]
            for key in back:
                self.workers[worker_id].remove(key)
            self.fates(self.board.recalled(worker_id, back, self.now_us).fates)

    @rule(data=st.data(), fate=st.sampled_from([Unstarted.REVOKE, Unstarted.CANCEL, Unstarted.DROP]))
    def withdraw(self, data: st.DataObject, fate: Unstarted) -> None:
        """The coordinator wants an unstarted attempt back, or dead."""
        fresh = [one.key for one in self.board.live() if one.state is State.ACCEPTED]
        if fresh:
            key = data.draw(st.sampled_from(fresh))
            worker_id = self.board.attempts[key].worker_id
            if self.board.withdraw(key, fate):
                self.fates([(key, fate)])
            else:
                self.board.recalling(worker_id)
                self.recalls[worker_id].append([key])

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        """A worker process ends, whatever it was doing."""
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        queue = self.workers.pop(worker_id)
        del self.recalls[worker_id]
        running = next((key for key in queue if key in self.started), 0)
        victims, returned = self.board.worker_gone(worker_id, running, self.now_us)
        assert victims == [key for key in queue if key in self.started]
        for key in victims:
            self.board.closed(key, self.now_us)
            self.forget(key)
            self.board.acknowledged(key, self.now_us)
        self.fates(returned.fates)

    @invariant()
    def holds(self) -> None:
        """The board's own invariants, and that it knows what the workers really have."""
        if not hasattr(self, "board"):
            return
        self.board.check()
        assert {one: list(queue) for one, queue in self.workers.items()} == {
            one: list(worker.queue) for one, worker in self.board.workers.items()
        }
        if not self.gave_up_waiting:
            assert self.board.slots_used <= self.board.limits.slots

    def running(self) -> list[int]:
        return [queue[0] for queue in self.workers.values() if queue and queue[0] in self.started]

    def owner(self, key: int) -> deque[int]:
        return next(queue for queue in self.workers.values() if queue and queue[0] == key)

    def forget(self, key: int) -> None:
        for keys in (self.started, self.resumable, self.answered):
            keys.discard(key)

    def fates(self, fates: list[tuple[int, Unstarted]]) -> None:
        for key, _ in fates:
            assert key not in self.started
            self.board.acknowledged(key, self.now_us)


BoardWalk.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
test_the_board_holds_its_invariants = BoardWalk.TestCase
