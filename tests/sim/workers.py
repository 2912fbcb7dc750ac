"""Workers of an agent: model processes that carry out scripts, and the hand that kills them.

A `ModelPool` stands where `pool.Pool` does, a `ModelExecutioner` where `executioner.Executioner` does. A task's script
travels in its arguments, one list of steps per attempt: what it does is decided by its submitter, as in life. Every
stretch of user code is told to the witness as a run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from outrider.worker import messages
from outrider.worker.lease_watch import SLACK_US
from outrider_agent.assignment import Dossier
from sim.kernel import Kernel
from sim.observer import Run, Witness

TASK_ERROR, DEADLOCK, LEASE_EXPIRED = 1, 23, 24
SPAWN_US = (20_000, 200_000)
SPEAK_US = (100, 1_500)
RESPAWN_US = 200_000
#: The watch of a real worker looks so often.
LOOK_US = 100_000
STOP_US = (1_000, 50_000)


class ModelWorker:
    """One worker process: attempts one after the other, each by its script."""

    def __init__(self, pool: ModelPool, worker_id: int, pid: int) -> None:
        self.worker_id = worker_id
        self.pid = pid
        self.is_ready = self.is_leaving = self.is_dead = False
        self.tasks_done = 0
        self.idle_since_us = 0
        self.last_error = ""
        self.outgoing: list[messages.ToWorker] = []
        #: When the last of what was sent arrives: a socket keeps its order.
        self.told_us = 0
        self.running_key = 0
        self._pool = pool
        self._queue: deque[messages.Run] = deque()
        self._run: Run | None = None
        self._steps: deque[list[Any]] = deque()
        self._waits_for = ""
        self._step = 0
        self._ignores_stop = self._fails_if_refused = False
        self._padding = 0
        self._spoken_us = 0

    # --- what the keeper says --------------------------------------------------------------------------------------

    def heard(self, said: list[messages.ToWorker]) -> None:
        """Messages of the keeper, in order."""
        if self.is_dead:
            return
        for message in said:
            if isinstance(message, messages.Run):
                self._queue.append(message)
            elif isinstance(message, messages.Recall):
                self._recall(message.keys)
            elif isinstance(message, messages.Stop):
                self._stop(message.key)
            elif isinstance(message, messages.Resolve):
                self._resolve(message)
        self._next()

    def _recall(self, keys: list[int]) -> None:
        given = [run.key for run in self._queue if run.key in keys]
        self._queue = deque(run for run in self._queue if run.key not in keys)
        self._say(messages.Recalled(given))

    def _stop(self, key: int) -> None:
        if key == self.running_key and not self._ignores_stop:
            self._step += 1
            self._pool.kernel.after(self._pool.random.randrange(*STOP_US), self._obey, key, self._step)

    def _obey(self, key: int, step: int) -> None:
        if not self.is_dead and key == self.running_key and step == self._step:
            self._end(self._failed("stopped", recoverable=False))

    def _resolve(self, message: messages.Resolve) -> None:
        if message.key != self.running_key or message.wait_key != self._waits_for:
            return
        if message.error_reason == DEADLOCK:
            self._pool.witness.marks.saw("saw:deadlock told")
        if message.error_reason and self._fails_if_refused:
            self._end(self._failed(message.error_message, recoverable=True))
        else:
            self._unblock()

    def _unblock(self) -> None:
        if self._run is not None:
            self._run.is_waiting = False
        self._say(messages.Unblocked(self.running_key, self._pool.wall_ns(), self._waits_for))
        self._waits_for = ""
        self._go_on()

    # --- running ---------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Start what is first in line; the running page says so before any user code."""
        if self.running_key or self.is_dead:
            return
        if not self._queue:
            if self.is_leaving:
                self.die("exited with code 0")
            return
        run = self._queue.popleft()
        self.running_key = run.key
        if run.is_exclusive:
            if self._pool.lease_left_us() <= 0:
                self._end(self._failed("too late", recoverable=True, reason=LEASE_EXPIRED))
                return
            self._watch_lease(run.key)
        script = _script(run)
        self._steps = deque(script["steps"])
        self._ignores_stop, self._padding = bool(script.get("deaf")), 0
        pool = self._pool
        self._run = pool.witness.run_began(run.task_id, run.attempt, pool.fence(run.key), pool.agent)
        child_pid = self.pid + 1 if isinstance(run.work, messages.CommandWork) else 0
        self._say(messages.Started(run.key, pool.wall_ns(), child_pid))
        self._go_on()

    def _watch_lease(self, key: int) -> None:
        """A watch of its own: what the keeper does not end in time, because it is stopped, ends itself."""
        if self.is_dead or key != self.running_key:
            return
        left_us = self._pool.lease_left_us() + SLACK_US
        if left_us <= 0:
            self._pool.witness.marks.saw("saw:worker ended by its lease")
            self.die("exited with code 82", by_lease=True)
        else:
            self._pool.kernel.after(left_us + LOOK_US, self._watch_lease, key)

    def _go_on(self) -> None:
        self._step += 1
        while self._steps:
            kind, *arguments = self._steps.popleft()
            if getattr(self, f"_do_{kind}")(*arguments):
                return
        run = self._run
        assert run is not None
        by = [run.task_id, run.attempt, run.agent, run.number]
        text = msgspec.json.encode({"by": by, "padding": "x" * self._padding} if self._padding else {"by": by})
        self._end(messages.Completed(self.running_key, self._pool.wall_ns(), text))

    def _do_run(self, duration_us: int) -> bool:
        """User code works for so long."""
        self._pool.kernel.after(duration_us, self._worked, self.running_key, self._step)
        return True

    def _worked(self, key: int, step: int) -> None:
        if not self.is_dead and key == self.running_key and step == self._step:
            self._go_on()

    def _do_progress(self, completed: float) -> bool:
        self._say(messages.Progress(self.running_key, self._pool.wall_ns(), completed, 1.0, "on it"))
        return False

    def _do_log(self, text: str) -> bool:
        self._say(messages.LogOutput(self.running_key, self._pool.wall_ns(), 1, text.encode()))
        return False

    def _do_block(self, kind: str, wait_key: str, patience_us: int, facts: dict[str, Any]) -> bool:
        """Wait for a resolution, and give up waiting by itself after ``patience_us`` (0: never)."""
        fields = dict(facts)
        self._fails_if_refused = bool(fields.pop("fails_if_refused", False))
        if "retry_after_us" in fields:
            fields["retry_time_ns"] = self._pool.wall_ns() + fields.pop("retry_after_us") * 1000
        pool = self._pool
        self._say(messages.Blocked(self.running_key, pool.wall_ns(), wait_key, kind, **fields))
        if fields.get("keeps_running"):
            return False
        self._waits_for = wait_key
        if self._run is not None:
            self._run.is_waiting = True
        if patience_us:
            pool.kernel.after(patience_us, self._give_up, self.running_key, self._step)
        return True

    def _give_up(self, key: int, step: int) -> None:
        if not self.is_dead and key == self.running_key and step == self._step and self._waits_for:
            if self._run is not None:
                self._run.is_apart = True
            self._unblock()

    def _do_fat(self, size: int) -> bool:
        """What it returns is large."""
        self._padding = size
        return False

    def _do_block_many(self, count: int) -> bool:
        """Ask so many things at once, and go on meanwhile."""
        for number in range(count):
            key = f"many-{number}"
            now_ns = self._pool.wall_ns()
            self._say(
                messages.Blocked(self.running_key, now_ns, key, "clarification", question="?", keeps_running=True)
            )
        return False

    def _do_fail(self, text: str, recoverable: bool) -> bool:
        self._end(self._failed(text, recoverable=recoverable))
        return True

    def _do_crash(self) -> bool:
        self.die("was killed by SIGSEGV")
        return True

    def _failed(self, text: str, *, recoverable: bool, reason: int = TASK_ERROR) -> messages.Failed:
        return messages.Failed(self.running_key, self._pool.wall_ns(), reason, text, recoverable)

    def _end(self, last_word: messages.FromWorker) -> None:
        self._step += 1
        self._say(last_word)
        self._stop_running()
        self._next()

    def _stop_running(self) -> None:
        if self._run is not None:
            self._pool.witness.run_ended(self._run)
        self._run, self.running_key, self._waits_for = None, 0, ""

    # --- speaking and dying ----------------------------------------------------------------------------------------

    def _say(self, message: messages.FromWorker) -> None:
        kernel = self._pool.kernel
        self._spoken_us = max(self._spoken_us, kernel.now_us + self._pool.random.randrange(*SPEAK_US))
        kernel.at(self._spoken_us, self._pool.heard, self, message)

    def kill(self) -> None:
        """SIGKILL."""
        self.die("was killed by SIGKILL")

    def die(self, how: str, *, by_lease: bool = False) -> None:
        """The process ends; the keeper hears what it had said, and then that."""
        if self.is_dead:
            return
        self.is_dead = True
        key = self.running_key
        self._stop_running()
        heard_us = max(self._spoken_us, self._pool.kernel.now_us + 200)
        self._pool.kernel.at(heard_us, self._pool.gone, self, key, how, by_lease)


