"""Signs become incidents, incidents become actions, actions are verified; a server that dies between does no harm."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paddock.fabric import subjects
from paddock.model.agent import AgentState, AgentStatus, Event, Evidence, Exit, NodeStatus
from paddock.model.errors import NotFound, Refused
from paddock.model.health import ProbeFact, Vitals
from paddock.model.incident import Incident, IncidentState, Outcome
from paddock.model.policy import Action, Cause

from .world import FakeNode, World, world

BOT = """
paddock: 1
fleets:
  bot: {command: [sleep, "60"], replicas: 8}
"""
ACTIONS = {"exec": ["restart", "restart-clean", "redeploy"], "python": ["restart"]}


class Nurse(FakeNode):
    """A node whose agents can be made ill, and that does what it is asked to heal them."""

    def __init__(self, lab: World) -> None:
        super().__init__(lab)
        self.epochs: dict[str, int] = {}
        self.started: dict[tuple[str, int], float] = {}
        """(agent, epoch) → when this incarnation was started."""
        self.cures: set[str] = set(ACTIONS["exec"])
        """Actions that help."""
        self.ill: set[str] = set()
        self.healed: list[tuple[str, str]] = []
        self.deaf: set[str] = set()
        """Agents for which it is asked in vain."""

    async def tell(self) -> None:
        now = self.world.clock.now()
        status = NodeStatus(
            id=self.name, host="lab", pid=1, started_at=now, seen_at=now, attributes={"actions": ACTIONS}
        )
        await self.fabric.store(f"$KV.now.{subjects.now_node(self.name)}", msgspec.json.encode(status))

    async def state(self, agent: str, state: AgentState, **more: Any) -> None:
        fleet, _, name = agent.partition("/")
        epoch = self.epochs.setdefault(agent, 1)
        started_at = self.started.setdefault((agent, epoch), self.world.clock.now())
        known = {"template": self.world.server.fleet(fleet).version, "started_at": started_at}
        status = AgentStatus(id=agent, fleet=fleet, state=state, node=self.name, epoch=epoch, **known | more)
        await self.fabric.store(f"$KV.now.{subjects.now_agent(self.name, fleet, name)}", msgspec.json.encode(status))

    async def event(self, kind: str, agent: str, text: str, **evidence: Any) -> None:
        now = self.world.clock.now()
        told = {"at": now, "epoch": self.epochs.get(agent, 1), "pid": 7, "exit": Exit(code=3), "reason": text}
        data = msgspec.to_builtins(Evidence(**{**told, **evidence}))
        event = Event(at=now, kind=kind, about=agent, text=f"{agent}: {text}", data=data)
        await self.fabric.store(subjects.event(kind, agent), msgspec.json.encode(event))

    async def dies(self, agent: str, text: str = "exit code 3", *, back: bool = True, **evidence: Any) -> None:
        await self.event("agent.died", agent, text, **evidence)
        self.epochs[agent] = self.epochs.get(agent, 1) + 1
        await self.state(agent, AgentState.READY if back else AgentState.PENDING)

    def measure(self, *agents: str, asked: bool = True) -> None:
        """Send the vitals of these agents, as they are now; not `asked`: before any probe of them has answered."""
        now = self.world.clock.now()
        batch = []
        for agent in agents:
            fails = 3 if agent in self.ill else 0
            fact = ProbeFact(fails, 3, "liveness", 0.01, now, "no answer" if fails else "")
            probes = {"http": fact} if asked else {}
            batch.append(Vitals(id=agent, epoch=self.epochs.get(agent, 1), at=now, probes=probes))
        self.fabric.publish(subjects.vitals(self.name), msgspec.json.encode(batch))

    def _answer(self, message: Any) -> None:
        op = msgspec.json.decode(message.data)
        if op.get("agent") in self.deaf:
            self.asked.append(op)
            return
        super()._answer(message)
        if op["op"] != "heal" or "heal" in self.errors:
            return
        agent, epoch = op["agent"], self.epochs.get(op["agent"], 1)
        if epoch > op["epoch"]:
            return  # done already
        self.healed.append((agent, op["action"]))
        self.epochs[agent] = epoch + 1
        if op["action"] in self.cures:
            self.ill.discard(agent)
        self._process.spawn(self.state(agent, AgentState.READY), "healed")


async def nurse(lab: World) -> Nurse:
    """Replace the plain node of this world, and have its agents measured."""
    lab.node.kill()
    node = Nurse(lab)
    lab.node = node
    await node.start()
    await lab.until(lambda: bool(lab.server.nodes()[0].attributes), "the node's actions are known")
    await lab.until(lambda: len(agents(lab)) == 8, "its agents are there")
    node.makes_ready = False  # from here on the test says how they are
    for agent in agents(lab):
        await node.state(agent, AgentState.READY)
    node.measure(*agents(lab))
    return node


def agents(lab: World) -> list[str]:
    return [status.id for status in lab.server.agents(limit=1000).items]


def incidents(lab: World) -> list[Incident]:
    return list(lab.server.care.book.open.values())


async def over(lab: World, count: int, *, limit_s: float = 400.0) -> list[Incident]:
    """Wait until so many incidents were opened and none is open; returns them, the newest first."""
    give_up = lab.clock.monotonic() + limit_s
    while True:
        found = list((await lab.server.care.incidents()).items)
        if len(found) >= count and not incidents(lab):
            return found
        assert lab.clock.monotonic() < give_up, found
        await lab.clock.sleep(1.0)


async def keep_measuring(lab: World, node: Nurse, until: Any, *, limit_s: float = 600.0) -> None:
    over_at = lab.clock.monotonic() + limit_s
    while not until():
        assert lab.clock.monotonic() < over_at, [incident.note for incident in incidents(lab)]
        node.measure(*agents(lab))
        await lab.clock.sleep(5.0)


def test_a_death_that_its_node_mends_is_an_incident_with_times_and_evidence() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await node.dies("bot/3", last_lines=["starting", "ValueError: no price for 17"])

        [incident] = await over(lab, 1)

        assert incident.state is IncidentState.RECOVERED
        assert (incident.about, incident.cause, incident.epoch) == ("bot/3", Cause.CRASH, 1)
        assert [(step.action, step.by, step.outcome) for step in incident.steps] == [
            (Action.RESTART, "node", Outcome.RECOVERED)
        ]
        assert "ValueError: no price for 17" in [fact.text for fact in incident.evidence]
        assert incident.sign_at <= incident.opened_at <= incident.recovered_at
        told = await lab.server.care.explain(incident.id)
        assert "its node's own restart helped" in told.summary
        assert [line.at for line in told.lines] == sorted(line.at for line in told.lines)
        assert node.healed == []

    world(scenario, manifest=BOT)


def test_who_is_healed_is_judged_by_all_that_is_measured_at_once() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await node.dies("bot/3")
        await over(lab, 1)
        await node.dies("bot/3", text="exit code 4")
        await lab.until(lambda: bool(incidents(lab)), "it has died again")
        [held] = incidents(lab)
        node.measure("bot/3", asked=False)
        await lab.until(lambda: lab.server.care.health.scores["bot/3"].score == 60, "deaths are all that is known")
        assert not held.state.over

        at = lab.clock.now()
        node.measure("bot/3")
        await lab.until(lambda: not incidents(lab), "it is well")
        assert lab.clock.now() - at < 0.5

    world(scenario, manifest=BOT)


def test_an_end_that_is_told_before_its_state_is_neither_healed_nor_over() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await node.event("agent.died", "bot/3", "exit code 3")
        await lab.until(lambda: bool(incidents(lab)), "it is known to have died")
        await lab.clock.sleep(3.0)
        [held] = incidents(lab)
        assert (held.state, held.steps, node.healed) == (IncidentState.OPEN, [], [])

        node.epochs["bot/3"] += 1
        await node.state("bot/3", AgentState.READY)

        [incident] = await over(lab, 1)
        assert [(step.by, step.outcome) for step in incident.steps] == [("node", Outcome.RECOVERED)]
        assert node.healed == []

    world(scenario, manifest=BOT)


def test_one_that_waits_for_its_node_holds_up_no_other() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.deaf.add("bot/1")
        node.ill |= {"bot/1"}
        node.measure("bot/1")
        await lab.until(lambda: [one.state for one in incidents(lab)] == [IncidentState.ACTING], "the node is asked")
        node.ill |= {"bot/2"}
        node.measure("bot/2")
        await lab.until(lambda: bool(node.healed), "the other is healed")
        node.measure("bot/2")
        await lab.until(lambda: not lab.server.care.book.about("bot/2"), "the other is well")

        [held] = incidents(lab)
        assert (held.about, held.state, len(held.steps)) == ("bot/1", IncidentState.ACTING, 1)
        assert len([op for op in node.asked if op.get("agent") == "bot/1"]) == 1, "its first question is not over"

    world(scenario, manifest=BOT)


def test_what_is_decided_at_the_same_time_keeps_the_budget() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.ill |= {"bot/1", "bot/2"}
        node.cures = set()
        node.measure("bot/1", "bot/2")
        await lab.until(lambda: len(incidents(lab)) == 2 and bool(node.healed), "one of both is healed")
        until = lab.clock.now() + 20.0
        await keep_measuring(lab, node, lambda: lab.clock.now() > until)

        assert len(node.healed) == 1
        assert sorted(incident.state for incident in incidents(lab)) != [IncidentState.VERIFYING] * 2

    world(scenario, manifest=BOT + "policies: {default: {budget: {per_min: 1, share: 1.0}}}")


def test_a_failed_liveness_probe_climbs_the_ladder_until_something_helps() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.cures = {"redeploy"}
        node.ill.add("bot/2")

        await keep_measuring(lab, node, lambda: bool(incidents(lab)))
        await keep_measuring(lab, node, lambda: not incidents(lab))

        actions = [action for agent, action in node.healed if agent == "bot/2"]
        assert actions[-1] == "redeploy"
        assert set(actions) <= {"restart", "restart-clean", "redeploy"}
        [incident] = (await lab.server.care.incidents(about="bot/2")).items
        assert incident.state is IncidentState.RECOVERED
        assert incident.cause is Cause.ENDPOINT_DOWN
        assert [step.outcome for step in incident.steps][-1] is Outcome.RECOVERED
        assert all(step.peers_before > 90 for step in incident.steps)
        failed = [step for step in incident.steps if step.outcome is Outcome.NO_BETTER]
        assert all(step.ended_at < step.due_at for step in failed), "it was ill as before: nothing was waited for"

    world(scenario, manifest=BOT)


def test_what_nothing_helps_is_escalated_and_told() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.cures = set()
        node.ill.add("bot/2")

        await keep_measuring(lab, node, lambda: bool(incidents(lab)))
        await keep_measuring(lab, node, lambda: incidents(lab)[0].state is IncidentState.ESCALATED)

        [incident] = incidents(lab)
        asked = len(node.healed)
        assert 1 <= asked <= 5
        await keep_measuring(lab, node, lambda: lab.clock.now() > incident.opened_at + 3000, limit_s=4000)
        assert len(node.healed) == asked
        assert "a person is needed" in (await lab.server.care.explain(incident.id)).summary

    world(scenario, manifest=BOT)


def test_a_fleet_that_nothing_helps_does_not_stop_the_healing_of_another() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.cures = set()

        def given_up() -> bool:
            return any("in this fleet did not help" in one.note for one in incidents(lab))

        node.ill.add("bot/0")
        await keep_measuring(lab, node, lambda: [one.state for one in incidents(lab)] == [IncidentState.ESCALATED])
        node.ill.add("bot/1")
        await keep_measuring(lab, node, given_up, limit_s=3000)
        assert (await lab.server.status())["incidents"]["escalated"] >= 1

        node.cures = set(ACTIONS["exec"])
        node.ill.add("web/0")
        await keep_measuring(lab, node, lambda: "web/0" in lab.server.care.book.by_about)
        await keep_measuring(
            lab, node, lambda: "web/0" not in node.ill and "web/0" not in lab.server.care.book.by_about
        )
        assert [agent for agent, _ in node.healed].count("web/0") == 1

    world(scenario, manifest=BOT.replace("8}", "6}\n  web: {command: [sleep, '60'], replicas: 2}"))


def test_an_agent_that_is_well_again_by_itself_ends_its_incident() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.errors["heal"] = {"code": "refused", "message": "not now"}
        node.ill.add("bot/1")
        await keep_measuring(lab, node, lambda: bool(incidents(lab)))
        node.ill.clear()

        await keep_measuring(lab, node, lambda: not incidents(lab))

        [incident] = (await lab.server.care.incidents()).items
        assert incident.state is IncidentState.RECOVERED

    world(scenario, manifest=BOT)


def test_many_deaths_of_one_kind_are_one_cause_and_single_healing_stops() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        for number in range(4):
            await node.event("agent.quarantined", f"bot/{number}", "crash loop: 11 deaths in 60 s")
            await node.state(f"bot/{number}", AgentState.QUARANTINED, reason="crash loop: 11 deaths in 60 s")

        await lab.until(lambda: any(held.kind == "common-cause" for held in incidents(lab)), "one cause is named")

        [common] = [held for held in incidents(lab) if held.kind == "common-cause"]
        await lab.until(
            lambda: sum(held.parent == common.key for held in incidents(lab)) >= 3, "its members are held", limit_s=20
        )
        assert set(common.members) >= {"bot/0", "bot/1", "bot/2"}
        healed = len(node.healed)
        await lab.clock.sleep(20.0)
        assert len(node.healed) == healed

    world(scenario, manifest=BOT)


def test_a_bad_release_is_named_and_its_rollback_offered() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        before = lab.server.fleet("bot").version
        await lab.apply(BOT.replace('"60"', '"61"'))
        await lab.until(lambda: lab.server.fleet("bot").version != before, "the release is there")
        for number in range(3):
            agent = f"bot/{number}"
            await node.state(agent, AgentState.QUARANTINED, reason="crash loop")
            await node.event("agent.quarantined", agent, "crash loop: 11 deaths in 60 s, last: exit code 1")

        await lab.until(lambda: any(held.kind == "common-cause" for held in incidents(lab)), "one cause is named")
        [common] = [held for held in incidents(lab) if held.kind == "common-cause"]
        assert common.offer["command"] == "paddock rollback bot"
        assert common.offer["to"] == before
        assert any("bot" in change.text for change in common.changes)

        await lab.server.care.rollback("bot", by="ann")
        await lab.until(lambda: lab.server.fleet("bot").version == before, "the former release is back")
        await lab.until(lambda: common.key not in lab.server.care.book.open, "the common cause is over")

    world(scenario, manifest=BOT)


def test_a_person_can_ask_for_an_action_and_it_is_verified() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await lab.server.care.heal("bot/5", "recreate", by="ann")
        assert node.healed == [("bot/5", "redeploy")]

        await keep_measuring(lab, node, lambda: not incidents(lab))

        [incident] = (await lab.server.care.incidents()).items
        assert [(step.action, step.by, step.outcome) for step in incident.steps] == [
            (Action.REDEPLOY, "ann", Outcome.RECOVERED)
        ]

    world(scenario, manifest=BOT)


def test_what_cannot_be_done_is_refused_with_what_can() -> None:
    async def scenario(lab: World) -> None:
        await nurse(lab)
        with pytest.raises(Refused, match=r"reboot is not offered for it; what is: .*redeploy"):
            await lab.server.care.heal("bot/5", "reboot")
        with pytest.raises(Refused, match="'pray' is unknown; what is: ") as unknown:
            await lab.server.care.heal("bot/5", "pray")
        assert "drop-caches" not in unknown.value.message
        with pytest.raises(Refused, match="is unknown"):
            await lab.server.care.heal("bot/5", "")
        with pytest.raises(Refused, match="has no backup: name a fleet as 'standby' in the policy"):
            await lab.server.care.heal("bot/5", "activate-backup")
        assert not incidents(lab)
        with pytest.raises(NotFound):
            await lab.server.care.heal("bot/99", "restart")
        with pytest.raises(NotFound):
            await lab.server.care.explain(17)

    world(scenario, manifest=BOT)


def test_a_server_that_dies_between_act_and_record_acts_once() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await lab.server.stop()
        for awaits in range(0, 120, 4):
            process = await lab.serve_mortal()
            await lab.until(lambda: len(agents(lab)) == 8, "the server knows its agents")
            node.ill.add("bot/4")
            node.measure(*agents(lab))
            process.kill_after(awaits)
            for _ in range(20):
                await lab.clock.sleep(0.5)
            process.kill()
        await lab.serve()
        node.ill.clear()  # else its ladder may have been climbed to the end by so many illnesses
        await keep_measuring(lab, node, lambda: not incidents(lab), limit_s=3000)
        assert node.healed
        # Each incarnation was healed once at the most.
        assert len(node.healed) == node.epochs["bot/4"] - 1

    world(scenario, manifest=BOT)


def test_health_is_served_with_the_agents_and_kept() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.cures = set()
        node.ill.add("bot/6")
        await keep_measuring(lab, node, lambda: bool(lab.server.care.scores(band="critical")))
        assert lab.server.agent("bot/6").health < 50
        assert lab.server.agent("bot/0").health == 100
        worst = lab.server.care.scores(fleet="bot")[0]
        assert worst.id == "bot/6"
        assert worst.because
        assert [score.id for score in lab.server.care.scores(band="critical")] == ["bot/6"]
        with pytest.raises(Refused):
            lab.server.care.scores(band="purple")
        with pytest.raises(NotFound):
            lab.server.care.scores(fleet="nobody")
        with pytest.raises(Refused, match="'bogus' is none of open, acting, "):
            await lab.server.care.incidents(state="bogus")

        await lab.server.care.health.write()
        points = await lab.server.care.history("bot/6", 0.0)
        assert points[-1].low < 50

    world(scenario, manifest=BOT)
