"""Many incidents with one cause: held together, one tried alone, ended together."""

from __future__ import annotations

import msgspec

from paddock.control.common import CANARY_S
from paddock.fabric import subjects
from paddock.model.agent import AgentState, Event
from paddock.model.incident import Incident, IncidentState

from .test_healing import BOT, Nurse, agents, incidents, keep_measuring, nurse
from .world import World, world


def common(lab: World) -> Incident | None:
    return next((held for held in incidents(lab) if held.kind == "common-cause"), None)


def members(lab: World, parent: Incident) -> list[str]:
    return sorted(held.about for held in incidents(lab) if held.parent == parent.key)


async def fall(node: Nurse, *agents: str) -> None:
    """These agents are in a crash loop, for one reason."""
    for agent in agents:
        await node.event("agent.quarantined", agent, "crash loop: 11 deaths in 60 s")
        await node.state(agent, AgentState.QUARANTINED, reason="crash loop: 11 deaths in 60 s")


async def one_cause(lab: World, node: Nurse, count: int = 4) -> Incident:
    await fall(node, *(f"bot/{number}" for number in range(count)))
    await lab.until(lambda: common(lab) is not None, "one cause is named")
    found = common(lab)
    assert found is not None
    await lab.until(lambda: len(members(lab, found)) == count, "all are its members", limit_s=20)
    return found


def test_who_fails_later_alike_joins() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        parent = await one_cause(lab, node)
        await fall(node, "bot/6")
        await lab.until(lambda: "bot/6" in lab.server.care.book.open[parent.key].members, "it joined", limit_s=20)
        now = lab.server.care.book.open[parent.key]
        assert now.title.startswith("5 agents fail for one reason")
        assert any(fact.text == "joined by bot/6" for fact in now.evidence)
        assert len([held for held in incidents(lab) if held.kind == "common-cause"]) == 1

    world(scenario, manifest=BOT)


def test_one_is_tried_alone_and_when_that_helps_all_go_on() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        parent = await one_cause(lab, node)
        healed = len(node.healed)
        await lab.clock.sleep(CANARY_S - 10.0)
        assert len(node.healed) == healed
        await keep_measuring(lab, node, lambda: bool(lab.server.care.book.open[parent.key].offer.get("canary")))
        canary = lab.server.care.book.open[parent.key].offer["canary"]
        assert canary not in members(lab, lab.server.care.book.open[parent.key])

        await keep_measuring(lab, node, lambda: not incidents(lab))

        ended = await lab.server.care.incident(parent.id)
        assert ended.state is IncidentState.RECOVERED
        assert ended.note == f"a try on {canary} helped: members go on"
        assert node.healed[healed][0] == canary
        assert {agent for agent, _ in node.healed} == set(parent.members)  # some before the cause was known
        assert all(lab.server.agent(agent).health == 100 for agent in agents(lab))

    world(scenario, manifest=BOT)


def test_a_person_ends_it_and_its_members_go_on() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        parent = await one_cause(lab, node)
        closed = await lab.server.care.close(parent.id, by="ann", why="the switch is mended")
        assert closed.note == "closed by ann: the switch is mended"
        await lab.until(lambda: len(node.healed) > 0 or not members(lab, parent), "a member is worked on", limit_s=60)

    world(scenario, manifest=BOT)


def test_the_next_server_goes_on_with_it() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        parent = await one_cause(lab, node)
        await lab.replace()
        await lab.until(lambda: len(members(lab, parent)) == 4, "its members are known")
        await keep_measuring(lab, node, lambda: not incidents(lab))
        assert (await lab.server.care.incident(parent.id)).state is IncidentState.RECOVERED

    world(scenario, manifest=BOT)


def test_a_fleet_that_is_gone_leaves_no_incident_open() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await one_cause(lab, node)
        await lab.server.delete_fleet("bot", by="ann")
        for agent in agents(lab):
            await node.gone(*agent.split("/"))
        await lab.until(lambda: not incidents(lab), "all incidents are over", limit_s=100)

    world(scenario, manifest=BOT)


HELD = "common cause: 3 agents ended alike (not-started: exit code <n>)"


async def held_by_node(lab: World, node: Nurse, *agents: str) -> None:
    """Its node has seen three agents of this release end alike; only these of them are down now."""
    version = lab.server.fleet("bot").version
    data = {"signature": "crash: exit code <n>", "agents": ["bot/0", "bot/1", "bot/2"], "version": version}
    event = Event(at=lab.clock.now(), kind="node.held", about="bot", text="bot: held", by="node/n1", data=data)
    await node.fabric.store(subjects.event("node.held", "bot"), msgspec.json.encode(event))
    for agent in agents:
        await node.event("agent.died", agent, "exit code 3")
        await node.state(agent, AgentState.QUARANTINED, reason=HELD)


def test_what_a_node_holds_is_named_at_once_and_nobody_heals_it_alone() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await held_by_node(lab, node, "bot/2")
        await lab.until(lambda: common(lab) is not None, "one cause is named")
        parent = common(lab)
        assert parent is not None
        assert parent.title == f"3 agents fail for one reason: release bot@{parent.release} · crash"
        assert parent.members == ["bot/0", "bot/1", "bot/2"]
        await lab.until(lambda: members(lab, parent) == ["bot/2"], "it is held")
        await lab.clock.sleep(CANARY_S / 2)
        assert node.healed == []
        await keep_measuring(lab, node, lambda: bool(node.healed))
        assert node.healed[0][0] == "bot/2"  # tried alone, for all of them

    world(scenario, manifest=BOT)


def test_what_died_of_a_release_that_is_wanted_no_more_is_no_common_cause() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await lab.apply(BOT.replace('"60"', '"61"'))
        for agent in agents(lab):
            await node.state(agent, AgentState.READY)
        parent = await one_cause(lab, node)
        assert parent.offer["command"] == "paddock rollback bot"
        await lab.server.care.rollback("bot", by="ann")
        await lab.until(lambda: common(lab) is None, "it is over")
        await lab.clock.sleep(10.0)
        found = (await lab.server.care.incidents(limit=1000)).items
        assert [one.id for one in found if one.kind == "common-cause"] == [parent.id]
        assert (await lab.server.care.incident(parent.id)).note == "bot is another version now: members go on"

    world(scenario, manifest=BOT)
