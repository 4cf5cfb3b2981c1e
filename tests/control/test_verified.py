"""A step is judged by what was measured after it; what people ask for, and other versions, do not get in between."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from paddock.fabric import subjects
from paddock.model.agent import AgentState
from paddock.model.health import ProbeFact, Vitals
from paddock.model.incident import Incident, IncidentState, Outcome
from paddock.model.policy import Action

from .test_healing import Nurse, agents, incidents, keep_measuring, nurse, over
from .world import World, world

PROBED = """
paddock: 1
policies:
  default: {learn: false, ladder: [{action: restart, verify_s: 3s}, {action: restart-clean, verify_s: 3s}, escalate]}
fleets:
  bot:
    command: [sleep, "60"]
    replicas: 8
    health: {probes: [{name: http, kind: http, url: "http://127.0.0.1:1/", every_s: 2s, timeout_s: 1s, fails: 2}]}
"""
BOT = """
paddock: 1
policies: {default: {learn: false}}
fleets:
  bot: {command: [sleep, "60"], replicas: 8}
"""


def measured(node: Nurse, agent: str, fails: int, *, since: float = 0.0) -> None:
    """Its probe was asked now."""
    now = node.world.clock.now()
    fact = ProbeFact(fails, 2, "liveness", 0.01, now, "no match" if fails else "", since)
    vitals = Vitals(id=agent, epoch=node.epochs.get(agent, 1), at=now, probes={"http": fact})
    node.fabric.publish(subjects.vitals(node.name), msgspec.json.encode([vitals]))


async def told(lab: World) -> list[Incident]:
    return list((await lab.server.care.incidents(limit=100)).items)


def test_a_probe_that_never_passes_never_verifies_a_step() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        began = lab.clock.now()
        while lab.clock.now() < began + 60.0:
            for fails in (1, 2):  # of each incarnation: below its limit the score is good
                measured(node, "bot/1", fails)
                await lab.clock.sleep(1.0)

        [incident] = await told(lab)
        assert incident.state is IncidentState.ESCALATED
        assert [(step.action, step.outcome) for step in incident.steps] == [
            (Action.RESTART, Outcome.NO_BETTER),
            (Action.RESTART_CLEAN, Outcome.NO_BETTER),
        ]

    world(scenario, manifest=PROBED)


def test_nothing_is_verified_while_nothing_is_measured() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        measured(node, "bot/1", 2)
        await lab.until(lambda: bool(node.healed), "it is healed")
        await lab.clock.sleep(120.0)  # its node measures nothing meanwhile

        [incident] = incidents(lab)
        assert (incident.state, len(node.healed)) == (IncidentState.VERIFYING, 1)
        measured(node, "bot/1", 0)
        [ended] = await over(lab, 1)
        assert [step.outcome for step in ended.steps] == [Outcome.RECOVERED]

    world(scenario, manifest=PROBED)


def test_a_server_that_was_killed_judges_nothing_by_what_it_does_not_know() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await lab.server.stop()
        process = await lab.serve_mortal()
        await lab.until(lambda: len(agents(lab)) == 8, "the server knows its agents")
        await lab.server.care.heal("bot/1", "restart", by="ann")
        process.kill()
        await lab.clock.sleep(60.0)
        await lab.serve()
        await lab.clock.sleep(0.1)
        assert lab.server.care.score("bot/1").score == 100, "everybody is judged at once"
        await lab.clock.sleep(60.0)
        assert node.healed == [("bot/1", "restart")], "the ladder is not climbed on what is not known"
        measured(node, "bot/1", 0)

        [ended] = await over(lab, 1)
        assert [(step.by, step.action, step.outcome) for step in ended.steps] == [
            ("ann", Action.RESTART, Outcome.RECOVERED)
        ]

    world(scenario, manifest=PROBED)


def test_one_that_nobody_asks_anything_is_well_when_it_has_stayed_alive() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        await node.dies("bot/3")
        await lab.until(lambda: bool(incidents(lab)), "it is known to have died")
        await lab.clock.sleep(5.0)
        assert [held.state for held in incidents(lab)] == [IncidentState.VERIFYING]

        [ended] = await over(lab, 1)
        assert ended.recovered_at >= node.started["bot/3", 2] + 10.0
        assert ended.recovered_at < ended.sign_at + 30.0

    world(scenario, manifest=BOT)


def test_the_first_sign_is_the_first_bad_measurement_and_no_older_than_the_incident_before() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        first = lab.clock.now()
        measured(node, "bot/1", 1, since=first)
        await lab.clock.sleep(1.0)
        measured(node, "bot/1", 2, since=first)
        await lab.until(lambda: bool(incidents(lab)), "it is ill")
        [incident] = incidents(lab)
        assert incident.sign_at == first
        assert incident.opened_at >= first + 1.0

        node.errors["heal"] = {"code": "refused", "message": "not now"}
        await lab.clock.sleep(30.0)
        closed = await lab.server.care.close(incident.id, by="ann")
        measured(node, "bot/1", 20, since=first)
        await lab.until(lambda: bool(incidents(lab)), "it is still ill")
        assert incidents(lab)[0].sign_at >= closed.closed_at

    world(scenario, manifest=PROBED)


# --- by hand


def test_what_was_done_by_hand_and_not_awaited_is_done_all_the_same() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        asked = ("redeploy", "restart", "restart-clean", "restart")
        await asyncio.gather(*(lab.server.care.heal("bot/3", action, by="ann") for action in asked))
        assert len(incidents(lab)) == 1
        await keep_measuring(lab, node, lambda: not incidents(lab))

        [incident] = await told(lab)
        assert sorted(step.action for step in incident.steps) == sorted(asked)
        assert [step.outcome for step in incident.steps] == [Outcome.UNKNOWN] * 3 + [Outcome.RECOVERED]
        assert "ann asked for" in incident.steps[0].detail

    world(scenario, manifest=BOT)


def test_heals_by_hand_leave_the_healer_its_attempts() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        for _ in range(6):
            await lab.server.care.heal("bot/3", "restart", by="ann")
            await keep_measuring(lab, node, lambda: not incidents(lab))
        node.cures = {"restart-clean"}
        node.ill.add("bot/3")
        await keep_measuring(lab, node, lambda: bool(incidents(lab)))
        await keep_measuring(lab, node, lambda: not incidents(lab))

        incident = (await told(lab))[0]
        assert incident.state is IncidentState.RECOVERED
        assert incident.steps[-1].action is Action.RESTART_CLEAN

    world(scenario, manifest=BOT)


# --- another version


async def fall(node: Nurse, *agents: str, **more: Any) -> None:
    for agent in agents:
        await node.event("agent.quarantined", agent, "crash loop: 11 deaths in 60 s", **more)
        await node.state(agent, AgentState.QUARANTINED, reason="crash loop: 11 deaths in 60 s")


def common(found: list[Incident]) -> list[Incident]:
    return [incident for incident in found if incident.kind == "common-cause"]


def test_a_common_cause_of_a_version_that_is_gone_is_not_opened_again() -> None:
    async def scenario(lab: World) -> None:
        node = await nurse(lab)
        node.errors["heal"] = {"code": "refused", "message": "not now"}
        before = lab.server.fleet("bot").version
        await fall(node, *(f"bot/{number}" for number in range(4)), version=before)
        await lab.until(lambda: bool(common(incidents(lab))), "one cause is named")
        await lab.apply(BOT.replace('"60"', '"61"'))
        await lab.until(lambda: not common(incidents(lab)), "it is over")
        await lab.clock.sleep(60.0)
        assert len(common(await told(lab))) == 1

        # What fails under the new version is a matter of its own.
        again = lab.clock.now()
        after = lab.server.fleet("bot").version
        assert after != before
        for number in range(4):
            node.epochs[f"bot/{number}"] += 1
        await fall(node, *(f"bot/{number}" for number in range(4)), version=after)
        await lab.until(lambda: bool(common(incidents(lab))), "one cause is named")
        [now] = common(incidents(lab))
        assert (now.release, now.sign_at >= again) == (after, True)
        assert [held.release for held in incidents(lab)] == [after] * 5
        assert {held.state for held in await told(lab) if held.release == before} == {IncidentState.CLOSED}

    world(scenario, manifest=BOT)
