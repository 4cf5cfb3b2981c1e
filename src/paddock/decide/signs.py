"""Which of what is measured is a sign that something must be done, and whether it was measured again since.

Signs are read from the present, not from events: a sign that was lost is seen again with the next evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping

from paddock.decide.health import HEALED_BY_NODE, LIVENESS_CAP, RUNS, Facts, Sign
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.fleet import FleetSpec
from paddock.model.health import Component, ProbeFact, Score, Vitals
from paddock.model.incident import Fact
from paddock.model.policy import Cause, Policy

STANDS_OUT = 0.5
"""A component that has lost this share of itself may be the cause."""

ENDED = (Cause.CRASH, Cause.OOM, Cause.HANG, Cause.DEPENDENCY)
"""Causes that are seen when an incarnation has ended."""

CAUSES = {
    Component.ENDPOINT: Cause.ENDPOINT_DOWN,
    Component.MESH: Cause.CONNECTION,
    Component.RESPONSE: Cause.SLOW,
    Component.RESOURCES: Cause.RESOURCES,
    Component.COMPETENCE: Cause.WRONG_ANSWERS,
}


def signs(
    spec: FleetSpec, policy: Policy, status: AgentStatus, score: Score, vitals: Vitals | None, facts: Facts
) -> Sign | None:
    """The one thing that stands out; None: all is well, or its node is at it. `score` is the newest of this agent."""
    state = status.state
    if state in (AgentState.QUARANTINED, AgentState.FAILED):
        return _resting(spec, status, score)
    if state not in RUNS:
        return None
    if not (score.low or score.below or score.forecasts) and score.score > LIVENESS_CAP:
        return None  # most are well
    if vitals is not None and vitals.epoch == status.epoch:
        failed = _failed(vitals.probes)
        if failed:
            since = vitals.probes[failed].since
            return _sign(_probed(spec, failed), True, f"its liveness probe {failed} failed", score, since)
    failed = _failed(facts.answers)
    if failed:
        since = facts.answers[failed].since
        return _sign(Cause.WRONG_ANSWERS, True, f"its known-answer task {failed} failed", score, since)
    scoring = policy.scoring
    if score.below >= scoring.heal_fails:
        text = f"its score was below {scoring.heal_below} in {score.below} evaluations in a row"
        return _sign(_worst(policy, score), True, text, score)
    if score.forecasts:
        first = min(score.forecasts, key=lambda forecast: forecast.in_s)
        return _sign(Cause.FORECAST, policy.forecast.recycle, first.text, score)
    if score.low >= max(1, scoring.steady):
        text = f"its score is {score.score}, below {scoring.alert_below}"
        return _sign(_worst(policy, score), False, text, score)
    return None


def confirmed(
    cause: Cause, spec: FleetSpec, status: AgentStatus, vitals: Vitals | None, facts: Facts, since: float, now: float
) -> bool:
    """Whether that which was ill was measured after `since` (the last step, or the first sign; 0: what runs began after
    that, and all that was measured of it counts), and passed if it was asked. Until then a good score only says that
    nothing is known yet, or that a probe has failed less often than it may."""
    fresh = vitals if vitals is not None and vitals.epoch == status.epoch and vitals.at > since else None
    if cause is Cause.WRONG_ANSWERS:
        asked_since = max(since, status.started_at or 0.0)
        return bool(facts.answers) and _measured(spec, facts.answers, asked_since, tasks=True)
    if cause in (Cause.ENDPOINT_DOWN, Cause.SLOW, Cause.LOW_SCORE):
        return fresh is not None and _measured(spec, fresh.probes, since)
    if cause is Cause.RESOURCES:
        metrics = [probe.name for probe in spec.health.probes if probe.kind == "metric" and probe.phase != "startup"]
        known = fresh.probes if fresh is not None else {}
        weighed = all(name in known and _passed(known[name], since) for name in metrics)
        asked = weighed if metrics else _measured(spec, known, since)
        return fresh is not None and fresh.memory_bytes >= 0 and asked
    if cause is Cause.CONNECTION:
        return fresh is not None and fresh.linked is not False
    if cause is Cause.FORECAST:
        return not facts.forecasts
    if cause is Cause.CRASH_LOOP:
        return status.started_at is not None and now - status.started_at >= spec.restart.stable_s
    return _lives(spec, status, fresh, since, now)


def told_late(cause: Cause, epoch: int, status: AgentStatus) -> bool:
    """Whether it is still told to run as the incarnation `epoch`, whose end is known already: ends and states come by
    different ways."""
    return cause in ENDED and status.epoch <= epoch and status.state in RUNS


def refuted(status: AgentStatus, vitals: Vitals | None, epoch: int) -> bool:
    """Whether what runs in the place of the incarnation `epoch` is ill as well, by as many failures of a liveness probe
    as are a reason to heal: to wait any longer would tell nothing more."""
    if vitals is None or vitals.epoch != status.epoch or status.epoch <= epoch or status.state not in RUNS:
        return False
    return bool(_failed(vitals.probes))


def _resting(spec: FleetSpec, status: AgentStatus, score: Score) -> Sign | None:
    if status.reason.startswith(HEALED_BY_NODE):
        return None
    if status.state is AgentState.QUARANTINED:
        return _sign(Cause.CRASH_LOOP, True, "its node gave up restarting it", score)
    if spec.restart.mode != "always":
        return None  # that it stays down is what its fleet asks for
    return _sign(Cause.NOT_STARTED, True, "it cannot be started", score)


def _failed(probes: Mapping[str, ProbeFact]) -> str:
    """The name of a liveness probe that failed."""
    for name, fact in probes.items():
        if fact.fails and fact.fails >= fact.limit and fact.phase == "liveness":
            return name
    return ""


def _probed(spec: FleetSpec, name: str) -> Cause:
    """What a failed probe points to: one of a metric to resources, any other to what should answer."""
    kinds = {probe.name: probe.kind for probe in spec.health.probes}
    return Cause.RESOURCES if kinds.get(name) == "metric" else Cause.ENDPOINT_DOWN


def _measured(spec: FleetSpec, known: Mapping[str, ProbeFact], since: float, *, tasks: bool = False) -> bool:
    """Whether all that is asked again and again was asked since and passed: one that did says nothing of the others."""
    asked = {name: fact for name, fact in known.items() if fact.phase != "startup"}
    wanted = {one.name for one in spec.health.probes if one.phase != "startup" and (one.kind == "task") == tasks}
    return wanted <= asked.keys() and all(_passed(fact, since) for fact in asked.values())


def _passed(fact: ProbeFact, since: float) -> bool:
    """Whether it was asked since and passed. A readiness probe need not pass: that it fails is no illness."""
    return fact.at > since and (not fact.fails or fact.phase == "readiness")


def _lives(spec: FleetSpec, status: AgentStatus, fresh: Vitals | None, since: float, now: float) -> bool:
    """Whether what did not run does: it has answered once, and be it that this is what made it ready; of one that
    nobody asks anything, that it has been alive for as long as makes it stable."""
    if fresh is not None and _answered(fresh, since):
        return True
    probes = [probe for probe in spec.health.probes if probe.kind != "task"]
    if any(probe.phase != "startup" for probe in probes):
        return False
    if probes or spec.health.http or spec.runtime == "python":
        return True
    return status.started_at is not None and now - status.started_at >= spec.restart.stable_s


def _answered(vitals: Vitals, since: float) -> bool:
    """Whether one of its probes passed since."""
    return any(fact.at > since and not fact.fails for fact in vitals.probes.values() if fact.phase != "startup")


def _worst(policy: Policy, score: Score) -> Cause:
    """The component that costs most, when it stands out."""
    weights = policy.scoring.weights
    lost = [
        (getattr(weights, component) * (1 - value), cause)
        for component, cause in CAUSES.items()
        if (value := score.parts.get(component)) is not None and value <= 1 - STANDS_OUT
    ]
    return max(lost, key=lambda item: item[0])[1] if lost else Cause.LOW_SCORE


def _sign(cause: Cause, heal: bool, text: str, score: Score, since: float = 0.0) -> Sign:
    evidence = [Fact(at=score.at, text=because, source="score") for because in score.because]
    return Sign(cause=cause, heal=heal, text=text, evidence=evidence, since=since)
