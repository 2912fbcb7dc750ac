"""Plans from seeds: which features and faults a seed turns on, and what its people ask for.

Swarm testing: every seed draws a subset of `FEATURES` and of `faults.FAULTS`, so that rare combinations are as likely
as common ones. A feature is a name and what it may add to a task; features land here with the product's.
"""

from __future__ import annotations

import random
from typing import Any

from sim import decisions, faults
from sim.dice import Dice
from sim.plan import AgentPlan, Item, Plan
from sim.task_features import LIMITS, TASK_FEATURES

S = 1_000_000
Task = dict[str, Any]

#: What a seed may turn on; those with a function below add something to tasks.
FEATURES = (
    "batches",
    "commands",
    "runs",
    "dependencies",
    "retries",
    "timeouts",
    "priorities",
    "labels",
    "not_before",
    "queue_timeouts",
    "cancels",
    "progress",
    "logs",
    "waits_dependency",
    "waits_external",
    "waits_complexity",
    "waits_clarification",
    "deaf",
    "crashing",
    "failing",
    "prefetch",
    "operators",
    "long_tasks",
    "light_load",
    "graces",
    "exclusive",
    "at_most_once",
    "deadlines",
    "stalls",
    "limits",
    "scopes",
    "systems",
    "resources",
    "strategies",
    "preemption",
    "wait_budgets",
    "types",
    "small_queue",
    "few_slots",
    "drifting_clocks",
    "restarts",
    "conditions",
    "phases",
    "fail_fast",
    "max_parallel",
    "sequential",
    "milestones",
    "tasks_added",
    "runs_cancelled",
    "again",
    "waits_resource",
    "schedules",
    "small_index",
    "caps",
    "few_retries",
    "fat_results",
    "many_waits",
    "submitters",
)


def make(seed: int, *, brief: bool = False) -> Plan:
    """The plan of a seed; a ``brief`` one has the same features, faults and agents and a third of the submits."""
    dice = Dice(f"plan/{seed}")
    features = tuple(name for name in FEATURES if dice.random() < 0.5)
    kinds = tuple(name for name in faults.FAULTS if dice.random() < 0.4)
    agents = tuple(_agent(name, dice, features) for name in "abcd"[: dice.choice((1, 2, 2, 3, 3, 4))])
    end_us = int(dice.uniform(12, 40) * S)
    maker = _Maker(dice, features, agents, end_us, is_brief=brief)
    items = maker.items()
    if kinds:
        names = [agent.name for agent in agents]
        items += faults.draw(kinds, dice, names, end_us, dice.choice((0, 3, 6, 10, 15)))
    items.sort(key=lambda item: item.at_us)
    return Plan(seed, features, kinds, decisions.draw(dice, features), agents, tuple(items), end_us)


def _agent(name: str, dice: random.Random, features: tuple[str, ...]) -> AgentPlan:
    slots = 1 if "few_slots" in features else dice.choice((1, 2, 4))
    credit = dice.choice((0, 2, 8)) if "prefetch" in features else 0
    drift = dice.uniform(-0.02, 0.02) if "drifting_clocks" in features else 0.0
    labels = {"zone": "x" if name in "ac" else "y"}
    hello = {"resources": {"gpu": 2.0}} if "resources" in features else {}
    return AgentPlan(name, slots, credit, dice.choice((0, 1, 8)), labels, drift, hello)