class ModelPool:
    """All workers of one keeper; the runner's side is that of `pool.Pool`."""

    def __init__(
        self,
        kernel: Kernel,
        witness: Witness,
        agent: str,
        incarnation: int,
        wall_ns: Callable[[], int],
        boot_us: Callable[[], int],
        act: Callable[..., None],
    ) -> None:
        self.workers: dict[int, ModelWorker] = {}
        self.kernel = kernel
        self.witness = witness
        self.agent = agent
        self.incarnation = incarnation
        self.wall_ns = wall_ns
        self._boot_us = boot_us
        self._lease_end_us = 0
        self.random = kernel.stream(f"workers/{agent}")
        self.listener: Any = None
        self.is_closed = False
        self.unborn_chance = 0.0
        self.is_hushed = False
        self._act = act
        self._last_id = 0
        self._unflushed: dict[int, None] = {}
        self._not_before_us = 0
        self._asked_us = 0

    @property
    def pids(self) -> set[int]:
        """Process ids of all workers."""
        return {worker.pid for worker in self.workers.values()}

    def fence(self, key: int) -> int:
        """The fence under which an attempt was handed out; 0 when the keeper has forgotten it."""
        attempt = self.listener.board.attempts.get(key)
        return attempt.fence if attempt is not None else 0

    def ensure(self, count: int, now_us: int) -> None:
        """Start workers until ``count`` are there or on their way."""
        self._asked_us = now_us
        staying = sum(1 for worker in self.workers.values() if not worker.is_leaving)
        while not self.is_closed and now_us >= self._not_before_us and staying < count:
            staying += 1
            self._last_id += 1
            worker = ModelWorker(self, self._last_id, 1000 * self.incarnation + 2 * self._last_id)
            self.workers[worker.worker_id] = worker
            self.kernel.after(self.random.randrange(*SPAWN_US), self._born, worker)

    def send(self, worker_id: int, *said: messages.ToWorker) -> None:
        """Queue messages; they leave with the next `flush`."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.outgoing += said
            self._unflushed[worker_id] = None

    def flush(self) -> None:
        """Send what is queued."""
        unflushed, self._unflushed = self._unflushed, {}
        for worker_id in unflushed:
            worker = self.workers.get(worker_id)
            if worker is not None and worker.outgoing:
                outgoing, worker.outgoing = worker.outgoing, []
                worker.told_us = max(worker.told_us, self.kernel.now_us + self.random.randrange(*SPEAK_US))
                self.kernel.at(worker.told_us, worker.heard, outgoing)

    def publish_lease(self, end_us: int) -> None:
        """The page that every worker sees, whatever became of the keeper."""
        self._lease_end_us = end_us

    def lease_left_us(self) -> int:
        """How long exclusive attempts may still run, by the machine's clock."""
        return self._lease_end_us - self._boot_us()

    def dismiss(self, worker_id: int) -> None:
        """Let a worker go once it has ended what it runs."""
        self.workers[worker_id].is_leaving = True
        self.send(worker_id, messages.Leave())

    def hush(self, *, is_quiet: bool) -> None:
        """Model disks take everything in time."""

    def kill_all(self) -> None:
        """SIGKILL every worker and start no more."""
        self.is_closed = True
        for worker in list(self.workers.values()):
            worker.kill()

    def heard(self, worker: ModelWorker, message: messages.FromWorker) -> None:
        """What a worker said has arrived; the keeper reads it when it can."""
        self._act(self._heard, worker, message)

    def gone(self, worker: ModelWorker, running_key: int, how: str, by_lease: bool) -> None:
        """A worker is dead; the keeper finds out when it can."""
        self._act(self._gone, worker, running_key, how, by_lease)

    def _heard(self, worker: ModelWorker, message: messages.FromWorker) -> None:
        if not self.is_closed and worker.worker_id in self.workers:
            self.listener.worker_said(worker.worker_id, [message])

    def _gone(self, worker: ModelWorker, running_key: int, how: str, by_lease: bool) -> None:
        if not self.is_closed and self.workers.pop(worker.worker_id, None) is not None:
            if not worker.is_ready:
                self._not_before_us = self._asked_us + RESPAWN_US
            self.listener.worker_gone(worker.worker_id, running_key, how, by_lease=by_lease)

    def _born(self, worker: ModelWorker) -> None:
        if self.is_closed or worker.is_dead:
            return
        if self.random.random() < self.unborn_chance:
            worker.die("exited with code 1")
            return
        self._act(self._ready, worker)

    def _ready(self, worker: ModelWorker) -> None:
        if not self.is_closed and worker.worker_id in self.workers:
            worker.is_ready = True
            self.listener.worker_ready(worker.worker_id)


