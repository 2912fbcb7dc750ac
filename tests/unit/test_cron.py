"""Cron lines in time zones: which instants they name, also where clocks jump, and what is refused."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_coordinator.core.schedules.book import Times
from outrider_coordinator.cron import BadLine, BadZone, cron_times

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
SECOND_US = 1_000_000


def us(text: str) -> int:
    """Microseconds of an ISO time with its offset."""
    return (dt.datetime.fromisoformat(text) - EPOCH) // dt.timedelta(microseconds=1)


def utc(at_us: int | None) -> str:
    """A time as text, in UTC."""
    assert at_us is not None
    return (EPOCH + dt.timedelta(microseconds=at_us)).strftime("%m-%dT%H:%M:%S")


def after(times: Times, text: str, count: int) -> list[str]:
    """The next times after one."""
    found, at_us = [], us(text)
    for _ in range(count):
        following = times.following(at_us)
        assert following is not None
        assert following > at_us
        found.append(utc(following))
        at_us = following
    return found


@pytest.mark.parametrize(
    ("line", "zone", "since", "expected"),
    [
        ("*/15 * * * *", "", "2026-03-01T10:07:00+00:00", ["03-01T10:15:00", "03-01T10:30:00"]),
        ("0 9 * * MON-FRI", "Europe/Berlin", "2026-01-02T09:00:00+01:00", ["01-05T08:00:00", "01-06T08:00:00"]),
        ("*/20 * * * * *", "UTC", "2026-01-01T00:00:01+00:00", ["01-01T00:00:20", "01-01T00:00:40"]),
        ("0 0 29 2 *", "", "2026-01-01T00:00:00+00:00", ["02-29T00:00:00", "02-29T00:00:00"]),
    ],
)
def test_lines_name_the_instants_of_their_zone(line: str, zone: str, since: str, expected: list[str]) -> None:
    """Five fields or six, in UTC or where people live; a leap day is waited for."""
    assert after(cron_times(line, zone), since, 2) == expected


def test_a_time_that_clocks_jump_over_fires_at_the_first_there_is() -> None:
    """On the morning when 02:30 does not exist, it fires at 03:00 local time, once."""
    times = cron_times("30 2 * * *", "Europe/Berlin")
    assert after(times, "2026-03-28T12:00:00+01:00", 2) == ["03-29T01:00:00", "03-30T00:30:00"]


def test_a_time_that_comes_twice_fires_the_first_time() -> None:
    """In the night when 02:30 comes twice, it fires once; between the two, the next is that of the next day."""
    times = cron_times("30 2 * * *", "Europe/Berlin")
    assert after(times, "2026-10-24T12:00:00+02:00", 2) == ["10-25T00:30:00", "10-26T01:30:00"]
    assert after(times, "2026-10-25T02:10:00+01:00", 1) == ["10-26T01:30:00"]


def test_every_hour_is_every_hour_of_elapsed_time() -> None:
    """A line with a star for the hour fires 25 times on the long day and 23 times on the short one."""
    times = cron_times("0 * * * *", "Europe/Berlin")
    for day, count in (("2026-10-25T00:00:00+02:00", 25), ("2026-03-29T00:00:00+01:00", 23)):
        start_us = us(day) - 1
        assert len([one for one in times.latest(start_us + count * 3600 * SECOND_US, 30) if one > start_us]) == count


@pytest.mark.parametrize(
    "line", ["", "* * * *", "61 * * * *", "* * * * * * *", "0 0 31 2 *", "@daily", "* * * * 1#2/3", "x" * 201]
)
def test_a_line_that_cannot_be_read_is_refused(line: str) -> None:
    """The error says what is wrong with it."""
    with pytest.raises(BadLine):
        cron_times(line, "")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    """Unknown names, folders and paths are no time zones."""
    with pytest.raises(BadZone):
        cron_times("* * * * *", zone)


def test_a_line_may_never_come() -> None:
    """A first or twenty-first that is also a last Monday: after fifty years without one there is no next."""
    assert cron_times("* * */20 * 1L", "").following(us("2026-01-01T00:00:00+00:00")) is None


@pytest.mark.parametrize("at_us", [-(10**17), 10**17, 2**63 - 1])
def test_absurd_times_have_no_next(at_us: int) -> None:
    """A clock far out of bounds neither raises nor hangs."""
    times = cron_times("0 0 1 1 *", "Europe/Berlin")
    following = times.following(at_us)
    assert following is None or following > at_us
    assert all(one <= at_us for one in times.latest(at_us, 3))


LINES = st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 */3 * * *", "15,45 1-3 * * SUN", "0 0 1 * *", "59 23 L * *"])
ZONES = st.sampled_from(["", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])


@settings(max_examples=150, deadline=None)
@given(LINES, ZONES, st.integers(us("2024-01-01T00:00:00+00:00"), us("2028-01-01T00:00:00+00:00")))
def test_times_rise_and_looking_back_finds_them(line: str, zone: str, start_us: int) -> None:
    """The next time is later, nothing lies between, and the last time up to it is itself, save where clocks jump."""
    times = cron_times(line, zone)
    following = times.following(start_us)
    assert following is not None
    assert following > start_us
    assert times.following(following - 1) == following
    latest = times.latest(following, 5)
    assert latest == sorted(set(latest))
    assert latest[-1] <= following
    if following - latest[-1] > 2 * 3600 * SECOND_US:
        pytest.fail(f"{utc(latest[-1])} is not near {utc(following)}")
