"""What is measured of an agent's health, and the score that all of it adds up to."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec


class Component(StrEnum):
    """Parts of the score; each is 0 to 1, or unknown, and then its weight counts for nothing."""

    ENDPOINT = "endpoint"
    """Its probes answer."""
    MESH = "mesh"
    """It speaks to its node and to the fabric."""
    RESPONSE = "response"
    """How quickly its probes and tasks answer."""
    FAILURES = "failures"
    """Failures in a row, deaths and failed tasks lately."""
    RESOURCES = "resources"
    """How far it is from its limits of memory, processor and open files."""
    COMPETENCE = "competence"
    """Whether its known-answer tasks came back right."""


class Band(StrEnum):
    """Bands of the score: 100, 70-99, 30-69, 0-29."""

    HEALTHY = "healthy"
    FAIR = "fair"
    POOR = "poor"
    CRITICAL = "critical"

    @staticmethod
    def of(score: int) -> Band:
        if score >= 100:
            return Band.HEALTHY
        return Band.FAIR if score >= 70 else Band.POOR if score >= 30 else Band.CRITICAL


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a fleet's agents; `kind` says which of the other fields count. Its node runs all but `task`."""

    name: str
    kind: Literal["http", "tcp", "exec", "log", "metric", "task"]
    phase: Literal["startup", "liveness", "readiness"] = "liveness"
    """`startup`: the agent is not ready before it passes, and it is not asked again afterwards. `liveness`: when it
    fails the agent is ill, and is healed as the policy says. `readiness`: when it fails the agent is degraded, not
    ill."""
    url: str = ""
    """http: must answer from 200 to 399, and if `match` is given, with a body in which it is found. tcp: `host:port`.
    `{port}` and `{port.name}` are replaced."""
    command: list[str] = []
    """exec: must end with 0."""
    match: str = ""
    """http: regular expression that the body must have. log: one whose appearance in the agent's log is a failure."""
    metric: str = ""
    """metric: memory_bytes, cpus, open_files or threads of the process."""
    above: float = 0.0
    """metric: more than this is a failure."""
    method: str = ""
    """task: a known-answer task: the method, its arguments, and what must come back."""
    args: dict[str, Any] = {}
    expect: dict[str, Any] = {}
    """task: a rule for the answer: one of {"equals": value}, {"contains": text}, {"matches": regex},
    {"within": [number, tolerance]}."""
    every_s: float = 30.0
    timeout_s: float = 5.0
    fails: int = 3
    """So many failures in a row: failed."""


class ProbeFact(msgspec.Struct, frozen=True, array_like=True):
    """The last outcome of one probe."""

    fails: int
    """Failures in a row; 0: it passed."""
    limit: int
    """`Probe.fails`: so many in a row mean that it failed."""
    phase: str
    latency_s: float
    at: float
    text: str = ""
    """What is wrong; empty when it passed. Never holds what may be secret: bodies and outputs are cut and redacted."""
    since: float = 0.0
    """When the first of its failures in a row was; 0: it passed, or an older node does not say."""


class Vitals(msgspec.Struct, frozen=True, array_like=True):
    """What a node knows of one agent's condition. Sent in batches on `note.vitals.<node>`; not stored."""

    id: str
    epoch: int
    at: float
    probes: dict[str, ProbeFact] = {}
    linked: bool | None = None
    """Whether it speaks to its node; None: it is not of the kind that does."""
    beat_age_share: float = 0.0
    """Time since its last beat, as a share of `hang_s`."""
    memory_bytes: int = -1
    """-1: not measured. Likewise below."""
    cpus: float = -1.0
    open_files: int = -1
    threads: int = -1


class Series(msgspec.Struct, frozen=True):
    """Measured values over time, oldest first, for trends."""

    at: list[float]
    values: list[float]


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """A trend that will cross its threshold."""

    metric: str
    now: float
    limit: float
    per_hour: float
    in_s: float
    text: str
    """For people: `memory will cross 200 MB in about 14 min (grows by 40 MB an hour)`."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The health of one agent at one time."""

    id: str
    fleet: str
    at: float
    score: int
    band: Band
    parts: dict[str, float | None] = {}
    """Component → 0 to 1, None when unknown."""
    because: list[str] = []
    """What pulls it down, the worst first, in plain words."""
    below: int = 0
    """Evaluations in a row below the policy's `heal_below`."""
    low: int = 0
    """Evaluations in a row below the policy's `alert_below`."""
    outside: int = 0
    """Evaluations in a row outside of `band`, which it leaves after `Scoring.steady` of them."""
    trend_per_h: float = 0.0
    """Points per hour over the last half hour; 0 in the first quarter of an hour."""
    since: float = 0.0
    """When it was judged first, by this server."""
    forecasts: list[Forecast] = []


class HealthPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of an agent's history: the lowest, mean and highest score in `span_s` from `at`."""

    id: str
    at: float
    span_s: float
    low: int
    mean: float
    high: int
