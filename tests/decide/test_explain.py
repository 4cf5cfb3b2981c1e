"""An incident told in plain words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.explain import explain, times
from paddock.model.incident import BY_HAND, Fact, Incident, IncidentState, Outcome, StepTaken
from paddock.model.policy import Action, Cause


def incident(**fields: Any) -> Incident:
    known: dict[str, Any] = {
        "id": 17,
        "key": "agent.bot.3.1.100000",
        "about": "bot/3",
        "cause": Cause.HANG,
        "signature": "hang: no beat",
        "title": "bot/3: no beat for 10 s",
        "sign_at": 100.0,
        "opened_at": 100.5,
    }
    return Incident(**known | fields)


def step(number: int, action: Action, outcome: Outcome, **fields: Any) -> StepTaken:
    at = 101.0 + number
    known: dict[str, Any] = {"started_at": at, "acted_at": at, "ended_at": at + 0.5, "why": "it is the next rung"}
    return StepTaken(**{"number": number, "action": action, "outcome": outcome} | known | fields)


def test_the_whole_story_stands_in_the_order_of_time() -> None:
    told = explain(
        incident(
            state=IncidentState.RECOVERED,
            acted_at=101.0,
            recovered_at=110.0,
            closed_at=110.0,
            note="score 100 again",
            evidence=[Fact(at=100.0, text="no beat", source="probe"), Fact(at=100.2, text="stuck in read()")],
            changes=[Fact(at=90.0, text="fleet bot changed (by ann)", source="change")],
            steps=[
                step(
                    1,
                    Action.RESTART,
                    Outcome.NO_BETTER,
                    by="node",
                    score_before=10,
                    score_after=20,
                    peers_before=98.0,
                    peers_after=97.0,
                ),
                step(2, Action.REBOOT, Outcome.SKIPPED, detail="exec does not offer it"),
                step(3, Action.REDEPLOY, Outcome.RECOVERED, expects="score at least 70 by 14:03:20"),
            ],
        ),
        now=200.0,
    )
    assert (
        told.summary == "bot/3: no beat for 10 s (cause: hang). Recovered after 10.0 s: the policy's redeploy helped."
    )
    assert told.times == {"detect": 0.5, "act": 0.5, "recover": 10.0}
    assert told.now == ""
    assert [line.at for line in told.lines] == sorted(line.at for line in told.lines)
    text = "\n".join(line.text for line in told.lines)
    for expected in (
        "before that: fleet bot changed (by ann)",
        "probe: no beat",
        "its node's own restart (step 1), because it is the next rung",
        "restart: it did not help; score 10 before, 20 after (those left alone: 98, 97)",
        "reboot skipped: exec does not offer it",
        "the policy's redeploy (step 3), because it is the next rung; expected: score at least 70 by 14:03:20",
        "redeploy: it helped",
        "recovered: score 100 again",
    ):
        assert expected in text
    assert {line.kind for line in told.lines} == {"sign", "evidence", "change", "step", "outcome", "end"}


@pytest.mark.parametrize(
    ("fields", "summary", "now"),
    [
        (
            {"state": IncidentState.ESCALATED, "note": "nothing is left"},
            "Nothing could be done; a person is needed: nothing is left.",
            "look at it, then: paddock heal bot/3 --action restart",
        ),
        (
            {"state": IncidentState.ESCALATED, "kind": "infrastructure", "about": "clock", "note": "no"},
            "a person is needed: no.",
            "mend clock",
        ),
        ({"state": IncidentState.CLOSED}, "Closed: by hand.", ""),
        ({"state": IncidentState.RECOVERED, "note": "well by itself"}, "Recovered: well by itself.", ""),
        ({"state": IncidentState.HELD, "note": "see 9"}, "Held: see 9.", "its common cause is dealt with first"),
        ({"state": IncidentState.VERIFYING, "next_at": 230.0}, "(cause: hang).", "looked at again within 30 s"),
        ({}, "(cause: hang).", "being worked on"),
        (
            {"state": IncidentState.HELD, "offer": {"command": "paddock rollback bot"}},
            "(cause: hang).",
            "undo the likely change: paddock rollback bot",
        ),
    ],
)
def test_every_state_says_what_comes_next(fields: dict[str, Any], summary: str, now: str) -> None:
    told = explain(incident(**fields), now=200.0)
    assert told.summary.endswith(summary)
    assert told.now.startswith(now)
    assert bool(told.now) == bool(now)


def test_an_incident_that_a_person_opened_speaks_of_no_illness() -> None:
    told = explain(
        incident(
            title="ann wants bot/3 healed",
            cause=Cause.LOW_SCORE,
            signature=BY_HAND,
            sign_at=100.5,
            state=IncidentState.RECOVERED,
            recovered_at=110.0,
            steps=[
                step(1, Action.DEGRADE, Outcome.UNKNOWN, by="ann", detail="bob asked for restart before it was known"),
                step(2, Action.RESTART, Outcome.RECOVERED, by="bob", detail="restart: begun"),
            ],
        ),
        now=200.0,
    )
    text = "\n".join([told.summary, *(line.text for line in told.lines)])
    assert told.summary == "ann wants bot/3 healed. Recovered after 9.5 s: bob's restart helped."
    assert "low-score" not in text
    assert "begun" not in text
    assert "degrade: it was done, and whether it helped is not known; bob asked for restart" in text


def test_what_was_said_again_and_again_is_told_once() -> None:
    deaths = [Fact(at=100.0 + 2 * number, text="exit code 7", source="exit") for number in range(4)]
    told = explain(incident(evidence=[*deaths, Fact(at=101.0, text="boom", source="log")]), now=200.0)
    said = [line.text for line in told.lines if line.kind == "evidence"]
    assert said == ["exit: exit code 7 (and 3 more times in 6 s)", "log: boom"]


@pytest.mark.parametrize(
    ("fields", "now"),
    [
        ({"next_at": 230.0}, "its members wait; one of them is tried alone in 30 s"),
        ({}, "its members wait; one of them is tried alone next"),
        ({"offer": {"canary": "bot/2"}}, "bot/2 is tried alone; if that helps, its other members go on"),
    ],
)
def test_a_common_cause_says_what_comes_of_its_members(fields: dict[str, Any], now: str) -> None:
    known = incident(kind="common-cause", about="bot", state=IncidentState.HELD, members=["bot/1", "bot/2"], **fields)
    assert explain(known, now=200.0).now == now


@given(
    st.sampled_from(IncidentState),
    st.lists(st.tuples(st.sampled_from(Action), st.sampled_from(Outcome), st.floats(0, 1e9)), max_size=8),
    st.floats(0, 1e9),
    st.floats(0, 1e9),
)
def test_whatever_it_went_through_it_can_be_told(
    state: IncidentState, steps: list[tuple[Action, Outcome, float]], sign_at: float, recovered_at: float
) -> None:
    """Also when clocks of nodes and server differ: no time is below 0."""
    known = incident(
        state=state,
        sign_at=sign_at,
        recovered_at=recovered_at,
        steps=[
            step(number, action, outcome, started_at=at, ended_at=at)
            for number, (action, outcome, at) in enumerate(steps, 1)
        ],
    )
    told = explain(known, now=500.0)
    assert min(times(known).values()) >= 0.0
    assert [line.at for line in told.lines] == sorted(line.at for line in told.lines)
    assert bool(told.now) != state.over
    for taken in known.steps:
        assert any(str(taken.action) in line.text for line in told.lines)
