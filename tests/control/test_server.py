"""The server as the HTTP edge sees it: agents, nodes, totals, live changes, and its own life."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paddock.app.clock import SystemClock
from paddock.control.changes import BEHIND_MAX, Changes
from paddock.control.owner import JOBS_MAX, LoopEnded, Owner, each
from paddock.control.rate import Rate, retry_after_s
from paddock.control.server import ControlServer
from paddock.control.service import Control, TaskRequest
from paddock.fabric import subjects
from paddock.model.agent import AgentState
from paddock.model.errors import Conflict, NotFound, Refused, Unavailable
from paddock.model.task import TaskState
from paddock.record.sql import SqlRecord
from paddock.testing.fabric import FakeBroker
from paddock.testing.loop import run, settle

from .world import World, spec, world


def test_it_is_what_the_edge_asks_for() -> None:
    async def scenario(lab: World) -> None:
        control: Control = lab.server
        assert [node.id for node in control.nodes()] == ["n1"]

    world(scenario)


def test_agents_come_in_pages_and_in_the_order_of_their_numbers() -> None:
    async def scenario(lab: World) -> None:
        await lab.server.scale("critic", 25)
        await lab.until(lambda: lab.server.fleet("critic").ready == 25, "all are ready")
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = lab.server.agents(after=after, limit=10)
            found += [status.id for status in page.items]
            after = page.next
        assert found == [f"critic/{index}" for index in range(25)]
        await lab.node.agent("critic", "3", AgentState.FAILED)
        await lab.until(lambda: len(lab.server.agents(state="failed").items) == 1, "the failed one is seen")
        with pytest.raises(Refused, match="did you mean 'failed'"):
            lab.server.agents(state="faild")
        with pytest.raises(Refused, match="limit is 0"):
            lab.server.agents(limit=0)

    world(scenario)


def test_an_agent_that_is_wanted_but_not_there_yet_is_pending() -> None:
    async def scenario(lab: World) -> None:
        lab.node.kill()
        await lab.server.scale("critic", 3)
        assert lab.server.agent("critic/2").state is AgentState.PENDING
        with pytest.raises(NotFound, match="not on any node"):
            await lab.server.restart("critic/2")
        with pytest.raises(NotFound, match="no agent 'critic/9'"):
            lab.server.agent("critic/9")
        with pytest.raises(NotFound, match="no fleet"):
            lab.server.agent("nobody/0")

    world(scenario)


def test_restart_logs_and_heal_are_asked_of_the_node_that_has_the_agent() -> None:
    async def scenario(lab: World) -> None:
        await lab.server.restart("critic/0", by="ann")
        assert {"op": "restart", "agent": "critic/0"} in lab.node.asked
        assert await lab.server.logs("critic/0", lines=5) == {"text": "one line\n", "offset": 9}
        await lab.server.logs("critic/0", offset=9, wait_s=1.0)
        assert {"op": "logs", "agent": "critic/0", "offset": 9, "wait_s": 1.0} in lab.node.asked
        with pytest.raises(Refused, match="lines is 0"):
            await lab.server.logs("critic/0", lines=0)
        with pytest.raises(Refused, match="wait_s is"):
            await lab.server.logs("critic/0", wait_s=1e9)
        assert await lab.server.heal_all() == []
        await lab.node.agent("critic", "1", AgentState.QUARANTINED)
        await lab.until(lambda: lab.server.agent("critic/1").state is AgentState.QUARANTINED, "it is seen")
        assert await lab.server.heal_all() == ["critic/1"]
        lab.node.errors["restart"] = {"code": "conflict", "message": "it is being stopped"}
        with pytest.raises(Conflict, match="being stopped"):
            await lab.server.heal_all()

    world(scenario)


def test_a_node_that_does_not_speak_the_protocol_is_named() -> None:
    async def scenario(lab: World) -> None:
        lab.node.errors["logs"] = {}
        with pytest.raises(Exception, match="node n1 refused logs without a reason"):
            await lab.server.logs("critic/0")

        def nonsense(message: Any) -> None:
            other.publish(message.reply, b"\xff")

        lab.node.kill()
        other = lab.broker.connect("node/n1")
        other.subscribe(subjects.node_op("n1"), nonsense)
        with pytest.raises(Unavailable, match="node n1 answered logs with something else"):
            await lab.server.logs("critic/0")

    world(scenario)


def test_totals_and_readiness() -> None:
    async def scenario(lab: World) -> None:
        await lab.submit()
        await asyncio.sleep(1.5)
        status = await lab.server.status()
        assert status["agents"] == {"ready": 2}
        assert status["tasks"] == {"critic": {"queued": 1}}
        assert status["queued"] == {"critic": 1}
        assert (status["fabric"], status["record"], status["nodes"], status["fleets"]) == ("ok", "ok", ["n1"], 1)
        assert set((await lab.server.ready()).values()) == {"ok"}

    world(scenario)


def test_five_thousand_agents_are_counted_as_they_change() -> None:
    async def scenario(lab: World) -> None:
        for index in range(5000):
            await lab.node.agent("farm", str(index))
        await lab.until(lambda: len(lab.server._mirror.agents) == 5002, "all are known")
        for index in range(100):
            await lab.node.agent("farm", str(index), AgentState.FAILED)
            await lab.node.gone("farm", str(4999 - index))
        await lab.until(lambda: len(lab.server._mirror.agents) == 4902, "a hundred are gone")
        assert (await lab.server.status())["agents"] == {"ready": 4802, "failed": 100}

    world(scenario)


def test_who_watches_sees_changes_from_now_on() -> None:
    async def scenario(lab: World) -> None:
        reader = lab.server.changes()
        view = await lab.submit()
        await lab.work()
        await lab.server.wait(view.id, 60.0)
        await lab.server.scale("critic", 3)
        await lab.until(lambda: lab.server.fleet("critic").ready == 3, "three are ready")
        await lab.server.stop()
        seen = [change async for change in reader]
        kinds = {change.kind for change in seen}
        assert {"task", "agent", "fleet", "event"} <= kinds
        assert [change.id for change in seen] == sorted(change.id for change in seen)
        states = [change.data.state for change in seen if change.kind == "task"]
        assert (states[0], states[-1]) == (TaskState.QUEUED, TaskState.DONE)
        assert [change async for change in lab.server.changes()] == []
        await lab.serve()

    world(scenario)


def test_a_watcher_that_falls_behind_is_ended_and_others_are_not() -> None:
    async def main() -> None:
        changes = Changes()
        slow, quick = changes.listen(), changes.listen()
        for index in range(BEHIND_MAX + 1):
            changes.publish("agent", index)
            assert (await anext(quick)).data == index
        assert [change async for change in slow] == []
        changes.publish("agent", "more")
        assert (await anext(quick)).data == "more"
        await quick.aclose()
        del slow, quick
        changes.publish("agent", "nobody")
        assert not changes.watched

    run(main)


def test_a_loop_that_ends_by_itself_is_told() -> None:
    async def scenario(lab: World) -> None:
        failing = asyncio.create_task(lab.server.failed(), name="failed")

        async def ends() -> None:
            """Returns at once."""

        assert lab.server._owner is not None
        lab.server._owner.loop("odd", ends())
        assert isinstance(await failing, LoopEnded)

    world(scenario)


def test_the_owner_ends_what_it_owns_and_limits_its_jobs() -> None:
    async def main() -> None:
        owner = Owner()

        async def for_ever() -> None:
            await asyncio.Event().wait()

        async def fails() -> None:
            raise ValueError("told in the log, no more")

        assert owner.job("fails", fails())
        await asyncio.sleep(0)
        loop = owner.loop("loop", for_ever())
        assert all(owner.job("job", for_ever()) for _ in range(JOBS_MAX - 1))
        await asyncio.sleep(0)
        owner.job("job", for_ever())
        assert not owner.job("one too many", for_ever())
        await owner.stop()
        assert loop.cancelled()
        assert not owner.job("too late", for_ever())

    run(main)


def test_the_errors_of_work_done_side_by_side_are_given_back_after_all_has_ended() -> None:
    async def main() -> None:
        done: list[int] = []

        async def work(item: int) -> None:
            await asyncio.sleep(item / 10)
            if item % 2:
                raise ValueError(item)
            done.append(item)

        errors = await each("lab", range(6), work, at_once=3)
        assert (sorted(done), len(errors)) == ([0, 2, 4], 3)

    run(main)


def test_when_to_come_back_follows_from_how_fast_tasks_end() -> None:
    rate = Rate(0.0)
    assert rate.per_s(0.0) == 0
    for index in range(100):
        rate.add(index / 10)
    assert rate.per_s(10.0) == pytest.approx(10.0, rel=0.1)
    assert rate.per_s(100.0) == 0
    assert [retry_after_s(1000, per_s) for per_s in (0.0, 0.01, 2.0, 1e6)] == [60, 60, 5, 1]


def test_a_start_that_fails_leaves_nothing_running() -> None:
    async def main() -> None:
        broker = FakeBroker()
        record = SqlRecord.open("sqlite:///:memory:")
        server = ControlServer(broker.connect(), record, SystemClock())
        broker.stop()
        with pytest.raises(Unavailable):
            await server.start()
        await server.stop()
        record.close()

    run(main)


async def test_it_works_with_real_time_and_real_threads(tmp_path: Path) -> None:
    record = SqlRecord.open(f"sqlite:///{tmp_path}/record.db")
    broker = FakeBroker()
    fabric = broker.connect()
    server = ControlServer(fabric, record, SystemClock())
    await server.start()
    try:
        await fabric.store("$KV.wanted.fleet.critic", msgspec.json.encode(spec(runtime="exec", command=["true"])))
        await settle(lambda: bool(server.fleets()), limit_s=30.0, what="the fleet is seen")
        async with asyncio.timeout(30):
            view = await server.submit(TaskRequest(method="review", fleet="critic"))
            await server.cancel(view.id)
            page = await server.tasks()
            assert [(found.id, found.state) for found in page.items] == [(view.id, TaskState.CANCELLED)]
    finally:
        await server.stop()
        record.close()
