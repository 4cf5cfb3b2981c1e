"""Which incidents, scores and budgets are told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.health import Sign
from paddock.decide.telling import keys, of_incident, of_objective, of_score
from paddock.model.health import Band, Score
from paddock.model.incident import Fact, Incident, IncidentState, Severity
from paddock.model.kpi import Slo
from paddock.model.policy import Cause, Objective


def incident(**fields: Any) -> Incident:
    known: dict[str, Any] = {
        "id": 17,
        "key": "agent.bot.3.1.1",
        "about": "bot/3",
        "fleet": "bot",
        "cause": Cause.CRASH,
        "signature": "crash",
        "title": "bot/3: exit code 3",
        "sign_at": 1.0,
        "opened_at": 2.0,
    }
    return Incident(**known | fields)


@pytest.mark.parametrize(
    ("fields", "severity"),
    [
        ({}, None),
        ({"state": IncidentState.VERIFYING}, None),
        ({"state": IncidentState.ESCALATED}, "error"),
        ({"severity": Severity.ERROR}, "error"),
        ({"severity": Severity.ERROR, "state": IncidentState.ESCALATED}, "error"),
        ({"severity": Severity.CRITICAL, "kind": "common-cause", "state": IncidentState.HELD}, "critical"),
        ({"kind": "infrastructure"}, "warning"),
        ({"severity": Severity.ERROR, "parent": "common.1", "state": IncidentState.HELD}, None),
        ({"severity": Severity.INFO}, None),
    ],
)
def test_what_heals_quietly_is_not_told(fields: dict[str, Any], severity: str | None) -> None:
    told = of_incident(incident(**fields))
    assert (told and str(told.severity)) == severity


def test_a_common_cause_says_what_changed_and_how_to_undo_it() -> None:
    told = of_incident(
        incident(
            kind="common-cause",
            note="single healing is stopped",
            evidence=[Fact(at=1.0, text="4 agents ended alike")],
            changes=[Fact(at=0.0, text="an older change"), Fact(at=0.5, text="fleet bot changed (by ann)")],
            offer={"command": "paddock rollback bot"},
        )
    )
    assert told is not None
    assert told.text.splitlines() == [
        "single healing is stopped",
        "4 agents ended alike",
        "before that: fleet bot changed (by ann)",
        "undo the likely change: paddock rollback bot",
    ]


def test_a_page_is_critical_and_a_ticket_a_warning() -> None:
    goal = Objective(name="up", measure="availability", share=0.999)
    slo = {"fleet": "bot", "objective": goal, "value": 0.9, "budget_left": -1.0, "burns": [(3600.0, 20.0)]}
    page, ticket = (of_objective(Slo(**slo, alarm=alarm)) for alarm in ("page", "ticket"))
    assert (page.severity, ticket.severity) == (Severity.CRITICAL, Severity.WARNING)
    assert page.key == ticket.key == "slo.bot.up"
    assert page.text == "99.900% availability is promised; the budget burns 20.0 times over 1 h what it may"


def test_a_low_score_says_why() -> None:
    score = Score(id="bot/3", fleet="bot", at=1.0, score=40, band=Band.POOR, because=["slow: -12"])
    told = of_score(score, Sign(cause=Cause.SLOW, heal=False, text="its score is 40, below 50"))
    assert (told.key, told.title, told.text) == ("score.bot/3", "its score is 40, below 50", "slow: -12")


@given(st.sampled_from(IncidentState), st.sampled_from(Severity), st.sampled_from(["agent", "common-cause"]))
def test_what_is_over_is_told_by_its_end_alone(state: IncidentState, severity: Severity, kind: str) -> None:
    told = of_incident(incident(state=state, severity=severity, kind=kind))
    if told is None:
        return
    assert not state.over
    assert told.key in keys(incident())
    assert told.key.endswith(".escalated") == (state is IncidentState.ESCALATED)
    end = told.end(9.0, "well")
    assert (end.key, end.recovered, end.at) == (told.key, True, 9.0)
    assert told.alert(8.0).recovered is False
