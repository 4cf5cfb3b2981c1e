"""The machine: seen by an agent, healed rung by rung, told when nothing is left."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paddock.fabric import subjects
from paddock.model.errors import Unavailable
from paddock.model.incident import Incident, IncidentState, Outcome
from paddock.model.policy import Action
from paddock.ports.fabric import Message

from .world import World, world

MANIFEST = """
paddock: 1
fleets:
  watch: {agent: "lab:Watch", capabilities: [infrastructure]}
  disk: {agent: "lab:Critic", replicas: 2}
"""


class Watch:
    """An infrastructure agent of whom the test says what it sees and what it may do."""

    def __init__(self, lab: World) -> None:
        self.lab = lab
        self.bad: set[str] = set()
        self.may: set[str] = {"drop-caches", "clean-data", "restart-broker"}
        self.helps: set[str] = set()
        self.did: list[str] = []
        self.raw: bytes | None = None
        """Said instead of an answer."""
        lab.node.fabric.subscribe(subjects.ask("watch"), self._answer)

    def _answer(self, message: Message) -> None:
        asked = msgspec.json.decode(message.data)
        answer: Any = self._look() if asked["method"] == "look" else self._act(asked["args"]["action"])
        data = self.raw if self.raw is not None else msgspec.json.encode({"ok": answer})
        self.lab.node.fabric.publish(message.reply, data)

    def _look(self) -> list[dict[str, Any]]:
        return [
            {"part": part, "bad": part in self.bad, "text": f"{part} is {'bad' if part in self.bad else 'fine'}"}
            for part in ("cpu", "memory", "disk", "files", "clock", "broker", "odd.part >")
        ]

    def _act(self, action: str) -> dict[str, Any]:
        self.did.append(action)
        if action in self.helps:
            self.bad.clear()
        return {"ok": action in self.may, "detail": "done" if action in self.may else "not permitted here"}


def about(lab: World, part: str) -> list[Incident]:
    return [held for held in lab.server.care.book.open.values() if held.about == part]


async def ended(lab: World, part: str) -> Incident:
    await lab.until(lambda: not about(lab, part), f"{part} is well", limit_s=200)
    [incident] = (await lab.server.care.incidents(about=part)).items
    return incident


def test_a_part_that_is_bad_twice_is_healed_and_verified() -> None:
    async def scenario(lab: World) -> None:
        watch = Watch(lab)
        watch.helps = {"clean-data"}
        await lab.clock.sleep(30.0)
        assert about(lab, "disk") == []
        watch.bad = {"disk"}
        await lab.until(lambda: bool(about(lab, "disk")), "an incident is opened")
        incident = await ended(lab, "disk")
        assert incident.state is IncidentState.RECOVERED
        assert [(step.action, step.outcome) for step in incident.steps] == [(Action.CLEAN_DATA, Outcome.RECOVERED)]
        assert watch.did == ["clean-data"]

    world(scenario, manifest=MANIFEST)


def test_what_may_not_be_done_is_said_and_the_next_rung_taken() -> None:
    async def scenario(lab: World) -> None:
        watch = Watch(lab)
        watch.may.clear()
        watch.bad = {"memory"}
        await lab.until(lambda: bool(lab.server._infrastructure.shedding), "load is shed", limit_s=200)
        [incident] = about(lab, "memory")
        assert (incident.steps[0].outcome, incident.steps[0].detail) == (Outcome.FAILED, "not permitted here")
        with pytest.raises(Unavailable, match="memory is bad: tasks of priority LOW are refused"):
            await lab.submit(fleet="disk", priority="low")
        await lab.submit(fleet="disk", priority="MEDIUM")
        watch.bad.clear()
        await ended(lab, "memory")
        await lab.submit(fleet="disk", priority="LOW")

    world(scenario, manifest=MANIFEST)


def test_when_nothing_is_left_people_are_told_and_it_ends_when_it_is_well() -> None:
    async def scenario(lab: World) -> None:
        watch = Watch(lab)
        watch.bad = {"disk", "clock"}
        for part, steps in (("disk", 1), ("clock", 0)):
            await lab.until(
                lambda part=part: [held.state for held in about(lab, part)] == [IncidentState.ESCALATED],  # type: ignore[misc]  # bound early
                f"{part} is escalated",
                limit_s=300,
            )
            assert len(about(lab, part)[0].steps) == steps
        did = list(watch.did)
        await lab.clock.sleep(300.0)
        assert watch.did == did  # nothing is tried for ever
        watch.bad.clear()
        assert (await ended(lab, "disk")).state is IncidentState.RECOVERED

    world(scenario, manifest=MANIFEST)


def test_load_is_shed_by_the_next_server_too_and_no_longer_once_a_person_ends_it() -> None:
    async def scenario(lab: World) -> None:
        watch = Watch(lab)
        watch.bad = {"cpu"}
        await lab.until(lambda: bool(lab.server._infrastructure.shedding), "load is shed", limit_s=200)
        await lab.replace()
        assert "cpu is bad" in lab.server._infrastructure.shedding
        watch.bad.clear()
        await lab.server.care.close(about(lab, "cpu")[0].id, by="ann")
        assert lab.server._infrastructure.shedding == ""
        await lab.submit(fleet="disk", priority="LOW")

    world(scenario, manifest=MANIFEST)


def test_two_reasons_to_shed_load_are_over_when_both_are() -> None:
    async def scenario(lab: World) -> None:
        watch = Watch(lab)
        watch.may.clear()
        watch.bad = {"cpu", "memory"}

        def both() -> bool:
            held = [*about(lab, "cpu"), *about(lab, "memory")]
            return sum(step.action is Action.SHED_LOAD for one in held for step in one.steps) == 2

        await lab.until(both, "both shed load", limit_s=200)
        watch.bad = {"cpu"}
        await ended(lab, "memory")
        assert "cpu is bad" in lab.server._infrastructure.shedding
        watch.bad.clear()
        await ended(lab, "cpu")
        assert lab.server._infrastructure.shedding == ""

    world(scenario, manifest=MANIFEST)


@pytest.mark.parametrize(
    "raw", [b"{", b'{"ok": [{"part": 1}]}', b'{"ok": 7}', b'{"error": {"message": "no"}}', b"\xff"]
)
def test_an_agent_that_talks_nonsense_stops_nobody(raw: bytes) -> None:
    async def scenario(lab: World) -> None:
        watch = Watch(lab)
        watch.raw = raw
        await lab.clock.sleep(40.0)
        watch.raw = None
        watch.bad, watch.helps = {"disk"}, {"clean-data"}
        await lab.until(lambda: bool(about(lab, "disk")), "the disk is seen", limit_s=100)
        await ended(lab, "disk")

    world(scenario, manifest=MANIFEST)


def test_an_agent_that_talks_nonsense_when_it_is_to_act_has_not_acted() -> None:
    async def scenario(lab: World) -> None:
        watch = Watch(lab)
        watch.bad = {"broker"}
        await lab.until(lambda: bool(lab.server._infrastructure._streaks.get("broker")), "it is seen once")
        watch._act = lambda action: "yes"  # type: ignore[assignment,method-assign,return-value]  # nonsense
        await lab.until(lambda: [held.state for held in about(lab, "broker")] == [IncidentState.ESCALATED], "told")
        [step] = about(lab, "broker")[0].steps
        assert step.outcome is Outcome.FAILED
        assert "did not do it" in step.detail

    world(scenario, manifest=MANIFEST)


def test_a_record_that_is_away_is_an_incident_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(lab: World) -> None:
        def away() -> None:
            raise Unavailable("the disk is gone")

        with monkeypatch.context() as broken:
            broken.setattr(lab.record, "ping", away)
            await lab.until(lambda: bool(about(lab, "record")), "it is seen", limit_s=100)
            await lab.until(lambda: about(lab, "record")[0].state is IncidentState.ESCALATED, "people are told")
        await ended(lab, "record")

    world(scenario, manifest=MANIFEST)


def test_without_an_agent_that_looks_nothing_is_believed_but_what_the_server_sees() -> None:
    async def scenario(lab: World) -> None:
        found = await lab.server._infrastructure.look()
        assert [(finding.part, finding.bad) for finding in found] == [("record", False)]

    world(scenario)
