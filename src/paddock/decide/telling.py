"""Which incidents, scores and budgets people are told of, and in which words."""

from __future__ import annotations

import msgspec

from paddock.decide.health import Sign
from paddock.model.health import Score
from paddock.model.incident import Incident, IncidentState, Severity, StepTaken
from paddock.model.kpi import Slo
from paddock.model.notify import Alert

FACTS_MAX = 4
KINDS = ("common-cause", "infrastructure")
"""Kinds of incidents that are always told."""


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """One matter that is worth telling."""

    key: str
    severity: Severity
    fleet: str
    about: str
    title: str
    text: str = ""
    incident: int = 0

    def alert(self, now: float) -> Alert:
        return Alert(
            key=self.key,
            at=now,
            severity=self.severity,
            fleet=self.fleet,
            about=self.about,
            title=self.title,
            text=self.text,
            incident=self.incident,
        )

    def end(self, now: float, why: str) -> Alert:
        """That it is over."""
        return msgspec.structs.replace(self.alert(now), text=why, recovered=True)


def of_incident(incident: Incident) -> Telling | None:
    """What is to be told of an incident as it is now: nothing once it is over, of one that its healer or its node mends
    quietly, and of one that is a part of a common cause."""
    escalated = incident.state is IncidentState.ESCALATED
    worth = incident.kind in KINDS or incident.severity.rank >= Severity.ERROR.rank
    if incident.state.over or incident.parent or not (escalated or worth):
        return None
    told = Telling(
        key=keys(incident)[0],
        severity=incident.severity,
        fleet=incident.fleet,
        about=incident.about,
        title=incident.title,
        text=_text(incident),
        incident=incident.id,
    )
    if not escalated:
        return told
    severity = max(incident.severity, Severity.ERROR, key=lambda one: one.rank)
    title = f"a person is needed: {incident.title}"
    if incident.asked_by:
        title = f"{incident.asked_by} asks for people to look at {incident.about}"
    return msgspec.structs.replace(told, key=keys(incident)[1], severity=severity, title=title)


def asked(incident: Incident, step: StepTaken) -> Incident:
    """The incident once a person has asked for people. To tell them mends nothing, so it is no step among the others
    that may have helped."""
    others = [one for one in incident.steps if one.number != step.number]
    return msgspec.structs.replace(
        incident,
        state=IncidentState.ESCALATED,
        severity=max(incident.severity, Severity.ERROR, key=lambda one: one.rank),
        steps=others,
        acted_at=incident.acted_at if others else 0.0,
        next_at=0.0,
        asked_by=step.by,
        note=f"{step.by} asks for people",
    )


def keys(incident: Incident) -> tuple[str, str]:
    """Of the alerts about an incident and about its escalation, which is a matter of its own."""
    return f"incident.{incident.id}", f"incident.{incident.id}.escalated"


def _text(incident: Incident) -> str:
    lines = [incident.note] if incident.note else []
    lines += [fact.text for fact in incident.evidence[:FACTS_MAX] if fact.text != incident.title]
    lines += [f"before that: {change.text}" for change in incident.changes[-1:]]
    if command := incident.offer.get("command"):
        lines.append(f"undo the likely change: {command}")
    return "\n".join(lines)


def of_score(score: Score, sign: Sign) -> Telling:
    """An agent that is not well, and that nobody heals."""
    return Telling(
        key=f"score.{score.id}",
        severity=Severity.WARNING,
        fleet=score.fleet,
        about=score.id,
        title=sign.text,
        text="\n".join(score.because[:FACTS_MAX]),
    )


def well(score: Score) -> bool:
    """Whether what was told of a score is over. Who does not run has none of its parts: nothing is known to be well."""
    return bool(score.parts) and not score.low and not score.forecasts


def of_objective(slo: Slo) -> Telling:
    """An error budget that burns too fast: a page must be looked at now, a ticket soon."""
    burns = ", ".join(f"{rate:.1f} times over {window_s / 3600:g} h" for window_s, rate in slo.burns)
    goal = slo.objective
    return Telling(
        key=f"slo.{slo.fleet}.{goal.name}",
        severity=Severity.CRITICAL if slo.alarm == "page" else Severity.WARNING,
        fleet=slo.fleet,
        about=slo.fleet,
        title=f"objective {goal.name} burns its error budget too fast ({slo.alarm})",
        text=f"{goal.share:.3%} {goal.measure} is promised; the budget burns {burns} what it may",
    )
