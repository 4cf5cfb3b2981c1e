"""Whether a measured value is on its way to its limit, and when it gets there.

The points are put into blocks, and of each block the lowest value is taken: a leak lifts the floor, while a spike,
noise and the saw teeth of a garbage collector do not. Through the floors goes the median of all slopes between two of
them (Theil and Sen). It is told only when nearly all pairs of floors rise (Kendall), when the rise stands out from what
is left around the line, when it has not slowed down (a cache that fills, a step), and when the limit is near enough.

A restart begins anew: points from before `since` are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from paddock.model.health import Forecast, Series

POINTS_MIN = 20
SPAN_S_MIN = 60.0
BLOCKS = 10
RISING_SHARE = 0.9
"""Of the pairs of floors, rising less falling."""
SLOWED = 0.6
"""The later half must rise at least at this share of the whole."""
RISE_TO_SPREAD = 4.0
"""The rise over the whole time must be so many times the spread around the line."""
RISE_MIN = 0.03
"""And at least this share of the limit: less is not worth a word."""


def forecast(
    series: Series,
    *,
    metric: str,
    limit: float,
    now: float,
    horizon_s: float,
    since: float = 0.0,
    survived: float = 0.0,
) -> Forecast | None:
    """The trend of `metric` if it crosses `limit` within `horizon_s`. `since`: when the incarnation started.
    `survived`: the highest value from which it came down by itself before (0: not known); below it a rise is not news.

    Units come from the metric's name: `…_bytes`, `…_s`, `…_share`, else a plain number."""
    at, values = _alive(series, since)
    count = len(values)
    if count < POINTS_MIN or at[-1] - at[0] < SPAN_S_MIN or limit <= 0:
        return None
    span_s = at[-1] - at[0]
    floors = _floors(at, values)
    rise = floors[-1][1] - floors[0][1]
    level = max(values[-count // BLOCKS :])
    # Most series end here: nothing rises, or not far enough even if all of it were a trend.
    if (
        level >= limit
        or level < survived
        or rise < RISE_MIN * limit * 0.5
        or level + 3 * rise * horizon_s / span_s < limit
    ):
        return None
    slope, rising = _slope(floors)
    if rising < RISING_SHARE or slope * span_s < RISE_MIN * limit:
        return None
    middle = median(value - slope * when for when, value in floors)
    spread = median(abs(value - slope * when - middle) for when, value in floors)
    if slope * span_s < RISE_TO_SPREAD * spread:
        return None
    late, _ = _slope(floors[len(floors) // 2 :])
    if late < SLOWED * slope:
        return None
    rate = min(slope, late)
    top = _upper([value - slope * when for when, value in zip(at, values, strict=True)]) + slope * at[-1]
    in_s = max(0.0, (limit - top) / rate - (now - at[-1]))
    if in_s > horizon_s:
        return None
    text = f"{_name(metric)} will cross {_amount(metric, limit)} in about {_time(in_s)} "
    text += f"(grows by {_amount(metric, rate * 3600)} an hour)"
    return Forecast(metric=metric, now=values[-1], limit=limit, per_hour=rate * 3600, in_s=in_s, text=text)


def _alive(series: Series, since: float) -> tuple[Sequence[float], Sequence[float]]:
    """The points of this incarnation that were measured: -1 means that one was not."""
    if (not series.at or series.at[0] >= since) and (not series.values or min(series.values) >= 0):
        return series.at, series.values
    kept = [(at, value) for at, value in zip(series.at, series.values, strict=True) if at >= since and value >= 0]
    return [at for at, _ in kept], [value for _, value in kept]


def _floors(at: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """(time, lowest value) of each block."""
    count = len(values)
    found = []
    for block in range(BLOCKS):
        start, end = block * count // BLOCKS, (block + 1) * count // BLOCKS
        value = min(values[start:end])
        found.append((at[values.index(value, start, end)], value))
    return found


def _slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The median of the slopes of all pairs, and the share of pairs that rise less the share of those that fall."""
    slopes, rising = [], 0
    for place, (at, value) in enumerate(points):
        for before_at, before in points[:place]:
            if at > before_at:
                slopes.append((value - before) / (at - before_at))
                rising += (value > before) - (value < before)
    return (median(slopes), rising / len(slopes)) if slopes else (0.0, 0.0)


def _upper(values: Sequence[float]) -> float:
    """What nine of ten do not exceed: what crosses first is a peak, but not the spike."""
    ordered = sorted(values)
    return ordered[int(0.9 * (len(ordered) - 1))]


def _name(metric: str) -> str:
    for ending in ("_bytes", "_s", "_share"):
        metric = metric.removesuffix(ending)
    return metric.replace("_", " ")


def _amount(metric: str, value: float) -> str:
    if metric.endswith("_bytes"):
        return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"
    if metric.endswith("_share"):
        return f"{value:.1%}"
    if metric.endswith("_s"):
        return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
