"""Forecasts: what is on its way to its limit is told in time; noise, steps, saw teeth and caches are not."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.forecast import POINTS_MIN, came_down_from, forecast
from paddock.model.health import Forecast, Series
from paddock.testing.series import EVERY_S, ILL, LIMIT, WELL, crossed_at, first_told

SEEDS = range(6)


def line(count: int = 60, start: float = 100e6, per_h: float = 120e6, since: float = 0.0) -> Series:
    at = [since + EVERY_S * n for n in range(count)]
    return Series(at, [start + per_h * (when - since) / 3600 for when in at])


def told(series: Series, **more: float) -> Forecast | None:
    given = {"metric": "memory_bytes", "limit": LIMIT, "now": series.at[-1] if series.at else 0.0, "horizon_s": 1800.0}
    return forecast(series, **{**given, **more})  # type: ignore[arg-type]


def test_a_leak_is_told_with_when_and_how_fast() -> None:
    found = told(line())
    assert found is not None
    assert (found.limit, found.per_hour) == (LIMIT, pytest.approx(120e6))
    assert found.in_s == pytest.approx(1230, abs=30)
    assert found.text == "memory will cross 200 MB in about 20 min (grows by 120 MB an hour)"


def test_units_come_from_the_name() -> None:
    rising = Series([EVERY_S * n for n in range(60)], [0.5 + 0.01 * n for n in range(60)])
    for metric, limit, text in [
        ("latency_s", 1.2, "latency will cross 1.2 s"),
        ("error_share", 1.2, "error will cross 120.0%"),
        ("open_files", 1.2, "open files will cross 1.2"),
    ]:
        found = told(rising, metric=metric, limit=limit)  # type: ignore[arg-type]
        assert found is not None
        assert found.text.startswith(text)


def test_later_than_the_horizon_or_further_than_was_seen_is_not_told() -> None:
    assert told(line(), horizon_s=600.0) is None
    assert told(line(start=20e6, per_h=120e6)) is None
    assert told(line(count=24, start=150e6, per_h=120e6)) is None  # 12 min seen, 19 min to go


def test_few_points_are_not_told_and_a_restart_begins_anew() -> None:
    assert told(line(count=POINTS_MIN - 1, start=150e6, per_h=300e6)) is None
    leak = line(start=100e6)
    assert told(leak, since=leak.at[-10]) is None
    assert told(Series([], [])) is None


def test_what_is_over_its_limit_or_not_measured_is_not_told() -> None:
    assert told(line(start=250e6)) is None
    assert told(Series(line().at, [-1.0] * 60)) is None


def test_below_what_it_survived_a_rise_is_no_news() -> None:
    assert told(line(), survived=190e6) is None
    assert told(line(), survived=150e6) is not None
    saw = Series([float(n) for n in range(6)], [1.0, 5.0, 2.0, 3.0, 2.9, 1.0])
    assert came_down_from(saw) == 5.0
    assert came_down_from(saw, 7.0) == 7.0
    assert came_down_from(line()) == 0.0


@pytest.mark.parametrize("kind", [kind for kind in WELL if kind not in ("saw", "slow saw", "warm-up")])
def test_what_is_well_is_never_told(kind: str) -> None:
    for seed in SEEDS:
        assert first_told(WELL[kind](random.Random(seed)), horizon_s=1800.0, every=4) is None


@pytest.mark.parametrize("kind", ["saw", "slow saw", "warm-up"])
def test_what_looks_like_a_leak_at_first_is_seldom_told(kind: str) -> None:
    """The first tooth of a saw that ends short of the limit cannot be told from a leak."""
    found = [first_told(WELL[kind](random.Random(seed)), horizon_s=1800.0, every=4) for seed in range(12)]
    assert sum(one is not None for one in found) <= 2


@pytest.mark.parametrize("kind", ILL)
def test_what_is_on_its_way_to_the_limit_is_told_before(kind: str) -> None:
    leads = []
    for seed in range(12):
        values = ILL[kind](random.Random(seed))
        found = first_told(values, horizon_s=1800.0)
        leads += [crossed_at(values) - found[0]] if found else []
    assert len(leads) >= 10
    assert statistics.median(leads) >= 600


points = st.lists(st.floats(-1, 1e9), max_size=80)


@given(points, st.floats(0, 1e9), st.floats(0, 1e4))
def test_a_forecast_is_always_ahead_within_the_horizon_and_rising(
    values: list[float], limit: float, horizon_s: float
) -> None:
    series = Series([EVERY_S * n for n in range(len(values))], values)
    found = told(series, limit=limit, horizon_s=horizon_s)
    if found is not None:
        assert 0 <= found.in_s <= horizon_s
        assert found.per_hour > 0
        assert found.text


@given(st.floats(60e6, 150e6), st.floats(40e6, 400e6), st.floats(0, 1e9))
def test_a_straight_line_is_told_right_wherever_time_begins(start: float, per_h: float, since: float) -> None:
    series = line(start=start, per_h=per_h, since=since)
    found = told(series)
    left_s = (LIMIT - series.values[-1]) / per_h * 3600
    if 0 < left_s < 1000 and 59 * EVERY_S * per_h / 3600 > 0.05 * LIMIT:
        assert found is not None
        assert abs(found.in_s - left_s) < 0.15 * 1770 + 5
