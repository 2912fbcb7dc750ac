"""A computer with an agent on it: what outlives the agent's processes, and what ends them from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.kernel import START_US, Kernel
from sim.model_agent import Keeper
from sim.model_disk import Disk
from sim.network import Wire
from sim.observer import Witness
from sim.plan import AgentPlan
from sim.workers import ModelWorker


class Machine:
    """A computer with an agent on it; its disk and its clocks outlive every process."""

    def __init__(
        self,
        kernel: Kernel,
        plan: AgentPlan,
        wire: Wire,
        witness: Witness,
        dial: Callable[..., Any],
        label: str = "",
        machine_id: str = "",
    ) -> None:
        self.kernel = kernel
        self.plan = plan
        #: Tells it from others with an agent of the same name.
        self.label = label or plan.name
        self.machine_id = machine_id or f"machine-{plan.name}"
        self.is_scrapped = False
        self.wire = wire
        self.witness = witness
        self.disk = Disk(kernel, self.label)
        self.random = kernel.stream(f"machine/{self.label}")
        self.dial = dial
        self.wall_offset_us = 0
        self.keeper: Keeper | None = None
        self.incarnations = 0
        self.unborn_chance = 0.0
        #: Workers of a keeper that was killed: dead within 2 s, or when the next keeper sweeps.
        self.doomed: list[ModelWorker] = []
        self._drift = plan.drift
        self.boots = 1
        self._booted_us = START_US - self.random.randrange(10**9)

    def boot_us(self) -> int:
        """CLOCK_BOOTTIME here: never steps, runs a little fast or slow."""
        passed_us = self.kernel.now_us - self._booted_us
        return passed_us + int(passed_us * self._drift)

    def wall_ns(self) -> int:
        """The wall clock here, steps and all."""
        return (self.kernel.now_us + self.wall_offset_us) * 1000

    def start(self) -> None:
        """Start the agent, unless it runs."""
        if self.keeper is None and not self.is_scrapped:
            self.incarnations += 1
            self.kernel.tell(self.label, "keeper starts", self.incarnations)
            for worker in self.doomed:
                worker.kill()
            self.doomed = []
            self.keeper = Keeper(self)

    def kill_keeper(self, restart_us: int) -> None:
        """SIGKILL of the keeper: its workers follow within 2 s, and a new one is started."""
        if self.keeper is not None:
            self.keeper.die()
            self.keeper = None
        self.kernel.after(restart_us, self.start)

    def lose_power(self, restart_us: int) -> None:
        """The machine is gone, with all its processes, and boots again: nobody closes its connections."""
        if self.keeper is not None:
            self.keeper.link.vanish()
        self.kill_keeper(restart_us)
        for worker in self.doomed:
            worker.kill()
        self.boots += 1
        self.witness.marks.saw("saw:machine rebooted")
        self._booted_us = self.kernel.now_us

    def scrap(self) -> None:
        """It is switched off for ever."""
        self.is_scrapped = True
        self.lose_power(0)
