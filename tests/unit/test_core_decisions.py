"""The core's decisions, one claim each, over model agents and an injected time."""

from __future__ import annotations

from outrider.v1 import task_pb2
from outrider_coordinator.core.effects import Accepted, Refused
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    Answered,
    CancelRequested,
    RunMember,
    Submission,
    TasksSubmitted,
)
from outrider_coordinator.core.explain.reasons import explain_task, explained
from outrider_coordinator.core.failure import encode_error
from outrider_coordinator.core.runs.graph import check
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Constraint, Demands, Operator, Spec
from outrider_coordinator.core.states import Reason, TaskState
from support.core_world import World


def test_a_task_travels_from_submit_to_success() -> None:
    """A submitted task is assigned to a free agent, runs, and ends SUCCEEDED with its events in order."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.complete(agent, ref)
    assert world.state_of(task) is TaskState.SUCCEEDED
    assert world.kinds(task) == [
        "TASK_SUBMITTED",
        "TASK_QUEUED",
        "TASK_ASSIGNED",
        "TASK_STARTED",
        "TASK_SUCCEEDED",
    ]


def test_priority_goes_first_and_equals_keep_their_order() -> None:
    """A higher priority is placed first; equal priorities in the order of submission."""
    world = World()
    first, second = world.submit(2)
    (urgent,) = world.submit(priority=10)
    agent = world.connect("a")
    order = []
    for _ in range(3):
        (ref,) = agent.held
        order.append(ref.task_id)
        world.complete(agent, ref)
    assert order == [urgent, first, second]


def test_the_least_loaded_agent_gets_the_next_task() -> None:
    """Two tasks on two agents with two slots each go one to each."""
    world = World()
    one, other = world.connect("a", 2), world.connect("b", 2)
    world.submit(2)
    assert (len(one.held), len(other.held)) == (1, 1)


def test_labels_are_hard_and_do_not_hold_up_others() -> None:
    """A task nobody can take waits, the one behind it runs, and Explain names the rule."""
    world = World()
    agent = world.connect("a", labels={"os": "linux"})
    (gpu,) = world.submit(demands=Demands((Constraint("gpu", Operator.EXISTS),)), priority=10)
    (plain,) = world.submit()
    assert [ref.task_id for ref in agent.held] == [plain]
    explanation = explained(explain_task(world.state, gpu, world.now_us))
    assert explanation is not None
    assert explanation.agents[0][2] == "LABELS"
    assert explanation.suggestions == [
        "one more agent with gpu present",
        "label gpu=yes on agent a, one more slot on agent a",
    ]


def test_the_same_request_id_gives_the_same_task_and_another_body_is_refused() -> None:
    """A retried submit creates nothing; the same request id with another digest is refused."""
    world = World()
    world.submit(request_id="r1")
    world.submit(request_id="r1")
    assert world.replies[-2:] == [[Accepted("t1")], [Accepted("t1", created=False)]]
    world.state.requests.add("default", "r2", "t0", b"other")
    world.submit(request_id="r2")
    (refused,) = world.replies[-1]
    assert isinstance(refused, Refused)
    assert refused.reason == "REQUEST_ID_REUSED"


def test_a_full_queue_refuses_with_a_reason() -> None:
    """Beyond queue_depth_max open tasks a submit is refused QUEUE_FULL and stores nothing."""
    world = World(CoreSettings(queue_depth_max=1))
    world.submit(2)
    first, second = world.replies[-1]
    assert isinstance(first, Accepted)
    assert second.reason == "QUEUE_FULL"
    assert len(world.state.tasks) == 1


def test_a_run_waits_for_dependencies_and_merges() -> None:
    """A task of a run is offered only after everything it comes after succeeded (I9)."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_run(("merge", ("x", "y")), ("x", ()), ("y", ()))
    assert world.state_of(ids["merge"]) is TaskState.PENDING
    world.complete(agent, world.ref(agent, ids["x"]))
    assert world.state_of(ids["merge"]) is TaskState.PENDING
    world.complete(agent, world.ref(agent, ids["y"]))
    world.complete(agent, world.ref(agent, ids["merge"]))
    assert world.state_of(ids["merge"]) is TaskState.SUCCEEDED
    assert world.state.runs == {}


