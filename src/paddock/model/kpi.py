"""What is counted for key figures: stretches of a fleet's work, and the figures made of them."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from paddock.model.health import Score
from paddock.model.incident import Incident
from paddock.model.policy import Objective

LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram of response times, as Prometheus' default buckets, and on to minutes."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What was wanted and done in some time."""

    wanted_s: float = 0.0
    """Agent-seconds that were wanted …"""
    ready_s: float = 0.0
    """… and those in which an agent was ready (or degraded): exact, from the changes of state."""
    done: int = 0
    failed: int = 0
    dead: int = 0
    busy_s: float = 0.0
    """Agent-seconds of work on tasks that ended."""
    latency_s: float = 0.0
    """Sum over `done` of the time from submission to end."""
    latencies: list[int] = []
    """How many of `done` took at most each of LATENCY_BOUNDS_S, and more than the last (not cumulative)."""
    owners: int = 0
    """Different owners (agents of a fleet with `owners`) that ended a task."""


class FleetPoint(Work, frozen=True, kw_only=True):
    """What a fleet did in `span_s` from `at`."""

    fleet: str
    at: float
    span_s: float


class StepTally(msgspec.Struct, frozen=True, kw_only=True):
    """How often an action helped against failures of one signature; newer steps count more."""

    signature: str
    cause: str
    action: str
    helped: float
    failed: float
    took_s: float = 0.0
    """Mean seconds to a verified recovery."""


class Kpi(msgspec.Struct, frozen=True, kw_only=True):
    """One figure with its meaning and how it stands to its target."""

    name: str
    value: float | None
    """None: nothing was measured in this time."""
    unit: str
    text: str
    good: bool | None = None
    target: float | None = None
    data: dict[str, Any] = {}


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """How one objective stands."""

    fleet: str
    objective: Objective
    value: float | None
    budget_left: float | None
    """Share of the error budget of its window that is left; below 0: it is overdrawn."""
    burns: list[tuple[float, float]]
    """(window in seconds, burn rate)"""
    alarm: str = ""
    """page or ticket; empty: none."""


class KpiReport(msgspec.Struct, frozen=True, kw_only=True):
    """Key figures of the last `since_s`, of everything or of one fleet."""

    at: float
    since_s: float
    fleet: str
    kpis: list[Kpi]
    objectives: list[Slo]
    points: list[FleetPoint]
    incidents: list[Incident]


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """The health of everybody, now."""

    at: float
    bands: dict[str, int]
    """Band → agents."""
    fleets: dict[str, dict[str, float]]
    """Fleet → lowest and mean score, agents."""
    worst: list[Score]
    open: list[Incident]


class OpsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one daily operation found."""

    name: str
    at: float
    took_s: float
    ok: bool
    """Nothing that a person must look at."""
    text: str
    findings: list[str] = []
    data: dict[str, Any] = {}


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit, for people."""
    if value is None:
        return "not measured"
    if unit == "share":
        # Rounded down: 100.00% is only what lacks nothing.
        return f"{math.floor(value * 1e4 + 1e-9) / 1e4:.2%}"
    if unit == "s":
        return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:,.0f} {unit}".rstrip()
