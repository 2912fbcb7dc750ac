"""When a short function's start travels with its end, and what sends it ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from outrider.v1 import agent_service_pb2, task_pb2
from outrider.v1.worker_message_pb2 import WorkerMessage
from outrider.worker import messages
from outrider_agent import clock, runner
from outrider_agent.assignment import Dossier, Origin
from outrider_agent.core.board import Attempt, Limits
from outrider_agent.outlet import Ref
from outrider_agent.policy.gate import open_gate
from outrider_agent.reporter import START_PATIENCE_US, Reporter

WORKER_ID, WORKER_PID = 1, 4711


class Heard:
    """Outlet and shelf: reads what it is given."""

    def __init__(self) -> None:
        self.messages: list[WorkerMessage] = []
        self.is_patient: list[bool] = []
        self.is_full, self.is_idle = False, False

    def accepted(self, attempts: Sequence[Attempt]) -> None:
        """Not looked at here."""

    def rejected(self, attempt: Ref, message: str) -> None:
        raise AssertionError(message)

    def revoked(self, attempt: Attempt) -> None:
        """Not looked at here."""

    def span(self, span: messages.Span) -> None:
        """Not looked at here."""

    @property
    def synced_seq(self) -> int:
        return len(self.messages)

    def append(self, key: int, payload: bytes, *, is_terminal: bool, is_patient: bool) -> int:
        read = WorkerMessage.FromString(payload)
        assert read.terminal is is_terminal
        assert read.number == len(self.messages) + 1
        self.messages.append(read)
        self.is_patient.append(is_patient)
        return len(self.messages)

    def kinds(self) -> list[str]:
        """What was heard; a message that takes the start along has a plus."""
        return ["+" * one.HasField("start") + str(one.WhichOneof("message")) for one in self.messages]


class StillPool:
    """A worker that says only what the test says; nothing is sent anywhere."""

    def __init__(self) -> None:
        worker = SimpleNamespace(worker_id=WORKER_ID, pid=WORKER_PID, tasks_done=0, idle_since_us=0, last_error="")
        self.workers = {WORKER_ID: worker}
        self.is_hushed = False

    def send(self, worker_id: int, *said: messages.ToWorker) -> None:
        """To nobody."""

    def ensure(self, count: int, now_us: int) -> None:
        """There are enough."""

    def flush(self) -> None:
        """Nothing to send."""


class Agent:
    """A runner with one worker that has one attempt, key 1, and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_us = 1_000_000
        self.timers: list[tuple[int, Callable[[], None]]] = []
        self.heard = Heard()
        monkeypatch.setattr(clock, "boot_us", lambda: self.now_us)
        reporter = Reporter(self.heard, self._later, lambda: None)
        origin = Origin("a", "i", "scratch")
        self.runner = runner.Runner(Limits(slots=1), origin, self.heard, reporter, lambda: None, 1.0, open_gate())
        self.runner.attach(StillPool(), lambda: set())  # type: ignore[arg-type]  # what the runner uses of a pool
        self.runner.worker_ready(WORKER_ID)

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now_us + int(delay_s * 1e6), callback))

    def begin(self, *, is_command: bool = False) -> None:
        """The attempt is assigned and starts."""
        spec = task_pb2.TaskSpec()
        if is_command:
            spec.command.argv.append("true")
        else:
            spec.function.function = "m:f"
        ref = agent_service_pb2.AttemptRef(task_id="t", attempt=1, fence=7)
        self.runner.assign([agent_service_pb2.Assignment(ref=ref, spec=spec)])
        self.runner.settle()
        self.say(messages.Started(1, 5_000_000_000))

    def say(self, *said: messages.FromWorker) -> None:
        """The worker says this."""
        self.runner.worker_said(WORKER_ID, list(said))
        self.runner.settle()

    def wait(self, wait_us: int) -> None:
        """Time passes."""
        self.now_us += wait_us
        due = [callback for due_us, callback in self.timers if due_us <= self.now_us]
        self.timers = [(due_us, callback) for due_us, callback in self.timers if due_us > self.now_us]
        for callback in due:
            callback()

    @property
    def dossier(self) -> Dossier:
        """What the keeper has on the attempt."""
        return self.runner.dossiers[1]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    """One attempt's agent."""
    return Agent(monkeypatch)


def completed() -> messages.Completed:
    return messages.Completed(1, 6_000_000_000, b"42")


def test_a_short_functions_start_travels_with_its_end(agent: Agent) -> None:
    """An end within the patience is the only report, number 1, and names the start's time and worker."""
    agent.begin()
    agent.wait(START_PATIENCE_US - 1)
    assert agent.heard.messages == []
    agent.say(completed())
    assert agent.heard.kinds() == ["+completed"]
    (message,) = agent.heard.messages
    assert message.start.event_time.ToNanoseconds() == 5_000_000_000
    assert message.event_time.ToNanoseconds() == 6_000_000_000
    assert message.start.started.worker_pid == WORKER_PID
    agent.wait(START_PATIENCE_US)
    assert agent.heard.kinds() == ["+completed"]


