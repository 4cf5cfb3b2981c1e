"""The learned order: within the policy's bounds, towards what helped, and fewer steps for it."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.learn import COSTS, HALF_LIFE_S, Tried, because, beta, order, tally
from paddock.model.incident import Outcome
from paddock.model.kpi import StepTally
from paddock.model.policy import OF_THE_MACHINE, Action, Cause, Step
from paddock.testing.healing import MIXED, OFFERED, Healed, heal_mixed

LADDER = MIXED.ladder
RESTART, CLEAN, RESET, REDEPLOY = (Action.RESTART, Action.RESTART_CLEAN, Action.RESET_CONNECTION, Action.REDEPLOY)


def ordered(tallies: list[StepTally], seed: int = 1, **more: object) -> list[Action]:
    found = order(LADDER, tallies, signature="s", cause=Cause.CRASH, dice=random.Random(seed).random, **more)  # type: ignore[arg-type]
    return [step.action for step in found]


def known(action: Action, helped: float, failed: float, signature: str = "s", cause: str = "crash") -> StepTally:
    return StepTally(signature=signature, cause=cause, action=action, helped=helped, failed=failed)


def firsts(tallies: list[StepTally], **more: object) -> Counter[Action]:
    return Counter(ordered(tallies, seed, **more)[0] for seed in range(200))


def test_without_experience_the_order_is_that_of_the_policy() -> None:
    assert firsts([]) == {RESTART: 200}
    assert ordered([known(RESTART, 9, 0, "t", "hang")]) == [step.action for step in LADDER], "of another cause"


def test_little_experience_leaves_the_order_of_the_policy_the_usual_one() -> None:
    found = firsts([known(RESTART, 1, 1)])
    assert found.most_common(1)[0][0] is RESTART
    assert found[RESTART] < 200


def test_why_one_comes_first_is_said() -> None:
    tallies = [known(RESTART, 0, 10), known(CLEAN, 3, 1)]
    asked = {"signature": "s", "cause": Cause.CRASH}
    assert because(CLEAN, RESTART, tallies, **asked) == (
        "restart-clean before restart, as learned: restart-clean helped in 3 of 4 tries, "
        "restart helped in 0 of 10 tries"
    )
    assert because(REDEPLOY, CLEAN, tallies, **asked) == (
        "redeploy before restart-clean, by lot, to learn more: redeploy is new to this, "
        "restart-clean helped in 3 of 4 tries"
    )
    assert "as learned" in because(CLEAN, RESET, [], **asked, tried=[RESET])


def test_what_helped_against_this_signature_comes_first() -> None:
    tallies = [known(RESTART, 0, 10), known(CLEAN, 0, 10), known(RESET, 0, 10), known(REDEPLOY, 10, 0)]
    assert firsts(tallies)[REDEPLOY] > 180


def test_what_was_never_tried_is_tried_now_and_then() -> None:
    tallies = [known(RESTART, 0, 10), known(CLEAN, 0, 10), known(REDEPLOY, 10, 0)]
    assert 20 < firsts(tallies)[RESET] < 100  # it would be cheaper


def test_what_helped_against_its_kin_counts_a_little() -> None:
    kin = [known(RESTART, 0, 50, "t"), known(CLEAN, 50, 0, "t")]
    assert firsts(kin)[CLEAN] > firsts([])[CLEAN]
    strangers = [msgspec.structs.replace(one, cause="hang") for one in kin]
    assert firsts(strangers) == firsts([])


def test_what_did_not_help_in_this_incident_is_put_off() -> None:
    some = [known(RESTART, 1, 1)]
    assert firsts(some, tried=[RESTART, RESTART])[RESTART] < 40


def test_old_experience_fades() -> None:
    step = Tried(signature="s", cause="crash", action="restart", helped=True, at=0.0, took_s=4.0)
    found = tally([step, msgspec.structs.replace(step, helped=False, at=HALF_LIFE_S)], HALF_LIFE_S)
    assert found == [StepTally(signature="s", cause="crash", action="restart", helped=0.5, failed=1.0, took_s=4.0)]


def test_draws_have_the_mean_of_their_distribution() -> None:
    dice = random.Random(5).random
    for helped, failed in [(1.0, 1.0), (3.0, 1.5), (50.0, 150.0)]:
        drawn = [beta(helped, failed, dice) for _ in range(2_000)]
        assert sum(drawn) / len(drawn) == pytest.approx(helped / (helped + failed), abs=0.02)


def test_each_action_that_does_something_has_its_cost() -> None:
    assert set(COSTS) == set(Action) - {Action.ESCALATE} - OF_THE_MACHINE


# --- bounds

steps = st.lists(
    st.builds(Step, action=st.sampled_from(list(Action)), attempts=st.integers(1, 3)), min_size=1, max_size=7
)
tallies = st.lists(
    st.builds(
        StepTally,
        signature=st.sampled_from("st"),
        cause=st.sampled_from(["crash", "hang"]),
        action=st.sampled_from([str(action) for action in Action]),
        helped=st.floats(0, 1e4),
        failed=st.floats(0, 1e4),
    ),
    max_size=12,
)


@given(steps, tallies, st.lists(st.sampled_from(list(Action)), max_size=5), st.floats(0, 1))
def test_nothing_is_added_or_left_out_and_people_come_last(
    ladder: list[Step], known: list[StepTally], tried: list[Action], die: float
) -> None:
    found = order(ladder, known, signature="s", cause=Cause.CRASH, dice=lambda: die, tried=tried)
    ends = next((place for place, step in enumerate(ladder) if step.action is Action.ESCALATE), None)
    reached = ladder if ends is None else ladder[: ends + 1]
    assert Counter(map(repr, found)) == Counter(map(repr, reached))
    assert ends is None or found[-1].action is Action.ESCALATE


# --- the mixed load


def taken(healed: list[Healed]) -> int:
    return sum(1 for one in healed for step in one.steps if step.outcome is not Outcome.SKIPPED)


def test_the_learned_order_needs_fewer_steps_and_never_leaves_the_policy() -> None:
    fixed = learned = 0
    for seed in range(3):
        slow, quick = (
            heal_mixed(msgspec.structs.replace(MIXED, learn=False), 80, seed=seed),
            heal_mixed(MIXED, 80, seed=seed),
        )
        assert [one.fault for one in slow] == [one.fault for one in quick]
        fixed, learned = fixed + taken(slow), learned + taken(quick)
        for one in quick:
            counts = Counter(step.action for step in one.steps)
            assert set(counts) <= OFFERED
            assert all(counts[step.action] <= step.attempts for step in LADDER if step.action in counts)
            assert sum(counts.values()) <= MIXED.attempts_max
    assert learned <= 0.75 * fixed