def test_failure_skips_every_descendant_once() -> None:
    """When a task of a run fails, all that come after it are SKIPPED, once each (I18)."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_run(("x", ()), ("l", ("x",)), ("r", ("x",)), ("end", ("l", "r")))
    world.fail(agent, world.ref(agent, ids["x"]))
    assert [world.state_of(ids[key]) for key in ("l", "r", "end")] == [TaskState.SKIPPED] * 3


def test_a_cycle_is_named() -> None:
    """A graph with a cycle is refused with the cycle, key by key."""
    spec = Spec(b"", "m:f", True)
    members = [RunMember(key, key, spec, (after,)) for key, after in (("a", "b"), ("b", "c"), ("c", "a"))]
    refused = check(members)
    assert refused is not None
    assert refused.reason == "CYCLE"
    assert "a -> b -> c -> a" in refused.message


def test_an_own_failure_is_final_without_a_retry_policy() -> None:
    """A function that raises is not run again unless max_attempts says so."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    world.fail(agent, world.ref(agent, task))
    assert world.state_of(task) is TaskState.FAILED


def test_retry_waits_its_backoff_and_stops_at_max_attempts() -> None:
    """max_attempts counts the first try; the second comes after the backoff, then the task fails."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(max_attempts=2, initial_backoff_us=3 * SECOND_US)
    world.fail(agent, world.ref(agent, task))
    assert world.state_of(task) is TaskState.PENDING
    world.wait(2)
    assert not agent.held
    world.wait(1.1)
    world.fail(agent, world.ref(agent, task))
    assert world.state_of(task) is TaskState.FAILED


def test_cancel_of_a_queued_task_is_immediate_and_of_a_running_one_waits_for_the_agent() -> None:
    """Cancel decides the outcome; a success reported afterwards changes nothing (I14)."""
    world = World()
    agent = world.connect("a")
    running, queued = world.submit(2)
    world.do(CancelRequested([running, queued], "", world.replies.append))
    assert [verdict.cancelled for verdict in world.replies[-1]] == [True, True]
    assert world.state_of(queued) is TaskState.CANCELLED
    assert world.state_of(running) is TaskState.CANCELLING
    world.complete(agent, world.ref(agent, running))
    assert world.state_of(running) is TaskState.CANCELLED


def test_a_blocked_task_gives_its_slot_to_the_one_it_waits_for() -> None:
    """Two waits on two slots do not deadlock: parked attempts free their slots for what they wait for."""
    world = World()
    agent = world.connect("a", 2)
    one, two, needed = world.submit(3)
    for task in (one, two):
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.block(agent, ref, f"wait-{task}", "dependency", required_task_id=needed)
    world.complete(agent, world.ref(agent, needed))
    assert {answer.task_id for answer in agent.answers} == {one, two}
    assert all(answer.dependency_state == TaskState.SUCCEEDED for answer in agent.answers)
    for task in (one, two):
        world.unblock(agent, world.ref(agent, task), f"wait-{task}")
        world.complete(agent, world.ref(agent, task))
    assert world.state_of(one) is world.state_of(two) is TaskState.SUCCEEDED


def test_a_dependency_that_ends_in_the_same_step_is_not_waited_for() -> None:
    """A submit that arrives together with the end of what it depends on is decided by that end, not left waiting."""
    world = World()
    (first,) = world.submit()
    after = Submission("late", "default", Spec(b"", "m:f", True), dependency_ids=(first,))
    world.do(CancelRequested([first], "", world.replies.append), TasksSubmitted([after], world.replies.append))
    assert world.state_of("late") is TaskState.SKIPPED


def test_an_answer_wakes_the_question_and_twice_is_harmless() -> None:
    """An answer reaches the attempt once; the same answer again is accepted and sends nothing."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k")
    for _ in range(2):
        world.do(Answered(task, "k", b"yes", world.replies.append))
    assert world.replies[-2:] == ["k", "k"]
    assert len(agent.answers) == 1


