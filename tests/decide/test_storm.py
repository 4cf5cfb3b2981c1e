"""Common causes on a node and on the server, the budget, the breaker."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.storm import (
    CANARY_S_MAX,
    CANARY_S_MIN,
    TRIAL_REST_S,
    YES,
    Death,
    Population,
    after_held_death,
    after_stable,
    allowed,
    breaker,
    correlate,
    counts,
    held_by_node,
    hold,
    may_start,
)
from paddock.model.agent import Event
from paddock.model.incident import Incident, IncidentState, Outcome, StepTaken
from paddock.model.policy import Action, Budget, Cause, Storm

POLICY = Storm()
BAD = "crash: exit code <n>: ImportError: no module named <text>"


def death(agent: int, at: float = 0.0, **more: Any) -> Death:
    return Death(**{"agent": f"f/{agent}", "signature": BAD, "at": at, "stable": False, **more})


# --- on a node


def test_the_third_agent_that_ends_alike_is_a_common_cause() -> None:
    deaths = [death(0, 0.0), death(0, 0.5), death(1, 0.6)]
    assert hold(POLICY, deaths, 0.6) is None  # two agents, three deaths
    held = hold(POLICY, [*deaths, death(2, 0.7)], 0.7)
    assert held is not None
    assert (held.agents, held.canary, held.canary_at) == (["f/0", "f/1", "f/2"], "f/0", 0.7 + CANARY_S_MIN)
    assert held.text == f"common cause: 3 agents ended alike ({BAD})"


def test_kills_from_outside_stable_agents_other_signatures_and_old_deaths_are_no_common_cause() -> None:
    assert hold(POLICY, [death(n, outside=True) for n in range(500)], 1.0) is None
    assert hold(POLICY, [death(n, stable=True) for n in range(500)], 1.0) is None
    assert hold(POLICY, [death(n, signature=f"crash: {n}") for n in range(500)], 1.0) is None
    assert hold(POLICY, [death(n, n * 70.0) for n in range(500)], 499 * 70.0) is None


def test_where_a_rollout_has_reached_two_agents_two_are_enough_and_one_never_is() -> None:
    assert hold(POLICY, [death(0)], 0.0, reached=1) is None
    held = hold(POLICY, [death(0), death(1)], 0.0, reached=2)
    assert held is not None
    assert held.agents == ["f/0", "f/1"]
    assert hold(POLICY, [death(0), death(1)], 0.0, reached=3) is None
    assert hold(POLICY, [death(n) for n in range(3)], 0.0, reached=200) is not None


def test_one_canary_goes_and_later_the_next() -> None:
    held = hold(POLICY, [death(n) for n in range(3)], 0.0)
    assert held is not None
    assert not may_start(held, "f/0", 0.9)
    assert may_start(held, "f/0", 1.0)
    assert not any(may_start(held, f"f/{n}", 1.0, last=death(n)) for n in (1, 2))
    assert not may_start(held, "f/9", 1.0)  # never tried under this version
    assert may_start(held, "f/9", 1.0, last=death(9, outside=True))  # it was well until somebody killed it
    held = after_held_death(held, death(0, 1.5), 1.5)
    assert (held.canary, held.canary_at, held.tries) == ("f/1", 3.5, 1)
    held = after_held_death(held, death(7, 1.6), 1.6)
    assert held.agents == ["f/1", "f/2", "f/0", "f/7"]
    assert held.canary == "f/1"


def test_a_canary_that_is_stable_releases_them_all() -> None:
    held = hold(POLICY, [death(n) for n in range(3)], 0.0)
    assert held is not None
    assert after_stable(held, "f/9") == held
    assert after_stable(held, "f/0") is None


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.floats(1, 100_000))
def test_a_held_fleet_starts_ever_more_seldom(agents: list[int], lasts_s: float) -> None:
    held = hold(POLICY, [death(n) for n in range(3)], 0.0)
    assert held is not None
    now, starts = 0.0, 0
    while now < lasts_s:
        now = held.canary_at
        for agent in agents:
            assert may_start(held, f"f/{agent}", now, last=death(agent)) == (f"f/{agent}" == held.canary)
        before = held.canary
        held = after_held_death(held, death(int(before[2:]), now), now)
        starts += 1
        assert held.canary != before
        assert CANARY_S_MIN <= held.canary_at - now <= CANARY_S_MAX
    assert starts <= 10 + lasts_s / CANARY_S_MAX


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans(), st.sampled_from("ab")), max_size=30))
def test_a_hold_always_has_so_many_different_agents(found: list[tuple[int, bool, bool, str]]) -> None:
    deaths = [death(n, stable=stable, outside=outside, signature=s) for n, stable, outside, s in found]
    held = hold(POLICY, deaths, 0.0)
    most = max((len({d.agent for d in deaths if counts(d) and d.signature == s}) for s in "ab"), default=0)
    assert (held is not None) == (most >= POLICY.failures)
    if held is not None:
        assert len(set(held.agents)) == len(held.agents) == most


# --- on the server


def incident(number: int, **more: Any) -> Incident:
    fleet = more.get("fleet", "f")
    found = {
        "id": number,
        "key": f"agent.{fleet}.{number}.1",
        "about": f"{fleet}/{number}",
        "fleet": fleet,
        "node": f"n{number % 5}",
        "release": "v2",
        "cause": Cause.CRASH,
        "signature": f"crash: {number}",
        "title": "",
        "sign_at": 100.0,
        "opened_at": 100.0,
    }
    return Incident(**{**found, **more})


def test_a_bad_release_is_named_and_takes_all_its_members() -> None:
    people = Population(fleets={"f": 100}, releases={"f@v2": 30, "f@v1": 70}, nodes={f"n{n}": 40 for n in range(5)})
    found = correlate(POLICY, [incident(n, signature=BAD) for n in range(3)], people, 101.0)
    assert [(one.kind, one.value, one.share) for one in found] == [("release", "f@v2 · crash", 0.1)]
    assert found[0].agents == ["f/0", "f/1", "f/2"]
    assert found[0].text == "3 agents that failed run f@v2 (crash); that is 10% of the 30 that could have"


def test_a_sick_node_and_a_lost_dependency_are_named() -> None:
    people = Population(fleets={"f": 100, "g": 50}, releases={"f@v2": 100, "g@v2": 50}, nodes={"n1": 6, "n2": 144})
    node = [incident(n, node="n1", fleet="fg"[n % 2]) for n in range(6)]
    assert [(one.kind, one.value) for one in correlate(POLICY, node, people, 101.0)] == [("node", "n1")]
    alone = Population(fleets={"f": 100}, releases={"f@v2": 100}, nodes={"n1": 100})
    different = [incident(n, node="n1", release=f"v{n}", signature=f"crash: {n}") for n in range(6)]
    assert correlate(POLICY, different, alone, 101.0) == []  # where all are on one node, its name explains nothing
    people = Population(fleets={"f": 10, "db": 1}, releases={"f@v2": 10}, depends={"f": ["db"]}, down=frozenset({"db"}))
    found = correlate(POLICY, [incident(n) for n in range(10)], people, 101.0)
    assert [(one.kind, one.value) for one in found] == [("dependency", "db")]


def test_few_old_foreign_and_finished_incidents_are_no_common_cause() -> None:
    people = Population(fleets={"f": 100}, releases={"f@v2": 100}, nodes={f"n{n}": 20 for n in range(5)})
    alike = [incident(n, signature=BAD) for n in range(5)]
    assert correlate(POLICY, alike[:2], people, 101.0) == []
    assert correlate(POLICY, alike, people, 100.0 + POLICY.window_s + 1) == []
    assert (
        correlate(POLICY, [incident(n, signature=BAD, state=IncidentState.CLOSED) for n in range(5)], people, 101) == []
    )
    outside = "crash: killed from outside by SIGKILL"
    assert correlate(POLICY, [incident(n, signature=outside) for n in range(50)], people, 101.0) == []
    crowd = Population(fleets={"f": 1000}, releases={"f@v2": 1000}, nodes={f"n{n}": 200 for n in range(5)})
    assert correlate(POLICY, alike, crowd, 101.0) == []  # 0.5 % of them


def test_an_open_common_cause_takes_up_single_later_ones() -> None:
    people = Population(fleets={"f": 100}, releases={"f@v2": 30})
    first = correlate(POLICY, [incident(n, signature=BAD) for n in range(3)], people, 101.0)
    later = incident(9, signature=BAD, sign_at=900.0)
    assert correlate(POLICY, [later], people, 901.0) == []
    found = correlate(POLICY, [later], people, 901.0, known=[first[0].name])
    assert [(one.name, one.members) for one in found] == [(first[0].name, [later.key])]


def test_what_a_node_holds_is_a_common_cause_with_its_first_incident() -> None:
    people = Population(fleets={"f": 100}, releases={"f@v2": 4})
    data = {"signature": BAD, "agents": ["f/0", "f/1", "f/2"], "version": "v2"}
    told = Event(at=100.0, kind="node.held", about="f", text="", data=data)
    others = [incident(3, release="v1"), incident(4, fleet="g"), incident(5, cause=Cause.SLOW)]
    assert held_by_node(told, others, people) is None
    found = held_by_node(told, [*others, incident(2, signature=BAD)], people)
    assert found is not None
    assert (found.members, found.agents, found.share) == (["agent.f.2.1"], ["f/0", "f/1", "f/2"], 0.75)
    [same] = correlate(POLICY, [incident(n, signature=BAD) for n in range(3)], people, 101.0)
    assert (found.name, found.text) == (same.name, same.text)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("xyz"), st.sampled_from("fg")), max_size=25))
def test_no_incident_has_two_common_causes(found: list[tuple[int, str, str]]) -> None:
    incidents = [
        incident(place, signature=signature, fleet=fleet, node=f"n{node % 3}")
        for place, (node, signature, fleet) in enumerate(found)
    ]
    people = Population(fleets={"f": 12, "g": 12}, releases={"f@v2": 12, "g@v2": 12}, nodes={"n0": 8, "n1": 8, "n2": 8})
    causes = correlate(POLICY, incidents, people, 101.0)
    members = [key for one in causes for key in one.members]
    assert len(members) == len(set(members))
    assert all(len(one.agents) >= POLICY.failures and one.share <= 1 for one in causes)


def test_the_budget_a_minute_and_the_share() -> None:
    budget = Budget(per_min=3, share=0.25)
    assert allowed(budget, size=8, acted_at=[0.0, 1.0], healing=1, now=5.0) == YES
    found = allowed(budget, size=8, acted_at=[0.0, 1.0, 2.0], healing=0, now=5.0)
    assert (found.ok, found.until) == (False, 60.0)
    assert not allowed(budget, size=8, acted_at=[], healing=2, now=5.0).ok
    assert allowed(budget, size=1, acted_at=[], healing=0, now=5.0).ok  # at least one


@given(st.integers(0, 5), st.lists(st.floats(0, 30), max_size=40))
def test_no_minute_ever_holds_more_actions_than_the_budget(per_min: int, gaps: list[float]) -> None:
    budget, acted, now = Budget(per_min=per_min, share=1.0), [0.0][:0], 0.0
    for gap in gaps:
        now += gap
        found = allowed(budget, size=1000, acted_at=acted, healing=0, now=now)
        assert found.ok or found.until > now
        if found.ok:
            acted.append(now)
    assert all(sum(1 for other in acted if at <= other < at + 60) <= per_min for at in acted)


def step(at: float, outcome: Outcome, by: str = "policy") -> StepTaken:
    ended_at = 0.0 if outcome is Outcome.PENDING else at
    return StepTaken(number=1, action=Action.RESTART, why="", by=by, started_at=at, ended_at=ended_at, outcome=outcome)


def test_a_healer_that_does_not_help_stops_and_tries_once_after_a_rest() -> None:
    bad = [step(float(n), Outcome.NO_BETTER) for n in range(6)]
    assert breaker(bad[:5], 10.0) == YES
    found = breaker(bad, 10.0)
    assert (found.ok, found.until) == (False, 5.0 + TRIAL_REST_S)
    assert found.why.startswith("6 of the last 6 healing steps in this fleet did not help: for 10 min it is not healed")
    after = 5.0 + TRIAL_REST_S
    assert breaker(bad, after) == YES
    assert not breaker([*bad, step(after, Outcome.PENDING)], after + 1).ok
    assert not breaker([*bad, step(after + 30, Outcome.NO_BETTER)], after + 31).ok
    assert breaker([*bad, step(after + 30, Outcome.RECOVERED)], after + 31) == YES


def test_what_others_did_and_what_mostly_helps_does_not_stop_the_healer() -> None:
    assert breaker([step(float(n), Outcome.NO_BETTER, "node") for n in range(50)], 60.0) == YES
    half = [step(float(n), Outcome.NO_BETTER if n % 2 else Outcome.RECOVERED) for n in range(50)]
    assert breaker(half, 60.0) == YES
    assert breaker([step(float(n), Outcome.SKIPPED) for n in range(50)], 60.0) == YES
