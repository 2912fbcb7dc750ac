"""Events that stop the coordinator: the second time they are known, and kept from the core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outrider_coordinator import engine as engine_module
from outrider_coordinator.clock import Clock
from outrider_coordinator.core.effects import Effects, PushAck, PushAssign, Refused, Send
from outrider_coordinator.core.events import (
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    SessionOpened,
    Submission,
    TasksSubmitted,
)
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.step import new_state
from outrider_coordinator.engine import Engine
from outrider_coordinator.quarantine import Quarantine
from outrider_coordinator.store.sqlite import SqliteStore

DEADLY = b"deadly"


class Start:
    """One start of a coordinator whose core falls over certain events, and one agent that replays its outbox."""

    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder)
        self.fatal: list[BaseException] = []
        self.pushed: list[Send] = []
        self.replies: list[Any] = []
        self.epoch = 0
        state = new_state(CoreSettings(), coordinator_epoch=self.store.coordinator_epoch, now_us=1)
        state.cursor_next = self.store.reader.cursors()[1] + 1
        self.engine = Engine(state, self.store, Clock(), self.fatal.append, Quarantine(folder / "suspects.json"))
        self.engine.start(Effects())

    async def connect(self) -> None:
        """Agent a says hello."""

        def accepted(value: Any) -> None:
            self.epoch = value.epoch
            self.engine.sessions[value.epoch] = self

        self.engine.post(SessionOpened("a", "m", "i", 1, "1", "h", {}, 4, 0, 8, [], [], accepted))
        await self.engine.flush()

    def push(self, send: Send, outcomes: dict[str, bytes]) -> None:
        """The session of the agent."""
        self.pushed.append(send)

    def end(self, order: object) -> None:
        """Nobody ends it."""

    async def submit(self, body: bytes, request_id: str) -> None:
        """Somebody submits a task."""
        submission = Submission(f"t-{request_id}", "default", Spec(body, "m:f", True), request_id, body)
        self.engine.post(TasksSubmitted([submission], self.replies.append))
        await self.engine.flush()

    async def replay(self) -> None:
        """Three reports in one frame; the second is deadly."""
        bodies = (b"one", DEADLY, b"three")
        reports = [Report(Ref("t", 1, 1), at, 1, ReportKind.PROGRESS, False, body) for at, body in enumerate(bodies, 1)]
        self.engine.post(ReportsReceived("a", self.epoch, "box", 1, reports))
        await self.engine.flush()

    async def close(self) -> None:
        """It ends, or has."""
        await self.engine.close()
        self.store.close()


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Effects]:
    """A core that falls over everything deadly."""
    real = engine_module.step

    def falls(state: Any, events: list[Any], now_us: int) -> Effects:
        for event in events:
            reports = event.reports if isinstance(event, ReportsReceived) else []
            specs = [one.spec for one in event.submissions] if isinstance(event, TasksSubmitted) else []
            alive = [report for report in reports if report.kind != ReportKind.QUARANTINED]
            assert DEADLY not in [one.body for one in (*alive, *specs)], "a fault of ours"
        return real(state, events, now_us)

    monkeypatch.setattr(engine_module, "step", falls)
    return falls


async def test_a_report_that_stops_us_twice_is_kept_and_acknowledged(
    tmp_path: Path, step: Callable[..., Effects]
) -> None:
    """Two crashes name it; from then on it is evidence, and what stands behind it in the outbox is applied."""
    for applied in (0, 1):
        start = Start(tmp_path)
        await start.connect()
        await start.replay()
        assert len(start.fatal) == 1
        assert start.engine.state.agents["a"].applied.get("box", 0) == applied
        await start.close()
    start = Start(tmp_path)
    await start.connect()
    await start.replay()
    assert not start.fatal
    acks = [send for send in start.pushed if isinstance(send, PushAck)]
    assert acks[-1].applied_seq == 3
    causes = await start.engine.read(lambda: start.store._connection.execute("SELECT cause FROM evidence").fetchall())
    assert ("has stopped the coordinator twice",) in causes
    await start.close()


async def test_a_submit_that_stops_us_twice_is_refused(tmp_path: Path, step: Callable[..., Effects]) -> None:
    """Its client is told so, and others are served as ever."""
    for _ in range(2):
        start = Start(tmp_path)
        await start.submit(DEADLY, "bad")
        assert len(start.fatal) == 1
        await start.close()
    start = Start(tmp_path)
    await start.connect()
    await start.submit(DEADLY, "bad")
    await start.submit(b"fine", "good")
    assert not start.fatal
    refused = start.replies[0][0]
    assert isinstance(refused, Refused)
    assert "stopped the coordinator twice" in refused.message
    assert [send.task_id for send in start.pushed if isinstance(send, PushAssign)] == ["t-good"]
    await start.close()


async def test_bystanders_of_a_crash_are_cleared(tmp_path: Path, step: Callable[..., Effects]) -> None:
    """Reports that crashed in the company of a deadly one are suspected, looked at alone, and forgotten."""
    for _ in range(2):
        start = Start(tmp_path)
        await start.connect()
        await start.replay()
        await start.close()
    text = (tmp_path / "suspects.json").read_text()
    assert text.count("report 2 of outbox box") == 1
    assert "report 1 " not in text
