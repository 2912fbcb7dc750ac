"""Bugs planted into what the coordinator learned late: names and clones, restores, schedules, runs, waits for limits.

Name, the promise it breaks, and (where, attribute, how it is replaced), as in `planted_coordinator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from outrider_coordinator.core.agents import control, epochs, lease, liveness, sessions
from outrider_coordinator.core.attempts import outcome
from outrider_coordinator.core.effects import Reply
from outrider_coordinator.core.limits import caps, deadlock, holdings, lines
from outrider_coordinator.core.runs import admission, lifecycle, submission
from outrider_coordinator.core.schedules import firing
from outrider_coordinator.core.schedules.book import Missed, Overlap
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Reason
from outrider_coordinator.core.waits import blockage
from outrider_coordinator.rpc import run_retry

Make = Callable[[Any], Any]


def _nothing(original: Any) -> Any:
    """It is not done at all."""
    return lambda *arguments, **named: None


def _always(value: Any) -> Make:
    """The same answer, whatever is asked."""
    return lambda original: lambda *arguments, **named: value


# --- names, clones, restores -----------------------------------------------------------------------------------------


def _one_machine(original: Any) -> Any:
    """Whoever says hello passes for the machine that had the name."""

    def refusal(agent: Any, event: Any) -> Any:
        return original(agent, replace(event, machine_id=agent.machine_id) if agent is not None else event)

    return refusal


def _one_age(original: Any) -> Any:
    """All processes of a name pass for equally old."""

    def refusal(agent: Any, event: Any) -> Any:
        return original(agent, replace(event, instance_start_ms=agent.instance_start_ms) if agent else event)

    return refusal


def _not_paused(original: Any) -> Any:
    """It is said that they take each other's name, and they get work."""

    def taken_over(known: Any, effects: Any, agent: Any, event: Any) -> None:
        if agent.instance_id != event.instance_id:
            liveness.taken_over(known, effects, agent)
            agent.is_quarantined = False

    return taken_over


def _one_boot(original: Any) -> Any:
    """A clone passes for what came after the last process, as it says."""
    return lambda known, agent, event: original(known, agent, replace(event, boot_id=agent.boot_id))


def _sure(original: Any) -> Any:
    """An outbox with a gap says nothing about what else was forgotten."""

    def outboxes(known: Any, effects: Any, agent: Any, *arguments: Any) -> Any:
        was = agent.is_unsure
        made = original(known, effects, agent, *arguments)
        agent.is_unsure = was
        return made

    return outboxes


def _unsaid(original: Any) -> Any:
    """What is told of it is not written down."""

    def act(known: Any, effects: Any, *arguments: Any) -> Any:
        count, cursor = len(effects.events), known.cursor_next
        made = original(known, effects, *arguments)
        del effects.events[count:]
        known.cursor_next = cursor
        return made

    return act


# --- schedules -------------------------------------------------------------------------------------------------------


def _policy(name: str, value: Any) -> Make:
    """A policy of a schedule is overlooked."""

    def make(original: Any) -> Any:
        def act(known: Any, effects: Any, schedule: Any, *arguments: Any) -> Any:
            was = getattr(schedule, name)
            setattr(schedule, name, value)
            try:
                return original(known, effects, schedule, *arguments)
            finally:
                setattr(schedule, name, was)

        return act

    return make


def _deaf_to_orders(original: Any) -> Any:
    """A schedule that is paused says so and fires."""

    def look(known: Any, effects: Any, schedule: Any) -> Any:
        was, schedule.is_paused = schedule.is_paused, False
        try:
            return original(known, effects, schedule)
        finally:
            schedule.is_paused = was

    return look


# --- runs ------------------------------------------------------------------------------------------------------------


def _no_failing_fast(original: Any) -> Any:
    def stop(known: Any, effects: Any, run: Any, reason: Reason, *rest: Any) -> None:
        if reason is not Reason.RUN_FAILED:
            original(known, effects, run, reason, *rest)

    return stop


def _failing_halfway(original: Any) -> Any:
    """A run that fails says so, and nothing of it that is open is cancelled."""

    def stop(known: Any, effects: Any, run: Any, reason: Reason, message: str, *rest: Any) -> None:
        original(known, effects, run, reason, message, *rest)
        if reason is Reason.RUN_FAILED:
            known.errands.pop()

    return stop


def _uncounted(original: Any) -> Any:
    """A run ends without what was added to it."""

    def enter(errand: Any, task: Any, *rest: Any) -> None:
        was = errand.run.open_count
        original(errand, task, *rest)
        if errand.run.part_count:
            errand.run.open_count = was

    return enter


def _unbounded(original: Any) -> Any:
    """What a run may have at once is overlooked."""
    return lambda known, task, run: original(known, task, None)


def _answered_at_once(original: Any) -> Any:
    """The cancel of a run is acknowledged before any task of it is cancelled, and is then forgotten."""

    def cancel_run(known: Any, effects: Any, event: Any) -> None:
        effects.sends.append(Reply(event.reply, 1))

    return cancel_run


def _known_to_nobody(original: Any) -> Any:
    """A request of a graph that was carried out before is carried out again."""

    def known_or_full(known: Any, event: Any) -> Any:
        return original(known, replace(event, request_id="", known_request=None))

    return known_or_full


def _free(original: Any) -> Any:
    """A task again comes after nothing, and gets nobody's result."""
    return lambda *arguments: replace(original(*arguments), dependency_ids=(), dependency_keys=())


