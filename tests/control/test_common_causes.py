"""Many incidents with one cause: held together, one tried alone, ended together."""

from __future__ import annotations

from paddock.control.common import CANARY_S
from paddock.model.agent import AgentState
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
