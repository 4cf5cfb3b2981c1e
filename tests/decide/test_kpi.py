"""Key figures, objectives with their error budget and burn rates."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.kpi import BURNS, Usage, kpis, objectives, total
from paddock.model.incident import Incident, IncidentState
from paddock.model.kpi import LATENCY_BOUNDS_S, FleetPoint, Kpi, Slo, amount
from paddock.model.policy import Cause, Objective

NOW = 1_790_000_000.0
DAY_S = 86_400.0
UP = Objective(name="up", measure="availability", share=0.999, window_s=30 * DAY_S)
DONE = Objective(name="done", measure="success", share=0.99, window_s=DAY_S)


def point(ago_s: float, **fields: Any) -> FleetPoint:
    """A stretch of five minutes that began so long ago."""
    return FleetPoint(**{"fleet": "bot", "at": NOW - ago_s, "span_s": 300.0} | fields)


def outage(for_s: float, *, share: float, of_s: float = 30 * DAY_S) -> list[FleetPoint]:
    """A fleet that was well for `of_s`, but for the last `for_s`, in which this share of it was down."""
    return [
        point(ago, wanted_s=300.0, ready_s=300.0 * (1.0 - share if ago <= for_s else 1.0))
        for ago in range(300, int(of_s) + 1, 300)
    ]


def burning(points: list[FleetPoint], objective: Objective = UP) -> Slo:
    [found] = objectives("bot", [objective], points, NOW)
    return found


def incident(number: int, *, took_s: float = 0.0, state: IncidentState = IncidentState.RECOVERED) -> Incident:
    return Incident(
        id=number,
        key=f"agent.bot.{number}.1.1",
        about=f"bot/{number}",
        cause=Cause.CRASH,
        signature="crash",
        title="died",
        state=state,
        sign_at=NOW,
        opened_at=NOW + 0.5,
        recovered_at=NOW + took_s if took_s else 0.0,
    )


def named(found: list[Kpi]) -> dict[str, Kpi]:
    return {kpi.name: kpi for kpi in found}


# --- sums

POINTS = st.lists(
    st.builds(
        lambda wanted, share, done, failed, dead, latencies, fleet, at: FleetPoint(
            fleet=fleet,
            at=NOW - at,
            span_s=300.0,
            wanted_s=wanted,
            ready_s=wanted * share,
            done=done,
            failed=failed,
            dead=dead,
            latencies=latencies,
        ),
        st.floats(0, 1e9),
        st.floats(0, 1),
        *[st.integers(0, 1000)] * 3,
        st.lists(st.integers(0, 1000), min_size=15, max_size=15),
        st.sampled_from(["a", "b"]),
        st.floats(0, 40 * DAY_S),
    ),
    max_size=30,
)


@given(POINTS)
def test_shares_are_shares_and_what_was_not_measured_is_not_claimed(points: list[FleetPoint]) -> None:
    sums = total(points)
    assert (sums.availability is None) == (sums.wanted_s == 0)
    assert (sums.success is None) == (sums.done + sums.failed + sums.dead == 0)
    for share in (sums.availability, sums.success, *(sums.within(limit) for limit in (0.001, 0.2, 1e9))):
        assert share is None or 0.0 <= share <= 1.0 + 1e-9
    found = named(kpis(points, [], [], Usage()))
    score = found["system score"].value
    assert score is None or 0.0 <= score <= 100.0 + 1e-6
    assert all(kpi.value is None or math.isfinite(kpi.value) for kpi in found.values())


@given(POINTS, POINTS)
def test_the_sum_of_two_parts_is_the_sum_of_the_whole(one: list[FleetPoint], two: list[FleetPoint]) -> None:
    whole, first, second = total([*one, *two]), total(one), total(two)
    assert whole.done == first.done + second.done
    assert whole.latencies == [a + b for a, b in zip(first.latencies, second.latencies, strict=True)]
    assert whole.wanted_s == pytest.approx(first.wanted_s + second.wanted_s)


@given(POINTS, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_quantiles_grow_with_the_share_and_are_bounds_of_buckets(
    points: list[FleetPoint], one: float, two: float
) -> None:
    sums = total(points)
    low, high = sums.quantile_s(min(one, two)), sums.quantile_s(max(one, two))
    if low is None or high is None:
        assert not sum(sums.latencies)
        return
    assert low <= high
    assert low in (*LATENCY_BOUNDS_S, math.inf)


def test_a_quantile_is_the_bucket_in_which_it_ends() -> None:
    latencies = [0] * 15
    latencies[3], latencies[7], latencies[14] = 90, 9, 1  # up to 50 ms, up to 1 s, over 300 s
    sums = total([point(0, done=100, latencies=latencies)])
    assert sums.quantile_s(0.5) == 0.05
    assert sums.quantile_s(0.9) == 0.05
    assert sums.quantile_s(0.95) == 1.0
    assert sums.quantile_s(0.999) == math.inf
    assert sums.within(0.05) == 0.9
    assert sums.within(0.06) == 0.9  # of a bucket that ends later nothing is known for sure
    assert sums.within(1.0) == 0.99


def test_owners_of_one_fleet_are_not_counted_twice_and_those_of_two_fleets_are() -> None:
    stretches = [point(600, owners=3), point(300, owners=5), point(300, owners=2, fleet="other")]
    assert total(stretches).owners == 7


# --- figures


def test_figures_say_whether_they_are_as_good_as_claimed() -> None:
    good = point(0, wanted_s=1000.0, ready_s=999.5, done=99, failed=1, latency_s=9.9, latencies=[0, 0, 0, 0, 99])
    found = named(kpis([good], [incident(1, took_s=2.0)], [100, 90], Usage(memory_bytes=2e9, memory_bytes_max=8e9)))
    assert [found[name].good for name in ("availability", "success", "response", "recover")] == [True] * 4
    assert found["response"].value == pytest.approx(0.1)
    assert found["response p95"].value == 0.1
    assert (found["detect"].value, found["recover"].value) == (0.5, 2.0)
    assert (found["work done"].value, found["health"].value) == (99.0, 95.0)
    assert (found["memory used"].value, found["processor used"].value) == (0.25, None)
    assert found["system score"].value == pytest.approx(100 * (0.4 * 0.9995 + 0.3 * 0.99 + 0.3 * 0.95))

    bad = named(kpis([point(0, wanted_s=10.0, ready_s=9.0, dead=1)], [incident(1, took_s=400.0)], [], Usage()))
    assert [bad[name].good for name in ("availability", "success", "recover")] == [False] * 3
    assert bad["response"].good is None


def test_with_nothing_measured_nothing_is_said() -> None:
    found = named(kpis([], [], [], Usage()))
    for name in ("availability", "success", "response", "recover", "health", "system score", "memory used"):
        assert (found[name].value, found[name].good) == (None, None)
    assert amount(None, "s") == "not measured"


def test_responses_beyond_the_last_bucket_are_told_as_more_than_it() -> None:
    slow = point(0, done=10, latencies=[0] * 14 + [10])
    p95 = named(kpis([slow], [], [], Usage()))["response p95"]
    assert (p95.value, p95.text) == (300.0, "more than 5 of 100 tasks took longer than this")


def test_the_95th_of_100_recoveries_is_the_95th() -> None:
    found = named(kpis([], [incident(n, took_s=float(n)) for n in range(1, 101)], [], Usage()))
    assert found["recover p95"].value == 95.0
    assert found["escalated"].value == 0.0
    waits = [incident(1, state=IncidentState.ESCALATED), incident(2, took_s=1.0)]
    assert named(kpis([], waits, [], Usage()))["escalated"].value == 1.0


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9995, "share", "99.95%"),
        (0.999, "share", "99.90%"),
        (0.99999, "share", "99.99%"),
        (1.0, "share", "100.00%"),
        (0.5, "share", "50.00%"),
        (-1.496, "share", "-149.60%"),
        (0.012, "s", "0.012 s"),
        (0.999, "s", "0.999 s"),
        (300.0, "s", "300.0 s"),
        (12.34, "s", "12.3 s"),
        (12_345.0, "tasks", "12,345 tasks"),
        (3.0, "", "3"),
    ],
)
def test_amounts_are_told_with_their_unit(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


# --- objectives: Google's SRE workbook, chapter 5, table 5-8 for 99.9 %


def test_the_windows_and_rates_are_those_of_the_workbook() -> None:
    assert [(long_s / 3600, short_s / 60, rate) for long_s, short_s, rate, _ in BURNS] == [
        (1, 5, 14.4),
        (6, 30, 6.0),
        (72, 360, 1.0),
    ]
    # 2 % of a budget of 30 days in an hour, 5 % in 6 hours, 10 % in 3 days
    assert [rate * long_s / (30 * DAY_S) for long_s, _, rate, _ in BURNS] == pytest.approx([0.02, 0.05, 0.1])


def test_an_hour_at_two_percent_down_pages() -> None:
    found = burning(outage(3600.0, share=0.02))
    assert found.alarm == "page"
    assert dict(found.burns)[3600.0] == pytest.approx(20.0)
    assert found.value == pytest.approx(1 - 0.02 / 720)
    assert found.budget_left == pytest.approx(1 - 0.02 / 720 / 0.001)


def test_six_hours_at_a_little_less_page_by_the_longer_window() -> None:
    found = burning(outage(6 * 3600.0, share=0.007))  # 7 times the rate of the budget
    assert (found.alarm, dict(found.burns)[3600.0] < 14.4) == ("page", True)


def test_three_days_at_just_over_the_budget_are_a_ticket() -> None:
    assert burning(outage(3 * DAY_S, share=0.0011)).alarm == "ticket"
    assert burning(outage(3 * DAY_S, share=0.0009)).alarm == ""


def test_what_is_over_rings_no_longer() -> None:
    """The short window: the budget of the hour is still burnt, and nothing burns."""
    points = [
        point(ago, wanted_s=300.0, ready_s=200.0 if 1800 < ago <= 3600 else 300.0) for ago in range(300, 30_000, 300)
    ]
    found = burning(points)
    assert dict(found.burns)[3600.0] > 14.4
    assert found.alarm == "ticket"  # the last six hours are over the rate of three days


def test_the_budget_is_overdrawn_when_more_was_missed_than_may_be() -> None:
    found = burning([point(DAY_S, wanted_s=300.0), point(300, done=95, failed=5)], DONE)
    assert found.value == pytest.approx(0.95)
    assert found.budget_left == pytest.approx(-4.0)


def test_five_seconds_down_in_the_first_minute_are_five_seconds_of_the_budget_of_thirty_days() -> None:
    found = burning([point(60, span_s=60.0, wanted_s=60.0, ready_s=55.0)])
    assert found.alarm == ""
    assert found.value == pytest.approx(55 / 60), "what was measured is told as it was"
    assert found.budget_left == pytest.approx(1 - 5 / (0.001 * 30 * DAY_S))
    assert dict(found.burns)[3 * DAY_S] == pytest.approx(5 / (0.001 * 3 * DAY_S))


def test_a_young_fleet_that_is_down_for_a_minute_pages_like_an_old_one() -> None:
    down = [point(600, wanted_s=300.0, ready_s=300.0), point(300, wanted_s=300.0, ready_s=240.0)]
    old = [point(ago, wanted_s=300.0, ready_s=300.0) for ago in range(900, 7200, 300)]
    assert (burning(down).alarm, burning(old + down).alarm) == ("page", "page")


def test_nothing_measured_is_no_alarm_and_no_figure() -> None:
    found = burning([])
    assert (found.value, found.budget_left, found.burns, found.alarm) == (None, None, [], "")


def test_latency_counts_what_was_quick_enough() -> None:
    latencies = [0] * 15
    latencies[4], latencies[10] = 98, 2
    quick = Objective(name="quick", measure="latency", share=0.95, within_s=0.1, window_s=DAY_S)
    found = burning([point(DAY_S, wanted_s=300.0), point(300, done=100, latencies=latencies)], quick)
    assert found.value == pytest.approx(0.98)
    assert found.budget_left == pytest.approx(1 - 0.02 / 0.05)


@given(POINTS, st.floats(0.01, 0.9999), st.sampled_from(["availability", "success", "latency"]))
def test_a_budget_is_never_more_than_whole_and_alarms_have_a_reason(
    points: list[FleetPoint], share: float, measure: str
) -> None:
    found = burning(points, Objective(name="o", measure=measure, share=share, within_s=1.0))
    assert found.budget_left is None or found.budget_left <= 1.0 + 1e-6
    assert found.value is None or -1e-6 <= found.value <= 1.0 + 1e-6
    if found.alarm:
        rates = {long_s: rate for long_s, _, rate, what in BURNS if what == found.alarm}
        assert any(dict(found.burns).get(long_s, 0.0) >= rate for long_s, rate in rates.items())
