"""What happened reaches the record: once, in batches, after any interruption."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from paddock.control.pending import ROWS_MAX
from paddock.control.waiters import WAITERS_MAX, Waiters
from paddock.fabric import subjects
from paddock.model.agent import Event
from paddock.model.errors import Unavailable
from paddock.model.task import Task, TaskState
from paddock.ports.record import Batch, RecordDamaged
from paddock.record.sql import SqlRecord
from paddock.testing.loop import run

from .world import World, world


class ShakyRecord:
    """A real record whose writes can be made to fail; everything else passes through."""

    def __init__(self, record: SqlRecord) -> None:
        self._record = record
        self.fail: Callable[[Batch], Exception | None] = lambda batch: None
        self.away = False
        self.batches: list[Batch] = []

    def apply(self, batch: Batch) -> None:
        self._check()
        error = self.fail(batch)
        if error is not None:
            raise error
        self.batches.append(batch)
        self._record.apply(batch)

    def _check(self) -> None:
        if self.away:
            raise Unavailable("the database is away")

    def __getattr__(self, name: str) -> object:
        self._check()
        return getattr(self._record, name)


async def shaky(lab: World) -> ShakyRecord:
    """Put the world's record behind one that can fail."""
    record = ShakyRecord(lab.record)
    lab.record = record  # type: ignore[assignment]  # the same port, though not the same class
    await lab.replace()
    return record


def test_a_task_goes_into_the_record_with_its_whole_life() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        lab.fabric.publish(subjects.running("critic", view.id), b'{"agent":"critic/0","attempt":1,"started_at":5.0}')
        await lab.until_state(view.id, TaskState.RUNNING)
        lab.fabric.publish(subjects.progress("critic", view.id), b'{"agent":"critic/0","progress":0.5,"note":"half"}')
        await asyncio.sleep(0.2)
        half = await lab.server.task(view.id)
        assert (half.progress, half.progress_note, half.agent) == (0.5, "half", "critic/0")
        await lab.work()
        ended = await lab.server.wait(view.id, 60.0)
        assert (ended.progress, ended.args) == (None, {"source": "x = 1"})
        [listed] = (await lab.server.tasks(fleet="critic")).items
        assert (listed.id, listed.state) == (view.id, TaskState.DONE)
        recorded = lab.record.task(view.id)
        assert recorded is not None
        assert recorded.result == {"fine": True}

    world(scenario)


def test_the_next_server_goes_on_where_the_last_one_stopped() -> None:
    async def scenario(lab: World) -> None:
        record = await shaky(lab)
        first = await lab.submit()
        await lab.work()
        await lab.server.wait(first.id, 60.0)
        await lab.server.stop()
        done = ["t0", "t1", "t2"]
        for task_id in done:
            result = lab.result_of(Task(id=task_id, fleet="critic", method="review"))
            await lab.fabric.store(subjects.result("critic", task_id), msgspec.json.encode(result))
        record.batches.clear()
        await lab.serve()
        last = await lab.submit()
        for task_id in done:
            await lab.until_state(task_id, TaskState.DONE)
        assert {view.id for view in (await lab.server.tasks()).items} == {first.id, *done, last.id}
        results = [result.id for batch in record.batches for result in batch.results]
        assert results == done  # not the first one again

    world(scenario)


def test_while_the_record_is_away_work_goes_on_and_nothing_is_lost() -> None:
    async def scenario(lab: World) -> None:
        record = await shaky(lab)
        await lab.server.tasks()
        record.away = True
        view = await lab.submit(key="k")
        assert (await lab.submit(key="k")).id == view.id
        assert (await lab.server.task(view.id)).state is TaskState.QUEUED
        await lab.work()
        assert (await lab.server.wait(view.id, 30.0)).state is TaskState.DONE
        await asyncio.sleep(5.0)
        assert "away" in (await lab.server.ready())["record"]
        assert (await lab.server.status())["record"] != "ok"
        with pytest.raises(Unavailable):
            await lab.server.tasks()
        with pytest.raises(Unavailable):
            await lab.server.task("unknown")
        record.away = False
        await lab.until(lambda: lab.record.task(view.id) is not None, "it is written")
        assert (await lab.server.ready())["record"] == "ok"

    world(scenario)


