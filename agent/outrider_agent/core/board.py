"""Which attempts the agent holds, which worker has them, and who runs next.

Owns the states of attempts on this agent (accepted -> started <-> blocked -> closed), the slots and the queue. It must
not know processes, sockets, clocks or the wire: facts come in as method calls with the time as an argument, and
`Board.plan` returns what to do about them. Times are microseconds of the machine's boot clock.

A worker that has unfinished attempts uses one slot: the first of its queue runs (or is about to), the others are short
functions sent ahead, so that it never idles. A *parked* attempt is blocked and has given its slot back; its worker
stays with it.

Invariants (`check`): slots in use are never above capacity, except by parked attempts that stopped waiting by
themselves; an attempt stands in exactly one place; parked attempts are at most ``parked_max``; nobody waits in a slot
when it could be parked, or while somebody parked was answered; whoever was answered gets the next free slot before
anything new starts; new starts are first in, first out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum

#: A head that runs longer than this is not short: what waits behind it goes to other workers.
SHORT_US = 100_000


class State(IntEnum):
    """Where an attempt is; the numbers are those of the wire's AttemptState."""

    ACCEPTED = 2
    STARTED = 3
    BLOCKED = 4
    CLOSED = 5


class Unstarted(Enum):
    """What becomes of an attempt that a worker gives back unstarted."""

    REQUEUE = "start it elsewhere"
    REVOKE = "hand it back to the coordinator"
    CANCEL = "report that it was cancelled"
    DROP = "forget it"


class Admission(Enum):
    """What the agent says to an assignment; the value is the refusal's text."""

    ACCEPTED = "accepted"
    DUPLICATE = "already held"
    DRAINING = "draining"
    NO_FREE_SLOT = "no free slot"
    OTHER_FENCE = "held under another fence"


#: Looked up once: to ask an enumeration for a member takes longer than to compare two.
_ACCEPTED, _STARTED, _CLOSED, _ADMITTED = State.ACCEPTED, State.STARTED, State.CLOSED, Admission.ACCEPTED


