"""What is counted and reported, what runs once a day, and whether agents know their answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paddock.control.daily import DAY_S
from paddock.control.figures import OWNERS_MAX, START_S, _Stretch
from paddock.decide.rehearse import Rehearsal
from paddock.fabric import subjects
from paddock.model.agent import AgentState, Event
from paddock.model.errors import NotFound, Refused, Unavailable
from paddock.model.incident import IncidentState
from paddock.model.kpi import FleetPoint
from paddock.model.policy import Cause
from paddock.model.task import TaskState
from paddock.ports.fabric import Message

from .test_healing import BOT, incidents, keep_measuring, nurse, over
from .world import World, world

PROMISED = """
paddock: 1
policies:
  careful: {objectives: [{name: up, measure: availability, share: 0.99, window_s: 1h}]}
fleets:
  critic: {agent: "lab:Critic", replicas: 2, policy: careful}
  clones: {agent: "lab:Critic", owners: [anna, ben]}
"""
KNOWN = """
paddock: 1
fleets:
  critic:
    agent: "lab:Critic"
    replicas: 2
    health: {probes: [{name: sums, kind: task, method: review, args: {source: x}, expect: {equals: 42}, every_s: 10s}]}
"""


def points(lab: World) -> dict[str, FleetPoint]:
    return {point.fleet: point for point in lab.server.care.figures.points()}


# -- figures -----------------------------------------------------------------------------------------------------------


def test_time_ready_is_counted_exactly() -> None:
    async def scenario(lab: World) -> None:
        await lab.server.care.figures.write()
        await lab.clock.sleep(60.0)
        await lab.node.agent("critic", "1", AgentState.QUARANTINED)
        await lab.until(lambda: lab.server.fleet("critic").ready == 1, "one is ill")
        await lab.clock.sleep(30.0)
        await lab.node.agent("critic", "1", AgentState.DEGRADED)
        await lab.until(lambda: lab.server.fleet("critic").states.get("degraded") == 1, "it works again")
        await lab.clock.sleep(10.0)

        found = points(lab)["critic"]

        assert found.wanted_s == pytest.approx(200.0, abs=1.0)
        assert found.ready_s == pytest.approx(170.0, abs=1.0)
        assert found.span_s == pytest.approx(100.0, abs=1.0)

    world(scenario)


def test_what_is_new_counts_from_when_it_is_ready_or_has_had_its_time_to_start() -> None:
    def stretch(*changes: tuple[float, int, int], until: float) -> tuple[float, float]:
        held = _Stretch(0.0)
        for at, ready, wanted in changes:
            held.change(ready, wanted, at)
        held.until(until)
        return held.ready_s, held.wanted_s

    assert stretch((0.0, 0, 2), (5.0, 1, 2), (9.0, 2, 2), until=10.0) == (4.0 + 2.0, 4.0 + 2.0)
    assert stretch((0.0, 0, 2), until=START_S + 10.0) == (0.0, 20.0), "what never starts is down"
    assert stretch((0.0, 0, 1), (5.0, 1, 1), (15.0, 0, 1), until=20.0) == (10.0, 15.0), "it was up, and died at once"
    assert stretch((0.0, 2, 2), (10.0, 2, 4), until=20.0) == (40.0, 40.0), "two more are coming"
    assert stretch((0.0, 0, 2), (70.0, 1, 2), until=80.0) == (10.0, 2 * 20.0)


def test_more_agents_than_wanted_do_not_make_up_for_others() -> None:
    async def scenario(lab: World) -> None:
        await lab.node.agent("critic", "7")
        await lab.until(lambda: lab.server.fleet("critic").ready == 3, "a third one is there")
        await lab.server.care.figures.write()
        await lab.clock.sleep(100.0)
        found = points(lab)["critic"]
        assert found.ready_s == found.wanted_s == pytest.approx(200.0)

    world(scenario)


def test_tasks_are_counted_with_their_times_and_owners() -> None:
    async def scenario(lab: World) -> None:
        await lab.server.care.figures.write()
        for state in (TaskState.DONE, TaskState.DONE, TaskState.FAILED):
            task = await lab.submit()
            await lab.clock.sleep(0.4)
            await lab.work(state)
            await lab.until_state(task.id, state)
        task = await lab.submit(fleet="clones")
        await lab.work(fleet="clones")
        await lab.until_state(task.id, TaskState.DONE)

        found = points(lab)

        assert (found["critic"].done, found["critic"].failed, found["critic"].owners) == (2, 1, 0)
        assert found["critic"].latency_s == pytest.approx(0.8, abs=0.2)
        assert sum(found["critic"].latencies) == 2
        assert (found["clones"].done, found["clones"].owners) == (1, 1)
        assert OWNERS_MAX >= 1000

    world(scenario, manifest=PROMISED)


def test_a_stretch_is_written_when_it_is_over_and_at_the_end() -> None:
    async def scenario(lab: World) -> None:
        await lab.clock.sleep(610.0)
        stored = list(lab.record.fleet_points(0.0, fleet="critic"))
        assert len(stored) == 2
        assert stored[-1].span_s == pytest.approx(300.0)
        await lab.clock.sleep(5.0)
        await lab.server.stop()
        assert len(lab.record.fleet_points(0.0, fleet="critic")) == 3
        await lab.serve()

    world(scenario)


def test_a_record_that_is_away_loses_the_stretch_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(lab: World) -> None:
        def away(*_: Any) -> None:
            raise Unavailable("the record is away")

        with monkeypatch.context() as broken:
            broken.setattr(lab.record, "apply", away)
            await lab.server.care.figures.write()
            await lab.server.care.health.write()
        await lab.clock.sleep(20.0)
        assert points(lab)["critic"].span_s == pytest.approx(20.0)

    world(scenario)


# -- what people and agents say ----------------------------------------------------------------------------------------


def test_why_an_incident_is_closed_is_one_line_without_secrets_and_colours() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.cures = set()
        node.ill.add("bot/2")
        await keep_measuring(lab, node, lambda: bool(incidents(lab)))
        closed = await lab.server.care.close(
            incidents(lab)[0].id, by="ann", why="\x1b[31mseen\x1b[0m\nby ben,\tpassword=hunter2"
        )
        assert closed.note == "closed by ann: seen by ben, password=[redacted]"

    world(scenario, manifest=BOT)


def test_a_rehearsal_repeats_no_secrets() -> None:
    async def scenario(lab: World) -> None:
        told = lab.server.care.rehearse(Rehearsal(fleet="critic", title="password=hunter2"))
        assert "password=[redacted]" in told.lines[0].text
        assert "hunter2" not in str(told)

    world(scenario)


# -- reports -----------------------------------------------------------------------------------------------------------


def test_the_key_figures_are_of_what_is_stored_and_of_what_is_under_way() -> None:
    async def scenario(lab: World) -> None:
        task = await lab.submit()
        await lab.work()
        await lab.until_state(task.id, TaskState.DONE)
        await lab.server.care.figures.write()
        task = await lab.submit()
        await lab.work()
        await lab.until_state(task.id, TaskState.DONE)
        await lab.clock.sleep(10.0)

        report = await lab.server.care.kpi_report(since_s=3600.0)

        figures = {kpi.name: kpi.value for kpi in report.kpis}
        assert (figures["work done"], figures["success"]) == (2.0, 1.0)
        assert figures["availability"] == pytest.approx(1.0, abs=0.2)
        assert [(slo.fleet, slo.objective.name) for slo in report.objectives] == [("critic", "up")]
        only = await lab.server.care.kpi_report(since_s=3600.0, fleet="clones")
        assert {kpi.name: kpi.value for kpi in only.kpis}["work done"] == 0.0
        assert only.objectives == []
        for since_s in (1.0, float("nan"), 1e12):
            with pytest.raises(Refused, match="since_s"):
                await lab.server.care.kpi_report(since_s=since_s)
        with pytest.raises(NotFound):
            await lab.server.care.kpi_report(fleet="nobody")

    world(scenario, manifest=PROMISED)


def test_an_outage_burns_the_budget_and_stands_in_the_report() -> None:
    async def scenario(lab: World) -> None:
        for name in ("0", "1"):
            await lab.node.agent("critic", name, AgentState.QUARANTINED)
        await lab.until(lambda: lab.server.fleet("critic").ready == 0, "all are ill")
        await lab.clock.sleep(900.0)
        [slo] = (await lab.server.care.kpi_report()).objectives
        assert slo.alarm == "page"
        assert slo.budget_left is not None
        assert slo.budget_left < 0.0
        assert [slo.alarm for slo in await lab.server.care.reports.alarms()] == ["page"]

    world(scenario, manifest=PROMISED)


def test_the_health_report_names_the_worst_and_what_is_open() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.cures = set()
        node.ill.add("bot/6")
        await keep_measuring(lab, node, lambda: bool(incidents(lab) and lab.server.care.scores(band="critical")))

        report = lab.server.care.health_report(fleet="bot")

        assert sum(report.bands.values()) == 8
        assert report.fleets["bot"]["agents"] == 8
        assert report.fleets["bot"]["lowest"] < 50
        assert report.worst[0].id == "bot/6"
        assert [held.about for held in report.open] == ["bot/6"]
        with pytest.raises(NotFound):
            lab.server.care.health_report(fleet="nobody")

    world(scenario, manifest=BOT)


# -- daily -------------------------------------------------------------------------------------------------------------


async def operations(lab: World) -> list[str]:
    stored = await lab.fabric.read(subjects.EVENTS, subject="event.ops.>", limit=1000)
    return [msgspec.json.decode(one.data, type=Event).about for one in stored]


def test_daily_operations_run_once_a_day_also_over_restarts_of_the_server() -> None:
    async def scenario(lab: World) -> None:
        await lab.clock.sleep(90.0)
        every = sorted(lab.server.daily.names())
        assert sorted(await operations(lab)) == every
        await lab.replace()
        await lab.clock.sleep(180.0)
        assert sorted(await operations(lab)) == every
        lab.clock.jump(DAY_S)
        await lab.clock.sleep(180.0)
        assert sorted(await operations(lab)) == sorted(every * 2)

    world(scenario)


def test_one_can_be_run_by_hand_and_says_what_it_found() -> None:
    async def scenario(lab: World) -> None:
        await lab.clock.sleep(5.0)
        fine = await lab.server.daily.do("integrity-check", by="ann")
        assert (fine.ok, fine.findings) == (True, [])
        await lab.node.gone("critic", "1")
        await lab.node.agent("stranger", "0")
        await lab.until(lambda: len(lab.server.agents().items) == 2, "the others are known", limit_s=20)
        lab.node.makes_ready = False
        found = await lab.server.daily.do("integrity-check", by="ann")
        assert not found.ok
        assert any("critic/1" in line for line in found.findings)
        for name in lab.server.daily.names():
            told = await lab.server.daily.do(name, by="ann")
            assert told.text
            assert told.ok == (not told.findings)
        with pytest.raises(NotFound, match="integrity-check"):
            await lab.server.daily.do("make-coffee")

    world(scenario)


def test_the_full_report_finds_what_is_below_what_is_claimed() -> None:
    async def scenario(lab: World) -> None:
        for name in ("0", "1"):
            await lab.node.agent("critic", name, AgentState.QUARANTINED)
        await lab.until(lambda: lab.server.fleet("critic").ready == 0, "all are ill")
        await lab.clock.sleep(900.0)
        found = await lab.server.daily.do("full-report")
        assert any(line.startswith("availability is ") for line in found.findings)
        assert "critic: up burns its budget (page)" in found.findings

    world(scenario, manifest=PROMISED)


def test_what_got_slower_and_who_is_idle_is_found_from_the_record() -> None:
    async def scenario(lab: World) -> None:
        from paddock.ports.record import Batch

        now = lab.clock.now()
        fields: dict[str, Any] = {"fleet": "critic", "span_s": 300.0, "ready_s": 600.0, "busy_s": 6.0, "done": 50}
        before = FleetPoint(at=now - 3 * DAY_S, latency_s=5.0, **fields)
        lately = FleetPoint(at=now - 3600.0, latency_s=50.0, **fields)
        lab.record.apply(Batch(fleets=[before, lately]))
        slow = await lab.server.daily.do("performance-analysis")
        assert slow.findings == ["critic: a task takes 1 s, 10.0 times as long as before"]
        idle = await lab.server.daily.do("optimisation-advice")
        assert any("paddock scale critic 1" in line for line in idle.findings)

    world(scenario)


# -- competence --------------------------------------------------------------------------------------------------------


class Examined:
    """Answers the known-answer tasks of `critic/0` and `critic/1`."""

    def __init__(self, lab: World) -> None:
        self.lab = lab
        self.asked: dict[str, int] = {"0": 0, "1": 0}
        self.says: dict[str, Any] = {"0": {"ok": 42}, "1": {"ok": 42}}
        for name in self.asked:
            lab.node.fabric.subscribe(subjects.ask("critic", name), self._answer(name))

    def _answer(self, name: str) -> Any:
        def answer(message: Message) -> None:
            self.asked[name] += 1
            said = self.says[name]
            data = said if isinstance(said, bytes) else msgspec.json.encode(said)
            self.lab.node.fabric.publish(message.reply, data)

        return answer


def part(lab: World, agent: str) -> float | None:
    return lab.server.care.score(agent).parts["competence"]


@pytest.mark.parametrize(
    "wrong",
    [{"ok": 41}, {"error": {"code": "x", "message": "no"}}, {"error": {"message": 7}}, b"{", b"[1]", {"ok": None}],
    ids=["wrong", "an error", "an odd error", "no JSON", "no answer of the protocol", "nothing"],
)
def test_an_agent_that_answers_wrong_is_not_competent_and_is_healed(wrong: Any) -> None:
    async def scenario(lab: World) -> None:
        exam = Examined(lab)
        await lab.until(lambda: part(lab, "critic/0") == part(lab, "critic/1") == 1.0, "both are right")
        exam.says["1"] = wrong

        await lab.until(lambda: bool(incidents(lab)), "an incident is opened")

        [incident] = incidents(lab)
        assert (incident.about, incident.cause) == ("critic/1", Cause.WRONG_ANSWERS)
        assert part(lab, "critic/0") == 1.0
        assert part(lab, "critic/1") == 0.0

    world(scenario, manifest=KNOWN)


def test_one_that_does_not_listen_is_not_competent_and_one_that_is_ill_is_not_asked() -> None:
    async def scenario(lab: World) -> None:
        await lab.until(lambda: part(lab, "critic/0") == 0.0, "nobody listens")
        exam = Examined(lab)
        await lab.until(lambda: part(lab, "critic/0") == 1.0, "now it does")
        await lab.node.agent("critic", "0", AgentState.QUARANTINED)
        await lab.until(lambda: lab.server.agent("critic/0").state is AgentState.QUARANTINED, "it is known")
        await lab.clock.sleep(1.0)
        asked = exam.asked["0"]
        await lab.clock.sleep(60.0)
        assert exam.asked["0"] == asked
        assert exam.asked["1"] > 5
        await lab.node.agent("critic", "0", AgentState.READY, epoch=2)
        await lab.until(lambda: exam.asked["0"] > asked, "it is asked again", limit_s=20)

    world(scenario, manifest=KNOWN)


def test_one_that_was_wrong_and_lives_anew_is_asked_soon() -> None:
    async def scenario(lab: World) -> None:
        exam = Examined(lab)
        await lab.until(lambda: part(lab, "critic/1") == 1.0, "it was right")
        exam.says["1"] = {"ok": 41}
        await lab.until(lambda: bool(incidents(lab)), "an incident is opened")
        exam.says["1"] = {"ok": 42}
        await lab.node.agent("critic", "1", AgentState.READY, epoch=2)
        [incident] = await over(lab, 1, limit_s=15.0)
        assert incident.state is IncidentState.RECOVERED

    world(scenario, manifest=KNOWN)


def test_a_probe_that_is_no_task_any_more_is_not_asked() -> None:
    async def scenario(lab: World) -> None:
        exam = Examined(lab)
        await lab.until(lambda: exam.asked["0"] > 0, "it is asked")
        await lab.apply(KNOWN.partition("    health:")[0])
        await lab.clock.sleep(20.0)
        asked = dict(exam.asked)
        await lab.clock.sleep(60.0)
        assert exam.asked == asked

    world(scenario, manifest=KNOWN)
