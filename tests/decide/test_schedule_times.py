"""When schedules come due: time zones, daylight saving, catching up once."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.decide.schedule import by_elapsed_time, due, fire_id, next_fire, unknown_methods
from paddock.model.fleet import FleetSpec, Method, Schedule
from paddock.model.names import check_task_id

CRONS = [
    "* * * * *",
    "*/5 * * * *",
    "30 2 * * *",
    "30 1 * * *",
    "0 */3 * * *",
    "15 1-3 * * *",
    "0 0 1 * *",
    "0 9 * * 1",
]
ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"]


def schedule(cron: str, timezone: str = "UTC", name: str = "s") -> Schedule:
    return Schedule(name=name, cron=cron, method="tidy", timezone=timezone)


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone) if zone != "UTC" else UTC, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("cron", "zone", "after", "then"),
    [
        ("* * * * *", "UTC", "2025-01-01 00:00:00", "2025-01-01 00:01:00"),
        ("0 3 * * *", "UTC", "2025-01-01 02:59:59.5", "2025-01-01 03:00:00"),
        ("0 3 * * *", "UTC", "2025-01-01 03:00:00", "2025-01-02 03:00:00"),
        ("0 3 * * *", "Europe/Berlin", "2025-07-01 00:00:00", "2025-07-01 03:00:00"),
        ("0 0 29 2 *", "UTC", "2025-01-01 00:00:00", "2028-02-29 00:00:00"),
        # The clock jumps from 2:00 to 3:00: what falls into the gap fires at its end.
        ("30 2 * * *", "Europe/Berlin", "2025-03-29 12:00:00", "2025-03-30 03:00:00"),
        ("30 2 * * *", "Europe/Berlin", "2025-03-30 03:00:00", "2025-03-31 02:30:00"),
        ("*/30 * * * *", "Europe/Berlin", "2025-03-30 01:30:00", "2025-03-30 03:00:00"),
    ],
)
def test_the_next_time_is_by_the_clock_on_the_wall(cron: str, zone: str, after: str, then: str) -> None:
    assert next_fire(schedule(cron, zone), at(after, zone)) == at(then, zone)


def test_a_time_that_comes_twice_fires_once() -> None:
    daily = schedule("30 2 * * *", "Europe/Berlin")
    first = next_fire(daily, at("2025-10-25 12:00:00", "Europe/Berlin"))
    assert first == at("2025-10-26 02:30:00", "Europe/Berlin", fold=0)
    between = at("2025-10-26 02:10:00", "Europe/Berlin", fold=1)
    assert next_fire(daily, first) == next_fire(daily, between) == at("2025-10-27 02:30:00", "Europe/Berlin")


def test_every_half_hour_goes_on_through_the_hour_that_comes_twice() -> None:
    start = at("2025-10-26 01:30:00", "Europe/Berlin")
    fires = [start]
    for _ in range(4):
        fires.append(next_fire(schedule("*/30 * * * *", "Europe/Berlin"), fires[-1]))
    assert [fire - start for fire in fires] == [0.0, 1800.0, 3600.0, 5400.0, 7200.0]


def test_a_schedule_that_never_comes_again_is_never_due() -> None:
    # The fifth Monday of a February is the 29th, and not one of the 1st, 11th and 21st.
    never = schedule("0 0 */10 2 1#5")
    assert next_fire(never, 0.0) == math.inf
    assert due([never], 0.0, at("2025-12-31 23:59:59")) == []


def test_after_a_long_absence_a_schedule_is_caught_up_once_with_its_latest_time() -> None:
    schedules = [schedule("* * * * *", name="minute"), schedule("0 3 * * *", name="night")]
    found = due(schedules, at("2024-01-01 00:00:00"), at("2025-01-01 10:00:30"))
    assert [(one.name, fire) for one, fire in found] == [
        ("night", at("2025-01-01 03:00:00")),
        ("minute", at("2025-01-01 10:00:00")),
    ]


def test_a_rare_schedule_is_found_after_years() -> None:
    leap = schedule("0 0 29 2 *")
    assert due([leap], 0.0, at("2027-06-01 00:00:00")) == [(leap, at("2024-02-29 00:00:00"))]


def test_a_time_is_due_exactly_once_at_the_borders() -> None:
    every = schedule("* * * * *")
    minute = at("2025-01-01 00:01:00")
    assert due([every], minute - 1, minute) == [(every, minute)]
    assert due([every], minute, minute + 59) == []


def test_a_clock_that_was_set_back_makes_nothing_due() -> None:
    assert due([schedule("* * * * *")], 10_000.0, 5_000.0) == []


def test_ids_are_good_task_ids_and_the_same_for_the_same_time() -> None:
    long = fire_id("f" * 63, "s" * 63, 1_790_000_000.0)
    assert check_task_id(long) == fire_id("f" * 63, "s" * 63, 1_790_000_000.0)
    ids = {fire_id("a", "b", 60.0), fire_id("a", "b", 120.0), fire_id("a", "c", 60.0), fire_id("b", "b", 60.0)}
    assert len(ids) == 4


def test_a_time_that_comes_again_after_the_clock_was_set_back_has_another_id() -> None:
    ids = [fire_id("a", "b", 60.0), *(fire_id("a", "b", 60.0, turn) for turn in range(3))]
    assert ids[0] == ids[1]
    assert len({check_task_id(name) for name in ids}) == 3


@pytest.mark.parametrize(
    ("cron", "elapsed"),
    [("* * * * *", True), ("*/5 3 * * *", True), ("7 * * * *", True), ("0 3 * * *", False), ("5,35 1-4 * * *", False)],
)
def test_what_comes_by_the_hour_or_minute_goes_by_elapsed_time(cron: str, elapsed: bool) -> None:
    assert by_elapsed_time(schedule(cron)) is elapsed


def test_schedules_of_unknown_methods_are_named_once_the_methods_are_known() -> None:
    spec = FleetSpec(name="a", runtime="python", agent="m:C", schedules=[schedule("* * * * *")])
    assert unknown_methods(spec) == []
    spec = FleetSpec(name="a", runtime="python", schedules=[schedule("* * * * *")], methods=[Method(name="send")])
    assert unknown_methods(spec) == ["schedule 's' of a calls 'tidy', which is not among its methods: send"]


# Around the changes of the clocks of 2025, where it is hard.
times = st.sampled_from(
    [at("2025-03-09 00:00:00"), at("2025-03-29 20:00:00"), at("2025-10-25 20:00:00"), at("2025-11-02 00:00:00")]
).flatmap(lambda start: st.floats(start, start + 20 * 3600))


@settings(deadline=None)
@given(st.sampled_from(CRONS), st.sampled_from(ZONES), times)
def test_the_next_time_is_always_later(cron: str, zone: str, after: float) -> None:
    assert next_fire(schedule(cron, zone), after) > after


@settings(deadline=None)
@given(st.sampled_from(CRONS), st.sampled_from(ZONES), times, st.lists(st.floats(1, 7200), min_size=1, max_size=20))
def test_looking_often_finds_every_time_that_one_by_one_walking_finds(
    cron: str, zone: str, start: float, steps: list[float]
) -> None:
    """`due` from one look to the next gives the latest of each interval: the same fires, whoever asks and when."""
    one = schedule(cron, zone)
    end = start + sum(steps)
    walked, fire = [], next_fire(one, start)
    while fire <= end:
        walked.append(fire)
        fire = next_fire(one, fire)
    last = start
    for step in steps:
        now = min(last + step, end)
        expected = [fire for fire in walked if last < fire <= now][-1:]
        assert [fire for _, fire in due([one], last, now)] == expected
        last = now
