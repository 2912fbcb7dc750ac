"""The arithmetic of limits, one limit at a time, and the books that are kept of them; caps, globs, the survey."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.events import Ticked
from outrider_coordinator.core.limits import holdings, lines, scopes
from outrider_coordinator.core.limits.book import LOCK, Definition, LimitKind, Pool, Tally
from outrider_coordinator.core.limits.cap_claims import claims_of
from outrider_coordinator.core.limits.scopes import overlap
from outrider_coordinator.core.limits.survey import survey
from outrider_coordinator.core.model import Cap
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Claim, Demands
from outrider_coordinator.core.states import EventType
from support.core_world import World
from support.limit_world import RATE, SEMAPHORE, define, finish, held, start, submit, want, want_task
from support.telling import begin

X, SHARED = Claim("x"), Claim("x", shared=True)


def semaphore(capacity: int, *units: int) -> Pool:
    """A semaphore of which so many units are held, each by somebody else."""
    pool = Pool(Definition(LimitKind.SEMAPHORE, capacity, 0.0, 0))
    for number, one in enumerate(units):
        pool.hold((f"t{number}", 1), Claim("x", units=one))
    return pool


def lock(*claims: Claim) -> Pool:
    """A lock that is held so."""
    pool = Pool()
    for number, claim in enumerate(claims):
        pool.hold((f"t{number}", 1), claim)
    return pool


@pytest.mark.parametrize(
    ("pool", "claim", "own", "beside", "expected"),
    [
        (lock(), X, None, Tally(), True),
        (lock(X), X, None, Tally(), False),
        (lock(X), SHARED, None, Tally(), False),
        (lock(SHARED, SHARED), SHARED, None, Tally(), True),
        (lock(SHARED), X, None, Tally(), False),
        (lock(), X, None, Tally(1, 1, 0), False),
        (lock(), SHARED, None, Tally(1, 1, 0), True),
        (lock(), SHARED, None, Tally(1, 0, 1), False),
        (lock(X), X, ("t0", 1), Tally(), True),
        (lock(X), SHARED, ("t0", 1), Tally(), True),
        (lock(SHARED), X, ("t0", 1), Tally(), True),
        (lock(SHARED, SHARED), X, ("t0", 1), Tally(), False),
        (lock(SHARED), SHARED, ("t0", 1), Tally(1, 0, 1), True),
        (lock(SHARED), X, ("t9", 1), Tally(), False),
        (semaphore(3), Claim("x", units=3), None, Tally(), True),
        (semaphore(3), Claim("x", units=4), None, Tally(), False),
        (semaphore(3, 1, 1), X, None, Tally(), True),
        (semaphore(3, 1, 1), X, None, Tally(1, 0, 1), False),
        (semaphore(3, 2, 1), X, None, Tally(), False),
    ],
)
def test_what_is_admitted(pool: Pool, claim: Claim, own: Any, beside: Tally, expected: bool) -> None:
    """Beside what is held and what is set aside; nobody stands in his own way at a lock."""
    assert pool.admits(claim, 0, beside, own) is expected


def test_a_rate_gives_a_unit_back_every_interval() -> None:
    """Two a second, three at once: the fourth comes half a second later."""
    pool = Pool(Definition(LimitKind.RATE, 0, 2.0, 3))
    assert pool.definition.interval_us == 500_000
    assert pool.available(1000) == 3.0
    assert [pool.ready_us(units, 1000) for units in (1, 3, 4)] == [1000 - 1_000_000, 1000, 501_000]
    pool.take(Claim("x", units=3), 1000)
    assert (pool.full_us, pool.taken_us, pool.available(1000)) == (1_501_000, 1000, 0.0)
    assert not pool.admits(X, 500_999)
    assert pool.admits(X, 501_000)
    assert [pool.available(us) for us in (500_999, 501_000, 1_000_999, 1_001_000, 9_000_000)] == [
        0.0,
        1.0,
        1.0,
        2.0,
        3.0,
    ]
    semaphore(3).take(X, 1000)


@pytest.mark.parametrize(("per_second", "interval_us"), [(3.0, 333_334), (1e9, 1), (0.5, 2_000_000), (1e6, 1)])
def test_a_rate_is_never_exceeded_by_rounding(per_second: float, interval_us: int) -> None:
    """Up to the next microsecond, and at least one."""
    assert Definition(LimitKind.RATE, 0, per_second, 1).interval_us == interval_us


@pytest.mark.parametrize(
    ("pool", "units", "expected"),
    [(lock(X), 99, True), (semaphore(3, 3), 3, True), (semaphore(3), 4, False)]
    + [(Pool(Definition(LimitKind.RATE, 0, 1.0, 2)), units, units <= 2) for units in (1, 2, 3)],
)
def test_what_could_ever_be_had(pool: Pool, units: int, expected: bool) -> None:
    """If nobody held anything."""
    assert pool.can_ever(Claim("x", units=units)) is expected


@pytest.mark.parametrize(
    ("pool", "available", "is_over"),
    [
        (lock(), 1.0, False),
        (lock(X), 0.0, False),
        (lock(SHARED, SHARED), 0.0, False),
        (lock(X, X), 0.0, True),
        (lock(X, SHARED), 0.0, True),
        (semaphore(3, 2), 1.0, False),
        (semaphore(3, 2, 1), 0.0, False),
        (semaphore(3, 2, 2), 0.0, True),
    ],
)
def test_what_is_left_and_what_is_too_much(pool: Pool, available: float, is_over: bool) -> None:
    """Units of a semaphore, one or none of a lock; held beyond what it allows."""
    assert (pool.available(0), pool.is_over) == (available, is_over)


def test_claims_of_one_holder_are_added_up_and_given_back_together() -> None:
    """Shared only as long as all of it is."""
    pool = semaphore(9)
    pool.hold(("t", 1), Claim("x", shared=True, units=2))
    pool.hold(("t", 1), Claim("x", units=3))
    pool.hold(("u", 1), SHARED)
    assert pool.holders == {("t", 1): Claim("x", units=5), ("u", 1): SHARED}
    assert pool.held == Tally(6, 1, 1)
    pool.release(("t", 1))
    assert pool.held == Tally(1, 1, 0)
    with pytest.raises(KeyError):
        pool.release(("t", 1))


def test_a_definition_that_shrinks_waits_for_its_holders() -> None:
    """It was changed until what is held is allowed again."""
    pool = semaphore(3, 2, 1)
    pool.define(Definition(LimitKind.SEMAPHORE, 1, 0.0, 0), 0)
    assert (pool.was_changed, pool.is_defined) == (True, True)
    pool.release(("t0", 1))
    assert not pool.was_changed
    pool.define(LOCK, 0)
    assert not pool.was_changed


def test_a_rate_that_is_redefined_owes_what_it_owed() -> None:
    """In units, at most the new burst; another kind owes nothing."""
    pool = Pool(Definition(LimitKind.RATE, 0, 1.0, 9))
    pool.take(Claim("x", units=4), 0)
    pool.define(Definition(LimitKind.RATE, 0, 10.0, 3), 1_500_000)
    assert (pool.full_us, pool.taken_us) == (1_500_000 + 3 * 100_000, 1_500_000)
    pool.define(Definition(LimitKind.RATE, 0, 1.0, 9), 1_700_000)
    assert pool.full_us == 1_700_000 + SECOND_US
    pool.define(Definition(LimitKind.RATE, 0, 2.0, 9), 9_000_000)
    assert pool.full_us == 9_000_000
    pool.define(LOCK, 9_000_000)
    assert pool.full_us == 0


# --- lines -----------------------------------------------------------------------------------------------------------


def test_holders_in_the_way_are_those_that_keep_it() -> None:
    """Not oneself, not those that would share it, and nobody where only time gives it back."""
    assert lines.in_the_way(lock(SHARED, SHARED), SHARED) == []
    assert lines.in_the_way(lock(SHARED, SHARED), X, ("t1", 1)) == [("t0", 1)]
    assert lines.in_the_way(semaphore(3, 1, 2), SHARED, ("t0", 1)) == [("t1", 1)]
    rate = Pool(Definition(LimitKind.RATE, 0, 1.0, 2))
    rate.hold(("t", 1), X)
    assert lines.in_the_way(rate, X) == []


def test_scopes_that_are_kept_for_somebody_are_kept_from_those_behind() -> None:
    """Who waits for a write scope has it before those that came later and only want a part of it."""
    world = World()
    agent = world.connect("a", 4)
    first = world.submit(demands=Demands(scopes=("src/a",)))[0]
    wide = world.submit(demands=Demands(scopes=("src/*",)))[0]
    narrow = world.submit(demands=Demands(scopes=("src/b",)))[0]
    elsewhere = world.submit(demands=Demands(scopes=("docs/*",)))[0]
    assert held(world, agent) == [first, elsewhere]
    finish(world, agent, first)
    assert held(world, agent) == [wide, elsewhere]
    finish(world, agent, wide)
    assert held(world, agent) == sorted([elsewhere, narrow])


def test_scopes_of_another_namespace_are_another_matter() -> None:
    """Nothing is kept from a task of another namespace, nor held against it."""
    world = World()
    world.connect("a", 4)
    world.submit(demands=Demands(scopes=("src/a",)))
    world.submit(demands=Demands(scopes=("src/*",)))
    record = next(iter(world.state.tasks.values()))
    assert holdings.scope_holder(world.state.limits, record) is not None
    record.namespace = "other"
    assert holdings.scope_holder(world.state.limits, record) is None
    world.state.limits.reserved_scopes = [("default", "t9", ("src/*",)), ("other", "t8", ("src/*",))]
    rule, has_turn = lines._scopes_wait(world.state, record)
    assert rule is not None
    assert (rule.text, has_turn) == ("it writes src/a; task t8 waits for write scope src/*", False)
    world.state.limits.reserved_scopes.pop()
    assert lines._scopes_wait(world.state, record) == (None, True)


def test_what_waits_for_a_blocked_holder_is_kept_from_nobody() -> None:
    """A holder that waits itself may take long: those behind go first meanwhile."""
    world = World()
    agent = world.connect("a", 4)
    first = world.submit(demands=Demands(scopes=("src/a",)))[0]
    begin(world, agent)
    world.block(agent, world.ref(agent, first), "k")
    world.submit(demands=Demands(scopes=("src/*",)))
    narrow = world.submit(demands=Demands(scopes=("src/b",)))[0]
    assert held(world, agent) == [first, narrow]


def test_a_rate_wakes_those_that_wait_for_it_once() -> None:
    """One timer at the time when there is enough for the first; what can never be had has none."""
    world = World()
    world.connect("a", 9)
    define(world, "api", RATE, 1, 2)
    submit(world, Claim("api", units=2))
    before = len(world.state.timers)
    submit(world, Claim("api", units=9))
    assert len(world.state.timers) == before
    (task,) = submit(world, Claim("api", units=2))
    due = [timer for timer in world.state.timers if timer[2].name == "LIMIT" and timer[3]]
    assert [timer[0] for timer in due] == [world.now_us + 2 * SECOND_US]
    submit(world, Claim("api", units=2))
    assert len([timer for timer in world.state.timers if timer[2].name == "LIMIT" and timer[3]]) == 1
    world.do(Ticked(), after_us=2 * SECOND_US)
    assert task in held(world, world.agents["a"])


def test_the_youngest_wait_of_a_circle_is_told() -> None:
    """By when it was opened, then by when its task was accepted."""
    world = World()
    agent = world.connect("a", 9)
    first, second = start(world, agent, "x"), start(world, agent, "y")
    want(world, agent, second, "x")
    world.now_us += 5
    want(world, agent, first, "y")
    (told,) = world.of(EventType.TASK_DEADLOCK)
    assert (told.task_id, told.attempt) == (first, 1)
    assert told.text == f"deadlock: {first} waits for y held by {second} -> {second} waits for x held by {first}"


def test_circles_are_looked_for_again_as_long_as_limits_are_held() -> None:
    """Every two seconds, and not without limits."""
    world = World()
    agent = world.connect("a", 9)
    tasks = world.submit(2)
    begin(world, agent)
    want_task(world, agent, tasks[0], tasks[1])
    assert not [timer for timer in world.state.timers if timer[2].name == "DEADLOCK"]
    holder = start(world, agent, "x")
    want_task(world, agent, holder, tasks[1])
    (again,) = [timer for timer in world.state.timers if timer[2].name == "DEADLOCK"]
    assert (again[0], world.state.limits.look_us) == (world.now_us + 2 * SECOND_US, world.now_us + 2 * SECOND_US)


# --- caps ------------------------------------------------------------------------------------------------------------


def test_a_task_counts_against_every_cap_that_is_about_it() -> None:
    """The fleet's, its type's, its runner's, its run's; not those of others."""
    settings = CoreSettings(running_max=9, type_running_max={"m:f": 3, "m:g": 1}, runner_running_max={"r": 2, "q": 1})
    world = World(settings)
    world.submit(demands=Demands(runner="r"))
    record = world.state.tasks["t1"]
    expected = (Cap("fleet", "", 9), Cap("type", "m:f", 3), Cap("runner", "r", 2))
    assert claims_of(settings, record) == record.caps == expected
    record.run_id = "run"
    assert claims_of(settings, record, 4) == (*expected, Cap("run", "run", 4))
    assert claims_of(CoreSettings(), record) == ()


# --- globs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/**", "a/b/c", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/y", False),
        ("**", "x/y", True),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("[a-c]x", "bx", True),
        ("[a-c]x", "dx", False),
        ("[c-]x", "-x", True),
        ("[a-c-e]x", "ex", True),
        ("[a-c-e]x", "dx", False),
        ("[!a]", "a", False),
        ("[^a]", "a", False),
        ("[^a]", "b", True),
        ("[!a]", "b", True),
        ("[!]]", "]", False),
        ("[!]]", "a", True),
        ("[^]]", "a", True),
        ("[]a]", "a", True),
        ("[a]]", "a]", True),
        ("[a]]", "a", False),
        ("[-a]", "-", True),
        ("[a-]", "b", False),
        ("b[!a-c]", "bd", True),
        ("[c-aX]", "b", False),
        ("a:b:c", "a:b:c", True),
        ("a:b:c", "b:c", False),
        ("*:a", "*:a", True),
        ("*:a", "x:a", False),
        ("a/", "a", True),
        ("a/", "b", False),
        ("x/a*", "x/b*", False),
        ("?", "*", True),
        ("[]]", "]", True),
        ("[^]a]", "a", False),
        ("[!]", "[!]", True),
        ("[!]", "a", False),
        ("x[", "x[", True),
        ("x[", "xy", False),
        ("*.py", "*.md", False),
        ("a*.py", "*b.py", True),
        ("web:a", "web:a", True),
        ("web:a", "api:a", False),
        ("web:a", "a", False),
        ("a/b:c", "a/b:c", True),
        ("w*b:a", "w*b:a", True),
        ("a/", "a/b/c", True),
        ("a//b/.", "a/b", True),
        ("a*/x", "ab/x", True),
        ("a/b/*", "a/c/*", False),
    ],
)
def test_two_globs_meet_or_they_do_not(left: str, right: str, expected: bool) -> None:
    """Parts, stars of one part and of many, any character, sets with and without, repositories, slashes."""
    assert overlap(left, right) is expected
    assert overlap(right, left) is expected


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], [(0, scopes._CHARACTER_MAX)]),
        ([(0, 5)], [(6, scopes._CHARACTER_MAX)]),
        ([(3, 5), (4, 9)], [(0, 2), (10, scopes._CHARACTER_MAX)]),
        ([(3, 5), (6, 9)], [(0, 2), (10, scopes._CHARACTER_MAX)]),
        ([(3, 5), (7, 9)], [(0, 2), (6, 6), (10, scopes._CHARACTER_MAX)]),
        ([(3, 9), (4, 5)], [(0, 2), (10, scopes._CHARACTER_MAX)]),
        ([(1, scopes._CHARACTER_MAX)], [(0, 0)]),
        ([(1, scopes._CHARACTER_MAX - 1)], [(0, 0), (scopes._CHARACTER_MAX, scopes._CHARACTER_MAX)]),
    ],
)
def test_what_a_set_leaves_out(ranges: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    """Every character that is in none of the ranges, and no other."""
    assert scopes._complement(ranges) == expected


def test_what_would_take_too_long_to_prove_counts_as_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better one wait too many than two writers."""
    assert not overlap("*a*a*a*x", "*b*b*b*y")
    monkeypatch.setattr(scopes, "STATES_MAX", 3)
    scopes._overlap.cache_clear()
    assert overlap("*a*a*a*x", "*b*b*b*y")
    scopes._overlap.cache_clear()


