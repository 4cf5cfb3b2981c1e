"""The score: what it is made of, what caps it, that it does not flap, and that worse facts never raise it."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.forecast import forecast
from paddock.decide.health import DEATHS_MAX, GONE_CAP, LIVENESS_CAP, STALE_S, TREND_S_MIN, Facts, score
from paddock.decide.signs import confirmed, refuted, signs, told_late
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.fleet import FleetSpec, Health, Limits
from paddock.model.health import Band, Component, Forecast, Probe, ProbeFact, Score, Series, Vitals
from paddock.model.policy import Cause, Forecasting, Policy, Scoring
from paddock.testing.healing import WellAgent

SPEC = FleetSpec(name="f", runtime="exec", limits=Limits(memory_bytes=200, cpus=1.0, open_files=100))
POLICY = Policy()
NOW = 1_000.0


def status(state: AgentState = AgentState.READY, **more: Any) -> AgentStatus:
    return AgentStatus(id="f/0", fleet="f", state=state, epoch=1, **more)


def passed(latency_s: float = 0.01, phase: str = "liveness") -> ProbeFact:
    return ProbeFact(0, 3, phase, latency_s, NOW - 1)


def failing(fails: int, phase: str = "liveness") -> ProbeFact:
    return ProbeFact(fails, 3, phase, 0.01, NOW - 1, "503")


def vitals(**more: Any) -> Vitals:
    found = {"probes": {"http": passed()}, "linked": True, "memory_bytes": 50, "cpus": 0.1, "open_files": 10}
    return Vitals(id="f/0", epoch=1, at=NOW - 1, **{**found, **more})


def judge(seen: Vitals | None = None, facts: Facts = Facts(), previous: Score | None = None, **more: Any) -> Score:  # noqa: B008 - frozen
    return score(SPEC, more.get("policy", POLICY), more.get("status", status()), seen, facts, previous, NOW)


def test_all_well_is_100_and_healthy() -> None:
    found = judge(vitals(), Facts(tasks_done=10, answers={"adds": passed()}))
    assert (found.score, found.band, found.because) == (100, Band.HEALTHY, [])
    assert found.parts == dict.fromkeys(found.parts, 1.0)
    assert set(found.parts) == set(Component)


def test_what_is_not_known_does_not_count() -> None:
    found = judge(None)
    assert (found.score, found.because) == (100, [])
    assert [name for name, value in found.parts.items() if value is not None] == ["failures"]
    assert judge(msgspec.structs.replace(vitals(linked=False), epoch=2)).score == 100


def test_each_component_takes_its_weight_and_says_why() -> None:
    found = judge(vitals(probes={"http": failing(1)}))
    assert found.score == int(100 * (95 - 10) / 95)  # a third of 30; competence is not known
    assert found.because == ["probe http failed once: 503"]
    found = judge(vitals(probes={"http": passed(3.0)}))
    assert found.because == ["probe http takes 3.0 s"]
    assert found.parts["response"] == pytest.approx(0.5)
    assert judge(vitals(), Facts(deaths=1)).because == ["it died once in the last 10 min"]
    assert judge(vitals(memory_bytes=190)).because == ["memory is at 95% of 0 MB"]
    assert judge(vitals(beat_age_share=0.7)).because == ["its last beat is 70% of the limit ago"]
    found = judge(vitals(), Facts(tasks_done=5, tasks_failed=10, failed_in_a_row=4))
    assert found.because == ["10 of its last 15 tasks failed, 4 in a row"]
    found = judge(vitals(), Facts(task_s=2.0, peers_s=0.4))
    assert found.because == ["its tasks take 5.0 times as long as those of others"]


def test_the_worst_comes_first() -> None:
    found = judge(vitals(probes={"http": failing(2)}, memory_bytes=190), Facts(deaths=1))
    assert [text.split()[0] for text in found.because] == ["probe", "memory", "it"]


def test_a_failed_liveness_probe_makes_it_ill_whatever_else_is_well() -> None:
    found = judge(vitals(probes={"http": failing(3)}))
    assert (found.score, found.band) == (LIVENESS_CAP, Band.CRITICAL)
    assert judge(vitals(), Facts(answers={"adds": failing(3)})).score == LIVENESS_CAP
    assert judge(vitals(probes={"http": failing(3, "readiness")})).score == int(100 * (95 - 15) / 95)


def test_a_component_that_is_wholly_gone_is_never_healthy() -> None:
    assert judge(vitals(linked=False)).score == GONE_CAP
    assert judge(vitals(probes={"http": passed(9.0)})).score == GONE_CAP
    assert judge(vitals(memory_bytes=200)).score == GONE_CAP
    assert judge(vitals(), Facts(deaths=DEATHS_MAX)).score > GONE_CAP  # deaths are past


def test_states_cap_it() -> None:
    for state, most in [
        (AgentState.STARTING, 50),
        (AgentState.DRAINING, 50),
        (AgentState.DEGRADED, 80),
        (AgentState.PENDING, 0),
        (AgentState.FAILED, 0),
        (AgentState.QUARANTINED, 0),
        (AgentState.STOPPED, 0),
    ]:
        found = judge(vitals(), status=status(state, reason="so it is"))
        assert found.score == most
        assert "so it is" in found.because[0]


def test_old_vitals_say_only_that_they_are_old() -> None:
    seen = vitals(probes={"http": failing(3)})
    found = judge(seen, Facts(measured_ago_s=STALE_S + 1))
    assert found.score >= POLICY.scoring.recovered_at
    assert found.because == ["nothing was measured for 181 s"]


def test_vitals_are_not_old_because_a_clock_was_set() -> None:
    assert judge(msgspec.structs.replace(vitals(), at=NOW - 86_400.0)).because == []


def test_a_band_is_left_only_after_steady_evaluations_in_a_row() -> None:
    well, ill = vitals(), vitals(probes={"http": failing(1)})
    one = judge(well)
    two = judge(ill, previous=one)
    assert (two.score, two.band, two.outside) == (89, Band.HEALTHY, 1)
    assert judge(well, previous=two).outside == 0
    three = judge(ill, previous=two)
    assert (three.band, three.outside) == (Band.FAIR, 0)


def test_what_stopped_running_changes_its_band_at_once() -> None:
    found = judge(vitals(), previous=judge(vitals()), status=status(AgentState.QUARANTINED))
    assert found.band is Band.CRITICAL
    assert judge(vitals(), previous=found).band is Band.HEALTHY


def test_trend_is_what_changed_in_the_last_half_hour() -> None:
    before = msgspec.structs.replace(judge(vitals()), since=NOW - TREND_S_MIN)
    found = score(SPEC, POLICY, status(), vitals(probes={"http": failing(1)}), Facts(), before, NOW + 5)
    assert found.trend_per_h == pytest.approx(-22.0, abs=0.1)  # 11 points in half an hour
    later = score(SPEC, POLICY, status(), None, Facts(), msgspec.structs.replace(found, score=100), NOW + 7205)
    assert later.trend_per_h == pytest.approx(-22.0 * 2.718**-4, abs=0.1)


def test_the_first_minutes_of_an_agent_are_no_trend() -> None:
    first = judge(vitals())
    assert (first.since, first.trend_per_h) == (NOW, 0.0)
    for later, known in ((5.0, False), (TREND_S_MIN - 1.0, False), (TREND_S_MIN, True)):
        found = score(SPEC, POLICY, status(), vitals(probes={"http": failing(1)}), Facts(), first, NOW + later)
        expected = (found.score - 100) * 2.0 if known else 0.0  # lost in half an hour
        assert found.score < 100
        assert (found.since, found.trend_per_h) == (NOW, pytest.approx(expected))


# --- signs


def sign(seen: Vitals | None, facts: Facts = Facts(), **more: Any) -> Any:  # noqa: B008 - frozen
    found = judge(seen, facts, **more)
    return signs(SPEC, more.get("policy", POLICY), more.get("status", status()), found, seen, facts)


def test_a_failed_liveness_probe_must_be_healed_and_named() -> None:
    found = sign(vitals(probes={"http": failing(3)}))
    assert (found.cause, found.heal) == (Cause.ENDPOINT_DOWN, True)
    assert found.evidence[0].text == "probe http failed 3 times in a row: 503"
    found = sign(vitals(), Facts(answers={"adds": failing(3)}))
    assert (found.cause, found.heal) == (Cause.WRONG_ANSWERS, True)
    assert sign(vitals(probes={"http": failing(2)})) is None
    assert sign(vitals(probes={"http": failing(3, "readiness")})) is None


def test_a_failed_probe_of_a_metric_points_to_resources() -> None:
    spec = msgspec.structs.replace(SPEC, health=Health(probes=[Probe(name="memory", kind="metric")]))
    seen = vitals(probes={"memory": failing(3)})
    found = signs(spec, POLICY, status(), judge(seen), seen, Facts())
    assert found is not None
    assert found.cause is Cause.RESOURCES


def test_a_score_below_heal_below_must_last() -> None:
    policy = Policy(scoring=Scoring(heal_below=60, alert_below=70, heal_fails=3))
    held, found = None, []
    for _ in range(4):
        held = judge(vitals(linked=False), previous=held, policy=policy)
        found.append(signs(SPEC, policy, status(), held, vitals(linked=False), Facts()))
    assert [one and (one.cause, one.heal) for one in found] == [
        None,
        (Cause.CONNECTION, False),
        (Cause.CONNECTION, True),
        (Cause.CONNECTION, True),
    ]


def test_who_rests_is_seen_without_an_event_but_not_who_wants_to_rest() -> None:
    assert sign(None, status=status(AgentState.QUARANTINED)).cause is Cause.CRASH_LOOP
    assert sign(None, status=status(AgentState.QUARANTINED, reason="common cause: 3 agents")) is None
    assert sign(None, status=status(AgentState.FAILED)).cause is Cause.NOT_STARTED
    assert sign(None, status=status(AgentState.PENDING)) is None
    never = msgspec.structs.replace(SPEC, restart=msgspec.structs.replace(SPEC.restart, mode="never"))
    down = status(AgentState.FAILED)
    assert signs(never, POLICY, down, judge(None, status=down), None, Facts()) is None


def test_a_forecast_is_told_and_healed_only_where_the_policy_recycles() -> None:
    seen = Forecast(metric="memory_bytes", now=1, limit=2, per_hour=1, in_s=600, text="memory will cross")
    found = sign(vitals(), Facts(forecasts=[seen]))
    assert (found.cause, found.heal, found.text) == (Cause.FORECAST, False, "memory will cross")
    assert sign(vitals(), Facts(forecasts=[seen]), policy=Policy(forecast=Forecasting(recycle=True))).heal


def test_a_recovery_is_confirmed_by_what_was_ill() -> None:
    def known(cause: Cause, seen: Vitals | None = None, facts: Facts = Facts(), **more: Any) -> bool:  # noqa: B008 - frozen
        return confirmed(cause, SPEC, status(started_at=NOW - 60, **more), seen, facts, NOW - 10, NOW)

    assert known(Cause.CRASH)
    assert not known(Cause.ENDPOINT_DOWN)
    assert known(Cause.ENDPOINT_DOWN, vitals())
    assert not known(Cause.ENDPOINT_DOWN, vitals(probes={"http": ProbeFact(0, 3, "liveness", 0.1, NOW - 20)}))
    assert not known(Cause.ENDPOINT_DOWN, msgspec.structs.replace(vitals(), epoch=0))
    assert not known(Cause.WRONG_ANSWERS, vitals())
    assert known(Cause.WRONG_ANSWERS, vitals(), Facts(answers={"adds": passed()}))
    assert known(Cause.CRASH_LOOP)
    assert not confirmed(Cause.CRASH_LOOP, SPEC, status(started_at=NOW - 1), None, Facts(), NOW - 10, NOW)


PROBED = msgspec.structs.replace(SPEC, health=Health(probes=[Probe(name="http", kind="http", url="http://x/")]))


def test_a_probe_that_failed_confirms_nothing_however_good_the_score_still_is() -> None:
    def known(cause: Cause, *facts: ProbeFact) -> bool:
        seen = vitals(probes={f"p{number}": fact for number, fact in enumerate(facts)})
        return confirmed(cause, SPEC, status(), seen, Facts(), NOW - 10, NOW)

    assert known(Cause.ENDPOINT_DOWN, passed())
    assert not known(Cause.ENDPOINT_DOWN, passed(), failing(1))
    assert known(Cause.ENDPOINT_DOWN, passed(), failing(3, "readiness")), "that is no illness"
    for cause in (Cause.SLOW, Cause.RESOURCES, Cause.LOW_SCORE):
        assert known(cause, passed())
        assert not known(cause, failing(1)), "a passed one is asked for"


def test_what_nobody_asks_any_more_needs_no_answer_but_a_measurement() -> None:
    def known(cause: Cause, seen: Vitals | None) -> bool:
        return confirmed(cause, SPEC, status(), seen, Facts(), NOW - 10, NOW)

    for cause in (Cause.ENDPOINT_DOWN, Cause.SLOW, Cause.RESOURCES, Cause.LOW_SCORE, Cause.CONNECTION):
        assert known(cause, vitals(probes={}))
        assert not known(cause, None)
    assert not known(Cause.CONNECTION, msgspec.structs.replace(vitals(), linked=False))
    unweighed = msgspec.structs.replace(vitals(), memory_bytes=-1, cpus=-1.0, open_files=-1)
    assert not known(Cause.RESOURCES, unweighed)


def test_resources_are_confirmed_by_what_is_used_and_by_the_probes_of_it() -> None:
    probe = Probe(name="memory", kind="metric", metric="memory_bytes", above=100)
    spec = msgspec.structs.replace(SPEC, health=Health(probes=[probe]))

    def known(spec: FleetSpec, seen: Vitals) -> bool:
        return confirmed(Cause.RESOURCES, spec, status(), seen, Facts(), NOW - 10, NOW)

    assert known(SPEC, vitals())
    assert not known(SPEC, vitals(memory_bytes=-1))
    assert not known(spec, vitals()), "it was not asked yet"
    assert not known(spec, vitals(probes={"memory": failing(1)}))
    assert known(spec, vitals(probes={"memory": passed(), "http": failing(1)}))


def test_a_crash_is_over_when_what_takes_its_place_has_answered_once_if_it_can_be_asked() -> None:
    def known(spec: FleetSpec, seen: Vitals | None, since: float = NOW - 10) -> bool:
        return confirmed(Cause.CRASH, spec, status(started_at=NOW - 1), seen, Facts(), since, NOW)

    assert not known(SPEC, None), "it has no probes: that it stays alive is all that can be known"
    assert confirmed(Cause.CRASH, SPEC, status(started_at=NOW - 10), None, Facts(), NOW - 20, NOW)
    assert not confirmed(Cause.CRASH, SPEC, status(started_at=None), None, Facts(), NOW - 20, NOW)
    startup = Health(probes=[Probe(name="up", kind="tcp", url="h:1", phase="startup")])
    for spoke in ({"runtime": "python"}, {"health": Health(http="http://x/")}, {"health": startup}):
        assert known(msgspec.structs.replace(SPEC, **spoke), None), "an answer made it ready"
    assert not known(PROBED, None)
    assert not known(PROBED, vitals(probes={}))
    assert not known(PROBED, vitals(probes={"http": failing(1)}))
    assert not known(PROBED, vitals(probes={"http": passed(phase="startup")}))
    assert known(PROBED, vitals(probes={"http": passed(), "other": failing(1)}))
    assert not known(PROBED, vitals(), since=NOW)
    assert not known(PROBED, msgspec.structs.replace(vitals(), epoch=0))


def test_what_takes_the_place_of_another_is_ill_as_well_only_by_a_liveness_probe_of_its_own_that_failed() -> None:
    ill = vitals(probes={"http": failing(3)})
    assert refuted(status(), ill, 0)
    assert not refuted(status(), ill, 1), "that is still the one which was to be replaced"
    assert not refuted(status(), msgspec.structs.replace(ill, epoch=0), 0)
    assert not refuted(status(), None, 0)
    assert not refuted(status(AgentState.STARTING), ill, 0)
    assert not refuted(status(), vitals(probes={"http": failing(2), "db": failing(3, "readiness")}), 0)


def test_who_is_told_to_run_after_its_end_is_told_late() -> None:
    assert told_late(Cause.CRASH, 1, status())
    assert not told_late(Cause.CRASH, 0, status())
    assert not told_late(Cause.CRASH, 1, status(AgentState.PENDING))
    assert not told_late(Cause.ENDPOINT_DOWN, 1, status()), "that one did not end"


# --- properties

phases = st.sampled_from(["liveness", "readiness", "startup"])
probe_facts = st.builds(
    ProbeFact, st.integers(0, 5), st.integers(1, 4), phases, st.floats(0, 10), st.just(NOW - 1), st.just("no")
)
every_vitals = st.builds(
    Vitals,
    id=st.just("f/0"),
    epoch=st.just(1),
    at=st.just(NOW - 1),
    probes=st.dictionaries(st.sampled_from("abc"), probe_facts, max_size=3),
    linked=st.sampled_from([True, False]),
    beat_age_share=st.floats(0, 2),
    memory_bytes=st.integers(0, 300),
    cpus=st.floats(0, 2),
    open_files=st.integers(0, 150),
)
every_facts = st.builds(
    Facts,
    deaths=st.integers(0, 8),
    tasks_done=st.integers(0, 50),
    tasks_failed=st.integers(1, 50),
    failed_in_a_row=st.integers(0, 20),
    task_s=st.floats(0, 100),
    peers_s=st.floats(0, 10),
    answers=st.dictionaries(st.sampled_from("de"), probe_facts, max_size=2),
)
WORSE_VITALS = ["linked", "beat_age_share", "memory_bytes", "cpus", "open_files", "fails", "latency"]
WORSE_FACTS = ["deaths", "tasks_failed", "failed_in_a_row", "task_s", "answers"]


def worse(seen: Vitals, facts: Facts, what: str, by: int) -> tuple[Vitals, Facts]:
    replace = msgspec.structs.replace
    if what == "linked":
        return replace(seen, linked=False), facts
    if what in ("fails", "latency"):
        probes = {
            name: replace(fact, fails=fact.fails + by)
            if what == "fails"
            else replace(fact, latency_s=fact.latency_s + by)
            for name, fact in seen.probes.items()
        }
        return replace(seen, probes=probes), facts
    if what == "answers":
        return seen, replace(facts, answers={name: replace(f, fails=f.fails + by) for name, f in facts.answers.items()})
    if what in WORSE_VITALS:
        return replace(seen, **{what: getattr(seen, what) + by}), facts
    return seen, replace(facts, **{what: getattr(facts, what) + by})


@given(every_vitals, every_facts, st.sampled_from(WORSE_VITALS + WORSE_FACTS), st.integers(1, 100))
def test_worse_facts_never_raise_the_score(seen: Vitals, facts: Facts, what: str, by: int) -> None:
    worse_seen, worse_facts = worse(seen, facts, what, by)
    assert judge(worse_seen, worse_facts).score <= judge(seen, facts).score


@given(every_vitals, every_facts, st.sampled_from(list(AgentState)), st.sampled_from(list(AgentState)))
def test_a_score_is_between_0_and_100_and_says_what_it_lacks(
    seen: Vitals, facts: Facts, before: AgentState, state: AgentState
) -> None:
    previous = judge(seen, facts, status=status(before))
    found = judge(seen, facts, previous, status=status(state))
    assert 0 <= found.score <= 100
    assert bool(found.because) or found.score == 100
    assert all(value is None or 0 <= value <= 1 for value in found.parts.values())
    assert found.below == (previous.below + 1 if found.score < 20 and found.parts else 0)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_band_never_changes_twice_within_steady_evaluations(ill: list[bool]) -> None:
    held, bands = None, []
    for bad in ill:
        held = judge(vitals(probes={"http": failing(1)}) if bad else vitals(), previous=held)
        bands.append(held.band)
    changes = [place for place in range(1, len(bands)) if bands[place] is not bands[place - 1]]
    assert all(later - earlier >= POLICY.scoring.steady for earlier, later in pairwise(changes))


def test_noise_alone_is_never_a_sign_to_heal() -> None:
    """A smaller copy of what bench/health.py does with 5,000 agents."""
    spec, dice = FleetSpec(name="well", runtime="exec", limits=Limits(memory_bytes=200_000_000)), random.Random(3)
    for number in range(25):
        agent, held, points = WellAgent(str(number), dice), None, Series([], [])
        for at in range(0, 3600, 30):
            seen = agent.vitals(float(at))
            points.at.append(float(at))
            points.values.append(float(seen.memory_bytes))
            near = (
                forecast(points, metric="memory_bytes", limit=200e6, now=float(at), horizon_s=1800)
                if at % 600 == 0
                else None
            )
            facts = Facts(
                tasks_done=agent.tasks_done,
                tasks_failed=agent.tasks_failed,
                failed_in_a_row=agent.failed_in_a_row,
                forecasts=[near] if near else [],
            )
            held = score(spec, POLICY, agent.status, seen, facts, held, float(at))
            found = signs(spec, POLICY, agent.status, held, seen, facts)
            assert found is None or not found.heal


def test_one_probe_that_passed_since_says_nothing_of_the_others() -> None:
    probes = [Probe(name=name, kind="http", url="http://x/") for name in ("one", "two")]
    spec = FleetSpec(name="f", runtime="exec", command=["x"], health=Health(probes=probes))
    facts = {"one": ProbeFact(0, 3, "liveness", 0.1, NOW)}
    for two, known in ((None, False), (NOW - 20, False), (NOW, True)):
        seen = {**facts, **({"two": ProbeFact(0, 3, "liveness", 0.1, two)} if two is not None else {})}
        vitals = Vitals(id="f/0", epoch=1, at=NOW, probes=seen)
        at = status(started_at=NOW - 60)
        assert confirmed(Cause.ENDPOINT_DOWN, spec, at, vitals, Facts(), NOW - 10, NOW) is known
