"""What keeps the record in bounds and true: streams made anew, old rows, tasks that were lost sight of."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from paddock.control.janitor import AGENTS_KEPT_S, EVENTS_KEPT_S
from paddock.control.lost import OPEN_S, PAGE, UNSEEN_S_MAX
from paddock.fabric import subjects
from paddock.model.agent import AgentState, Event
from paddock.model.task import Task, TaskState
from paddock.ports.record import Batch

from .world import World, world


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was set is believed soon."""
    monkeypatch.setattr("paddock.control.steady.LASTS_S", 1.0)


LONG_S = OPEN_S + 120.0


async def forget_and_note(lab: World, *, kept: bool) -> str:
    """A task that is done and forgotten, then told of as running by a note that was late."""
    view = await lab.submit(kept_s=10.0)
    await lab.work()
    await lab.server.wait(view.id, 60.0)
    await lab.until(lambda: lab.record.task(view.id) is not None, "it is recorded")
    await lab.until(lambda: lab.record.task(view.id) is None, "it is forgotten")
    if not kept:
        await lab.fabric.purge(subjects.RESULTS, subjects.result("critic", view.id))
    await note(lab, view.id)
    return view.id


async def note(lab: World, task_id: str) -> None:
    data = {"agent": "critic/0", "attempt": 1, "started_at": lab.clock.now()}
    lab.fabric.publish(subjects.running("critic", task_id), msgspec.json.encode(data))
    await lab.until(lambda: lab.record.task(task_id) is not None, "it is a row")


# -- streams made anew -------------------------------------------------------------------------------------------------


def test_when_the_fabrics_data_is_gone_and_the_record_stays_nothing_new_is_skipped() -> None:
    async def scenario(lab: World) -> None:
        for _ in range(20):
            await lab.submit()
        old = [stored.event.text for stored in (await lab.server.history()).items]
        assert old
        await lab.server.stop()
        for stream in list(lab.broker.streams):
            await lab.fabric.delete_stream(stream)
        await lab.fabric.ensure(*subjects.STREAMS)
        await lab.node.tell()
        await lab.serve()
        await lab.apply('{paddock: 1, fleets: {critic: {agent: "lab:Critic"}}}')
        task = Task(id="foreign", fleet="critic", method="review")  # stored by an agent, not by this server
        await lab.fabric.store(subjects.work(task), msgspec.json.encode(task))
        await lab.until(lambda: lab.record.task("foreign") is not None, "it is recorded")
        texts = [stored.event.text for stored in (await lab.server.history()).items]
        assert texts[-len(old) :] == old
        assert texts[0] == "create critic: 1 agent, python lab:Critic"
        assert len(texts) > len(old)

    world(scenario)


def test_a_stream_that_was_made_anew_while_no_server_ran_is_read_from_its_beginning() -> None:
    async def scenario(lab: World) -> None:
        for _ in range(3):
            await lab.submit()
        await lab.server.tasks()
        await lab.server.stop()
        spec = lab.broker.streams["WORK_critic"].spec
        await lab.fabric.delete_stream("WORK_critic")
        await lab.fabric.ensure(spec)
        for index in range(5):  # more than the old one had, so that its cursor would skip the first
            task = Task(id=f"new{index}", fleet="critic", method="review")
            await lab.fabric.store(subjects.work(task), msgspec.json.encode(task))
        await lab.serve()
        await lab.until(lambda: all(lab.record.task(f"new{index}") for index in range(5)), "all five are recorded")

    world(scenario)


# -- old rows ----------------------------------------------------------------------------------------------------------


def test_old_events_and_agents_that_went_long_ago_are_forgotten_and_those_that_are_there_stay(quickly: None) -> None:
    async def scenario(lab: World) -> None:
        event = Event(at=lab.clock.now() - EVENTS_KEPT_S - 1, kind="lab.old", about="critic", text="long ago")
        await lab.fabric.store(subjects.event(event.kind, event.about), msgspec.json.encode(event))
        await lab.node.agent("critic", "gone")
        await lab.until(lambda: len(lab.record.agents()) == 3, "three agents are recorded")
        await lab.node.gone("critic", "gone")
        await lab.until(lambda: not lab.record.events(kind="lab.").items, "the old event is forgotten")
        lab.clock.jump(AGENTS_KEPT_S + 1.0)
        await asyncio.sleep(120.0)
        await lab.until(lambda: len(lab.record.agents()) == 2, "who went is forgotten")
        assert [status.id for status in lab.record.agents()] == ["critic/0", "critic/1"]
        assert lab.record.events(kind="fleet.").items == []

    world(scenario)


# -- tasks that were lost sight of -------------------------------------------------------------------------------------


