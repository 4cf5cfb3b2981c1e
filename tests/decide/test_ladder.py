"""The ladder: rungs in their order, attempts, cool-downs, verification, and that it always ends."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.decide.ladder import (
    ON_THE_WAY,
    Act,
    Close,
    Decision,
    Escalate,
    Recovered,
    Verify,
    Wait,
    acted,
    apply,
    by_hand,
    give_up_s,
    next_step,
)
from paddock.decide.rungs import World, pending_step, rungs
from paddock.decide.storm import Answer
from paddock.model.agent import AgentState
from paddock.model.incident import Incident, IncidentState, Outcome, Severity
from paddock.model.kpi import StepTally
from paddock.model.policy import Action, Cause, Forecasting, Policy, Step

OFFERS = frozenset({Action.RESTART, Action.RESTART_CLEAN, Action.REDEPLOY})
FIXED = Policy(learn=False)


def incident(**more: Any) -> Incident:
    found = {
        "id": 1,
        "key": "agent.f.0.1",
        "about": "f/0",
        "cause": Cause.ENDPOINT_DOWN,
        "signature": "endpoint-down",
        "title": "probe http failed",
        "epoch": 1,
        "sign_at": 0.0,
        "opened_at": 0.0,
    }
    return Incident(**{**found, **more})


def world(score: int = 0, state: AgentState = AgentState.READY, **more: Any) -> World:
    return World(**{"epoch": 1, "state": state, "score": score, "offers": OFFERS, **more})


def decide(held: Incident, seen: World, now: float, policy: Policy = FIXED) -> tuple[Decision, Incident]:
    found = next_step(policy, held, seen, now, lambda: 0.5)
    return found, apply(held, found, now)


def test_an_ill_agent_is_restarted_verified_and_recovered() -> None:
    found, held = decide(incident(), world(), 1.0)
    assert isinstance(found, Act)
    assert (found.step.action, found.step.number, found.step.epoch) == (Action.RESTART, 1, 1)
    assert held.state is IncidentState.ACTING
    held = acted(FIXED, held, 2.0, ok=True)
    assert (held.state, held.next_at) == (IncidentState.VERIFYING, 32.0)
    found, held = decide(held, world(50, AgentState.STARTING, epoch=2), 3.0)
    assert found == Verify(until=32.0, why=held.note, step=held.steps[0])
    found, held = decide(held, world(100, epoch=2), 4.0)
    assert isinstance(found, Recovered)
    assert (held.state, held.recovered_at) == (IncidentState.RECOVERED, 4.0)
    step = held.steps[0]
    assert (step.outcome, step.score_before, step.score_after, step.ended_at) == (Outcome.RECOVERED, 0, 100, 4.0)


def test_the_rungs_are_climbed_with_their_attempts_and_cool_downs_up_to_people() -> None:
    held, now, seen, actions = incident(), 0.0, world(), []
    while held.state is not IncidentState.ESCALATED:
        found, held = decide(held, seen, now)
        if isinstance(found, Act):
            actions.append(str(found.step.action))
            seen = msgspec.structs.replace(seen, epoch=seen.epoch + 1)
            held = acted(FIXED, held, now, ok=True)
        elif isinstance(found, Wait):
            assert (held.state, found.until) == (IncidentState.WAITING, now + 5.0)
            now = found.until
        elif isinstance(found, Verify):
            now = found.until
    assert actions == ["restart", "restart", "restart-clean", "redeploy"]
    assert [step.outcome for step in held.steps] == [Outcome.NO_BETTER] * 4
    assert (held.severity, held.note) == (Severity.ERROR, "no step of its ladder is left")
    assert isinstance(decide(held, seen, now + 1)[0], Wait)
    assert isinstance(decide(held, world(90, epoch=9), now + 1)[0], Recovered)


def test_a_server_that_died_after_writing_asks_for_the_same_step_again() -> None:
    found, held = decide(incident(), world(), 1.0)
    again, same = decide(held, world(), 2.0)
    assert isinstance(found, Act)
    assert isinstance(again, Act)
    assert (again.step, same.steps) == (found.step, held.steps)
    gone, _ = decide(held, world(50, AgentState.STARTING, epoch=2), 2.0)
    assert isinstance(gone, Verify)  # it was done after all


def test_a_node_that_never_answers_is_given_up() -> None:
    _, held = decide(incident(), world(), 0.0)
    found, held = decide(held, world(), 91.0)
    assert isinstance(found, Wait)
    assert (held.steps[0].outcome, held.steps[0].detail) == (Outcome.FAILED, "its node did not answer")


def test_what_could_not_be_done_counts_and_rests() -> None:
    _, held = decide(incident(), world(), 0.0)
    held = acted(FIXED, held, 1.0, ok=False, detail="no room on the disk")
    assert (held.state, held.next_at, held.steps[0].outcome) == (IncidentState.WAITING, 6.0, Outcome.FAILED)
    assert held.note == "restart could not be done: no room on the disk"
    assert isinstance(decide(held, world(), 5.9)[0], Wait)
    found, _ = decide(held, world(), 6.0)
    assert isinstance(found, Act)
    assert found.step.number == 2


def test_the_old_incarnation_does_not_count_as_recovered() -> None:
    _, held = decide(incident(), world(), 0.0)
    held = acted(FIXED, held, 1.0, ok=True)
    assert isinstance(decide(held, world(100), 2.0)[0], Verify)
    found, held = decide(held, world(100), 31.0)
    assert isinstance(found, Recovered)  # by itself, then
    assert held.steps[0].outcome is Outcome.FAILED


def test_nothing_is_recovered_before_it_was_measured() -> None:
    _, held = decide(incident(), world(), 0.0)
    held = acted(FIXED, held, 1.0, ok=True)
    unknown = world(100, epoch=2, confirmed=False)
    assert isinstance(decide(held, unknown, 30.0)[0], Verify)
    assert isinstance(decide(held, unknown, 60.0)[0], Verify)
    found, waits = decide(held, unknown, 61.0)
    assert isinstance(found, Verify), "however long that takes"
    assert "not been measured again" in waits.note
    assert isinstance(decide(waits, msgspec.structs.replace(unknown, confirmed=True), 62.0)[0], Recovered)
    late = 31.0 + give_up_s(FIXED, held.cause)
    _, ended = decide(held, unknown, late)
    assert (ended.state, ended.steps[0].outcome) == (IncidentState.WAITING, Outcome.UNKNOWN)
    assert isinstance(decide(ended, unknown, late + 5.0)[0], Escalate)


def test_a_score_that_is_not_known_neither_judges_a_step_nor_begins_one() -> None:
    _, held = decide(incident(), world(), 0.0)
    held = acted(FIXED, held, 1.0, ok=True)
    unknown = world(-1, epoch=2)
    assert isinstance(decide(held, unknown, 40.0)[0], Verify)
    assert isinstance(decide(held, world(10, epoch=2), 40.0)[0], Wait), "it is known to be ill"
    for seen in (world(-1), world(100, confirmed=False)):
        found, held = decide(incident(), seen, 0.0)
        assert isinstance(found, Wait)
        assert held.state is IncidentState.OPEN
        assert isinstance(decide(held, world(10), 0.1)[0], Act), "as soon as it is known"
        assert isinstance(decide(incident(), seen, give_up_s(FIXED, held.cause))[0], Escalate)


def test_what_did_not_replace_anything_is_not_verified_before_it_is_done() -> None:
    policy = Policy(learn=False, ladder=[Step(action=Action.RESET_CONNECTION)])
    offers = frozenset({Action.RESET_CONNECTION})
    _, held = decide(incident(), world(offers=offers), 0.0, policy)
    assert held.state is IncidentState.ACTING
    assert isinstance(decide(held, world(100, offers=offers), 1.0, policy)[0], Act)


def test_a_step_that_another_takes_the_place_of_was_done_and_is_judged_by_nobody() -> None:
    _, held = decide(incident(), world(), 0.0)
    held = acted(FIXED, held, 1.0, ok=True)
    held = apply(held, by_hand(FIXED, held, Action.REDEPLOY, world(), who="ann", now=2.0), 2.0)
    assert [step.outcome for step in held.steps] == [Outcome.UNKNOWN, Outcome.PENDING]
    assert "ann asked for redeploy" in held.steps[0].detail


def test_what_people_ask_for_takes_no_attempt_of_the_ladder() -> None:
    held, actions = incident(), []
    for now in range(0, 60, 10):
        held = apply(held, by_hand(FIXED, held, Action.RESTART, world(), who="ann", now=now), now)
        held = acted(FIXED, held, now, ok=False)
    now, seen = 60.0, world()
    while held.state is not IncidentState.ESCALATED:
        found, held = decide(held, seen, now)
        if isinstance(found, Act):
            actions.append(str(found.step.action))
            held = acted(FIXED, held, now, ok=False)
        now += 10.0
    assert actions == ["restart", "restart", "restart-clean", "redeploy"]


def test_a_step_says_why_it_comes_before_the_one_that_is_next_and_what_it_waited_for() -> None:
    helped = StepTally(signature="endpoint-down", cause="endpoint-down", action="redeploy", helped=9.0, failed=0.0)
    failed = StepTally(signature="endpoint-down", cause="endpoint-down", action="restart", helped=0.0, failed=9.0)
    found = next_step(Policy(), incident(), world(tallies=[helped, failed]), 0.0, lambda: 0.5)
    assert isinstance(found, Act)
    assert found.step.action is Action.REDEPLOY
    assert found.why.endswith(
        "; redeploy before restart, as learned: redeploy helped in 9 of 9 tries, restart helped in 0 of 9 tries"
    )
    plain = next_step(Policy(), incident(), world(), 0.0, random.Random(3).random)
    assert isinstance(plain, Act)
    assert (plain.step.action, plain.why) == (Action.RESTART, "endpoint-down: probe http failed")
    _, held = decide(incident(), world(budget=Answer(False, 9.0, "too many")), 0.0)
    after = decide(held, world(), 9.0)[0]
    assert after.why == "endpoint-down: probe http failed (it waited: too many)"


def test_a_step_whose_new_incarnation_is_ill_as_well_did_not_help_and_nothing_more_is_waited_for() -> None:
    _, held = decide(incident(), world(25), 1.0)
    held = acted(FIXED, held, 2.0, ok=True)
    assert held.next_at == 32.0
    found, held = decide(held, world(25, epoch=2), 5.0)
    assert isinstance(found, Verify), "it is not well yet, and nothing says that it will not be"
    found, held = decide(held, world(25, epoch=2, refuted=True), 6.0)
    assert isinstance(found, Wait)
    assert (held.steps[0].outcome, held.steps[0].ended_at) == (Outcome.NO_BETTER, 6.0)
    assert (held.state, held.next_at) == (IncidentState.WAITING, 11.0), "its cool-down is kept"
    assert isinstance(decide(held, world(25, epoch=2), 10.0)[0], Wait)
    assert isinstance(decide(held, world(25, epoch=2), 11.0)[0], Act)


def test_its_node_comes_first_and_its_restart_is_the_first_step() -> None:
    crash = incident(cause=Cause.CRASH)
    for state in ON_THE_WAY:
        found, held = decide(crash, world(0, state), 0.0)
        assert isinstance(found, Wait)
        assert held.state is IncidentState.OPEN
    found, held = decide(crash, world(100, epoch=2), 0.1)
    assert isinstance(found, Recovered)
    assert [(step.by, step.action, step.outcome) for step in held.steps] == [
        ("node", Action.RESTART, Outcome.RECOVERED)
    ]
    found, held = decide(crash, world(40, epoch=2), 0.1)
    assert isinstance(found, Verify)
    found, held = decide(held, world(40, epoch=2), 31.0)
    assert isinstance(found, Wait)
    found, _ = decide(held, world(40, epoch=2), 40.0)
    assert isinstance(found, Act)
    assert found.step.epoch == 2


def test_what_is_not_offered_is_skipped_and_said_once() -> None:
    policy = Policy(
        learn=False,
        ladder=[Step(action=Action.RESET_CONNECTION), Step(action=Action.ACTIVATE_BACKUP), Step(action=Action.RESTART)],
    )
    found, held = decide(incident(), world(), 0.0, policy)
    assert isinstance(found, Act)
    assert [(step.number, step.action, step.detail) for step in found.skipped] == [
        (1, Action.RESET_CONNECTION, "its runtime does not offer it"),
        (2, Action.ACTIVATE_BACKUP, "the policy names no standby"),
    ]
    assert [step.number for step in held.steps] == [1, 2, 3]
    held = acted(policy, held, 0.0, ok=False)
    found, held = decide(held, world(), 5.0, policy)
    assert isinstance(found, Escalate)
    assert found.skipped == []


def test_each_cause_may_have_its_own_ladder() -> None:
    policy = Policy(learn=False, causes={Cause.ENDPOINT_DOWN: [Step(action=Action.REDEPLOY)]})
    found, _ = decide(incident(), world(), 0.0, policy)
    assert isinstance(found, Act)
    assert found.step.action is Action.REDEPLOY


def test_budget_breaker_and_limits() -> None:
    found, held = decide(incident(), world(budget=Answer(False, 9.0, "too many")), 0.0)
    assert (found, held.state) == (Wait(until=9.0, why="too many"), IncidentState.WAITING)
    assert isinstance(decide(held, world(), 9.0)[0], Act)
    for seen, policy in [
        (world(breaker=Answer(False, 9.0, "it stopped itself")), FIXED),
        (world(steps_before=5), FIXED),
        (world(), Policy(heal=False)),
    ]:
        assert isinstance(decide(incident(), seen, 0.0, policy)[0], Escalate)
    assert isinstance(decide(incident(), world(), give_up_s(FIXED, Cause.ENDPOINT_DOWN))[0], Escalate)


def test_a_policy_that_only_tells_still_lets_the_node_mend_it() -> None:
    found, _ = decide(incident(cause=Cause.CRASH), world(0, AgentState.PENDING), 0.0, Policy(heal=False))
    assert isinstance(found, Wait)


def test_forecasts_are_acted_on_only_where_the_policy_recycles() -> None:
    ahead = incident(cause=Cause.FORECAST)
    assert isinstance(decide(ahead, world(100, confirmed=False), 0.0)[0], Escalate)
    recycles = Policy(learn=False, forecast=Forecasting(recycle=True))
    assert isinstance(decide(ahead, world(100, confirmed=False), 0.0, recycles)[0], Act)
    assert isinstance(decide(ahead, world(100), 0.0, recycles)[0], Recovered)  # the trend has ended


def test_a_common_cause_holds_its_members_until_it_is_over() -> None:
    held = incident(parent="common.abc")
    found, after = decide(held, world(held=True), 0.0)
    assert (found.why, after.state) == ("its common cause is dealt with first", IncidentState.HELD)
    assert isinstance(decide(after, world(), 1.0)[0], Act)
    assert isinstance(decide(after, world(100, held=True), 1.0)[0], Recovered)


def test_who_is_wanted_no_more_closes() -> None:
    _, held = decide(incident(), world(), 0.0)
    found, held = decide(held, world(wanted=False), 1.0)
    assert isinstance(found, Close)
    assert (held.state, held.steps[0].outcome) == (IncidentState.CLOSED, Outcome.UNKNOWN)
    assert decide(held, world(), 2.0)[0] == Wait(until=math.inf, why="it is over", state=IncidentState.CLOSED)


def test_a_person_may_ask_for_any_step_also_of_an_escalated_one() -> None:
    held = apply(incident(), Escalate(why="no step of its ladder is left"), 0.0)
    act = by_hand(FIXED, held, Action.RESET_CONNECTION, world(), who="ann", now=5.0)
    held = apply(held, act, 5.0)
    assert (held.state, held.steps[0].by, held.note) == (IncidentState.ACTING, "ann", "ann asked for reset-connection")
    held = acted(FIXED, held, 6.0, ok=True)
    found, held = decide(held, world(100), 7.0)
    assert isinstance(found, Recovered)
    assert held.steps[0].outcome is Outcome.RECOVERED


# --- random worlds

actions = st.sampled_from([action for action in Action if action is not Action.ESCALATE])
steps = st.builds(
    Step,
    action=actions,
    attempts=st.integers(1, 3),
    verify_s=st.sampled_from([0.0, 1.0, 30.0]),
    cooldown_s=st.sampled_from([0.0, 5.0]),
)
policies = st.builds(
    Policy,
    heal=st.sampled_from([True, True, True, False]),
    learn=st.booleans(),
    ladder=st.lists(steps, min_size=1, max_size=5).map(lambda found: [*found, Step(action=Action.ESCALATE)]),
    causes=st.dictionaries(st.sampled_from(list(Cause)), st.lists(steps, min_size=1, max_size=3), max_size=2),
    attempts_max=st.integers(0, 8),
    window_s=st.sampled_from([60.0, 1800.0]),
)


def some_world(dice: random.Random, epoch: int) -> World:
    refused = Answer(False, dice.random() * 100, "not now")
    state = dice.choice([AgentState.READY, AgentState.READY, *AgentState])
    return World(
        epoch=epoch,
        state=state,
        wanted=dice.random() > 0.005,
        score=dice.choice([-1, 0, 10, 40, 69, 69, 69, 70, 100]) if dice.random() < 0.5 else 0,
        confirmed=dice.random() < 0.5,
        refuted=dice.random() < 0.1,
        offers=frozenset(action for action in Action if dice.random() < 0.7),
        standby=dice.random() < 0.5,
        budget=refused if dice.random() < 0.3 else Answer(True),
        breaker=refused if dice.random() < 0.02 else Answer(True),
        steps_before=dice.randrange(2),
        held=dice.random() < 0.5,
    )


@settings(max_examples=150)
@given(policies, st.sampled_from(list(Cause)), st.integers(0, 2**32), st.booleans())
def test_whatever_the_world_does_it_ends_within_its_bounds(
    policy: Policy, cause: Cause, seed: int, parent: bool
) -> None:
    dice = random.Random(seed)
    held, now, epoch = incident(cause=cause, parent="common.x" if parent else ""), 0.0, 1
    allowed: Counter[Action] = Counter()
    for rung in rungs(policy, cause):
        allowed[rung.action] += rung.attempts
    for _ in range(3_000):
        seen = some_world(dice, epoch)
        decision = next_step(policy, held, seen, now, dice.random)
        held = apply(held, decision, now)
        if held.state.over or held.state is IncidentState.ESCALATED:
            break
        if isinstance(decision, Act):
            assert decision.step.epoch <= seen.epoch  # never more than what was seen
            assert not pending_step(held) or held.state is IncidentState.ACTING
            if dice.random() < 0.8:  # else the server died in the middle
                held = acted(policy, held, now, ok=dice.random() < 0.8)
            epoch += dice.random() < 0.7
        epoch += dice.random() < 0.05
        now += dice.choice([0.1, 1.0, 7.0, 31.0, 100.0])
        assert sum(step.outcome is Outcome.PENDING for step in held.steps) <= 1
    assert held.state.over or held.state is IncidentState.ESCALATED
    assert pending_step(held) is None
    taken = Counter(step.action for step in held.steps if step.outcome is not Outcome.SKIPPED and step.by == "policy")
    assert all(taken[action] <= allowed[action] for action in taken)
    assert sum(taken.values()) <= policy.attempts_max
    assert policy.heal or not taken
    assert [step.number for step in held.steps] == list(range(1, len(held.steps) + 1))
    assert sum(step.by == "node" for step in held.steps) <= 1
    assert len(held.steps) <= sum(allowed.values()) + len(allowed) + 1


@given(policies, st.integers(0, 2**32))
def test_deciding_twice_from_what_was_written_changes_nothing(policy: Policy, seed: int) -> None:
    dice = random.Random(seed)
    held, now = incident(), 0.0
    for _ in range(20):
        seen = some_world(dice, 1)
        held = apply(held, next_step(policy, held, seen, now, lambda: 0.5), now)
        again = apply(held, next_step(policy, held, seen, now, lambda: 0.5), now)
        if held.state in (IncidentState.ACTING, IncidentState.RECOVERED, IncidentState.CLOSED):
            assert again.steps == held.steps
        now += 7.0
