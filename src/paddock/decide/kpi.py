"""Key figures and service levels from what was counted. What each one means is said in its text.

Burn rates after Google's SRE workbook, chapter 5 ("Alerting on SLOs", multiwindow, multi-burn-rate): a page when the
budget burns 14.4 times too fast over both the last hour and 5 minutes, or 6 times over 6 hours and 30 minutes; a ticket
at 1 over 3 days and 6 hours.

What is younger than a window has not had the time to spend its budget: what was missed since it is measured counts
against the budget of the whole window, as if nothing had been missed before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from paddock.decide.explain import times
from paddock.model.incident import Incident, IncidentState
from paddock.model.kpi import LATENCY_BOUNDS_S, FleetPoint, Kpi, Slo, Work
from paddock.model.policy import Objective

CLAIMS = {"availability": 0.999, "success": 0.99, "response": 1.0, "recover": 300.0}
"""What the systems that Paddock stands in for claim: the floor."""

BURNS = ((3600.0, 300.0, 14.4, "page"), (21_600.0, 1800.0, 6.0, "page"), (259_200.0, 21_600.0, 1.0, "ticket"))
"""(long window, short window, burn rate, what to do): both windows must be over the rate."""

SCORE_PARTS = (("availability", 0.4), ("success", 0.3), ("health", 0.3))
"""The system score: the weighted mean of these, those that are known, from 0 to 100."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of what there is, now."""

    memory_bytes: float = -1.0
    memory_bytes_max: float = 0.0
    cpus: float = -1.0
    cpus_max: float = 0.0


class Total(Work, frozen=True, kw_only=True):
    """Points of one or several fleets, summed up."""

    @property
    def availability(self) -> float | None:
        return self.ready_s / self.wanted_s if self.wanted_s else None

    @property
    def success(self) -> float | None:
        ended = self.done + self.failed + self.dead
        return self.done / ended if ended else None

    @property
    def mean_s(self) -> float | None:
        return self.latency_s / self.done if self.done else None

    def quantile_s(self, share: float) -> float | None:
        """The upper bound of the bucket in which this share of response times ends; infinite beyond the last."""
        left = share * sum(self.latencies)
        if not left:
            return None
        for count, bound in zip(self.latencies, (*LATENCY_BOUNDS_S, float("inf")), strict=True):
            left -= count
            if left <= 0:
                return bound
        return float("inf")

    def within(self, limit_s: float) -> float | None:
        """The share of done tasks that surely took at most `limit_s`: by buckets that end there or earlier."""
        total = sum(self.latencies)
        quick = sum(
            count for count, bound in zip(self.latencies, LATENCY_BOUNDS_S, strict=False) if bound <= limit_s * 1.0001
        )
        return quick / total if total else None


def total(points: Iterable[FleetPoint]) -> Total:
    """Sum up. Owners of different fleets are different; of one fleet the most of any stretch are taken."""
    wanted = ready = latency = busy = 0.0
    done = failed = dead = 0
    latencies = [0] * (len(LATENCY_BOUNDS_S) + 1)
    owners: dict[str, int] = {}
    for point in points:
        wanted, ready = wanted + point.wanted_s, ready + point.ready_s
        done, failed, dead = done + point.done, failed + point.failed, dead + point.dead
        latency, busy = latency + point.latency_s, busy + point.busy_s
        for index, count in enumerate(point.latencies[: len(latencies)]):
            latencies[index] += count
        owners[point.fleet] = max(owners.get(point.fleet, 0), point.owners)
    return Total(
        wanted_s=wanted,
        ready_s=ready,
        done=done,
        failed=failed,
        dead=dead,
        busy_s=busy,
        latency_s=latency,
        latencies=latencies,
        owners=sum(owners.values()),
    )