class ModelLadder:
    """An attempt is being killed; ``is_ended`` once the worker has said so or is dead."""

    is_ended = False


class ModelExecutioner:
    """Kills attempts as `executioner.Executioner`: asks, waits for the grace, then SIGKILL."""

    def __init__(self, kernel: Kernel, pool: ModelPool, runner: Any, grace_s: float, act: Callable[..., None]) -> None:
        self._kernel = kernel
        self._pool = pool
        self._runner = runner
        self._grace_s = grace_s
        self._act = act

    def attach(self, pool: Any, own_pids: Any) -> None:
        """Known already."""

    def kill(self, dossier: Dossier, verdict: messages.Failed, grace_s: float | None) -> bool:
        """Start the ladder; the first verdict counts."""
        worker = self._pool.workers.get(dossier.attempt.worker_id)
        if dossier.ladder is not None and grace_s is not None and worker is not None:
            self._kernel.after(int(grace_s * 1e6), self._out_of_patience, dossier, worker)
        if dossier.ladder is not None or dossier.is_cleaning:
            return False
        if worker is None:
            return False
        dossier.verdict = verdict
        dossier.ladder = ModelLadder()  # type: ignore[assignment]  # has what the keeper asks of one
        grace_s = self._grace_s if grace_s is None else grace_s
        self._runner._said_stop(dossier, grace_s)
        self._kernel.after(int(grace_s * 1e6), self._out_of_patience, dossier, worker)
        return True

    def is_clean(self, dossier: Dossier) -> bool:
        """The worker has said its last word: True when nothing is left."""
        if dossier.ladder is not None:
            self._ended(dossier)
            return False
        return not dossier.is_cleaning

    def clean(self, dossier: Dossier) -> None:
        """The attempt's worker is dead: SIGKILL what it left."""
        if dossier.ladder is not None:
            self._ended(dossier)
        elif not dossier.is_cleaning:
            dossier.is_cleaning = True
            self._kernel.after(self._pool.random.randrange(1_000, 20_000), self._gone, dossier)

    def _ended(self, dossier: Dossier) -> None:
        if not dossier.ladder.is_ended:  # type: ignore[union-attr]  # see kill
            dossier.ladder.is_ended = True  # type: ignore[union-attr]  # see kill
            self._kernel.after(self._pool.random.randrange(1_000, 20_000), self._gone, dossier)

    def _out_of_patience(self, dossier: Dossier, worker: ModelWorker) -> None:
        if not dossier.ladder.is_ended and not self._pool.is_closed:  # type: ignore[union-attr]  # see kill
            worker.kill()

    def _gone(self, dossier: Dossier) -> None:
        if not self._pool.is_closed:
            self._act(self._runner._ended_for_good, dossier)


def _script(run: messages.Run) -> dict[str, Any]:
    """What this attempt does: the last script goes for all later attempts."""
    if isinstance(run.work, messages.CommandWork):
        scripts = msgspec.json.decode(run.work.stdin)
    else:
        scripts = msgspec.json.decode(run.work.arguments)["args"]
    return scripts[min(run.attempt, len(scripts)) - 1]