def test_a_fact_that_outlived_its_task_and_its_result_ends_as_dead_with_the_reason() -> None:
    async def scenario(lab: World) -> None:
        task_id = await forget_and_note(lab, kept=False)
        ended = await lab.until_state(task_id, TaskState.DEAD, limit_s=LONG_S)
        assert ended.error is not None
        assert ended.error.message.startswith("lost sight of: while it ran on critic/0; it is in no queue")
        assert [result.state for result in await lab.results(task_id)] == [TaskState.DEAD]

    world(scenario)


def test_a_fact_that_outlived_its_task_takes_the_result_that_is_still_there() -> None:
    async def scenario(lab: World) -> None:
        task_id = await forget_and_note(lab, kept=True)
        await lab.until(lambda: lab.record.task(task_id) is None, "it is forgotten again", limit_s=LONG_S)
        assert [result.state for result in await lab.results(task_id)] == [TaskState.DONE]

    world(scenario)


def test_a_queued_task_that_vanished_from_its_queue_ends_as_dead() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(kept_s=3600.0, args={"source": "y"})
        for subject in subjects.work_anywhere("critic", view.id):
            await lab.fabric.purge("WORK_critic", subject)
        ended = await lab.until_state(view.id, TaskState.DEAD, limit_s=LONG_S)
        assert ended.error is not None
        assert "lost sight of: while queued" in ended.error.message
        assert (ended.args, ended.kept_s) == ({"source": "y"}, 3600.0)
        assert (await lab.server.replay(view.id)).args == {"source": "y"}

    world(scenario)


def test_tasks_that_wait_or_run_for_long_are_left_alone() -> None:
    async def scenario(lab: World) -> None:
        queued, mine = await lab.submit(), await lab.submit(agent="critic/1")
        delayed, runs = await lab.submit(delay_s=10 * LONG_S), await lab.submit(priority="HIGH")
        [delivery] = await lab.fabric.pull("WORK_critic", "p1")
        await note(lab, runs.id)
        lab.record.apply(Batch(running=[("held", "critic", "critic/0", 1, lab.clock.now())]))
        lab.node.holds = [{"task": "held", "fleet": "critic", "agent": "0"}]
        end = lab.clock.monotonic() + 3 * LONG_S
        while lab.clock.monotonic() < end:
            lab.fabric.publish(delivery.ack, b"+WPI")
            await lab.clock.sleep(10.0)
        states = [(await lab.server.task(view.id)).state for view in (queued, mine, delayed, runs)]
        assert states == [TaskState.QUEUED, TaskState.QUEUED, TaskState.QUEUED, TaskState.RUNNING]
        assert (await lab.server.task("held")).state is TaskState.RUNNING
        lab.node.holds = []
        await lab.until_state("held", TaskState.DEAD, limit_s=LONG_S)

    world(scenario)


def test_while_a_node_does_not_say_what_it_holds_nothing_is_closed() -> None:
    async def scenario(lab: World) -> None:
        lab.node._process.kill()  # it answers no more, and this test tells of it instead
        lab.record.apply(Batch(running=[("t", "critic", "critic/0", 1, lab.clock.now())]))
        end = lab.clock.monotonic() + LONG_S
        while lab.clock.monotonic() < end:
            await lab.node.tell()
            await lab.clock.sleep(10.0)
        assert (await lab.server.task("t")).state is TaskState.RUNNING

    world(scenario)


def test_a_task_of_an_agent_whose_node_is_silent_is_left_to_it_for_a_day(quickly: None) -> None:
    async def scenario(lab: World) -> None:
        await lab.node.agent("critic", "0", AgentState.READY)
        lab.node.kill()
        lab.record.apply(Batch(running=[("t", "critic", "critic/0", 1, lab.clock.now())]))
        await lab.clock.sleep(2 * LONG_S)
        assert (await lab.server.task("t")).state is TaskState.RUNNING
        lab.clock.jump(UNSEEN_S_MAX)
        await asyncio.sleep(120.0)
        await lab.until_state("t", TaskState.DEAD, limit_s=LONG_S)

    world(scenario)


def test_more_lost_tasks_than_one_round_looks_at_are_closed_by_the_next_ones() -> None:
    async def scenario(lab: World) -> None:
        waits = await lab.submit()
        count = 2 * PAGE + 5
        lost = [Task(id=f"t{index}", fleet="gone", method="m", submitted_at=lab.clock.now()) for index in range(count)]
        lab.record.apply(Batch(queued=lost))
        await lab.until(
            lambda: lab.record.counts().get(("gone", "dead")) == count, "all are closed", limit_s=LONG_S + 300.0
        )
        assert (await lab.server.task(waits.id)).state is TaskState.QUEUED

    world(scenario)
