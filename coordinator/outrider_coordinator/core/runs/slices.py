"""Long work in slices: each step does a bounded piece of what `errands` says is left, one errand after the other.

Nobody waits behind a long errand: they take turns. With little to do, everything is done in the step that began it.
"""

from __future__ import annotations

from outrider_coordinator.core.agents import control
from outrider_coordinator.core.attempts import outcome
from outrider_coordinator.core.attempts.stopping import stop_attempt
from outrider_coordinator.core.effects import Effects, Reply
from outrider_coordinator.core.model import Task
from outrider_coordinator.core.runs import admission
from outrider_coordinator.core.runs.errands import Admission, Consequence, Decision, Errand, RunStop
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Intent, Reason

#: Tasks that one errand decides, takes in or cancels before the next one has its turn: 10 to 20 us each.
UNITS_PER_TURN = 64


def work(state: State, effects: Effects, units: int) -> int:
    """Do so much of the errands, and of those that come up meanwhile; returns the units used."""
    left, errands = units, state.errands
    while errands and left > 0:
        errand = errands.popleft()
        used = _advance(state, effects, errand, min(left, UNITS_PER_TURN))
        left -= max(1, used)
        if not _is_done(errand):
            errands.append(errand)
    return units - left


def _advance(state: State, effects: Effects, errand: Errand, units: int) -> int:
    """Do at most so many units, save for the last part of an admission; returns how many."""
    if isinstance(errand, Admission):
        return admission.advance(state, effects, errand, units)
    if isinstance(errand, Consequence):
        ids = errand.dependent_ids[errand.position : errand.position + units]
    else:
        ids = errand.task_ids[errand.position : errand.position + units]
    errand.position += len(ids)
    for task_id in ids:
        task = state.tasks.get(task_id)
        if task is not None and not task.is_terminal:
            _decide(state, effects, errand, task)
    if isinstance(errand, RunStop) and errand.reply is not None and _is_done(errand):
        effects.sends.append(Reply(errand.reply, errand.decided))
    return len(ids)


def _is_done(errand: Errand) -> bool:
    if isinstance(errand, Admission):
        return errand.position > len(errand.members)
    ids = errand.dependent_ids if isinstance(errand, Consequence) else errand.task_ids
    return errand.position >= len(ids)


def _decide(state: State, effects: Effects, errand: Consequence | Decision | RunStop, task: Task) -> None:
    if isinstance(errand, Consequence):
        outcome.dependency_ended(state, effects, task, errand)
    elif isinstance(errand, RunStop):
        _stop(state, effects, errand, task)
    elif task.id in errand.unmet:
        label, ended, reason = errand.unmet[task.id]
        outcome.skip(state, effects, task, reason, label, ended)
    else:
        outcome.make_ready(state, effects, task)


def _stop(state: State, effects: Effects, errand: RunStop, task: Task) -> None:
    """Cancel one task of a run: one that runs is stopped, and its end decides when the run has failed."""
    if errand.reason is not Reason.RUN_FAILED:
        errand.decided += control.cancel(state, effects, task.id, errand.message).cancelled
    elif task.attempt is None:
        outcome.give_up(state, effects, task)
    else:
        stop_attempt(state, effects, task, task.attempt, Intent.RUN_FAILED, errand.message)