# --- the survey ------------------------------------------------------------------------------------------------------


def test_a_survey_shows_what_is_defined_held_and_wanted() -> None:
    """By name; of one only that; of a rate when the next unit comes."""
    world = World()
    agent = world.connect("a", 9)
    define(world, "db", SEMAPHORE, 2)
    define(world, "api", RATE, 2, 2)
    define(world, "free", SEMAPHORE, 1)
    holder = start(world, agent, "db", "api")
    (queued,) = submit(world, Claim("db", units=2))
    waiter = start(world, agent)
    want(world, agent, waiter, Claim("db", units=2))
    world.now_us += 200_000
    world.do(Ticked())
    found = {one.key: one for one in survey(world.state, "default")}
    assert list(found) == ["api", "db", "free"]
    db, api = found["db"], found["api"]
    assert (db.available, [(party.task_id, party.attempt) for party in db.holders]) == (1.0, [(holder, 1)])
    assert [(party.task_id, party.attempt, party.claim.units) for party in db.waiters] == [
        (queued, 0, 2),
        (waiter, 1, 2),
    ]
    assert (api.available, api.refill_us - world.now_us) == (1.0, 300_000)
    assert (db.refill_us, found["free"].available) == (0, 1.0)
    assert [one.key for one in survey(world.state, "default", "db")] == ["db"]
    assert [one.available for one in survey(world.state, "default", "none")] == []
    world.now_us += 300_000
    world.do(Ticked())
    assert survey(world.state, "default", "api")[0].refill_us == 0