class _Maker:
    """Draws one plan's work."""

    def __init__(
        self,
        dice: random.Random,
        features: tuple[str, ...],
        agents: tuple[AgentPlan, ...],
        end_us: int,
        *,
        is_brief: bool,
    ) -> None:
        self._is_brief = is_brief
        self._dice = dice
        self._features = frozenset(features)
        self._agents = agents
        self._end_us = end_us
        self._made = 0
        #: Tasks that come after others.
        self._later: list[int] = []

    def items(self) -> list[Item]:
        """Everything people ask for, in no order."""
        dice = self._dice
        # Where there is little to do, what is lost goes elsewhere at once, and comes back to find itself replaced.
        submits = dice.randrange(6, 16) if self._on("light_load") else dice.randrange(22, 52)
        items = [self._submit() for _ in range(submits // 3 if self._is_brief else submits)]
        if self._on("runs"):
            items += [item for _ in range(dice.randrange(1, 4)) for item in self._run()]
        if self._on("schedules"):
            items += [item for number in range(dice.randrange(1, 4)) for item in self._schedule(f"s{number}")]
        if self._on("again"):
            items += [self._again() for _ in range(dice.randrange(6))]
        if self._on("cancels"):
            items += [self._item("cancel", number=dice.randrange(1, self._made + 1)) for _ in range(dice.randrange(6))]
            items += [self._item("cancel", nth=dice.randrange(10)) for _ in range(dice.randrange(6))]
        if any(name.startswith("waits_") for name in self._features):
            items += [self._item("answer", text=dice.choice(("yes", "no"))) for _ in range(dice.randrange(8))]
        if self._on("limits"):
            items += [self._item("define_limit", **LIMITS[dice.randrange(len(LIMITS))]) for _ in range(3)]
        if self._on("operators"):
            items += [item for _ in range(dice.randrange(5)) for item in self._order()]
        return items

    def _again(self) -> Item:
        """One task again, late enough that it may be over; rather one that came after others."""
        dice, half_us = self._dice, self._end_us // 2
        number = dice.choice(self._later) if self._later and dice.random() < 0.7 else dice.randrange(1, self._made + 1)
        return Item(half_us + dice.randrange(half_us), "retry", {"number": number})

    def _on(self, feature: str) -> bool:
        return feature in self._features

    def _chance(self, feature: str, chance: float = 0.3) -> bool:
        return feature in self._features and self._dice.random() < chance

    def _item(self, kind: str, **data: Any) -> Item:
        return Item(self._dice.randrange(self._end_us), kind, data)

    # --- work ------------------------------------------------------------------------------------------------------

    def _submit(self) -> Item:
        count = self._dice.randrange(1, 7) if self._on("batches") else 1
        return self._item("submit", tasks=[self._task() for _ in range(count)])

    def _run(self) -> list[Item]:
        """A graph: each task after some of those before it, rarely with a cycle; and what is done to it later."""
        dice = self._dice
        tasks: list[Task] = []
        has_phases = self._chance("phases", 0.6)
        for _ in range(dice.randrange(2, 9)):
            tasks.append(self._member(tasks, dice.choice((0, 0, 1, 2)) if has_phases else 0))
        cyclic = dice.random() < 0.1
        if cyclic:
            tasks[0]["after_keys"] = [f"k{tasks[-1]['number']}"]
            tasks[-1]["after_keys"], tasks[-1]["after_if"] = [f"k{tasks[0]['number']}"], []
        data: Task = {"tasks": tasks, "cyclic": cyclic}
        if self._chance("fail_fast", 0.5):
            data["fails_fast"] = True
        if self._chance("max_parallel", 0.5):
            data["max_parallel"] = dice.choice((1, 2))
        if self._chance("sequential"):
            data["sequential"] = True
            for task in tasks:
                task["phase"] = 0
        first = self._item("run", **data)
        return [first, *self._to_run(first, tasks)]

    def _schedule(self, name: str) -> list[Item]:
        """Work by the clock, and what is done to it later."""
        dice = self._dice
        data: Task = {"name": name, "overlap": dice.randrange(5), "missed": dice.choice((0, 1, 2, 3, 3))}
        first = self._item("schedule", **data, **self._times())
        later = [item for item in (self._to_schedule(name, first) for _ in range(dice.randrange(3))) if item]
        return [first, *later]

    def _times(self) -> Task:
        """When a schedule fires, and what it submits."""
        dice, now_us = self._dice, self._end_us
        every_s = dice.choice((1, 2, 3, 5, 10))
        cron = {"cron": f"*/{every_s} * * * * *"}
        when = dice.choice(({"every_us": every_s * S}, cron, cron, {"at_us": now_us}))
        tasks: list[Task] = []
        for _ in range(dice.randrange(1, 4)):
            tasks.append(self._member(tasks, 0))
        for task in tasks:
            task["spec"].pop("not_before_after_us", None)
        if dice.random() < 0.4:
            tasks[0]["scripts"][0]["steps"][0] = ["run", dice.randrange(2, 12) * S]  # beyond the next time
        return {"when": when, "tasks": tasks, "is_run": dice.random() < 0.4}

    def _to_schedule(self, name: str, first: Item) -> Item:
        dice, at_us = self._dice, first.at_us + self._dice.randrange(10 * S)
        what = dice.choice(("pause", "resume", "delete", "replace"))
        if what == "replace":
            return Item(at_us, "schedule", {**first.data, **self._times(), "replace": True})
        return Item(at_us, "order_schedule", {"name": name, "order": what})

    def _member(self, before: list[Task], phase: int) -> Task:
        """One task of a graph, after some of those before it whose phase is not a later one."""
        dice, task = self._dice, self._task()
        possible = [f"k{other['number']}" for other in before if other.get("phase", 0) <= phase]
        chosen = sorted(dice.sample(possible, min(len(possible), dice.randrange(3))))
        if chosen:
            self._later.append(task["number"])
        edges = [[key, dice.choice((1, 2, 3)) if self._chance("conditions", 0.5) else 1] for key in chosen]
        task |= {"after_keys": [key for key, how in edges if how == 1], "phase": phase}
        task["after_if"] = [edge for edge in edges if edge[1] != 1]
        if self._chance("milestones"):
            task["milestone"] = dice.choice(("half", "done"))
        return task

    def _to_run(self, first: Item, tasks: list[Task]) -> list[Item]:
        """What is done to a run after its submit."""
        dice, number, made = self._dice, tasks[0]["number"], []

        def later(kind: str, **data: Any) -> None:
            made.append(Item(first.at_us + dice.randrange(15 * S), kind, {"run": number, **data}))

        for _ in range(dice.randrange(3) if self._on("tasks_added") else 0):
            more: list[Task] = []
            for _ in range(dice.randrange(1, 4)):
                more.append(self._member([*tasks, *more], 2))
            parent = dice.choice(tasks)["number"] if dice.random() < 0.3 else 0
            later("add_tasks", tasks=more, parent=parent)
        if self._chance("runs_cancelled"):
            later("cancel_run")
        for _ in range(dice.randrange(3) if self._on("again") else 0):
            later("retry")
        return made

    def _task(self) -> Task:
        self._made += 1
        dice = self._dice
        task: Task = {"number": self._made, "spec": {}, "scripts": [self._script() for _ in range(3)]}
        if self._chance("commands"):
            task["command"] = True
        if self._on("submitters"):
            task["submitter"] = dice.choice(("", "ann", "bob"))
        if self._chance("dependencies") and self._made > 1:
            chosen = sorted(dice.sample(range(1, self._made), min(self._made - 1, dice.randrange(1, 3))))
            self._later.append(self._made)
            task["after_if"] = [[number, dice.choice((1, 2, 3)) if self._on("conditions") else 1] for number in chosen]
        for feature, add in TASK_FEATURES.items():
            if self._chance(feature):
                add(dice, task["spec"])
        if self._chance("labels") and len(self._agents) > 1:
            task["spec"]["labels"] = {"zone": dice.choice("xy")}
        if self._chance("exclusive") and "exclusive" in task["spec"]:
            task["scripts"][0]["steps"][0] = ["run", int(dice.uniform(15, 35) * S)]  # longer than a lease
        if "at_most_once" in task["spec"]:
            task["spec"].pop("retry", None)
            task["spec"].pop("wait_policies", None)
        task["spec"].setdefault("disconnect_grace", dice.choice((2, 5, 8)) * S)
        return task

    def _script(self) -> Task:
        """What one attempt does."""
        dice = self._dice
        steps: list[list[Any]] = [["run", self._duration()]]
        if self._chance("progress"):
            steps += [["progress", 0.5], ["run", self._duration()]]
        if self._chance("logs"):
            steps += [["log", "output"], ["run", self._duration()]]
        for kind in ("dependency", "external", "complexity", "clarification"):
            if self._chance(f"waits_{kind}", 0.2):
                steps += [self._block(kind), ["run", self._duration()]]
        if self._chance("waits_resource", 0.2):
            steps += (
                self._block_twice() if dice.random() < 0.3 else [self._block("resource"), ["run", self._duration()]]
            )
        if self._chance("fat_results", 0.05):
            steps.append(["fat", dice.choice((100_000, 300_000))])
        if self._chance("many_waits", 0.005):
            steps += [["block_many", 270], ["run", self._duration()]]
        if self._chance("crashing", 0.12):
            steps.append(["crash"])
        elif self._chance("failing", 0.2):
            steps.append(["fail", "boom", dice.random() < 0.8])
        script: Task = {"steps": steps}
        if self._chance("deaf", 0.2):
            script["deaf"] = True
        return script

    def _duration(self) -> int:
        dice = self._dice
        if self._chance("long_tasks", 0.2):
            return int(dice.choice((dice.uniform(2, 8), dice.uniform(10, 30))) * S)
        return dice.choice((500, 3_000, 20_000, 200_000, 900_000))

    def _block_twice(self) -> list[list[Any]]:
        """One lock after the other, in either order: two that do so may wait for each other."""
        dice, steps = self._dice, []
        for name in dice.sample(("lock", "other"), 2):
            facts = {"keeps_running": False, "resource": name, "resource_shared": False, "fails_if_refused": False}
            steps += [["block", "dependency", f"both-{name}", 0, facts], ["run", self._duration()]]
        return steps

    def _block(self, kind: str) -> list[Any]:
        dice = self._dice
        facts: Task = {"keeps_running": dice.random() < 0.15}
        patience_us = dice.choice((0, 0, 3)) * S
        if kind == "dependency":
            facts["required_task"] = dice.randrange(1, self._made + 1)
            patience_us = patience_us or 20 * S
        elif kind == "resource":
            facts["resource"] = dice.choice(("lock", "other", "semaphore", "rate"))
            facts["resource_shared"] = facts["resource"] in ("lock", "other") and dice.random() < 0.3
            facts["fails_if_refused"] = dice.random() < 0.5
            return ["block", "dependency", f"resource-{dice.randrange(2)}", patience_us, facts]
        elif kind == "external":
            facts |= {"system": "api:x", "issue": "busy", "retry_after_us": dice.choice((1, 4)) * S}
        elif kind == "complexity":
            facts["additional_s"] = 2.0
        else:
            facts |= {"question": "which?", "options": ["yes", "no"]}
        return ["block", kind, f"{kind}-1", patience_us, facts]

    def _order(self) -> list[Item]:
        """What an operator does to an agent, and undoes."""
        dice = self._dice
        agent = dice.choice(self._agents).name
        order = dice.choice(("pause", "pause", "drain", "remove", "trust"))
        if order == "trust":
            return [self._item("trust", **dice.choice(({"agent": agent}, {"system": "api:x"})))]
        first = self._item("order_agent", agent=agent, order=order, timeout_us=dice.choice((0, 2 * S)))
        if order != "pause":
            return [first]
        later_us = first.at_us + dice.randrange(S, 10 * S)
        return [first, Item(later_us, "order_agent", {"agent": agent, "order": "resume"})]
