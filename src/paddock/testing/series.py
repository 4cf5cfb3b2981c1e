"""Made series of a measured value, for judging forecasts: some are on their way to the limit, most are not.

Each is seeded, is measured every EVERY_S for HOURS, and has LIMIT as its limit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from paddock.decide.forecast import came_down_from, forecast
from paddock.model.health import Forecast, Series

EVERY_S = 30.0
HOURS = 6.0
LIMIT = 200e6
POINTS = int(HOURS * 3600 / EVERY_S)
WINDOW = 60
"""Points that are kept, as the server keeps them."""

Maker = Callable[[random.Random], list[float]]


def _times() -> list[float]:
    return [place * EVERY_S for place in range(POINTS)]


def _noisy(dice: random.Random, values: Sequence[float], share: float = 0.01) -> list[float]:
    return [max(0.0, value + LIMIT * dice.gauss(0.0, share)) for value in values]


def noise(dice: random.Random) -> list[float]:
    """Level, with noise of 1 to 5 % of the limit."""
    level = LIMIT * dice.uniform(0.2, 0.8)
    return _noisy(dice, [level] * POINTS, dice.uniform(0.01, 0.05))


def walk(dice: random.Random) -> list[float]:
    """Wanders about a level, and comes back to it."""
    level, off, values = LIMIT * dice.uniform(0.3, 0.7), 0.0, []
    for _ in range(POINTS):
        off = 0.97 * off + LIMIT * dice.gauss(0.0, 0.008)
        values.append(level + off)
    return values


def step(dice: random.Random) -> list[float]:
    """Two or three times it does more than before, and stays there."""
    levels = sorted(LIMIT * dice.uniform(0.2, 0.85) for _ in range(dice.randrange(2, 4)))
    return _noisy(dice, [levels[place * len(levels) // POINTS] for place in range(POINTS)])


def spikes(dice: random.Random) -> list[float]:
    """Level, with single high values."""
    level = LIMIT * dice.uniform(0.2, 0.6)
    return _noisy(dice, [level + (LIMIT * 0.35 if dice.random() < 0.03 else 0.0) for _ in range(POINTS)])


def saw(dice: random.Random, low_s: float = 60.0, high_s: float = 1200.0) -> list[float]:
    """A garbage collector: up to a peak below the limit, and down again."""
    floor, teeth = dice.uniform(0.2, 0.4), dice.uniform(0.2, 0.45)
    period_s, phase = dice.uniform(low_s, high_s), dice.random()
    return _noisy(dice, [LIMIT * (floor + teeth * ((at / period_s + phase) % 1.0)) for at in _times()])


def slow_saw(dice: random.Random) -> list[float]:
    """The same, with a period longer than what is kept of it."""
    return saw(dice, 2400.0, 5400.0)


def daily(dice: random.Random) -> list[float]:
    """A wave of one day, its top at 90 % of the limit."""
    phase, swing = dice.random() * 2 * math.pi, dice.uniform(0.1, 0.4)
    return _noisy(
        dice, [LIMIT * (0.9 - swing + swing * math.sin(2 * math.pi * at / 86_400 + phase)) for at in _times()]
    )


def warm_up(dice: random.Random) -> list[float]:
    """A cache that fills, quickly at first, to 60 to 90 % of the limit."""
    start, end, tau_s = dice.uniform(0.1, 0.2), dice.uniform(0.6, 0.9), dice.uniform(300.0, 2400.0)
    return _noisy(dice, [LIMIT * (end - (end - start) * math.exp(-at / tau_s)) for at in _times()])


def _to_limit(dice: random.Random, low_s: float, high_s: float, teeth: float = 0.0, power: float = 1.0) -> list[float]:
    """Level for half an hour, then up to the limit within low_s to high_s, and on."""
    start, lasts_s = dice.uniform(0.2, 0.5), dice.uniform(low_s, high_s)
    period_s, values = dice.uniform(60.0, 600.0), []
    for at in _times():
        share = max(0.0, at - 1800.0) / lasts_s
        values.append(LIMIT * (start + (1.0 - start) * share**power + teeth * ((at / period_s) % 1.0)))
    return _noisy(dice, values)


def leak(dice: random.Random) -> list[float]:
    """At its limit within one to three hours."""
    return _to_limit(dice, 3600.0, 10_800.0)


def leak_under_saw(dice: random.Random) -> list[float]:
    """A leak in something with a garbage collector."""
    return _to_limit(dice, 3600.0, 10_800.0, teeth=0.15)


def quick_leak(dice: random.Random) -> list[float]:
    """At its limit within fifteen to forty minutes."""
    return _to_limit(dice, 900.0, 2400.0)


def slow_drift(dice: random.Random) -> list[float]:
    """At its limit within four to five hours."""
    return _to_limit(dice, 14_400.0, 18_000.0)


def faster_and_faster(dice: random.Random) -> list[float]:
    """A rise that becomes quicker: a queue that is served less and less."""
    return _to_limit(dice, 3600.0, 10_800.0, power=2.0)


WELL: dict[str, Maker] = {
    "noise": noise,
    "walk": walk,
    "step": step,
    "spikes": spikes,
    "saw": saw,
    "slow saw": slow_saw,
    "daily wave": daily,
    "warm-up": warm_up,
}
ILL: dict[str, Maker] = {
    "leak": leak,
    "leak under saw": leak_under_saw,
    "quick leak": quick_leak,
    "slow drift": slow_drift,
    "faster and faster": faster_and_faster,
}


def crossed_at(values: Sequence[float]) -> float:
    """When it is at its limit for the first time; infinite: never."""
    return next((place * EVERY_S for place, value in enumerate(values) if value >= LIMIT), math.inf)


def first_told(values: Sequence[float], *, horizon_s: float, every: int = 2) -> tuple[float, Forecast] | None:
    """When a forecast is told for the first time, before the limit; looked at with every n-th point. What it came down
    from is remembered, as a caller would."""
    survived = 0.0
    for place in range(every, int(min(crossed_at(values) / EVERY_S, len(values))), every):
        start = max(0, place - WINDOW)
        series = Series([n * EVERY_S for n in range(start, place)], list(values[start:place]))
        survived, now = came_down_from(series, survived), (place - 1) * EVERY_S
        found = forecast(series, metric="memory_bytes", limit=LIMIT, now=now, horizon_s=horizon_s, survived=survived)
        if found is not None:
            return now, found
    return None
