"""Judges runs and what tasks come after: conditions, phases, fail-fast, bounds, milestones, ends (I9, I18).

Written from the protocol and `docs/runs.md`. What was asked for comes from the people who asked, by their request ids;
what became of it from committed records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from outrider_coordinator.core import records
from sim.verdicts import Marks

SUCCESS, FAILURE, ALWAYS = 1, 2, 3
FAIL_FAST = 2
SUCCEEDED, FAILED, CANCELLED, EXPIRED, SKIPPED = 7, 8, 9, 10, 11
TERMINAL = frozenset((SUCCEEDED, FAILED, CANCELLED, EXPIRED, SKIPPED))
A_BLOCKED = 4
UPSTREAM_FAILED, CONDITION_NOT_MET = 7, 19
_RUN_ENDED, _RUN_MILESTONE = 31, 33


class Edge(NamedTuple):
    """A task that must end first, and how. ``name`` is its id, or in a graph its key."""

    name: str
    condition: int


class Node(NamedTuple):
    """One task of a graph, as somebody asked for it."""

    edges: tuple[Edge, ...] = ()
    phase: int = 0
    milestone: str = ""


@dataclass
class Wanted:
    """What somebody asked for under one request id: nodes by key in their order, or one task with no key.

    ``known`` are ids of tasks that were there before and are named by a key.
    """

    nodes: Mapping[str, Node]
    fails_fast: bool = False
    max_parallel: int = 0
    is_sequential: bool = False
    known: Mapping[str, str] = field(default_factory=dict)


def nodes_of(spec: Any) -> dict[str, Node]:
    """The tasks of a RunSpec, or of an AddTasksRequest."""
    nodes = {}
    for task in spec.tasks:
        edges = [Edge(key, SUCCESS) for key in task.after_keys]
        edges += [Edge(edge.key, edge.condition or SUCCESS) for edge in task.after]
        nodes[task.key] = Node(tuple(edges), task.phase, task.milestone)
    return nodes


def wanted_of(spec: Any) -> Wanted:
    """What a RunSpec asks for."""
    return Wanted(nodes_of(spec), spec.failure_policy == FAIL_FAST, spec.max_parallel, spec.sequential)


class RunView:
    """A run as committed: its tasks by key, in the order added."""

    def __init__(self, row: records.PutRun, wanted: Wanted) -> None:
        self.id = row.id
        self.wanted = wanted
        self.members: dict[str, str] = {}
        self.phases: dict[str, int] = {}
        self.milestones: dict[str, list[str]] = {}
        self.reached: set[str] = set()
        self.has_failed = self.has_ended = self.is_stopping = False


def is_met(condition: int, state: int) -> bool:
    """Whether a task that ended so is what was asked for."""
    return condition == ALWAYS or (condition == SUCCESS) == (state == SUCCEEDED)


class RunJudge:
    """All runs as committed, and what everybody asked for."""

    def __init__(self, marks: Marks, tasks: Mapping[str, Any]) -> None:
        self.marks = marks
        self.runs: dict[str, RunView] = {}
        #: By request id; noted before the request is on its way.
        self.wanted: dict[str, Wanted] = {}
        self._tasks = tasks

    # --- rows ------------------------------------------------------------------------------------------------------

    def entered(self, rows: Sequence[Any]) -> None:
        """Runs, parts of runs and tasks of one step, before anything else of it is judged."""
        for row in rows:
            if type(row) is records.PutRun and row.id not in self.runs:
                self.runs[row.id] = RunView(row, self.wanted[row.request_id])
            if type(row) is records.PutRun and row.stop_reason:
                self.runs[row.id].is_stopping = True
        for row in rows:
            if type(row) is records.InsertRunPart:
                self._part(row)
            elif type(row) is records.InsertTask and not row.run_id:
                wanted = self.wanted.get(row.request_id)
                if wanted is not None and "" in wanted.nodes:
                    self._place(row.id, wanted.nodes[""].edges)

    def _part(self, row: records.InsertRunPart) -> None:
        run = self.runs[row.run_id]
        wanted = self.wanted[row.request_id] if row.number else run.wanted
        demand, name = self.marks.demand, f"run {run.id}, part {row.number}"
        demand("I18", tuple(wanted.nodes) == row.task_keys, "{} holds {}, not what was asked for", name, row.task_keys)
        twice = not run.members.keys().isdisjoint(row.task_keys) or run.has_ended
        demand("I18", not twice, "{} comes too late, or a second time", name)
        on = self._phase_on(run)
        before = next(reversed(run.members), "")
        ids = {**wanted.known, **run.members, **dict(zip(row.task_keys, row.task_ids, strict=True))}
        for key, task_id, phase in zip(row.task_keys, row.task_ids, row.phases or (0,) * len(ids), strict=False):
            node = wanted.nodes[key]
            demand("I9", phase == node.phase or (phase == on > node.phase), "{}: {} is in phase {}", name, key, phase)
            edges = [Edge(ids[edge.name], edge.condition) for edge in node.edges]
            if run.wanted.is_sequential and before and all(edge.name != before for edge in node.edges):
                edges.append(Edge(ids[before], ALWAYS))
            self._place(task_id, tuple(edges))
            run.members[key], before = task_id, key
            run.phases[task_id] = phase
            if node.milestone:
                run.milestones.setdefault(node.milestone, []).append(task_id)

    def _place(self, task_id: str, edges: tuple[Edge, ...]) -> None:
        """What a task was asked to come after is what it says it comes after."""
        view = self._tasks[task_id]
        same = sorted(view.edges) == sorted(edges)
        self.marks.demand("I9", same, "task {} comes after {}, not {}", task_id, view.edges, edges)

    def _phase_on(self, run: RunView) -> int:
        """The lowest phase that is not over."""
        open_phases = [phase for task_id, phase in run.phases.items() if self._tasks[task_id].state not in TERMINAL]
        return min(open_phases, default=0)

    # --- the end of a step -----------------------------------------------------------------------------------------

    def stepped(self, touched: Mapping[str, Any], made: Sequence[Any], events: Sequence[Any]) -> None:
        """One step is durable: tasks that it changed, attempts that it made, its events."""
        was_failed = {run_id for run_id, run in self.runs.items() if run.has_failed}
        for view in touched.values():
            self._judge_end(view, was_failed)
        for attempt in made:
            run = self.runs.get(self._tasks[attempt.task_id].run_id)
            if run is not None:
                self._judge_offer(run, attempt)
        for event in events:
            if event.run_id:
                self._event(self.runs[event.run_id], event)

    def _judge_end(self, view: Any, was_failed: set[str]) -> None:
        if view.state == SKIPPED:
            causes = {self._unmet(edge) for edge in view.edges} - {0}
            what = "an unmet condition" if view.reason == CONDITION_NOT_MET else "a failure"
            self.marks.saw(f"saw:task skipped for {what}")
            self.marks.demand(
                "I18", view.reason in causes, "task {} is skipped ({}) for no cause", view.id, view.reason
            )
        run = self.runs.get(view.run_id)
        if run is None or not run.wanted.fails_fast:
            return
        late = view.state == SKIPPED and run.id in was_failed and not view.was_over
        self.marks.demand("I18", not late, "task {} is skipped after its run failed", view.id)
        if view.state in (FAILED, EXPIRED) and not run.has_failed:
            self.marks.saw("saw:run failed fast")
            run.has_failed = True

    def _unmet(self, edge: Edge) -> int:
        """Why a task that comes after this one is not needed or not possible any more; 0 when it still is."""
        known = self._tasks.get(edge.name)
        if known is None or known.state not in TERMINAL or is_met(edge.condition, known.state):
            return 0
        if edge.condition == FAILURE or known.reason == CONDITION_NOT_MET:
            return CONDITION_NOT_MET
        return UPSTREAM_FAILED

    def holds(self, view: Any) -> bool:
        """Whether everything that a task comes after has ended as asked, and all earlier phases of its run."""
        for edge in view.edges:
            known = self._tasks.get(edge.name)
            if known is None or known.state not in TERMINAL or not is_met(edge.condition, known.state):
                return False
        run = self.runs.get(view.run_id)
        return run is None or self._phase_on(run) >= run.phases.get(view.id, 0) or view.state in TERMINAL

    def _judge_offer(self, run: RunView, attempt: Any) -> None:
        demand, name = self.marks.demand, f"attempt {attempt.task_id}/{attempt.number}"
        demand("I14", not run.has_failed, "{} is offered, and its run has failed", name)
        if run.phases[attempt.task_id] > min(run.phases.values()):
            self.marks.saw("saw:task of a later phase offered")
        if run.wanted.max_parallel:
            self.marks.saw("saw:run bounded")
            live = [one for task_id in run.members.values() for one in self._tasks[task_id].live()]
            busy = sum(one.state != A_BLOCKED for one in live)
            most = run.wanted.max_parallel
            demand("I16", busy <= most, "{} is one of {} of a run that has {} at once", name, busy, most)

    def _event(self, run: RunView, event: records.InsertEvent) -> None:
        demand = self.marks.demand
        demand("I18", not run.has_ended, "event {} of run {} comes after its end", event.type, run.id)
        if event.type == _RUN_ENDED:
            run.has_ended = True
            open_ids = [task_id for task_id in run.members.values() if self._tasks[task_id].state not in TERMINAL]
            demand("I18", not open_ids, "run {} has ended, and {} have not", run.id, open_ids)
        elif event.type == _RUN_MILESTONE:
            demand("I18", event.text not in run.reached, "milestone {} is reached twice", event.text)
            run.reached.add(event.text)
            self.marks.saw("saw:milestone reached")
            short = [one for one in run.milestones[event.text] if self._tasks[one].state != SUCCEEDED]
            demand("I18", not short, "milestone {} is reached without {}", event.text, short)

    def again(self, run_id: str) -> Wanted | None:
        """What doing a run again that is over must submit: what did not succeed and was needed. None for nothing."""
        run = self.runs[run_id]
        wanted: dict[str, Node] = {}
        names = {task_id: key for key, task_id in {**run.wanted.known, **run.members}.items()}
        for key, task_id in run.members.items():
            view = self._tasks[task_id]
            if view.state != SUCCEEDED and view.reason != CONDITION_NOT_MET:
                edges = tuple(Edge(names[edge.name], edge.condition) for edge in view.edges)
                milestone = next((name for name, ids in run.milestones.items() if task_id in ids), "")
                wanted[key] = Node(edges, run.phases[task_id], milestone)
        how = run.wanted
        settled = {key: task_id for key, task_id in run.members.items() if key not in wanted}
        again = Wanted(wanted, how.fails_fast, how.max_parallel, how.is_sequential, {**how.known, **settled})
        return again if wanted else None

    # --- at rest ---------------------------------------------------------------------------------------------------

    def judge_rest(self) -> None:
        """Everything has ended: runs too, and what was reached is told."""
        for run in self.runs.values():
            self.marks.demand("ends", run.has_ended, "run {} never ends", run.id)
            for name, task_ids in run.milestones.items():
                done = all(self._tasks[task_id].state == SUCCEEDED for task_id in task_ids)
                self.marks.demand("I18", not done or name in run.reached, "milestone {} is never told", name)