def test_a_retry_that_asks_again_gets_the_same_answer() -> None:
    """An answer belongs to the task's key: the next attempt is not asked twice."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(max_attempts=2)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k")
    world.do(Answered(task, "k", b"yes", world.replies.append))
    world.fail(agent, ref)
    world.wait(2)
    again = world.ref(agent, task)
    world.start(agent, again)
    world.block(agent, again, "k")
    assert agent.answers[-1].attempt == again.attempt


def test_an_answer_to_nothing_is_refused_with_what_it_waits_for() -> None:
    """Answering a wrong key names the right ones."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k")
    world.do(Answered(task, "other", b"", world.replies.append))
    assert world.replies[-1].reason == "ILLEGAL_TRANSITION"
    assert "k" in world.replies[-1].message


def test_an_external_wait_ends_at_its_retry_time() -> None:
    """ExternalDependency wakes by itself when its retry time comes."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k", "external", retry_us=world.now_us + 10 * SECOND_US)
    world.wait(9)
    assert not agent.answers
    world.wait(2)
    resolution = task_pb2.Resolution.FromString(agent.answers[0].resolution)
    assert (resolution.key, resolution.resolved_by) == ("k", "timer")


def test_a_poisonous_task_is_quarantined() -> None:
    """A task that kills its worker three times stops with POISONED however many tries it has left."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(max_attempts=9)
    for _ in range(3):
        world.fail(agent, world.ref(agent, task), Reason.WORKER_DIED)
        world.wait(61)
    assert world.state_of(task) is TaskState.FAILED
    assert world.log[-1].reason == Reason.POISONED


def test_paused_and_drained_agents_get_nothing() -> None:
    """No offer goes to an agent that is paused or draining (I10); resume ends both."""
    world = World()
    agent = world.connect("a")
    for order in (AgentOrder.PAUSE, AgentOrder.DRAIN):
        world.do(AgentOrdered("a", order, world.replies.append))
        world.submit()
        assert not agent.held
    world.do(AgentOrdered("a", AgentOrder.RESUME, world.replies.append))
    assert len(agent.held) == 1


def test_short_functions_are_sent_ahead_and_long_ones_are_not() -> None:
    """Only a function whose kind is known to be short waits in line on an agent."""
    world = World()
    agent = world.connect("a", prefetch_credit=4)
    (first,) = world.submit()
    world.submit(9)
    assert len(agent.held) == 1
    ref = world.ref(agent, first)
    world.start(agent, ref)
    world.complete(agent, ref)
    assert len(agent.held) == 5


def test_a_line_is_no_longer_than_its_time() -> None:
    """Functions of 40 ms wait in line for a quarter of a second of each slot, not as many as the credit allows."""
    world = World()
    agent = world.connect("a", slots=2, prefetch_credit=100)
    (first,) = world.submit()
    ref = world.ref(agent, first)
    world.start(agent, ref)
    world.wait(0.04)
    world.complete(agent, ref)
    world.submit(50)
    running, half_a_second_of_work = 2, 13
    assert len(agent.held) == running + half_a_second_of_work


def test_an_expired_queue_timeout_ends_the_task() -> None:
    """A task that did not start within its queue timeout ends EXPIRED."""
    world = World()
    (task,) = world.submit(queue_timeout_us=SECOND_US)
    world.wait(1.1)
    assert world.state_of(task) is TaskState.EXPIRED


def test_a_dependency_that_had_failed_skips_the_task_at_once() -> None:
    """Submitting after a task that ended FAILED gives a SKIPPED task, after one that succeeded a ready one."""
    world = World()
    agent = world.connect("a")
    (bad,) = world.submit()
    world.fail(agent, world.ref(agent, bad))
    (skipped,) = world.submit(after=(bad,))
    assert world.state_of(skipped) is TaskState.SKIPPED


def test_errors_made_by_the_core_are_valid_messages() -> None:
    """The hand-written encoding of TaskError is what protobuf reads."""
    error = task_pb2.TaskError.FromString(encode_error(Reason.AGENT_LOST, "é" * 200))
    assert (error.reason, error.message) == (task_pb2.TASK_REASON_AGENT_LOST, "é" * 200)
