"""A tiny system without a network: the core over model tables, two agents and what may happen to them next.

Owns one world whose every step is judged, and the list of things that may happen in it; whoever explores it chooses.
"""

from __future__ import annotations

from typing import Any

from outrider.v1 import task_pb2
from outrider_coordinator.core import invariants
from outrider_coordinator.core.effects import Effects, rows
from outrider_coordinator.core.events import CancelRequested, Ref
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.states import AttemptState, Reason
from outrider_coordinator.core.step import new_state, step
from outrider_coordinator.store.load import restore
from sim.model_store import Tables
from sim.oracle_records import RecordJudge
from sim.verdicts import Marks
from support.core_world import ModelAgent, World

Action = tuple[str, ...]


class Tiny(World):
    """A `World` with a store and a judge; ``faults`` is how many may still happen."""

    def __init__(self, faults: int) -> None:
        super().__init__(CoreSettings())
        self.faults = faults
        self.tables = Tables()
        #: Everything that came out of the core, events and sends.
        self.visible: list[Any] = []
        self.tables.coordinator_epoch = 1
        self.judge = RecordJudge(Marks(), self.state.settings)

    def do(self, *events: Any, after_us: int = 0) -> Effects:
        """One step: stored, judged, and then delivered."""
        self.now_us += after_us
        effects = step(self.state, list(events), self.now_us)
        self._store(effects)
        self.log.extend(effects.events)
        self.visible += [*effects.events, *effects.sends]
        self._note_ends(effects)
        for send in effects.sends:
            self._deliver(send)
        return effects

    def _store(self, effects: Effects) -> None:
        made = rows(effects)
        self.tables.apply(made)
        self.judge.durable(made, self.state.now_us)
        invariants.check(self.state)

    # --- what may happen -------------------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """Everything that may happen next, in a fixed order."""
        found: list[Action] = []
        for name, agent in sorted(self.agents.items()):
            if not agent.epoch:
                found.append(("connect", name))
                continue
            for ref, state in sorted(agent.held.items()):
                if state is AttemptState.OFFERED:
                    found.append(("start", name, ref.task_id, str(ref.attempt)))
                if state in (AttemptState.OFFERED, AttemptState.STARTED):
                    found += [(word, name, ref.task_id, str(ref.attempt)) for word in ("complete", "fail")]
            if self.faults:
                found += [("cut", name), ("kill", name)]
        if self.faults:
            found.append(("restart",))
        return [*found, ("wait",)]

    def act(self, action: Action) -> None:
        """Let it happen."""
        getattr(self, f"_act_{action[0]}")(*action[1:])

    def _ref(self, agent: ModelAgent, task_id: str, number: str) -> Ref:
        return next(ref for ref in agent.held if ref.task_id == task_id and ref.attempt == int(number))

    def _act_connect(self, name: str) -> None:
        self.connect(name)

    def _act_start(self, name: str, task_id: str, number: str) -> None:
        self.start(self.agents[name], self._ref(self.agents[name], task_id, number))

    def _act_complete(self, name: str, task_id: str, number: str) -> None:
        self.complete(self.agents[name], self._ref(self.agents[name], task_id, number), start=(1, b""))

    def _act_fail(self, name: str, task_id: str, number: str) -> None:
        self.fail(self.agents[name], self._ref(self.agents[name], task_id, number), Reason.WORKER_DIED, start=(1, b""))

    def _act_cut(self, name: str) -> None:
        """Contact is lost; the agent runs on."""
        self.faults -= 1
        self.disconnect(self.agents[name])

    def _act_kill(self, name: str) -> None:
        """The agent is killed and forgets what it had."""
        self.faults -= 1
        self.agents[name].held.clear()
        self.disconnect(self.agents[name])

    def _act_restart(self) -> None:
        """The coordinator is killed and starts from what is stored."""
        self.faults -= 1
        self.tables.coordinator_epoch += 1
        settings, epoch = self.state.settings, self.tables.coordinator_epoch
        self.state = new_state(settings, coordinator_epoch=epoch, now_us=self.now_us)
        self._store(restore(self.state, self.tables, _spec))  # type: ignore[arg-type]  # reads like a Reader
        for agent in self.agents.values():
            agent.epoch = 0

    def _act_wait(self) -> None:
        self.wait(9)

    def _act_cancel(self, task_id: str) -> None:
        self.do(CancelRequested([task_id], "", self.replies.append))

    def settle(self) -> None:
        """Faults stop and every agent does its work, until nothing is left."""
        self.faults = 0
        for _ in range(60):
            if not self.state.tasks:
                return
            for name, agent in self.agents.items():
                if not agent.epoch:
                    self.connect(name)
                for ref in list(agent.held):
                    if ref in agent.held:
                        self.complete(agent, ref, start=(1, b""))
            self.wait(9)

    def digest(self) -> tuple[Any, ...]:
        """What two worlds that will go the same way have in common."""
        tasks = [
            (view.state, [(row.agent_id, row.state) for row in view.attempts.values()])
            for view in self.judge.tasks.values()
        ]
        agents = [(bool(agent.epoch), sorted(agent.held.items())) for agent in self.agents.values()]
        return repr((tasks, agents, self.faults, self.now_us)), self.state.epoch


def spec_fields() -> dict[str, Any]:
    """A function with three tries, as `World.submit` takes it."""
    spec = task_pb2.TaskSpec()
    spec.function.function, spec.retry.max_attempts = "m:f", 3
    return {"body": spec.SerializeToString(), "max_attempts": 3}


def _spec(row: Any) -> Any:
    return Spec(row.body, "m:f", True, max_attempts=3)