def test_a_row_that_the_record_cannot_take_does_not_hold_up_the_others() -> None:
    async def scenario(lab: World) -> None:
        record = await shaky(lab)
        ids = [f"r{index}" for index in range(5)]

        def fail(batch: Batch) -> Exception | None:
            bad = [result for result in batch.results if result.id == "r2"]
            return ValueError("this row is poison") if bad else None

        record.fail = fail
        task = await lab.submit()
        [stored] = await lab.queued()
        for task_id in ids:
            result = msgspec.structs.replace(lab.result_of(stored), id=task_id)
            await lab.fabric.store(subjects.result("critic", task_id), msgspec.json.encode(result))
        await lab.until(lambda: lab.record.task("r4") is not None, "the last is written")
        assert [task_id for task_id in ids if lab.record.task(task_id) is None] == ["r2"]
        assert (await lab.server.task(task.id)).state is TaskState.QUEUED

    world(scenario)


def test_while_the_record_is_damaged_no_row_is_left_out_of_it() -> None:
    async def scenario(lab: World) -> None:
        record = await shaky(lab)
        record.fail = lambda batch: RecordDamaged("the record is damaged") if batch.queued or batch.results else None
        view = await lab.submit()
        await lab.work()
        assert (await lab.server.wait(view.id, 30.0)).state is TaskState.DONE
        event = Event(at=lab.clock.now(), kind="agent.died", about="critic/0", text="it died")
        await lab.fabric.store(subjects.event(event.kind, event.about), msgspec.json.encode(event))
        await asyncio.sleep(60.0)
        assert (await lab.server.ready())["record"] == "the record is damaged"
        record.fail = lambda batch: None
        await lab.until(lambda: bool(lab.record.events(about="critic/0").items), "all are written")
        recorded = lab.record.task(view.id)
        assert recorded is not None
        assert recorded.state is TaskState.DONE
        assert (await lab.server.ready())["record"] == "ok"

    world(scenario)


def test_a_result_that_cannot_be_read_is_a_failure_that_says_so() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        await lab.fabric.store(subjects.result("critic", view.id), b"\xff\xfe")
        ended = await lab.until_state(view.id, TaskState.FAILED)
        assert ended.error is not None
        assert ended.error.code == "bad-result"
        other = await lab.submit()
        half = b'{"id":"x","fleet":"x","method":"m","state":"running"}'
        await lab.fabric.store(subjects.result("critic", other.id), half)
        ended = await lab.until_state(other.id, TaskState.FAILED)
        assert ended.error is not None
        assert "no end" in ended.error.message

    world(scenario)


def test_what_else_cannot_be_read_is_passed_over() -> None:
    async def scenario(lab: World) -> None:
        await lab.fabric.store("event.odd.thing", b"\xff")
        await lab.fabric.store("work.critic.p2.odd", b"[]")
        lab.fabric.publish(subjects.running("critic", "x"), b"\xff")
        lab.fabric.publish(subjects.progress("critic", "x"), b"\xff")
        event = Event(at=lab.clock.now(), kind="agent.died", about="critic/0", text="it died")
        await lab.fabric.store(subjects.event(event.kind, event.about), msgspec.json.encode(event))
        view = await lab.submit()
        assert (await lab.server.history(about="critic/0")).items[0].event == event
        assert (await lab.server.task(view.id)).state is TaskState.QUEUED
        created = lab.broker.streams["WORK_critic"].created
        await lab.until(lambda: lab.record.cursor("WORK_critic", created) >= 1, "the queue is read on")

    world(scenario)


def test_a_queue_that_was_deleted_and_made_anew_is_read_from_its_beginning() -> None:
    async def scenario(lab: World) -> None:
        for _ in range(5):
            await lab.submit()
        await lab.server.tasks()
        await lab.server.delete_fleet("critic")
        await lab.until(lambda: "WORK_critic" not in lab.broker.streams, "the queue is gone")
        await lab.apply('{paddock: 1, fleets: {critic: {agent: "lab:Critic"}}}')
        task = Task(id="foreign", fleet="critic", method="review")  # stored by an agent, not by this server
        await lab.fabric.store(subjects.work(task), msgspec.json.encode(task))
        assert (await lab.until_state("foreign", TaskState.QUEUED)).fleet == "critic"

    world(scenario)