def _early(original: Any) -> Any:
    """A milestone is told with one task of it still open."""

    def count(known: Any, effects: Any, run: Any, task: Any) -> None:
        name = run.milestone_of.get(task.id)
        milestone = run.milestones.get(name) if name else None
        if milestone is not None and milestone.succeeded_count == milestone.task_count - 2:
            milestone.succeeded_count += 1
        original(known, effects, run, task)

    return count


def _any_end(original: Any) -> Any:
    """What was to come after a failure comes after any end."""

    def unmet(condition: Condition, ended: Any, reason: Any) -> Any:
        return original(Condition.ALWAYS if condition is Condition.FAILURE else condition, ended, reason)

    return unmet


# --- waits for limits ------------------------------------------------------------------------------------------------


def _granted(original: Any) -> Any:
    """Whoever waits for a limit gets it, whoever holds it."""

    def serve(known: Any, effects: Any, task: Any, attempt: Any, wait: Any) -> None:
        holdings.take_more(known, effects, task, attempt, wait)
        blockage.resource_granted(known, effects, task.id, wait.key)

    return serve


def _kept_more(original: Any) -> Any:
    """What an attempt waited for is not given back with the rest."""

    def take_more(known: Any, effects: Any, task: Any, attempt: Any, wait: Any) -> None:
        original(known, effects, task, attempt, wait)
        if all(claim.key != wait.claim.key for claim in task.spec.demands.claims):
            attempt.holding.claims.discard(wait.claim.key)

    return take_more


def _holder_unnamed(original: Any) -> Any:
    """Nobody notes which attempt got what it waited for: a start forgets that it is held."""

    def take_more(known: Any, effects: Any, task: Any, attempt: Any, wait: Any) -> None:
        original(known, effects, task, attempt, wait)
        wait.held_by = 0

    return take_more


BUGS: tuple[tuple[Any, ...], ...] = (
    ("let another machine take a name", "names", (sessions, "_refusal", _one_machine)),
    ("let the older process have its name back", "names", (sessions, "_refusal", _one_age)),
    ("quarantine nobody", "names", (liveness, "taken_over", _always(False))),
    ("give work to who is quarantined", "names", (sessions, "_taken_over", _not_paused)),
    ("believe a clone that it came after", "I13", (lease, "taken_over", _one_boot)),
    ("let anybody say what does not run", "I13", (lease, "knows", _always(True))),
    ("rise above no epoch", "I17", (epochs, "has_seen_more", _always(False))),
    ("take a task in twice", "once", (submission, "_known", _nothing)),
    ("be sure after a restore", "I12", (epochs, "is_unsure", _always(False)), (sessions, "_outboxes", _sure)),
    ("pass a gap and tell nobody", "I5", (sessions, "_outboxes", _unsaid)),
    ("let wait what a restore forgot", "ends", (sessions, "_move_unheard", _nothing)),
    ("fire beside work that has not ended", "times", (firing, "_meet", _policy("overlap", Overlap.ALLOW))),
    ("replace work that goes on", "times", (firing, "_replace", _nothing)),
    ("skip a time and count nothing", "times", (firing, "_skip", _nothing)),
    ("make up for all that was missed", "times", (firing, "_look", _policy("missed", Missed.ALL))),
    ("make up for one of all that were missed", "times", (firing, "_judge_passed", _policy("missed", Missed.ONCE))),
    ("fire while paused", "times", (firing, "_look", _deaf_to_orders)),
    ("look at no clock that was set", "times", (firing, "wall_clock_moved", _nothing)),
    ("follow a clock that was wrong", "times", (firing, "CLOCK_STEP_US", lambda original: 1 << 62)),
    ("begin all phases at once", "I9", (lifecycle, "hold", _nothing)),
    ("begin no later phase", "ends", (lifecycle, "_count_phase", _nothing)),
    ("take any end for a failure", "I9", (outcome, "unmet", _any_end), (submission, "unmet", _any_end)),
    ("fail no run fast", "I14", (lifecycle, "stop", _no_failing_fast)),
    ("cancel nothing of a failed run", "ends", (lifecycle, "stop", _failing_halfway)),
    ("cancel no task of a cancelled run", "I14", (control, "cancel_run", _answered_at_once)),
    ("add tasks that wait for nothing", "I9", (admission, "_link_outside", _always({}))),
    ("end a run without what was added", "I18", (admission, "_count", _uncounted)),
    ("take a graph in twice", "once", (admission, "_known_or_full", _known_to_nobody)),
    ("keep no order in a sequential run", "I9", (admission, "_close_ranks", _nothing)),
    ("bound no run", "I16", (State, "give_caps", _unbounded)),
    ("tell a milestone early", "I18", (lifecycle, "_count_milestone", _early)),
    ("do again what succeeded", "I18", (run_retry, "_is_settled", _always(False))),
    ("do a task again without its inputs", "I9", (run_retry, "task_again", _free)),
    ("watch no cap", "I16", (caps, "held_back", _nothing)),
    ("give a limit to all who wait", "I21", (lines, "_serve", _granted)),
    ("keep what was waited for", "I21", (holdings, "take_more", _kept_more)),
    ("forget who got what they waited for", "I21", (holdings, "take_more", _holder_unnamed)),
    ("wake nobody who waits for a limit", "ends", (lines, "_serve_waits", _nothing)),
    ("tell nobody of a circle", "ends", (deadlock, "look", _nothing)),
)