def kpis(points: Sequence[FleetPoint], incidents: Sequence[Incident], scores: Sequence[int], usage: Usage) -> list[Kpi]:
    """All key figures of a time span. `incidents` are those that were opened in it."""
    sums = total(points)
    health = sum(scores) / len(scores) if scores else None
    detect, recover = _times(incidents, "detect"), _times(incidents, "recover")
    found = [
        _kpi("availability", sums.availability, "share", "time in which a wanted agent was ready", least=True),
        _kpi("success", sums.success, "share", "tasks that were done, of all that ended", least=True),
        _kpi("response", sums.mean_s, "s", "mean time from submission to the end of a task"),
        _response_p95(sums),
        Kpi(name="detect", value=_mean(detect), unit="s", text="mean time from a first sign until it was seen"),
        _kpi("recover", _mean(recover), "s", "mean time from a first sign to verified recovery"),
        Kpi(
            name="recover p95", value=_quantile(recover, 0.95), unit="s", text="95 of 100 recoveries took at most this"
        ),
        Kpi(name="work done", value=float(sums.done), unit="tasks", text="tasks done"),
        Kpi(name="active owners", value=float(sums.owners), unit="owners", text="owners whose agents did a task"),
        Kpi(name="incidents", value=float(len(incidents)), unit="", text="opened"),
        Kpi(
            name="escalated",
            value=float(sum(incident.state is IncidentState.ESCALATED for incident in incidents)),
            unit="",
            text="incidents that wait for a person",
        ),
        Kpi(name="health", value=health, unit="points", text="mean score of all agents, now"),
        *_usage(usage),
    ]
    return [*found, _system(sums, health)]


def objectives(fleet: str, wanted: Sequence[Objective], points: Sequence[FleetPoint], now: float) -> list[Slo]:
    """How the objectives of one fleet stand. `points` are its own, of the longest window at least."""
    return [_slo(fleet, objective, points, now) for objective in wanted]


def _slo(fleet: str, objective: Objective, points: Sequence[FleetPoint], now: float) -> Slo:
    budget = 1.0 - objective.share
    since = min((point.at for point in points), default=now)

    def value_of(window_s: float) -> float | None:
        return _measure(objective, total(point for point in points if point.at + point.span_s > now - window_s))

    def bad(window_s: float) -> float | None:
        """The share of the window that was missed: of the part before the first point nothing was."""
        value = value_of(window_s)
        return None if value is None else (1.0 - value) * min(1.0, max(0.0, now - since) / window_s)

    burns: list[tuple[float, float]] = []
    alarm = ""
    for long_s, short_s, rate, what in BURNS:
        long, short = bad(long_s), bad(short_s)
        if long is not None:
            burns.append((long_s, long / budget))
        if long is not None and short is not None and min(long, short) / budget >= rate and not alarm:
            alarm = what
    missed = bad(objective.window_s)
    return Slo(
        fleet=fleet,
        objective=objective,
        value=value_of(objective.window_s),
        budget_left=None if missed is None else 1.0 - missed / budget,
        burns=burns,
        alarm=alarm,
    )


def _measure(objective: Objective, sums: Total) -> float | None:
    if objective.measure == "availability":
        return sums.availability
    return sums.success if objective.measure == "success" else sums.within(objective.within_s)


def _kpi(name: str, value: float | None, unit: str, text: str, *, least: bool = False) -> Kpi:
    target = CLAIMS[name]
    good = None if value is None else (value >= target if least else value <= target)
    return Kpi(name=name, value=value, unit=unit, text=text, good=good, target=target)


def _response_p95(sums: Total) -> Kpi:
    value = sums.quantile_s(0.95)
    if value == float("inf"):  # which JSON cannot say
        text = "more than 5 of 100 tasks took longer than this"
        return Kpi(name="response p95", value=LATENCY_BOUNDS_S[-1], unit="s", text=text)
    return Kpi(name="response p95", value=value, unit="s", text="95 of 100 tasks took at most this")


def _usage(usage: Usage) -> list[Kpi]:
    parts = (
        ("memory used", usage.memory_bytes, usage.memory_bytes_max, "of the memory of all nodes, by agents"),
        ("processor used", usage.cpus, usage.cpus_max, "of the processors of all nodes, by agents"),
    )
    return [
        Kpi(name=name, value=used / most if most and used >= 0 else None, unit="share", text=text)
        for name, used, most, text in parts
    ]


def _system(sums: Total, health: float | None) -> Kpi:
    values = {
        "availability": sums.availability,
        "success": sums.success,
        "health": None if health is None else health / 100.0,
    }
    known = [(values[name], weight) for name, weight in SCORE_PARTS if values[name] is not None]
    score = (
        100.0 * sum((value or 0.0) * weight for value, weight in known) / sum(weight for _, weight in known)
        if known
        else None
    )
    return Kpi(
        name="system score", value=score, unit="points", text="availability 40 %, success 30 %, health 30 %, as known"
    )


def _times(incidents: Iterable[Incident], name: str) -> list[float]:
    return sorted(found[name] for found in map(times, incidents) if name in found)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The least value that this share of them does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else None
