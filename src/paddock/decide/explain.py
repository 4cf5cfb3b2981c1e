"""An incident in plain words: what was seen, what was done and why, what came of it. For `paddock explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from paddock.model.incident import BY_HAND, Fact, Incident, IncidentState, Outcome, StepTaken

NODE = "node"
BEGUN = ": begun"
"""How a node answers that it is at it; once the outcome is known that says nothing."""
WORDS = {
    Outcome.RECOVERED: "it helped",
    Outcome.NO_BETTER: "it did not help",
    Outcome.FAILED: "it failed",
    Outcome.UNKNOWN: "it was done, and whether it helped is not known",
}


class Line(msgspec.Struct, frozen=True):
    """One line of the timeline."""

    at: float
    text: str
    kind: str
    """sign, evidence, change, step, outcome, end."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    incident: Incident
    summary: str
    """One or two sentences."""
    lines: list[Line]
    """In the order of time."""
    times: dict[str, float]
    """Seconds: `detect` from the first sign to when it was seen, `act` from then to the first action, `recover` from
    the first sign to verified recovery; those that are known."""
    now: str
    """What happens next, or what a person can do."""


def explain(incident: Incident, *, now: float) -> Explanation:
    """Tell an incident."""
    lines = sorted(_lines(incident), key=lambda line: line.at)
    return Explanation(
        incident=incident, summary=_summary(incident), lines=lines, times=times(incident), now=_next(incident, now)
    )


def times(incident: Incident) -> dict[str, float]:
    """See `Explanation.times`."""
    found = {"detect": max(0.0, incident.opened_at - incident.sign_at)}
    if incident.acted_at:
        found["act"] = max(0.0, incident.acted_at - incident.opened_at)
    if incident.recovered_at:
        found["recover"] = max(0.0, incident.recovered_at - incident.sign_at)
    return found


def _summary(incident: Incident) -> str:
    taken = [step for step in incident.steps if step.outcome is not Outcome.SKIPPED]
    asked = incident.signature == BY_HAND  # nothing need have been ill
    text = f"{incident.title}." if asked else f"{incident.title} (cause: {incident.cause})."
    if incident.state is IncidentState.RECOVERED:
        took = f" after {times(incident)['recover']:.1f} s" if "recover" in times(incident) else ""
        helped = next((step for step in reversed(taken) if step.outcome is Outcome.RECOVERED), None)
        what = f"{_who(helped)} {helped.action} helped" if helped is not None else incident.note or "it was well again"
        return f"{text} Recovered{took}: {what}."
    if incident.state is IncidentState.ESCALATED and incident.asked_by:
        return f"{text} {incident.asked_by} asks for people; closing it ends it."
    if incident.state is IncidentState.ESCALATED:
        tried = f"{len(taken)} step(s) did not mend it" if taken else "Nothing could be done"
        return f"{text} {tried}; a person is needed: {incident.note}."
    if incident.state is IncidentState.CLOSED:
        return f"{text} Closed: {incident.note or 'by hand'}."
    return f"{text} {incident.state.value.capitalize()}: {incident.note}." if incident.note else text


def _lines(incident: Incident) -> Iterator[Line]:
    if incident.signature == BY_HAND:
        yield Line(incident.opened_at, incident.title, "sign")
    else:
        yield Line(incident.sign_at, f"first sign: {incident.title}", "sign")
        yield Line(incident.opened_at, f"seen, and taken for {incident.cause} ({incident.signature})", "sign")
    yield from _evidence_lines(incident.evidence)
    for change in incident.changes:
        yield Line(change.at, f"before that: {change.text}", "change")
    for step in incident.steps:
        yield from _step_lines(step)
    if incident.recovered_at:
        yield Line(incident.recovered_at, f"recovered: {incident.note}" if incident.note else "recovered", "end")
    elif incident.closed_at:
        yield Line(incident.closed_at, f"closed: {incident.note}" if incident.note else "closed", "end")


def _evidence_lines(evidence: Sequence[Fact]) -> Iterator[Line]:
    """What was said again and again is told once, with how often."""
    alike: dict[tuple[str, str], list[float]] = {}
    for fact in evidence:
        alike.setdefault((fact.source, fact.text), []).append(fact.at)
    for (source, text), times in alike.items():
        told = f"{source}: {text}" if source else text
        again = len(times) - 1
        if again:
            told += f" (and {again} more time{'s' * (again > 1)} in {max(times) - min(times):.0f} s)"
        yield Line(min(times), told, "evidence")


def _step_lines(step: StepTaken) -> Iterator[Line]:
    at = step.started_at or step.ended_at
    if step.outcome is Outcome.SKIPPED:
        yield Line(at, f"{step.action} skipped: {step.detail}", "step")
        return
    expects = f"; expected: {step.expects}" if step.expects else ""
    yield Line(at, f"{_who(step)} {step.action} (step {step.number}), because {step.why}{expects}", "step")
    if step.outcome is not Outcome.PENDING:
        yield Line(step.ended_at, _outcome(step), "outcome")


def _outcome(step: StepTaken) -> str:
    text = f"{step.action}: {WORDS[step.outcome]}"
    if step.score_before >= 0 and step.score_after >= 0:
        text += f"; score {step.score_before} before, {step.score_after} after"
    if step.peers_before >= 0 and step.peers_after >= 0:
        text += f" (those left alone: {step.peers_before:.0f}, {step.peers_after:.0f})"
    return f"{text}; {step.detail}" if step.detail and not step.detail.endswith(BEGUN) else text


def _who(step: StepTaken | None) -> str:
    if step is None or step.by == "policy":
        return "the policy's"
    return "its node's own" if step.by == NODE else f"{step.by}'s"


def _next(incident: Incident, now: float) -> str:
    if incident.state.over:
        return ""
    if command := incident.offer.get("command"):
        return f"undo the likely change: {command}"
    if incident.state is IncidentState.ESCALATED and incident.kind == "infrastructure":
        return f"mend {incident.about}: the incident ends once it is seen well again"
    if incident.state is IncidentState.ESCALATED:
        return (
            f"look at it, then: paddock heal {incident.about} --action restart, or paddock incident close {incident.id}"
        )
    if incident.kind == "common-cause":
        return _next_of_all(incident, now)
    if incident.state is IncidentState.HELD:
        return "its common cause is dealt with first"
    if incident.next_at > now:
        return f"looked at again within {incident.next_at - now:.0f} s"
    return "being worked on"


def _next_of_all(incident: Incident, now: float) -> str:
    """Of a common cause: its members wait for it."""
    if canary := incident.offer.get("canary"):
        return f"{canary} is tried alone; if that helps, its other members go on"
    if incident.next_at > now:
        return f"its members wait; one of them is tried alone in {incident.next_at - now:.0f} s"
    return "its members wait; one of them is tried alone next"
