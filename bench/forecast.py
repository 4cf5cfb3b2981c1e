"""Forecasts on made series: false alarms, what is told in time, lead; beside the change detectors of river.

river is not a part of Paddock; without it (`pip install river`) its columns say so. Seeded: the figures are the same on
every machine, but for the processor time.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence

from _bench import row

from paddock.decide.forecast import forecast
from paddock.model.health import Series
from paddock.testing.series import EVERY_S, HOURS, ILL, LIMIT, WELL, Maker, crossed_at, first_told

SERIES = 200
HORIZON_S = 1800.0

Detector = Callable[[Sequence[float]], float | None]
"""Values up to the limit → when it first speaks, in s."""


def ours(values: Sequence[float]) -> float | None:
    found = first_told(values, horizon_s=HORIZON_S)
    return found[0] if found else None


def detectors() -> dict[str, Detector]:
    found: dict[str, Detector] = {"ours": ours}
    try:
        from river import drift
    except ImportError:
        row("river", "not here")
        return found

    def rising(make: Callable[[], object]) -> Detector:
        def told(values: Sequence[float]) -> float | None:
            detector, before = make(), values[0]
            for place, value in enumerate(values):
                share = 100 * value / LIMIT
                detector.update(share)  # type: ignore[attr-defined]  # any of river's detectors
                if detector.drift_detected:  # type: ignore[attr-defined]
                    recent = statistics.fmean(values[max(0, place - 10) : place + 1])
                    if recent > before:
                        return place * EVERY_S
                    before = recent
                elif place % 60 == 0:
                    before = statistics.fmean(values[max(0, place - 60) : place + 1])
            return None

        return told

    found["ADWIN"] = rising(lambda: drift.ADWIN())
    found["PageHinkley"] = rising(lambda: drift.PageHinkley(mode="up"))
    return found


def series_of(make: Maker) -> list[list[float]]:
    return [make(random.Random(seed)) for seed in range(SERIES)]


def judge_well(name: str, make: Maker, told: dict[str, Detector]) -> dict[str, int]:
    false = {who: sum(1 for values in series_of(make) if detect(values) is not None) for who, detect in told.items()}
    row(f"{name}: series with a false alarm, of {SERIES}", ", ".join(f"{who} {n}" for who, n in false.items()))
    return false


def judge_ill(name: str, make: Maker, told: dict[str, Detector]) -> None:
    every = series_of(make)
    for who, detect in told.items():
        leads = []
        for values in every:
            end = crossed_at(values)
            at = detect(values[: int(end / EVERY_S)]) if end < math.inf else None
            leads += [end - at] if at is not None else []
        count = f"{len(leads)} of {sum(1 for values in every if crossed_at(values) < math.inf)} in time"
        text = f"{count}, lead median {statistics.median(leads) / 60:.0f} min" if leads else count
        row(f"{name}: {who}", text + (f", least {min(leads) / 60:.1f}, most {max(leads) / 60:.0f}" if leads else ""))


def precision() -> None:
    """How far off the told time is, where a straight line is right."""
    errors = []
    for values in series_of(ILL["leak"]):
        found = first_told(values, horizon_s=HORIZON_S)
        if found is not None:
            at, seen = found
            errors.append((at + seen.in_s - crossed_at(values)) / 60)
    text = f"median {statistics.median(errors):+.1f} min, from {min(errors):+.1f} to {max(errors):+.1f}"
    row("leak: told time less the true one", text)


def cost() -> None:
    for name, make in {**WELL, **ILL}.items():
        values = make(random.Random(1))
        windows = [Series([n * EVERY_S for n in range(60)], values[start : start + 60]) for start in range(0, 600, 5)]
        before = time.process_time()
        for series in windows:
            forecast(series, metric="memory_bytes", limit=LIMIT, now=1800.0, horizon_s=HORIZON_S)
        row(f"{name}: processor time a forecast", f"{(time.process_time() - before) / len(windows) * 1e6:.0f} µs")


def main() -> None:
    told = detectors()
    row("each series", f"{HOURS:g} h, a point every {EVERY_S:g} s, horizon {HORIZON_S / 60:g} min")
    sums = dict.fromkeys(told, 0)
    for name, make in WELL.items():
        for who, count in judge_well(name, make, told).items():
            sums[who] += count
    total = SERIES * len(WELL)
    row(f"false alarms in all, of {total} well series", ", ".join(f"{who} {n}" for who, n in sums.items()))
    for name, make in ILL.items():
        judge_ill(name, make, told)
    precision()
    cost()


if __name__ == "__main__":
    main()
