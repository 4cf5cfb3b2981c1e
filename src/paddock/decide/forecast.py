"""Whether a measured value is on its way to its limit, and when it gets there.

The points are put into blocks, and of each block the lowest value is taken: a leak lifts the floor, while a spike,
noise and the saw teeth of a garbage collector do not. Through the floors goes the median of all slopes between two of
them (Theil and Sen). It is told only when nearly all pairs of floors rise (Kendall), when the rise stands out from what
is left around the line, when it has not slowed down (a cache that fills, a step), and when the limit is near enough.

A restart begins anew: points from before `since` are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from paddock.model.health import Forecast, Series

POINTS_MIN = 20
SPAN_S_MIN = 60.0
BLOCKS = 10
BLOCKS_FEW = 6
"""Longer blocks, for slower saw teeth; then each floor must be higher than all before it."""
RISING_SHARE = 0.9
"""Of the pairs of floors, rising less falling."""
SLOWED = 0.75
"""The later half must rise at least at this share of the earlier."""
RISE_TO_SPREAD = 4.0
"""The rise over the whole time must be so many times the spread around the line."""
ONE_STEP = 0.45
"""No more than this share of the rise may lie between two neighbouring floors."""
REACH = 0.75
"""It is not looked further ahead than this share of the time that is known."""
RISE_MIN = 0.03
"""It must rise by at least this share of the limit: less is not worth a word."""
CAME_DOWN = 0.8
NEARLY = 0.95
"""From this share of what it survived on, it may be on its way to more."""


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
    `survived`: from where it came down by itself before (see `came_down_from`); below that a rise is not news.

    Units come from the metric's name: `…_bytes`, `…_s`, `…_share`, else a plain number."""
    at, values = _alive(series, since)
    count = len(values)
    if count < POINTS_MIN or at[-1] - at[0] < SPAN_S_MIN or limit <= 0:
        return None
    level = max(values[-count // BLOCKS :])
    if level >= limit or level < NEARLY * survived:
        return None
    found = _crossing(at, values, BLOCKS, limit, horizon_s) or _crossing(at, values, BLOCKS_FEW, limit, horizon_s)
    if found is None:
        return None
    in_s, rate = max(0.0, found[0] - (now - at[-1])), found[1]
    text = f"{_name(metric)} will cross {_amount(metric, limit)} in about {_time(in_s)} "
    text += f"(grows by {_amount(metric, rate * 3600)} an hour)"
    return Forecast(metric=metric, now=values[-1], limit=limit, per_hour=rate * 3600, in_s=in_s, text=text)


def came_down_from(series: Series, before: float = 0.0) -> float:
    """The highest value from which it came down by itself, by a fifth at least: the saw tooth of something that cleans
    up. To be kept, as it may lie further back than the points do, and for the whole fleet: what one agent survives, its
    like survives, too. `before` is the highest one known."""
    top = 0.0
    for value in series.values:
        if value > top:
            top = value
        elif value < CAME_DOWN * top:
            before, top = max(before, top), value
    return before


def _crossing(
    at: Sequence[float], values: Sequence[float], blocks: int, limit: float, horizon_s: float
) -> tuple[float, float] | None:
    """(seconds from the last point to the limit, rise a second), if there is a trend that gets there."""
    span_s = at[-1] - at[0]
    reach_s = min(horizon_s, REACH * span_s)
    floors = _floors(at, values, blocks)
    rise = floors[-1][1] - floors[0][1]
    # Most series end here: nothing rises, or not far enough even if three times of it were a trend.
    if rise < RISE_MIN * limit * 0.5 or max(values) + 3 * rise * reach_s / span_s < limit:
        return None
    slope, rising = _slope(floors)
    if rising < (RISING_SHARE if blocks == BLOCKS else 1.0) or slope * span_s < RISE_MIN * limit:
        return None
    middle = median(value - slope * when for when, value in floors)
    spread = median(abs(value - slope * when - middle) for when, value in floors)
    if slope * span_s < RISE_TO_SPREAD * spread:
        return None
    if max(after[1] - before[1] for before, after in pairwise(floors)) > ONE_STEP * rise:
        return None
    half = len(floors) // 2
    early, late = _slope(floors[: half + 1])[0], _slope(floors[half:])[0]
    if late <= 0 or late < SLOWED * early:
        return None
    rate = min(slope, late)
    top = _upper([value - slope * when for when, value in zip(at, values, strict=True)]) + slope * at[-1]
    in_s = max(0.0, (limit - top) / rate)
    return (in_s, rate) if in_s <= reach_s else None


def _alive(series: Series, since: float) -> tuple[Sequence[float], Sequence[float]]:
    """The points of this incarnation that were measured: -1 means that one was not."""
    if (not series.at or series.at[0] >= since) and (not series.values or min(series.values) >= 0):
        return series.at, series.values
    kept = [(at, value) for at, value in zip(series.at, series.values, strict=True) if at >= since and value >= 0]
    return [at for at, _ in kept], [value for _, value in kept]


def _floors(at: Sequence[float], values: Sequence[float], blocks: int) -> list[tuple[float, float]]:
    """(time, lowest value) of each block."""
    count = len(values)
    found = []
    for block in range(blocks):
        start, end = block * count // blocks, (block + 1) * count // blocks
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