@dataclass(frozen=True, slots=True)
class Limits:
    """Attempts at once, short functions beyond them, parked attempts, and unfinished attempts in one worker."""

    slots: int
    prefetch_credit: int = 256
    parked_max: int = 32
    worker_queue_max: int = 32
    workers_min: int = 1


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt the agent holds. ``worker_id`` 0 means that it waits in the keeper."""

    key: int
    task_id: str
    number: int
    fence: int
    is_prefetched: bool = False
    is_command: bool = False
    state: State = State.ACCEPTED
    worker_id: int = 0
    is_parked: bool = False
    unstarted: Unstarted = Unstarted.REQUEUE
    waits: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Worker:
    """One worker as the board sees it: its unfinished attempts in order, the first one running."""

    worker_id: int
    queue: deque[int] = field(default_factory=deque)
    head_since_us: int = 0
    recalls: int = 0
    is_leaving: bool = False


@dataclass(slots=True)
class Plan:
    """Orders to carry out in this order."""

    resume: list[int] = field(default_factory=list)
    recall: list[tuple[int, list[int]]] = field(default_factory=list)
    start: list[tuple[int, list[int]]] = field(default_factory=list)
    workers_wanted: int = 0


@dataclass(slots=True)
class Returned:
    """Attempts that came back unstarted and do not go to another worker, with what becomes of them."""

    fates: list[tuple[int, Unstarted]] = field(default_factory=list)


class Board:
    """The agent's attempts and workers; every method changes state at once and does nothing else."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.is_draining = False
        self.attempts: dict[int, Attempt] = {}
        self.workers: dict[int, Worker] = {}
        self.parked = 0
        self.unfinished = 0
        self._capacity = limits.slots + limits.prefetch_credit
        self._by_ref: dict[tuple[str, int], int] = {}
        self._waiting: deque[int] = deque()
        self._resuming: deque[int] = deque()
        #: Blocked attempts that could not be parked and wait in their slots.
        self._standing: dict[int, None] = {}

    # --- questions ---------------------------------------------------------------------------------------------

    @property
    def slots_used(self) -> int:
        """Workers with unfinished attempts whose running one is not parked."""
        used = 0
        for worker in self.workers.values():
            used += bool(worker.queue) and not self.attempts[worker.queue[0]].is_parked
        return used

    @property
    def waiting_count(self) -> int:
        """Accepted attempts that no worker has."""
        return len(self._waiting)

    def find(self, task_id: str, number: int, fence: int) -> Attempt | None:
        """The attempt with this reference, or None when it is not held under this fence."""
        attempt = self.attempts.get(self._by_ref.get((task_id, number), 0))
        return attempt if attempt is not None and attempt.fence == fence else None

    def live(self) -> Iterator[Attempt]:
        """Attempts that are not closed, oldest first."""
        return (attempt for attempt in self.attempts.values() if attempt.state is not _CLOSED)

    # --- attempts ----------------------------------------------------------------------------------------------

    def admit(self, attempt: Attempt, *, is_held: bool = False) -> Admission:
        """Take an attempt in and queue it, or say why not; ``key`` must be new. A held one waits for `release`."""
        key, ref = attempt.key, (attempt.task_id, attempt.number)
        held_key = self._by_ref.get(ref)
        if held_key is not None:
            is_same = self.attempts[held_key].fence == attempt.fence
            return Admission.DUPLICATE if is_same else Admission.OTHER_FENCE
        if self.is_draining:
            return Admission.DRAINING
        if self.unfinished - self.parked >= self._capacity:
            return Admission.NO_FREE_SLOT
        self.attempts[key] = attempt
        self._by_ref[ref] = key
        if not is_held:
            self._waiting.append(key)
        self.unfinished += 1
        return _ADMITTED

    def release(self, key: int) -> None:
        """A held attempt may start, unless it was withdrawn meanwhile."""
        attempt = self.attempts.get(key)
        if attempt is not None and attempt.state is _ACCEPTED and not attempt.worker_id:
            self._waiting.append(key)

    def started(self, key: int, now_us: int) -> None:
        """User code of an attempt began."""
        attempt = self.attempts[key]
        if attempt.state is _ACCEPTED:
            attempt.state = _STARTED
            self.workers[attempt.worker_id].head_since_us = now_us

    def blocked(self, key: int, wait_key: str) -> None:
        """An attempt stopped for a wait: it is parked when there is room for it."""
        attempt = self.attempts[key]
        attempt.state = State.BLOCKED
        attempt.waits |= {wait_key}
        self._park(attempt)

    def answered(self, key: int) -> bool:
        """A wait of the attempt was resolved. True: pass it on now; False: `Plan.resume` will name the attempt."""
        if not self.attempts[key].is_parked:
            self._standing.pop(key, None)
            return True
        if key not in self._resuming:
            self._resuming.append(key)
        return False

    def unblocked(self, key: int, wait_key: str) -> None:
        """A wait has ended in the worker. With other waits open the attempt gives its slot back again."""
        attempt = self.attempts[key]
        attempt.waits -= {wait_key}
        if attempt.waits:
            self._park(attempt)
            return
        self._standing.pop(key, None)
        self._unpark(attempt)
        attempt.state = State.STARTED

    def closed(self, key: int, now_us: int) -> None:
        """The attempt has its outcome; it is held until `acknowledged`."""
        attempt = self.attempts[key]
        if attempt.state is not _CLOSED:
            self._close(attempt, now_us)

    def acknowledged(self, key: int, now_us: int) -> None:
        """The outcome is durable on the coordinator, or nobody wants it: forget the attempt."""
        attempt = self.attempts.pop(key)
        if attempt.state is not _CLOSED:
            self._close(attempt, now_us)
        del self._by_ref[attempt.task_id, attempt.number]

    def withdraw(self, key: int, fate: Unstarted) -> bool:
        """Stop an unstarted attempt from starting. True: it was not handed to a worker and is out of the queue now.

        False: a worker has it; it must be recalled, and `recalled` gives the fate back if it had not started.
        """
        attempt = self.attempts[key]
        attempt.unstarted = fate
        if attempt.worker_id:
            return False
        if key in self._waiting:
            self._waiting.remove(key)
        return True

    # --- workers -----------------------------------------------------------------------------------------------

    def worker_ready(self, worker_id: int) -> None:
        """A worker takes work."""
        self.workers[worker_id] = Worker(worker_id)

    def worker_leaves(self, worker_id: int) -> None:
        """Give a worker no more work than it has."""
        self.workers[worker_id].is_leaving = True

    def recalling(self, worker_id: int) -> None:
        """A recall is on its way to the worker; it gets nothing new before it has answered."""
        self.workers[worker_id].recalls += 1

    def recalled(self, worker_id: int, keys: Iterable[int], now_us: int) -> Returned:
        """The worker gave these back unstarted."""
        worker = self.workers[worker_id]
        worker.recalls -= 1
        return self._returned([key for key in keys if key in worker.queue], now_us)

    def worker_gone(self, worker_id: int, running_key: int, now_us: int) -> tuple[list[int], Returned]:
        """The worker process ended while it ran ``running_key`` (0: none).

        Returns the keys of the attempts that had begun in it, which are still open, and those that came back.
        """
        worker = self.workers.pop(worker_id)
        victims = [key for key in worker.queue if key == running_key or self.attempts[key].state is not State.ACCEPTED]
        keys = [key for key in worker.queue if key not in victims]
        for key in victims:
            self._unpark(self.attempts[key])
            self._standing.pop(key, None)
            self.attempts[key].worker_id = 0
        return victims, self._returned(keys, now_us)

    # --- decisions ---------------------------------------------------------------------------------------------

    def plan(self, now_us: int) -> Plan:
        """Decide who goes on, who starts where and who comes back, and take these decisions as carried out."""
        plan = Plan()
        used = self.slots_used
        if self._standing or self._resuming:
            used = self._resume(plan, used)
        self._recall_behind_slow(plan, now_us)
        if self._waiting:
            used = self._start_on_idle(plan, used, now_us)
            self._send_ahead(plan, now_us)
        wanted = 0
        for worker in self.workers.values():
            wanted += bool(worker.queue)
        if self._waiting:
            wanted += max(0, min(self.limits.slots - used, len(self._waiting)))
        plan.workers_wanted = min(max(self.limits.workers_min, wanted), self.limits.slots + self.limits.parked_max)
        return plan

    def _resume(self, plan: Plan, used: int) -> int:
        """Let answered attempts go on; those that wait in their slots are parked, or change places with them."""
        while True:
            while self._standing and self.parked < self.limits.parked_max:
                self._park_first()
                used -= 1
            if not self._resuming or (used >= self.limits.slots and not self._standing):
                return used
            key = self._resuming.popleft()
            self._unpark(self.attempts[key])
            plan.resume.append(key)
            used += 1

    def _park_first(self) -> None:
        """One rule for the agent and the coordinator: the lowest task id first."""
        key = min(self._standing, key=lambda key: (self.attempts[key].task_id, self.attempts[key].number))
        self._park(self.attempts[key])

    def _recall_behind_slow(self, plan: Plan, now_us: int) -> None:
        for worker in self.workers.values():
            if len(worker.queue) > 1 and not worker.recalls and self._is_slow(worker, now_us):
                worker.recalls += 1
                plan.recall.append((worker.worker_id, list(worker.queue)[1:]))

    def _start_on_idle(self, plan: Plan, used: int, now_us: int) -> int:
        # An answered attempt that found no slot keeps new ones out.
        if self._resuming:
            return used
        for worker in self.workers.values():
            if not self._waiting or used >= self.limits.slots:
                break
            if not worker.queue and not worker.recalls and not worker.is_leaving:
                worker.head_since_us = now_us
                plan.start.append((worker.worker_id, [self._give(worker)]))
                used += 1
        return used

    def _send_ahead(self, plan: Plan, now_us: int) -> None:
        """Fill workers up evenly with short functions, a good handful at a time."""
        if not self._waiting or self._resuming or self.is_draining:
            return
        takers = [worker for worker in self.workers.values() if self._takes_ahead(worker, now_us)]
        share = -(-len(self._waiting) // len(takers)) if takers else 0
        for worker in takers:
            room = min(share, self.limits.worker_queue_max - len(worker.queue))
            keys: list[int] = []
            while len(keys) < room and self._waiting and self.attempts[self._waiting[0]].is_prefetched:
                keys.append(self._give(worker))
            if keys:
                plan.start.append((worker.worker_id, keys))

    def _takes_ahead(self, worker: Worker, now_us: int) -> bool:
        if (
            not worker.queue
            or worker.is_leaving
            or worker.recalls
            or len(worker.queue) * 2 > self.limits.worker_queue_max
        ):
            return False
        return not self.attempts[worker.queue[0]].is_command and not self._is_slow(worker, now_us)

    def _is_slow(self, worker: Worker, now_us: int) -> bool:
        head = self.attempts[worker.queue[0]]
        return head.state is State.BLOCKED or now_us - worker.head_since_us > SHORT_US

    # --- places ------------------------------------------------------------------------------------------------

    def _give(self, worker: Worker) -> int:
        key = self._waiting.popleft()
        worker.queue.append(key)
        self.attempts[key].worker_id = worker.worker_id
        return key

    def _returned(self, keys: list[int], now_us: int) -> Returned:
        returned = Returned()
        for key in reversed(keys):
            attempt = self.attempts[key]
            self._leave_place(attempt, now_us)
            if attempt.unstarted is Unstarted.REQUEUE:
                self._waiting.appendleft(key)
            else:
                returned.fates.append((key, attempt.unstarted))
        returned.fates.reverse()
        return returned

    def _close(self, attempt: Attempt, now_us: int) -> None:
        self._leave_place(attempt, now_us)
        attempt.state = _CLOSED
        self.unfinished -= 1

    def _leave_place(self, attempt: Attempt, now_us: int) -> None:
        if attempt.is_parked:
            self._unpark(attempt)
        self._standing.pop(attempt.key, None)
        worker = self.workers.get(attempt.worker_id)
        if worker is not None and worker.queue[0] == attempt.key:
            worker.queue.popleft()
            worker.head_since_us = now_us
        elif worker is not None:
            worker.queue.remove(attempt.key)
        elif attempt.key in self._waiting:
            self._waiting.remove(attempt.key)
        attempt.worker_id = 0

    def _park(self, attempt: Attempt) -> None:
        if attempt.is_parked:
            return
        if self.parked < self.limits.parked_max:
            attempt.is_parked = True
            self.parked += 1
            self._standing.pop(attempt.key, None)
        else:
            self._standing[attempt.key] = None

    def _unpark(self, attempt: Attempt) -> None:
        if attempt.is_parked:
            attempt.is_parked = False
            self.parked -= 1
            if attempt.key in self._resuming:
                self._resuming.remove(attempt.key)

    def check(self) -> None:
        """Assert the invariants of this module that hold after every method."""
        placed = list(self._waiting) + [key for worker in self.workers.values() for key in worker.queue]
        open_keys = [attempt.key for attempt in self.live()]
        assert len(placed) == len(set(placed)), "an attempt stands in two places"
        assert set(placed) <= set(open_keys), "a closed attempt still has a place"
        assert self.unfinished == len(open_keys), "the count of unfinished attempts is off"
        assert self.parked == sum(attempt.is_parked for attempt in self.live()) <= self.limits.parked_max
        assert all(self.attempts[key].is_parked for key in self._resuming)
        assert all(self._stands(self.attempts[key]) for key in self._standing)
        assert all(len(worker.queue) <= self.limits.worker_queue_max for worker in self.workers.values())

    def _stands(self, attempt: Attempt) -> bool:
        return attempt.state is State.BLOCKED and not attempt.is_parked and attempt.worker_id > 0
