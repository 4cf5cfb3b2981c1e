"""What is counted for key figures: stretches of a fleet's work, and the figures made of them."""

from __future__ import annotations

from typing import Any

import msgspec

LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram of response times, as Prometheus' default buckets, and on to minutes."""


class FleetPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet did in `span_s` from `at`."""

    fleet: str
    at: float
    span_s: float
    wanted_s: float = 0.0
    """Agent-seconds that were wanted …"""
    ready_s: float = 0.0
    """… and those in which an agent was ready (or degraded): exact, from the changes of state."""
    done: int = 0
    failed: int = 0
    dead: int = 0
    latency_s: float = 0.0
    """Sum over `done` of the time from submission to end."""
    latencies: list[int] = []
    """How many of `done` took at most each of LATENCY_BOUNDS_S, and more than the last (not cumulative)."""
    owners: int = 0
    """Different owners (agents of a fleet with `owners`) that ended a task."""


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
    """One figure with its meaning and how it stands to what is claimed or promised."""

    name: str
    value: float | None
    """None: nothing was measured in this time."""
    unit: str
    text: str
    good: bool | None = None
    target: float | None = None
    data: dict[str, Any] = {}
