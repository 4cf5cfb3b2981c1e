"""What a policy would do, told without doing it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.rehearse import OFFERS, Rehearsal, rehearse
from paddock.model.agent import AgentState
from paddock.model.policy import Action, Cause, Policy, Step


def done(policy: Policy, **case: object) -> tuple[list[str], str]:
    """The actions that would be taken, and the outcome."""
    told = rehearse(policy, Rehearsal(**{"fleet": "bot", "cause": Cause.HANG} | case))  # type: ignore[arg-type]  # a case of a test
    known = set(Action)
    return [word for line in told.lines if (word := line.text.partition(",")[0]) in known], told.outcome


def test_the_default_ladder_is_climbed_until_something_helps() -> None:
    assert done(Policy(), helps=[Action.REDEPLOY]) == (["restart", "restart", "restart-clean", "redeploy"], "recovered")
    assert done(Policy(), helps=[Action.RESTART]) == (["restart"], "recovered")


def test_what_nothing_helps_is_escalated() -> None:
    actions, outcome = done(Policy())
    assert (actions[-1], outcome) == ("redeploy", "escalated")


def test_the_ladder_of_the_cause_counts() -> None:
    policy = Policy(causes={Cause.OOM: [Step(action=Action.RESTART_CLEAN), Step(action=Action.ESCALATE)]})
    assert done(policy, cause=Cause.OOM) == (["restart-clean"], "escalated")


def test_what_the_runtime_does_not_offer_is_skipped_and_said() -> None:
    policy = Policy(ladder=[Step(action=Action.REBOOT), Step(action=Action.RESTART), Step(action=Action.ESCALATE)])
    told = rehearse(policy, Rehearsal(fleet="bot", helps=[Action.RESTART]))
    assert any(line.text.startswith("reboot is skipped: ") for line in told.lines)
    assert told.outcome == "recovered"


def test_a_policy_that_only_judges_does_nothing() -> None:
    actions, outcome = done(Policy(heal=False))
    assert actions == []
    assert outcome in ("escalated", "open", "waiting")


def test_a_quarantined_agent_is_worked_on_like_a_hung_one() -> None:
    assert done(Policy(), state=AgentState.QUARANTINED, score=0, helps=[Action.RESTART_CLEAN])[1] == "recovered"


LADDERS = st.lists(
    st.builds(
        Step,
        action=st.sampled_from(sorted(OFFERS - {Action.ESCALATE})),
        attempts=st.integers(1, 3),
        verify_s=st.floats(0.1, 100),
        cooldown_s=st.floats(0.1, 100),
    ),
    max_size=4,
    unique_by=lambda step: step.action,
).map(lambda steps: [*steps, Step(action=Action.ESCALATE)])


@given(LADDERS, st.sampled_from(Cause), st.lists(st.sampled_from(sorted(OFFERS)), max_size=3), st.integers(1, 8))
def test_every_rehearsal_ends_within_the_bounds_of_its_policy(
    ladder: list[Step], cause: Cause, helps: list[Action], attempts_max: int
) -> None:
    policy = Policy(ladder=ladder, attempts_max=attempts_max, standby="spare")
    actions, outcome = done(policy, cause=cause, helps=helps)
    assert outcome in ("recovered", "escalated")
    assert len(actions) <= attempts_max
    allowed = {step.action: step.attempts for step in ladder}
    for action in set(actions):
        assert actions.count(action) <= allowed[Action(action)]
    if outcome == "recovered":
        assert actions[-1] in helps


def test_the_story_runs_forward_in_time() -> None:
    told = rehearse(Policy(), Rehearsal(fleet="bot"))
    moments = [line.at_s for line in told.lines]
    assert moments == sorted(moments)
    assert moments[0] == 0.0


def test_what_is_waited_for_is_said_once() -> None:
    told = rehearse(Policy(), Rehearsal(fleet="bot", state=AgentState.STARTING))
    assert [line.text for line in told.lines] == ["its node is at it: starting"]
    assert told.outcome in ("open", "waiting")


@pytest.mark.parametrize("score", [-5, 101, 500, 10**20, 3.5, "high"])
def test_a_score_that_no_agent_can_have_is_refused(score: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="score"):
        msgspec.convert({"cause": "hang", "score": score}, Rehearsal)
    assert [msgspec.convert({"score": fine}, Rehearsal).score for fine in (0, 100)] == [0, 100]


def test_a_case_with_unknown_words_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"caus": "hang"}, Rehearsal)
