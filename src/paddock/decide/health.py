"""How well an agent is, from 0 to 100, why, and whether something must be done about it.

Each component is 0 to 1 or unknown; the score is their weighted mean over those that are known. What is known for
certain caps it: an agent that does not run, a liveness probe that failed, a component that is wholly gone. The state
of an agent that does not run is a fact and sets the band at once; what is measured of one that runs is noisy, and a
band is left only after `Scoring.steady` evaluations in a row outside of it.

Worse facts never make a better score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from paddock.model.agent import AgentState, AgentStatus
from paddock.model.fleet import FleetSpec
from paddock.model.health import Band, Forecast, ProbeFact, Score, Vitals
from paddock.model.incident import Fact
from paddock.model.policy import Cause, Policy, Scoring, Weights

CAPS = {
    AgentState.READY: 100,
    AgentState.DEGRADED: 80,
    AgentState.STARTING: 50,
    AgentState.DRAINING: 50,
}
"""The most that an agent in this state can have; any other state: 0."""
RUNS = (AgentState.READY, AgentState.DEGRADED)

LIVENESS_CAP = 25
"""With a failed liveness probe: ill, whatever else is well."""
GONE_CAP = 49
"""With a component that is wholly gone: not healthy, however little it weighs. Failures are left out: they are past."""

STALE_S = 180.0
"""Vitals that are older say nothing of the present but that."""
DEATHS_MAX = 5
"""So many deaths in DEATHS_WINDOW_S leave nothing of the component; fewer, a share."""
DEATHS_WINDOW_S = 600.0
TASKS_MIN = 5
"""Added to the number of tasks, so that the first failed one does not count as all of them."""
FAILED_SHARE = (0.1, 0.6)
"""Of tasks: up to the first is nothing special; at the second nothing is left."""
IN_A_ROW = (2.0, 10.0)
BEAT_SHARE = (0.4, 1.0)
"""Of `hang_s` since the last beat."""
FULL = (0.8, 1.0)
"""Of a limit of memory or open files."""
SLOWER = (3.0, 10.0)
"""Times the time that tasks take on the fleet's other agents."""
TASK_S_MIN = 0.05
"""Tasks that are quicker are not slow, whatever the others do."""
TREND_S = 1800.0
TREND_S_MIN = 900.0
"""Who is known for less has no trend: the first minutes are its start."""


HEALED_BY_NODE = "common cause"
"""A status that begins so: its node holds it, and one incident for all of them exists."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one agent besides its status and vitals."""

    measured_ago_s: float = 0.0
    """How old its vitals are. Not by the clocks that they and we are told the time by: those may be set, or differ."""
    deaths: int = 0
    """Ends of incarnations that nobody asked for, in the last DEATHS_WINDOW_S."""
    tasks_done: int = 0
    """Lately: the caller's window, some minutes. Likewise below."""
    tasks_failed: int = 0
    failed_in_a_row: int = 0
    task_s: float = -1.0
    """What its tasks take, typically; -1: not known."""
    peers_s: float = -1.0
    """The same of the fleet's other agents."""
    answers: Mapping[str, ProbeFact] = {}
    """Outcomes of its known-answer tasks."""
    forecasts: list[Forecast] = []


NOTHING = Facts()


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """Something stands out."""

    cause: Cause
    heal: bool
    """It must be healed; else people are told, and that is all."""
    text: str
    evidence: list[Fact] = []
    since: float = 0.0
    """When the first measurement of it was; 0: this is the first."""


