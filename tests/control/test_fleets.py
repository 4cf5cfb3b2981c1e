"""From wanted fleets to placements, and away again."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest

from paddock.fabric import subjects
from paddock.model.agent import AgentState
from paddock.model.errors import Conflict, NotFound, PaddockError, Refused, TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec, Placement
from paddock.model.manifest import ManifestSource
from paddock.model.task import Task, TaskState

from .world import MANIFEST, FakeNode, World, world

TWO = """
paddock: 1
fleets:
  critic: {agent: "lab:Critic", replicas: 2, capabilities: [review], queue_limit: 100}
  coder: {agent: "lab:Coder", replicas: 1, depends_on: [critic]}
"""


async def placed(lab: World, node: str, fleet: str = "critic") -> list[str] | None:
    stored = await lab.fabric.last(subjects.WANTED, f"$KV.wanted.{subjects.wanted_place(node, fleet)}")
    if stored is None or stored.deleted:
        return None
    return msgspec.json.decode(stored.data, type=Placement).names


async def until_placed(lab: World, names: dict[str, list[str] | None], fleet: str = "critic") -> None:
    give_up = lab.clock.monotonic() + 120.0
    while (found := {node: await placed(lab, node, fleet) for node in names}) != names:
        assert lab.clock.monotonic() < give_up, f"placed is {found}, not {names}"
        await asyncio.sleep(0.1)


def test_what_is_applied_is_placed_and_becomes_ready() -> None:
    async def scenario(lab: World) -> None:
        await until_placed(lab, {"n1": ["0", "1"]})
        view = lab.server.fleet("critic")
        assert (view.wanted, view.ready, view.methods, view.states) == (2, 2, ["review"], {"ready": 2})
        assert [status.id for status in lab.server.agents(fleet="critic").items] == ["critic/0", "critic/1"]
        [event] = (await lab.server.history(kind="fleet.applied")).items
        assert (event.event.about, event.event.by) == ("critic", "ann")

    world(scenario)


def test_applying_the_same_again_changes_and_checks_nothing() -> None:
    async def scenario(lab: World) -> None:
        lab.node.asked.clear()
        plan = await lab.apply(MANIFEST)
        assert [change.kind for change in plan.changes] == ["none"]
        assert lab.node.asked == []

    world(scenario)


def test_a_plan_writes_nothing_and_asks_no_node() -> None:
    async def scenario(lab: World) -> None:
        lab.node.asked.clear()
        plan = await lab.server.plan([ManifestSource(name="lab.yaml", text=TWO)])
        assert {change.fleet: change.kind for change in plan.changes} == {"critic": "none", "coder": "create"}
        assert not plan.applied
        assert lab.node.asked == []
        assert [view.name for view in lab.server.fleets()] == ["critic"]

    world(scenario)


def test_a_broken_template_refuses_the_whole_and_every_broken_one_is_named() -> None:
    async def scenario(lab: World) -> None:
        lab.node.broken = {"coder": "lab:Coder does not exist", "critic": "SyntaxError in lab.py line 3"}
        with pytest.raises(TemplateBroken) as caught:
            await lab.apply(TWO)
        assert "lab:Coder does not exist" in caught.value.message
        assert "line 3" in caught.value.message
        lab.node.broken.pop("critic")
        with pytest.raises(TemplateBroken):
            await lab.apply(TWO)
        assert lab.server.fleets() == []

    world(scenario, manifest="")


def test_without_a_node_nothing_is_applied() -> None:
    async def scenario(lab: World) -> None:
        lab.node.kill()
        with pytest.raises(Unavailable, match="no node was heard of for a while"):
            await lab.apply(MANIFEST)
        assert (await lab.server.ready())["node"] == "ok"  # it was heard of lately
        await asyncio.sleep(60.0)
        assert (await lab.server.ready())["node"] != "ok"
        with pytest.raises(Unavailable, match="no node was heard of for a while"):
            await lab.apply(MANIFEST)

    world(scenario, manifest="")


def test_two_who_apply_at_once_do_not_mix() -> None:
    async def scenario(lab: World) -> None:
        rival = msgspec.json.encode(FleetSpec(name="critic", runtime="exec", command=["true"], version="rival"))

        def meanwhile() -> None:
            lab.broker.streams["KV_wanted"].store("$KV.wanted.fleet.critic", rival, {}, expect_seq=None, ttl_s=0.0)

        check = lab.node._answer

        def slow(message: object) -> None:
            meanwhile()
            check(message)  # type: ignore[arg-type]  # passed on as it came

        subscription = lab.node.fabric.subscribe("node.n1", slow)
        with pytest.raises(Conflict, match="changed by somebody else meanwhile"):
            await lab.apply(TWO.replace("lab:Critic", "lab:Critic2"))
        subscription.close()
        assert [view.name for view in lab.server.fleets()] == ["critic"]
        await lab.until(lambda: lab.server.fleet("critic").version == "rival", "the rival's is seen")

    world(scenario)


def test_scaling_starts_and_stops_agents() -> None:
    async def scenario(lab: World) -> None:
        assert (await lab.server.scale("critic", 5, by="bob")).wanted == 5
        await lab.until(lambda: lab.server.fleet("critic").ready == 5, "five are ready")
        await lab.server.scale("critic", 0)
        await lab.until(lambda: lab.server.agents().items == [], "all are gone")
        assert [event.event.kind for event in (await lab.server.history(kind="fleet.scaled")).items] == [
            "fleet.scaled",
            "fleet.scaled",
        ]

    world(scenario)


def test_more_agents_than_the_nodes_can_hold_are_refused_whole_and_fewer_never() -> None:
    async def scenario(lab: World) -> None:
        async def room(agents_max: int) -> None:
            lab.node.agents_max = agents_max
            await lab.node.tell()
            await lab.until(lambda: lab.server.nodes()[0].agents_max == agents_max, "the server knows the room")

        await room(5)
        with pytest.raises(Refused, match="6 agents in all do not fit: there is room for 5"):
            await lab.server.scale("critic", 6)
        with pytest.raises(Refused, match="open files; raise it and start the node anew, or add a node"):
            await lab.apply('{paddock: 1, fleets: {other: {agent: "lab:Critic", replicas: 5}}}')
        assert [view.name for view in lab.server.fleets()] == ["critic"]
        await lab.server.scale("critic", 5)
        await room(2)
        assert (await lab.server.scale("critic", 4)).wanted == 4

    world(scenario)


def test_scaling_is_refused_when_it_makes_no_sense() -> None:
    async def scenario(lab: World) -> None:
        with pytest.raises(Refused, match="from 0 to 10000"):
            await lab.server.scale("critic", -1)
        with pytest.raises(NotFound, match="did you mean 'critic'"):
            await lab.server.scale("critik", 1)
        await lab.apply('{paddock: 1, fleets: {farm: {agent: "lab:Farm", owners: [ann, bob]}}}')
        with pytest.raises(Refused, match="list of owners"):
            await lab.server.scale("farm", 3)

    world(scenario)


def test_a_fleet_waits_for_what_it_depends_on() -> None:
    async def scenario(lab: World) -> None:
        lab.node.makes_ready = False
        await lab.apply(TWO)
        await asyncio.sleep(10.0)
        assert await placed(lab, "n1", "coder") is None
        await lab.node.agent("critic", "0")
        await until_placed(lab, {"n1": ["0"]}, "coder")

    world(scenario, manifest="")


def test_a_fleet_whose_dependency_never_comes_is_placed_after_a_while() -> None:
    async def scenario(lab: World) -> None:
        lab.node.makes_ready = False
        await lab.apply(TWO)
        before = lab.clock.monotonic()
        await until_placed(lab, {"n1": ["0"]}, "coder")
        assert lab.clock.monotonic() - before >= 29.0

    world(scenario, manifest="")


def test_a_second_node_gets_what_is_new_and_takes_over_when_the_first_is_gone() -> None:
    async def scenario(lab: World) -> None:
        second = FakeNode(lab, "n2")
        await second.start()
        await asyncio.sleep(40.0)
        await until_placed(lab, {"n1": ["0", "1"]})
        await lab.server.scale("critic", 4)
        await until_placed(lab, {"n1": ["0", "1"], "n2": ["2", "3"]})
        lab.node.kill()
        await until_placed(lab, {"n1": None, "n2": ["0", "1", "2", "3"]})
        assert lab.server.agent("critic/0").node == "n2"
        second.kill()

    world(scenario)


def test_when_the_only_node_is_away_its_placement_stays_for_it() -> None:
    async def scenario(lab: World) -> None:
        lab.node.kill()
        await asyncio.sleep(120.0)
        assert await placed(lab, "n1") == ["0", "1"]

    world(scenario)


def test_after_a_restart_of_everything_no_agent_is_moved_to_the_node_that_comes_first() -> None:
    async def scenario(lab: World) -> None:
        await lab.server.stop()
        lab.node.kill()
        await asyncio.sleep(600.0)
        second = FakeNode(lab, "n2")
        await second.start()
        await lab.serve()
        await asyncio.sleep(10.0)
        lab.node = FakeNode(lab, "n1")
        await lab.node.start()
        await asyncio.sleep(60.0)
        assert await placed(lab, "n1") == ["0", "1"]
        second.kill()

    world(scenario)


def test_a_deleted_fleet_stops_and_its_queued_tasks_end_as_dead_with_the_reason() -> None:
    async def scenario(lab: World) -> None:
        queued, delayed = await lab.submit(), await lab.submit(delay_s=600.0)
        await lab.fabric.store("work.critic.p2.odd", b"not a task")
        await lab.server.delete_fleet("critic", by="ann")
        with pytest.raises(NotFound):
            await lab.submit()
        for task_id in (queued.id, delayed.id, "odd"):
            view = await lab.until_state(task_id, TaskState.DEAD)
            assert view.error is not None
            assert view.error.message == "its fleet critic was deleted"
        await lab.until(lambda: "WORK_critic" not in lab.broker.streams, "the queue is gone")
        assert await placed(lab, "n1") is None
        assert lab.server.agents().items == []
        kinds = [event.event.kind for event in (await lab.server.history(about="critic", kind="fleet.")).items]
        assert kinds == ["fleet.cleared", "fleet.deleted", "fleet.applied"]

    world(scenario)


def test_what_an_agent_of_a_deleted_fleet_still_does_counts() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        [delivery] = await lab.fabric.pull("WORK_critic", "p2")
        await lab.node.agent("critic", "0", AgentState.DRAINING)
        lab.node._process.kill()  # from here on this test says itself what its agents do
        await lab.server.delete_fleet("critic")
        await asyncio.sleep(5.0)
        task = msgspec.json.decode(delivery.data, type=Task)
        await lab.fabric.store(subjects.result("critic", view.id), msgspec.json.encode(lab.result_of(task)))
        assert (await lab.until_state(view.id, TaskState.DONE)).result == {"fine": True}
        await lab.until(lambda: "WORK_critic" not in lab.broker.streams, "the queue is gone at last")
        assert [result.state for result in await lab.results(view.id)] == [TaskState.DONE]

    world(scenario)


def test_no_task_is_accepted_and_lost_while_its_fleet_is_deleted() -> None:
    async def scenario(lab: World) -> None:
        accepted: list[str] = []

        async def submit() -> None:
            """As agents do: straight into the queue."""
            for index in range(200):
                task = Task(id=f"t{index}", fleet="critic", method="review")
                try:
                    await lab.fabric.store(subjects.work(task), msgspec.json.encode(task))
                    accepted.append(task.id)
                except PaddockError:
                    pass
                await asyncio.sleep(0.01)

        lab.broker.faults.latency_s_max = 0.02
        async with asyncio.TaskGroup() as group:
            group.create_task(submit(), name="submit")
            await asyncio.sleep(0.5)
            await lab.server.delete_fleet("critic")
        assert 0 < len(accepted) < 200
        for task_id in accepted:
            await lab.until_state(task_id, TaskState.DEAD)

    world(scenario)


def test_a_fleet_that_others_need_is_not_deleted() -> None:
    async def scenario(lab: World) -> None:
        with pytest.raises(Refused, match="needed by coder"):
            await lab.server.delete_fleet("critic")

    world(scenario, manifest=TWO)


def test_pruning_deletes_what_the_manifest_does_not_name() -> None:
    async def scenario(lab: World) -> None:
        plan = await lab.apply(MANIFEST, prune=True)
        assert {change.fleet: change.kind for change in plan.changes} == {"critic": "none", "coder": "delete"}
        await lab.until(lambda: "WORK_coder" not in lab.broker.streams, "its queue is gone")
        assert [view.name for view in lab.server.fleets()] == ["critic"]

    world(scenario, manifest=TWO)


def test_a_fleet_wanted_again_while_it_is_being_deleted_lives() -> None:
    async def scenario(lab: World) -> None:
        for round_number in range(5):
            await lab.server.delete_fleet("critic")
            await asyncio.sleep(0.01 * round_number)
            await lab.apply(MANIFEST)
            await lab.until(lambda: lab.server.fleet("critic").ready == 2, "it is ready again")
            await asyncio.sleep(3.0)
            view = await lab.submit()
            await lab.work()
            assert (await lab.server.wait(view.id, 60.0)).state is TaskState.DONE

    world(scenario)


def test_the_values_of_secrets_are_not_shown() -> None:
    async def scenario(lab: World) -> None:
        env = {"PLAIN": "1", "TOKEN": "s3cret"}
        spec = FleetSpec(name="mailer", runtime="exec", command=["true"], env=env, secret_env=["TOKEN"])
        await lab.fabric.store("$KV.wanted.fleet.mailer", msgspec.json.encode(spec))
        await lab.until(lambda: len(lab.server.fleets()) == 2, "it is seen")
        assert lab.server.fleet("mailer").spec.env == {"PLAIN": "1", "TOKEN": "***"}

    world(scenario)


def test_an_unreadable_entry_in_the_buckets_changes_nothing() -> None:
    async def scenario(lab: World) -> None:
        for subject in ("$KV.wanted.fleet.critic", "$KV.now.node.n1", "$KV.now.agent.n1.critic.0", "$KV.wanted.odd"):
            await lab.fabric.store(subject, b"\xff")
        await lab.apply('{paddock: 1, fleets: {coder: {agent: "lab:Coder"}}}')
        assert lab.server.fleet("critic").ready == 2

    world(scenario)


def test_many_small_fleets_applied_at_once_spread_over_the_nodes() -> None:
    async def scenario(lab: World) -> None:
        others = [FakeNode(lab, f"n{index}") for index in (2, 3)]
        for node in others:
            await node.start()
        await lab.until(lambda: len(lab.server.nodes()) == 3, "three nodes are known")
        fleets = ", ".join(f'small{index}: {{agent: "lab:Critic"}}' for index in range(9))
        await lab.apply(f"{{paddock: 1, fleets: {{{fleets}}}}}")
        await lab.until(lambda: len(lab.server.agents().items) == 9, "all nine run")
        assert Counter(status.node for status in lab.server.agents().items) == {"n1": 3, "n2": 3, "n3": 3}
        for node in others:
            node.kill()

    world(scenario, manifest="")


def test_an_exec_fleet_that_declares_its_methods_no_longer_takes_any_again() -> None:
    async def scenario(lab: World) -> None:
        lab.node.methods = None
        await lab.apply('{paddock: 1, fleets: {tool: {command: ["true"], methods: [cut]}}}')
        with pytest.raises(NotFound, match="no method 'saw'"):
            await lab.submit(fleet="tool", method="saw")
        await lab.apply('{paddock: 1, fleets: {tool: {command: ["true"]}}}')
        assert lab.server.fleet("tool").spec.methods is None
        assert (await lab.submit(fleet="tool", method="saw")).state is TaskState.QUEUED

    world(scenario, manifest="")


def test_agents_are_listed_in_order_as_they_come_and_go() -> None:
    async def scenario(lab: World) -> None:
        for fleet, name in (("critic", "10"), ("critic-b", "0"), ("crit", "x"), ("critic", "9"), ("crit", "1")):
            await lab.node.agent(fleet, name)
        await lab.node.gone("critic", "9")
        await lab.until(lambda: len(lab.server.agents().items) == 6, "what came is known, and what went")
        ids = [status.id for status in lab.server.agents().items]
        assert ids == ["crit/x", "crit/1", "critic/0", "critic/1", "critic/10", "critic-b/0"]
        assert [status.id for status in lab.server.agents(fleet="critic").items] == ids[2:5]
        assert [status.id for status in lab.server.agents(fleet="critic", after="critic/1").items] == ["critic/10"]
        assert lab.server.agents(fleet="crit", after="critic/0").items == []

    world(scenario)
