"""People are told of what nobody mends, and that it is over; never of what was mended at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from paddock.control.owner import Owner
from paddock.control.telling import Teller
from paddock.decide.health import Sign
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.health import Band, Score
from paddock.model.incident import Incident, IncidentState
from paddock.model.kpi import Slo
from paddock.model.notify import Alert
from paddock.model.policy import Cause, Objective
from paddock.testing.clock import VirtualClock
from paddock.testing.loop import run

from .test_alerts import Post
from .test_healing import Nurse, agents, incidents, keep_measuring, nurse, over
from .world import World

BOT = """
paddock: 1
policies:
  default: {objectives: [{name: up, measure: availability, share: 0.99}]}
fleets:
  bot: {command: [sleep, "60"], replicas: 8, env: {KEY: hunter22-key}, secret_env: [KEY]}
notifications:
  channels: [{name: mail, kind: log}]
  cooldown_s: 5m
  group_s: 1s
"""


INCIDENT = Incident(
    id=1,
    key="agent.bot.5.1.1",
    about="bot/5",
    cause=Cause.CRASH_LOOP,
    signature="crash-loop",
    title="bot/5: crash loop",
    sign_at=1.0,
    opened_at=1.0,
)


class Told(World):
    def __init__(self) -> None:
        super().__init__()
        self.post = Post()
        self.senders = self.post

    @property
    def titles(self) -> list[str]:
        return self.post.titles("mail")

    @property
    def texts(self) -> str:
        return "\n".join(message.text for _, message in self.post.sent)

    async def until_told(self, *words: str, limit_s: float = 1000.0) -> None:
        await self.until(
            lambda: any(all(word in title for word in words) for title in self.titles), f"{words} told", limit_s=limit_s
        )


def told(scenario: Callable[[Told, Nurse], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        lab = Told()
        try:
            await lab.start(manifest=BOT)
            await scenario(lab, await nurse(lab))
            await lab.end()
        finally:
            lab.record.close()

    run(main)


def test_nobody_is_woken_by_a_death_that_its_node_mends() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        for number in range(5):
            await node.dies(f"bot/{number}", f"exit code {number}")
            await over(lab, number + 1)
        await lab.clock.sleep(120.0)
        assert lab.titles == []

    told(scenario)


def test_what_nothing_helps_is_told_once_and_its_end_too() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        node.cures = set()
        node.ill.add("bot/2")
        await keep_measuring(lab, node, lambda: bool(incidents(lab)))
        await keep_measuring(lab, node, lambda: incidents(lab)[0].state is IncidentState.ESCALATED)
        await lab.until_told("[error]", "a person is needed", "bot/2")
        number = incidents(lab)[0].id
        assert f"paddock explain incident {number}" in lab.texts
        over_at = lab.clock.now() + 1000.0
        await keep_measuring(lab, node, lambda: lab.clock.now() > over_at, limit_s=2000)
        assert len([title for title in lab.titles if "a person is needed" in title]) == 1
        node.ill.clear()
        await keep_measuring(lab, node, lambda: not incidents(lab))
        await lab.until_told("[recovered]", "bot/2")

    told(scenario)


def test_a_common_cause_is_told_and_not_each_of_its_members() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        for number in range(4):
            await node.event("agent.quarantined", f"bot/{number}", "crash loop: 11 deaths in 60 s")
            await node.state(f"bot/{number}", AgentState.QUARANTINED, reason="crash loop: 11 deaths in 60 s")
        await lab.until_told("[critical]", "4 agents fail for one reason")
        await keep_measuring(lab, node, lambda: not incidents(lab))
        await lab.until_told("[recovered]", "fail for one reason")

    told(scenario)


def test_no_secret_of_a_fleet_goes_out_with_an_incident() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        line = "login with hunter22-key failed"
        await node.event("agent.quarantined", "bot/1", "crash loop: 11 deaths in 60 s", last_lines=[line])
        await node.state("bot/1", AgentState.QUARANTINED, reason="crash loop")
        await lab.until_told("[error]", "bot/1")
        assert "login with [redacted] failed" in lab.texts
        assert "hunter22" not in lab.texts

    told(scenario)


def test_a_low_score_that_nobody_heals_is_told_and_that_it_is_well_again() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        status = lab.server.agent("bot/5")
        score = lab.server.care.score("bot/5")
        sign = Sign(cause=Cause.SLOW, heal=False, text="its score is 40, below 50", evidence=[])
        for _ in range(20):
            for tell in lab.server.care.health.on_sign:
                tell(status, score, sign)
        await lab.until_told("[warning]", "bot/5", "its score is 40")
        await lab.until_told("[recovered]", "bot/5")
        assert len(lab.titles) == 2
        assert incidents(lab) == []

    told(scenario)


def test_who_dies_again_and_again_is_not_called_well() -> None:
    async def main() -> None:
        clock, sent, held = VirtualClock(), list[Alert](), list[Incident]()

        async def look() -> list[Slo]:
            return []

        def score(points: int, low: int, **parts: float) -> Score:
            return Score(
                id="bot/5", fleet="bot", at=1.0, score=points, band=Band.of(points), low=low, parts=dict(parts)
            )

        scores = {"bot/5": score(40, 3, endpoint=0.4)}
        teller = Teller(clock, scores, lambda agent: held, look, sent.append)
        owner = Owner()
        owner.loop("telling", teller.run())
        status = AgentStatus(id="bot/5", fleet="bot", state=AgentState.READY, node="n")
        sign = Sign(cause=Cause.SLOW, heal=False, text="its score is 40, below 50", evidence=[])
        teller.stands_out(status, scores["bot/5"], sign)
        ends = []
        for now, open_ in (
            (score(0, 0), False),  # it is down: nothing of it is known
            (score(0, 0), True),  # that is an incident by now
            (score(100, 0, endpoint=1.0), True),  # it is up for a moment
            (score(100, 0, endpoint=1.0), False),
        ):
            scores["bot/5"] = now
            held[:] = [INCIDENT] if open_ else []
            await clock.sleep(61.0)
            ends.append([alert.recovered for alert in sent])
        await owner.stop()
        assert ends == [[False], [False], [False], [False, True]]

    run(main)


def test_who_asks_for_people_gets_them_also_for_an_agent_that_is_well() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        incident = await lab.server.care.heal("bot/1", "escalate", by="ann")
        assert (incident.state, incident.steps) == (IncidentState.ESCALATED, [])
        await lab.until_told("[error]", "ann asks for people to look at bot/1")
        over_at = lab.clock.now() + 60.0
        await keep_measuring(lab, node, lambda: lab.clock.now() > over_at)
        told = await lab.server.care.explain(incident.id)
        assert "ann asks for people" in told.summary
        assert "helped" not in str(told)
        assert [held.state for held in incidents(lab)] == [IncidentState.ESCALATED]
        await lab.server.care.close(incident.id, by="ben", why="seen")
        await lab.until_told("[recovered]", "bot/1")
        assert not any(found.recovered_at for found in (await lab.server.care.incidents()).items)

    told(scenario)


def test_what_was_asked_for_after_people_were_is_done_and_verified() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        await lab.server.care.heal("bot/1", "escalate", by="ann")
        await lab.server.care.heal("bot/1", "restart", by="ann")
        await keep_measuring(lab, node, lambda: not incidents(lab))
        (found,) = (await lab.server.care.incidents()).items
        assert (found.state, [str(step.action) for step in found.steps]) == (IncidentState.RECOVERED, ["restart"])

    told(scenario)


def test_a_budget_that_burns_is_told_once_within_minutes() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        node.errors["heal"] = {"code": "refused", "message": "not now"}
        for agent in agents(lab):
            await node.state(agent, AgentState.QUARANTINED, reason="crash loop")
        await lab.until_told("[critical]", "objective up burns its error budget too fast (page)", limit_s=900)
        await lab.clock.sleep(200.0)
        assert len([title for title in lab.titles if "(page)" in title]) == 1

    told(scenario)


def test_a_budget_that_burns_no_more_is_told_and_one_that_burns_less_is_no_news() -> None:
    async def main() -> None:
        clock, sent, burning = VirtualClock(), list[Alert](), list[Slo]()

        async def look() -> list[Slo]:
            return burning

        goal = Objective(name="up", measure="availability", share=0.99)
        slo = Slo(fleet="bot", objective=goal, value=0.5, budget_left=-1.0, burns=[], alarm="ticket")
        owner = Owner()
        owner.loop("telling", Teller(clock, {}, lambda agent: [], look, sent.append).run())
        for alarm in ("ticket", "page", "ticket", ""):
            burning[:] = [msgspec.structs.replace(slo, alarm=alarm)] if alarm else []
            await clock.sleep(200.0)
        await owner.stop()
        assert [(str(alert.severity), alert.recovered) for alert in sent] == [
            ("warning", False),
            ("critical", False),
            ("critical", True),
        ]

    run(main)


def test_the_next_server_tells_of_the_end_of_what_the_one_before_told() -> None:
    async def scenario(lab: Told, node: Nurse) -> None:
        node.cures = set()
        node.ill.add("bot/2")
        await keep_measuring(lab, node, lambda: bool(incidents(lab)))
        await keep_measuring(lab, node, lambda: incidents(lab)[0].state is IncidentState.ESCALATED)
        await lab.until_told("a person is needed")
        await lab.replace()
        node.ill.clear()
        await keep_measuring(lab, node, lambda: not incidents(lab))
        await lab.until_told("[recovered]", "bot/2")
        assert len([title for title in lab.titles if title.startswith("[error]")]) == 1

    told(scenario)