def score(
    spec: FleetSpec,
    policy: Policy,
    status: AgentStatus,
    vitals: Vitals | None,
    facts: Facts,
    previous: Score | None,
    now: float,
) -> Score:
    """Judge one agent. Vitals of another incarnation than the status speaks of do not count."""
    state, scoring = status.state, policy.scoring
    cap = 100 if state is AgentState.READY else CAPS.get(state, 0)
    if cap <= 50:
        return _not_running(status, cap, facts, previous, now)
    if vitals is not None and vitals.epoch != status.epoch:
        vitals = None
    because: list[tuple[float, str]] = []
    if cap < 100:
        because.append((100.0 - cap, status.reason or f"it is {state}"))
    endpoint = mesh = response = resources = competence = None
    weights = scoring.weights
    if vitals is not None and facts.measured_ago_s > STALE_S:
        mesh = 0.5
        because.append((weights.mesh / 2, f"nothing was measured for {facts.measured_ago_s:.0f} s"))
        vitals = None
    elif vitals is not None:
        if vitals.probes:
            endpoint, failed = _probes(vitals.probes, weights.endpoint, "probe", because)
            cap = min(cap, LIVENESS_CAP) if failed else cap
        mesh = _mesh(vitals, weights.mesh, because)
        resources = _resources(spec, scoring, vitals, weights.resources, because)
    response = _response(scoring, vitals, facts, because)
    failures = _failures(facts, weights.failures, because)
    if facts.answers:
        competence, failed = _probes(facts.answers, weights.competence, "known-answer task", because)
        cap = min(cap, LIVENESS_CAP) if failed else cap
    parts = {
        "endpoint": endpoint,
        "mesh": mesh,
        "response": response,
        "failures": failures,
        "resources": resources,
        "competence": competence,
    }
    if not because:  # as with most
        return _settled(scoring, status, 100, (parts, [], facts.forecasts), previous, now)
    because.sort(key=_lost, reverse=True)
    points = min(cap, _points(weights, parts))
    return _settled(scoring, status, points, (parts, [text for _, text in because], facts.forecasts), previous, now)


def _points(weights: Weights, parts: dict[str, float | None]) -> int:
    """The weighted mean of what is known. Whole points, rounded down: 100 is only what lacks nothing."""
    total = got = 0.0
    gone = False
    for name, value in parts.items():
        if value is not None:
            weight: float = getattr(weights, name)
            total += weight
            got += weight * value
            gone = gone or (value <= 0.0 and name != "failures")
    points = int(100.0 * got / total + 1e-9) if total > 0 else 100
    return min(points, GONE_CAP) if gone else points


def _settled(
    scoring: Scoring,
    status: AgentStatus,
    points: int,
    found: tuple[dict[str, float | None], list[str], list[Forecast]],
    previous: Score | None,
    now: float,
) -> Score:
    """The score with all that depends on the one before it: band, counts, trend."""
    parts, because, forecasts = found
    band, outside, below, low, trend = Band.of(points), 0, 0, 0, 0.0
    if previous is not None:
        below, low = previous.below, previous.low
        if previous.parts:
            if band is not previous.band and previous.outside + 1 < scoring.steady:
                band, outside = previous.band, previous.outside + 1
            trend = _trend(previous, points, now)
    return Score(
        id=status.id,
        fleet=status.fleet,
        at=now,
        score=points,
        band=band,
        parts=parts,
        because=because,
        below=below + 1 if points < scoring.heal_below else 0,
        low=low + 1 if points < scoring.alert_below else 0,
        outside=outside,
        trend_per_h=trend,
        since=previous.since if previous is not None else now,
        forecasts=forecasts,
    )


def _not_running(status: AgentStatus, cap: int, facts: Facts, previous: Score | None, now: float) -> Score:
    because = f"it is {status.state}: {status.reason}" if status.reason else f"it is {status.state}"
    return Score(
        id=status.id,
        fleet=status.fleet,
        at=now,
        score=cap,
        band=Band.of(cap),
        because=[because],
        trend_per_h=_trend(previous, cap, now) if previous is not None else 0.0,
        since=previous.since if previous is not None else now,
        forecasts=facts.forecasts,
    )


def _lost(item: tuple[float, str]) -> float:
    return item[0]


def _trend(previous: Score, points: int, now: float) -> float:
    """What the score changed in the last half hour, per hour; what is older fades away."""
    if now - previous.since < TREND_S_MIN:
        return 0.0
    if points == previous.score and previous.trend_per_h == 0.0:
        return 0.0
    fading = math.exp(-max(0.0, now - previous.at) / TREND_S)
    return previous.trend_per_h * fading + (points - previous.score) * 3600.0 / TREND_S


# --- components: each gives 0 to 1, or None, and says what it takes away


def _fall(value: float, ends: tuple[float, float]) -> float:
    """1 up to the first, 0 from the second on, and straight between."""
    first, second = ends
    if value <= first:
        return 1.0
    return 0.0 if value >= second else (second - value) / (second - first)