def test_a_failure_takes_the_start_along_too(agent: Agent) -> None:
    """A function that fails at once is one report."""
    agent.begin()
    agent.say(messages.Failed(1, 6, 3, "no", recoverable=False))
    assert agent.heard.kinds() == ["+failed"]


def test_the_start_goes_alone_when_patience_ends(agent: Agent) -> None:
    """After the patience the start is reported without waiting any longer, and the end does not repeat it."""
    agent.begin()
    agent.wait(START_PATIENCE_US)
    assert agent.heard.kinds() == ["started"]
    assert agent.heard.is_patient == [False]
    agent.say(completed())
    assert agent.heard.kinds() == ["started", "completed"]


def test_each_start_has_its_own_patience(agent: Agent) -> None:
    """A timer that was set for an earlier attempt does not cut the patience with a later one short."""
    agent.begin()
    agent.wait(START_PATIENCE_US - 1_000)
    agent.say(completed())
    agent.heard.messages.clear()
    ref = agent_service_pb2.AttemptRef(task_id="u", attempt=1, fence=7)
    spec = task_pb2.TaskSpec(title="next")
    spec.function.function = "m:f"
    agent.runner.assign([agent_service_pb2.Assignment(ref=ref, spec=spec)])
    agent.runner.settle()
    agent.say(messages.Started(2, 5_000_000_000))
    agent.wait(1_000)
    assert agent.heard.messages == []
    agent.wait(START_PATIENCE_US - 2_000)
    assert agent.heard.messages == []
    agent.wait(1_000)
    assert agent.heard.kinds() == ["started"]
    assert agent.timers == []


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (messages.LogOutput(1, 6, 1, b"text"), "log"),
        (messages.Blocked(1, 6, "q", "clarification", question="how many?"), "blocked"),
        (messages.Unblocked(1, 6, "q"), "unblocked"),
    ],
)
def test_whatever_is_said_first_sends_the_start_ahead(agent: Agent, message: messages.FromWorker, kind: str) -> None:
    """The start is reported before anything else of its attempt, and once."""
    agent.begin()
    agent.say(message)
    assert agent.heard.kinds() == ["started", kind]
    agent.say(completed())
    agent.wait(START_PATIENCE_US)
    assert agent.heard.kinds() == ["started", kind, "completed"]


def test_progress_sends_the_start_ahead(agent: Agent) -> None:
    """Progress follows the start, also progress that was held back until the end."""
    agent.begin()
    agent.say(messages.Progress(1, 6, 1.0, 2.0, "half"), completed())
    assert agent.heard.kinds() == ["started", "progress", "completed"]


def test_progress_that_the_outbox_takes_sends_the_start_ahead(agent: Agent) -> None:
    """With an idle outbox progress is reported at once, after the start."""
    agent.heard.is_idle = True
    agent.begin()
    agent.say(messages.Progress(1, 6, 1.0, 2.0, "half"))
    assert agent.heard.kinds() == ["started", "progress"]


def test_a_commands_start_does_not_wait(agent: Agent) -> None:
    """A command is never short: its start is reported when it is known."""
    agent.begin(is_command=True)
    assert agent.heard.kinds() == ["started"]


async def test_a_worker_that_dies_takes_no_start_with_it(agent: Agent) -> None:
    """The failure of an attempt whose worker died at once says when it had started."""
    agent.begin()
    agent.runner.worker_gone(WORKER_ID, 1, "was killed by SIGKILL")
    agent.runner._ended_for_good(agent.dossier)
    assert agent.heard.kinds() == ["+failed"]
    assert agent.heard.messages[0].failed.error.reason == task_pb2.TASK_REASON_WORKER_DIED


async def test_a_cancelled_attempt_says_that_it_had_started(agent: Agent) -> None:
    """Killed within the patience: the start goes when patience ends, for the kill may take long."""
    agent.begin()
    agent.runner.cancel([("t", 1, 7)], "cancelled", is_fenced=False)
    agent.wait(START_PATIENCE_US)
    assert agent.heard.kinds() == ["started"]
    agent.runner._ended_for_good(agent.dossier)
    assert agent.heard.kinds() == ["started", "failed"]


async def test_a_fenced_attempts_start_is_not_reported(agent: Agent) -> None:
    """Once an attempt is fenced nothing of it is reported, also not what was held back."""
    agent.begin()
    agent.runner.cancel([("t", 1, 7)], "fenced", is_fenced=True)
    agent.wait(START_PATIENCE_US)
    agent.runner._ended_for_good(agent.dossier)
    assert agent.heard.messages == []
    assert not agent.runner.dossiers