def test_a_new_server_learns_from_the_nodes_what_runs() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        lab.node.holds = [{"task": view.id, "fleet": "critic", "agent": "1", "attempt": 2, "since": 7.0}]
        await lab.replace()
        running = await lab.until_state(view.id, TaskState.RUNNING)
        assert (running.agent, running.attempts, running.method) == ("critic/1", 2, "review")

    world(scenario)


def test_tasks_whose_kept_for_time_is_over_are_forgotten() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(kept_s=10.0)
        await lab.work()
        await lab.server.wait(view.id, 60.0)
        await lab.until(lambda: lab.record.task(view.id) is not None, "it is recorded")
        await lab.until(lambda: lab.record.task(view.id) is None, "it is forgotten")

    world(scenario)


def test_the_agents_last_states_are_recorded() -> None:
    async def scenario(lab: World) -> None:
        await lab.until(lambda: len(lab.record.agents(fleet="critic")) == 2, "both agents are recorded")

    world(scenario)


def test_a_backlog_larger_than_memory_may_hold_is_recorded_in_full() -> None:
    async def scenario(lab: World) -> None:
        await lab.server.stop()
        count = ROWS_MAX + 500
        for index in range(count):
            event = Event(at=1.0, kind="lab.event", about="critic", text=str(index))
            await lab.fabric.store("event.lab.event.critic", msgspec.json.encode(event))
        await lab.serve()
        created = lab.broker.streams["EVENTS"].created
        await lab.until(lambda: lab.record.cursor("EVENTS", created) >= count, "all are recorded")

    world(scenario)


def test_more_waiters_than_the_limit_are_refused() -> None:
    async def main() -> None:
        waiters = Waiters()
        futures = [waiters.add("t") for _ in range(WAITERS_MAX)]
        with pytest.raises(Unavailable, match="wait for results already"):
            waiters.add("t")
        waiters.remove("t", futures[0])
        waiters.add("t")

    run(main)


def test_a_tail_that_meets_a_fabric_without_its_streams_goes_on_once_they_are_back() -> None:
    async def scenario(lab: World) -> None:
        lab.node._process.kill()  # its own tails are not what this is about
        away = dict(lab.broker.streams)
        lab.broker.streams.clear()
        for stream in away.values():
            lab.broker._wake_tails(stream)
        await asyncio.sleep(5.0)
        lab.broker.streams.update(away)
        view = await lab.submit()
        await lab.work()
        assert (await lab.server.wait(view.id, 60.0)).state is TaskState.DONE
        assert (await lab.server.scale("critic", 3)).wanted == 3
        await lab.node.agent("critic", "2")
        await lab.until(lambda: lab.server.fleet("critic").ready == 3, "three are ready")

    world(scenario)


@pytest.mark.parametrize("seed", range(5))
def test_in_a_bad_network_every_task_ends_once_and_is_recorded(seed: int) -> None:
    async def scenario(lab: World) -> None:
        lab.broker.faults.dice.seed(seed)
        lab.broker.faults.chances |= {"lose": 0.1, "double": 0.1, "delay": 0.1, "unavailable": 0.05, "lost_ack": 0.05}
        for index in range(20):
            try:
                await lab.submit(key=f"k{index}", delay_s=float(index % 3))
            except Unavailable:
                pass  # whether it was taken is not known: the second try below settles it
        lab.broker.faults.calm()
        for index in range(20):
            await lab.submit(key=f"k{index}", delay_s=float(index % 3))
        await asyncio.sleep(60.0)
        done = [(await lab.work()).id for _ in range(len(await lab.queued()))]
        assert len(done) == len(set(done)) == 20
        for task_id in done:
            await lab.until_state(task_id, TaskState.DONE)
        assert len((await lab.server.tasks()).items) == 20

    world(scenario)
