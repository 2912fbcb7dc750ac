"""A whole system under one kernel: coordinator, agents, clients; and what a plan does to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outrider_agent import clock, conversation, runner
from outrider_coordinator.core.settings import CoreSettings
from sim import rebuild
from sim.clients import Clients, open_waits
from sim.faults import FAULTS, Faults
from sim.kernel import START_US, Kernel
from sim.machine import Machine
from sim.model_agent import ModelLink
from sim.model_coordinator import Process
from sim.model_store import ModelStore
from sim.network import Connection, Wire
from sim.observer import DOUBLE, Witness
from sim.plan import Item, Plan
from sim.streams import AgentStream
from sim.verdicts import Marks

PAUSED = 2
PUNCTUAL_US = 12_000_000


class World:
    """The system that a plan describes."""

    latency_us = (50, 3_000)

    def __init__(self, plan: Plan, marks: Marks) -> None:
        self.plan = plan
        self.marks = marks
        self.kernel = Kernel(plan.seed)
        self.settings = CoreSettings(**plan.settings)
        self.witness = Witness(self.kernel, marks, self.settings, rebuild.judge)
        self.store = ModelStore(self.kernel, self.witness.durable)
        self.process: Process | None = None
        self.crash_after_release = 0
        self.down_us = 500_000
        self.wall_offset_us = 0
        self.is_calm = False
        self.clients = Clients(self.kernel, self.witness, lambda: self.process, lambda: self.store.is_full)
        self.machines = {
            agent.name: Machine(
                self.kernel, agent, Wire(self.kernel, agent.name, self.latency_us), self.witness, self.dial
            )
            for agent in plan.agents
        }
        self.faults = Faults(self)
        self.doubles: list[Machine] = []
        self._doubles = 0
        self._streams = 0

    def begin(self) -> None:
        """Everything starts, and the plan's items are on their way."""
        for feature in self.plan.features:
            self.marks.saw(f"feature:{feature}")
        self._start_coordinator()
        for machine in self.machines.values():
            self.kernel.after(machine.random.randrange(2_000_000), machine.start)
        for item in self.plan.items:
            self.kernel.at(START_US + item.at_us, self._do, item)

    def _do(self, item: Item) -> None:
        self.kernel.tell("plan", "does", item)
        if item.kind in FAULTS:
            if not self.is_calm:
                self.faults.do(item.kind, item.data)
        elif item.kind == "submit":
            self.clients.submit({"tasks": [self._resolved(task) for task in item.data["tasks"]]})
        elif item.kind in ("run", "add_tasks", "schedule"):
            asks = {
                "run": self.clients.submit_run,
                "add_tasks": self.clients.add_tasks,
                "schedule": self.clients.create_schedule,
            }
            asks[item.kind]({**item.data, "tasks": [self._resolved(task) for task in item.data["tasks"]]})
        else:
            getattr(self.clients, item.kind)(item.data)

    def _resolved(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """What a plan says by number, by id."""
        scripts = []
        for script in task["scripts"]:
            steps = []
            for step in script["steps"]:
                if step[0] == "block" and "required_task" in step[4]:
                    facts = dict(step[4])
                    facts["required_task_id"] = self.clients.ids.get(facts.pop("required_task"), "t-nowhere")
                    step = [*step[:4], facts]
                steps.append(step)
            scripts.append({**script, "steps": steps})
        return {**task, "scripts": scripts}

    # --- the coordinator's host --------------------------------------------------------------------------------------

    def _start_coordinator(self) -> None:
        if self.process is None:
            self.process = Process(
                self.kernel, self.store, self.settings, self.witness, self.wall_offset_us, self._failed
            )
            self.process.released = self._released

    def crash(self, down_us: int) -> None:
        """kill -9, and a new start after a while."""
        if self.process is not None:
            self.kernel.tell("coordinator", "is killed")
            self.process.kill()
            self.process = None
            self.kernel.after(down_us, self._start_coordinator)

    def double(self, agent: str, for_us: int, *, is_clone: bool) -> None:
        """A second machine takes an agent's name for a while: a clone with a copy of its disk, or another one."""
        original = self.machines[agent]
        self._doubles += 1
        label = f"{agent}{DOUBLE}{self._doubles}"
        wire = Wire(self.kernel, label, self.latency_us)
        machine_id = original.machine_id if is_clone else label
        double = Machine(self.kernel, original.plan, wire, self.witness, self.dial, label, machine_id)
        if is_clone:
            double.disk.copy_of(original.disk)
        self.doubles.append(double)
        double.start()
        self.kernel.after(for_us, double.scrap)

    def go_back(self, down_us: int) -> None:
        """The coordinator is started on a backup of its store; the first time one is made with the next offer."""
        if self.store.backup is None and self.store.on_offer is None:
            self.store.on_offer = self._back_up
            return
        if self.store.backup is None:
            self.store.on_offer = None
            self._back_up()
            return
        self.crash(down_us)
        self.kernel.tell("coordinator", "is restored from a backup")
        self.store.restore_backup()
        self.witness.rolled_back()

    def _back_up(self) -> None:
        self.store.take_backup()
        self.witness.backed_up()

    def step_clock(self, by_us: int) -> None:
        """The wall clock of the coordinator's machine is set."""
        self.wall_offset_us += by_us
        self.witness.records.schedules.clock_stepped(self.wall_offset_us, self.kernel.now_us)
        if self.process is not None:
            self.process.clock_stepped(self.wall_offset_us)

    def _failed(self) -> None:
        self.crash(self.down_us)

    def _released(self) -> None:
        """Something has just left the coordinator."""
        if self.crash_after_release:
            down_us, self.crash_after_release = self.crash_after_release, 0
            self.crash(down_us)

    def dial(self, machine: Machine, link: ModelLink) -> Connection | None:
        """A link opens a stream; None when nobody listens or nothing comes through."""
        if self.process is None or machine.wire.cut["up"] or machine.wire.cut["down"]:
            return None
        connection = Connection(machine.wire, link)
        self._streams += 1
        connection.stream = AgentStream(self.process, connection, self._streams, f"{machine.label}/{machine.boots}")
        return connection

    # --- calm --------------------------------------------------------------------------------------------------------

    def calm(self) -> None:
        """Faults stop; people see to it that nothing waits for them for ever."""
        self.is_calm = True
        self.kernel.tell("plan", "faults stop")
        self.faults.heal()
        for double in self.doubles:
            double.scrap()
        self._start_coordinator()
        for machine in self.machines.values():
            if machine.keeper is not None:
                machine.keeper.resume()
            machine.start()
            self.clients.order_agent({"agent": machine.plan.name, "order": "resume"})
        self.kernel.after(PUNCTUAL_US, self._forget_schedules)
        self._care()

    def _forget_schedules(self) -> None:
        """Schedules have had some time in peace; now nothing new comes by itself any more."""
        process = self.process
        if process is not None:
            wall_us = self.kernel.now_us + self.wall_offset_us
            self.witness.records.schedules.judge_punctual(process.now_us(), wall_us)
        self.clients.schedules.forget_all()
        self.kernel.after(PUNCTUAL_US, self._forget_schedules)

    def _care(self) -> None:
        """People answer what is open and resume what is paused, again and again."""
        process = self.process
        if process is not None and open_waits(process):
            self.clients.answer({"text": "yes"})
        for name, row in self.witness.records.agents.items():
            if row.machine_id != self.machines[name].machine_id:
                self.clients.order_agent({"agent": name, "order": "remove"})
            elif row.admin == PAUSED:
                self.clients.order_agent({"agent": name, "order": "resume"})
        self.kernel.after(2_000_000, self._care)


class Clocks:
    """While open, the agents' modules read model clocks; afterwards the real ones again."""

    def __enter__(self) -> None:
        self._real = clock.boot_us, clock.wall_ns
        self._loud = conversation._logger.disabled, runner._logger.disabled
        conversation._logger.disabled = runner._logger.disabled = True

    def __exit__(self, *_: object) -> None:
        clock.boot_us, clock.wall_ns = self._real
        conversation._logger.disabled, runner._logger.disabled = self._loud