def _probes(
    probes: Mapping[str, ProbeFact], weight: float, what: str, because: list[tuple[float, str]]
) -> tuple[float, bool]:
    """The worst of them, and whether one of liveness has failed. A readiness probe takes half: degraded, not ill."""
    worst, failed, said = 0.0, False, ""
    for name, fact in probes.items():
        fails = fact.fails
        if not fails:
            continue
        bad = 1.0 if fails >= fact.limit else fails / fact.limit
        if fact.phase == "readiness":
            bad *= 0.5
        elif bad >= 1.0:
            failed = failed or fact.phase == "liveness"
        if bad > worst:
            times = "once" if fails == 1 else f"{fails} times in a row"
            worst, said = bad, f"{what} {name} failed {times}: {fact.text}"
    if worst:
        because.append((100.0 - LIVENESS_CAP if failed else weight * worst, said))
    return 1.0 - worst, failed


def _mesh(vitals: Vitals, weight: float, because: list[tuple[float, str]]) -> float | None:
    if vitals.linked is None:
        return None
    if not vitals.linked:
        because.append((weight, "it does not speak to its node"))
        return 0.0
    if vitals.beat_age_share <= BEAT_SHARE[0]:
        return 1.0
    value = _fall(vitals.beat_age_share, BEAT_SHARE)
    because.append((weight * (1 - value), f"its last beat is {vitals.beat_age_share:.0%} of the limit ago"))
    return value


def _response(scoring: Scoring, vitals: Vitals | None, facts: Facts, because: list[tuple[float, str]]) -> float | None:
    value: float | None = None
    weight = scoring.weights.response
    if vitals is not None and vitals.probes:
        slowest, name = 0.0, ""
        for probe, fact in vitals.probes.items():
            if fact.latency_s > slowest:
                slowest, name = fact.latency_s, probe
        value = 1.0
        if slowest > scoring.slow_s:
            value = _fall(slowest, (scoring.slow_s, scoring.slow_s_max))
            because.append((weight * (1 - value), f"probe {name} takes {slowest:.1f} s"))
    if facts.task_s >= 0 and facts.peers_s >= 0:
        times = facts.task_s / max(facts.peers_s, TASK_S_MIN)
        tasks = _fall(times, SLOWER)
        if tasks < 1.0:
            because.append((weight * (1 - tasks), f"its tasks take {times:.1f} times as long as those of others"))
        value = tasks if value is None else min(value, tasks)
    return value


def _failures(facts: Facts, weight: float, because: list[tuple[float, str]]) -> float:
    value = 1.0
    if facts.deaths:
        value = max(0.0, 1.0 - facts.deaths / DEATHS_MAX)
        times = "once" if facts.deaths == 1 else f"{facts.deaths} times"
        because.append((weight * (1 - value), f"it died {times} in the last {DEATHS_WINDOW_S / 60:.0f} min"))
    if facts.tasks_failed:
        count = facts.tasks_done + facts.tasks_failed
        tasks = _fall(facts.tasks_failed / (count + TASKS_MIN), FAILED_SHARE)
        tasks = min(tasks, _fall(facts.failed_in_a_row, IN_A_ROW))
        if tasks < 1.0:
            in_a_row = f", {facts.failed_in_a_row} in a row" if facts.failed_in_a_row > 1 else ""
            text = f"{facts.tasks_failed} of its last {count} tasks failed{in_a_row}"
            because.append((weight * (1 - tasks), text))
            value = min(value, tasks)
    return value


def _resources(
    spec: FleetSpec, scoring: Scoring, vitals: Vitals, weight: float, because: list[tuple[float, str]]
) -> float | None:
    limits, value = spec.limits, None
    memory_max = scoring.memory_bytes_max or limits.memory_bytes
    if memory_max > 0 and vitals.memory_bytes >= 0:
        value = _fall(vitals.memory_bytes / memory_max, FULL)
        if value < 1.0:
            share = vitals.memory_bytes / memory_max
            because.append((weight * (1 - value), f"memory is at {share:.0%} of {memory_max / 1e6:.0f} MB"))
    if limits.open_files > 0 and vitals.open_files >= 0:
        share = vitals.open_files / limits.open_files
        files = _fall(share, FULL)
        if files < 1.0:
            because.append((weight * (1 - files), f"open files are at {share:.0%} of {limits.open_files}"))
        value = files if value is None else min(value, files)
    if limits.cpus > 0 and vitals.cpus >= 0:
        share = vitals.cpus / limits.cpus
        cpus = 0.5 + 0.5 * _fall(share, FULL)  # who uses all that it may is busy, not ill
        if cpus < 1.0:
            because.append((weight * (1 - cpus), f"it uses {share:.0%} of {limits.cpus:g} processors"))
        value = cpus if value is None else min(value, cpus)
    return value
