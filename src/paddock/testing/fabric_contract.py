"""What every Fabric promises, as tests. Subclass `FabricContract` and give it a fixture `under_test`.

The same tests run against the fabric in memory and against NATS; where the two differ, one of them is wrong.
"""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import msgspec
import pytest

from paddock.fabric import subjects
from paddock.model.errors import (
    Conflict,
    Denied,
    NoResponders,
    NotFound,
    PaddockError,
    QueueFull,
    TimedOut,
    TooLarge,
    Unavailable,
)
from paddock.model.fleet import FleetSpec
from paddock.ports.fabric import Delivery, Fabric, Message, Stored, StreamSpec
from paddock.testing import wait

T = TypeVar("T")

LIMIT_S = 20.0
WORK = subjects.work_stream("mill")
MILL = subjects.work_stream_spec(FleetSpec(name="mill", runtime="exec", queue_limit=10_000))
LOG = StreamSpec(name="LOG", subjects=["log.>"])
BOX = StreamSpec(name="KV_box", subjects=["$KV.box.>"], last_per_subject=True)
SMALL = StreamSpec(name="SMALL", subjects=["small.>"], messages_max=3, unique_subjects=True)


class BrokerUnderTest(Protocol):
    """A broker with connections by role; state survives `stop` and `start`."""

    async def connect(self) -> Fabric:
        """As the role `server`, that may do everything."""
        ...

    async def agent(self, fleet: str, name: str) -> Fabric: ...
    async def node(self, node: str) -> Fabric: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


async def soon(awaitable: Awaitable[T]) -> T:
    """The result, within the limit of a test."""
    async with asyncio.timeout(LIMIT_S):
        return await awaitable


async def until(look: Callable[[], object], what: str) -> None:
    """Wait until `look()`, awaited if need be, is truthy."""
    await wait.soon(look, what=what, limit_s=LIMIT_S, every_s=0.005)


async def emptied(fabric: Fabric, stream: str) -> None:
    """Wait until a stream holds nothing."""

    async def empty() -> bool:
        return not (await fabric.depth(stream)).messages

    await until(empty, f"{stream} is empty")


async def back(fabric: Fabric) -> None:
    await until(lambda: fabric.connected, "connected again")


@asynccontextmanager
async def tailing(stream: AsyncIterator[T]) -> AsyncIterator[asyncio.Queue[T]]:
    """Read a tail in a task of its own; the batches come through a queue."""
    batches: asyncio.Queue[T] = asyncio.Queue()
    reader = asyncio.current_task()
    ended = False

    async def read() -> None:
        async for batch in stream:
            batches.put_nowait(batch)

    def on_end(task: asyncio.Task[None]) -> None:
        if not ended and reader is not None:
            reader.cancel("the tail has ended")

    task = asyncio.create_task(read(), name="tailing")
    task.add_done_callback(on_end)
    try:
        yield batches
    except asyncio.CancelledError:
        if task.done() and not task.cancelled():
            raise AssertionError("a tail goes on for ever, but this one ended") from task.exception()
        raise
    finally:
        ended = True
        task.cancel()
        _, left = await asyncio.wait([task], timeout=5.0)
        if left:
            task.cancel()
            raise AssertionError("a tail that is cancelled ends, but this one went on")


async def texts(batches: asyncio.Queue[Sequence[Stored]], count: int) -> list[bytes]:
    """The next `count` messages of a tail, however they are batched."""
    found: list[bytes] = []
    while len(found) < count:
        found += [stored.data for stored in await soon(batches.get())]
    return found


async def take(fabric: Fabric, lane: str = "p2") -> Delivery:
    """The one message that a pull gives within the limit."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            found = await fabric.pull(WORK, lane, wait_s=2.0)
            if found:
                assert len(found) == 1
                return found[0]


class StoreContract:
    """Streams: storing, reading, limits."""

    async def test_what_is_stored_can_be_read_in_order_from_any_place(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        seqs = [await fabric.store("log.a", str(i).encode(), headers={"Kind": "x"}) for i in range(5)]
        found = await fabric.read("LOG")
        assert [(m.subject, m.seq, m.data) for m in found] == [
            ("log.a", seq, str(i).encode()) for i, seq in enumerate(seqs)
        ]
        assert found[0].headers["Kind"] == "x"
        assert not found[0].deleted
        assert [m.data for m in await fabric.read("LOG", after_seq=seqs[2])] == [b"3", b"4"]
        assert await fabric.read("LOG", after_seq=seqs[-1]) == []

    async def test_sequences_of_each_stream_begin_at_one(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG, BOX)
        assert await fabric.store("log.a", b"") == 1
        assert await fabric.store("$KV.box.a", b"") == 1
        assert await fabric.store("log.b", b"") == 2

    async def test_two_thousand_messages_are_read_in_pages(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        for start in range(0, 2000, 200):
            await asyncio.gather(*(fabric.store(f"log.n{i % 2}", str(i).encode()) for i in range(start, start + 200)))
        seen: list[Stored] = []
        while page := await fabric.read("LOG", after_seq=seen[-1].seq if seen else 0, limit=300):
            assert len(page) <= 300
            seen += page
        assert [m.seq for m in seen] == list(range(1, 2001))
        assert {int(m.data) for m in seen} == set(range(2000))

    async def test_a_read_by_subject_gives_only_what_matches(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        for subject in ("log.a.1", "log.b.1", "log.a.2", "log.a"):
            await fabric.store(subject, subject.encode())
        assert [m.data for m in await fabric.read("LOG", subject="log.a.*")] == [b"log.a.1", b"log.a.2"]
        assert [m.data for m in await fabric.read("LOG", subject="log.a.>", limit=1)] == [b"log.a.1"]
        assert await fabric.read("LOG", subject="log.c") == []

    async def test_the_last_message_of_a_subject_is_found_or_none(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        await fabric.store("log.a", b"old")
        seq = await fabric.store("log.a", b"new")
        await fabric.store("log.b", b"other")
        last = await fabric.last("LOG", "log.a")
        assert last is not None
        assert (last.seq, last.data) == (seq, b"new")
        assert await fabric.last("LOG", "log.c") is None

    async def test_a_bucket_keeps_the_newest_of_each_key(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(BOX)
        for value in (b"1", b"2", b"3"):
            await fabric.store("$KV.box.key", value)
        assert [m.data for m in await fabric.read("KV_box")] == [b"3"]
        await fabric.store("$KV.box.key", b"", headers={"KV-Operation": "DEL"})
        marker = await fabric.last("KV_box", "$KV.box.key")
        assert marker is not None
        assert marker.deleted

    async def test_an_expected_sequence_guards_a_key_against_rivals(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(BOX)
        first = await fabric.store("$KV.box.key", b"1", expect_seq=0)
        with pytest.raises(Conflict):
            await fabric.store("$KV.box.key", b"2", expect_seq=0)
        second = await fabric.store("$KV.box.key", b"2", expect_seq=first)
        with pytest.raises(Conflict):
            await fabric.store("$KV.box.key", b"3", expect_seq=first)
        last = await fabric.last("KV_box", "$KV.box.key")
        assert last is not None
        assert (last.seq, last.data) == (second, b"2")

    async def test_a_message_with_a_time_to_live_goes_away(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(BOX)
        await fabric.store("$KV.box.key", b"lease", ttl_s=1.0)
        assert await fabric.last("KV_box", "$KV.box.key") is not None

        async def gone() -> bool:
            left = await fabric.last("KV_box", "$KV.box.key")
            return left is None or left.deleted

        await until(gone, "the lease has ended")
        await fabric.store("$KV.box.key", b"mine now", expect_seq=0)

    async def test_a_second_message_on_a_unique_subject_is_a_conflict(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(*subjects.STREAMS)
        await fabric.store("result.mill.t1", b"first")
        with pytest.raises(Conflict):
            await fabric.store("result.mill.t1", b"second")
        last = await fabric.last(subjects.RESULTS, "result.mill.t1")
        assert last is not None
        assert last.data == b"first"

    async def test_of_fifty_stores_at_once_on_one_unique_subject_just_one_wins(
        self, under_test: BrokerUnderTest
    ) -> None:
        fabrics = [await under_test.connect() for _ in range(5)]
        await fabrics[0].ensure(*subjects.STREAMS, MILL)
        for subject in ("result.mill.t1", "work.mill.p2.t1"):
            stores = [fabrics[i % 5].store(subject, str(i).encode()) for i in range(50)]
            outcomes = await soon(asyncio.gather(*stores, return_exceptions=True))
            assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
            assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 49

    async def test_a_full_stream_refuses_and_drops_nothing(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(SMALL)
        for i in range(3):
            await fabric.store(f"small.{i}", b"")
        with pytest.raises(QueueFull):
            await fabric.store("small.3", b"")
        with pytest.raises(Conflict):
            await fabric.store("small.0", b"")
        assert (await fabric.depth("SMALL")).messages == 3
        await fabric.purge("SMALL", "small.1")
        await fabric.store("small.3", b"")

    async def test_a_message_over_the_limit_is_refused(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        with pytest.raises(TooLarge):
            await fabric.store("log.a", b"x" * 1024 * 1024)
        await fabric.store("log.a", b"x" * 900_000)

    async def test_a_purge_deletes_what_matches_and_says_how_many(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        for subject in ("log.a.1", "log.a.2", "log.b.1"):
            await fabric.store(subject, b"")
        assert await fabric.purge("LOG", "log.a.*") == 2
        assert await fabric.purge("LOG", "log.a.*") == 0
        assert [m.subject for m in await fabric.read("LOG")] == ["log.b.1"]

    async def test_depth_tells_what_a_stream_holds(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        for i in range(3):
            await fabric.store(f"work.mill.p1.t{i}", b"")
        depth = await fabric.depth(WORK)
        assert (depth.messages, depth.first_seq, depth.last_seq, depth.consumers) == (3, 1, 3, 4)

    async def test_what_is_not_there_is_not_found(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        for call in (
            fabric.depth("NONE"),
            fabric.read("NONE"),
            fabric.purge("NONE", ">"),
            fabric.pull("NONE", "p1"),
        ):
            with pytest.raises(NotFound):
                await call
        with pytest.raises(NoResponders):
            await fabric.store("no.stream.keeps.this", b"")

    async def test_ensuring_twice_changes_nothing_and_limits_can_change(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL, SMALL)
        await fabric.store("work.mill.p1.t1", b"")
        await fabric.ensure(MILL, msgspec.structs.replace(SMALL, messages_max=1))
        assert (await fabric.depth(WORK)).messages == 1
        await fabric.store("small.1", b"")
        with pytest.raises(QueueFull):
            await fabric.store("small.2", b"")

    async def test_a_deleted_stream_is_gone_and_can_be_made_anew(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        await fabric.store("log.a", b"")
        first = (await fabric.depth("LOG")).created
        await fabric.ensure(LOG)
        assert (await fabric.depth("LOG")).created == first != ""
        await fabric.delete_stream("LOG")
        await fabric.delete_stream("LOG")
        with pytest.raises(NotFound):
            await fabric.depth("LOG")
        await fabric.ensure(LOG)
        assert await fabric.store("log.a", b"") == 1
        assert (await fabric.depth("LOG")).created != first


class TailContract:
    """Tails: every message once, in order, whatever happens to the broker."""

    async def test_a_tail_begins_with_an_empty_batch_when_there_is_nothing(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        async with tailing(fabric.tail("LOG")) as batches:
            assert await soon(batches.get()) == []

    async def test_a_tail_gives_what_was_there_then_an_empty_batch_then_what_comes(
        self, under_test: BrokerUnderTest
    ) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(LOG)
        for i in range(3):
            await fabric.store("log.a", str(i).encode())
        async with tailing(fabric.tail("LOG", after_seq=1)) as batches:
            assert await texts(batches, 2) == [b"1", b"2"]
            assert await soon(batches.get()) == []
            await other.store("log.a", b"3")
            assert await texts(batches, 1) == [b"3"]

    async def test_a_tail_by_subject_gives_only_what_matches(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        async with tailing(fabric.tail("LOG", subject="log.a.>")) as batches:
            assert await soon(batches.get()) == []
            await fabric.store("log.b.1", b"no")
            await fabric.store("log.a.1", b"yes")
            assert await texts(batches, 1) == [b"yes"]

    async def test_a_tail_loses_and_doubles_nothing_when_the_broker_restarts(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(LOG)
        await other.store("log.a", b"0")
        async with tailing(fabric.tail("LOG")) as batches:
            assert await texts(batches, 1) == [b"0"]
            for i in (1, 2):
                await under_test.stop()
                await under_test.start()
                await back(other)
                await other.store("log.a", str(i).encode())
            await other.store("log.a", b"3")
            assert await texts(batches, 3) == [b"1", b"2", b"3"]

    async def test_thousands_stored_during_a_tail_come_once_and_in_order(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(LOG)
        async with tailing(fabric.tail("LOG")) as batches:
            for _ in range(8):
                await asyncio.gather(*(other.store("log.a", b"") for _ in range(250)))
            seqs: list[int] = []
            while not seqs or seqs[-1] < 2000:
                seqs += [stored.seq for stored in await soon(batches.get())]
            assert seqs == list(range(1, 2001))


class LaneContract:
    """Work lanes: hand-outs, acks from anywhere, redelivery."""

    async def test_an_empty_lane_answers_at_once_with_nothing(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        assert await soon(fabric.pull(WORK, "p2")) == []

    async def test_a_delivery_says_where_it_comes_from_and_how_to_acknowledge(
        self, under_test: BrokerUnderTest
    ) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        await fabric.store("work.mill.p2.t1", b"one", headers={"Paddock-Notify": "x"})
        await fabric.store("work.mill.p2.t2", b"two")
        got = await take(fabric)
        assert (got.subject, got.data, got.stream, got.consumer) == ("work.mill.p2.t1", b"one", WORK, "p2")
        assert (got.delivered, got.seq) == (1, 1)
        assert got.pending in (0, 1)  # a lane may learn of a message a moment after its store
        assert got.headers["Paddock-Notify"] == "x"
        assert got.ack.startswith(f"$JS.ACK.{WORK}.p2.1.1.1.")
        assert len(got.ack.split(".")) == 9

    async def test_a_batch_takes_what_is_there_in_order_of_storing(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        for i in range(5):
            await fabric.store(f"work.mill.p2.t{i}", str(i).encode())
        found: list[bytes] = []

        async def all_came() -> bool:
            batch = await fabric.pull(WORK, "p2", batch=3)
            assert len(batch) <= 3
            found.extend(got.data for got in batch)
            return len(found) >= 5

        await until(all_came, "five tasks")
        assert found == [b"0", b"1", b"2", b"3", b"4"]

    async def test_a_lane_gives_only_its_own_messages(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        await fabric.store("work.mill.p0.t1", b"")
        assert (await take(fabric, "p0")).subject == "work.mill.p0.t1"
        assert await fabric.pull(WORK, "p1") == []

    async def test_a_waiting_pull_is_woken_by_a_store(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(MILL)
        pull = asyncio.create_task(fabric.pull(WORK, "p2", wait_s=LIMIT_S), name="pull")
        await fabric.flush()
        await other.store("work.mill.p2.t1", b"work")
        assert [got.data for got in await soon(pull)] == [b"work"]

    async def test_a_waiting_pull_ends_empty_when_its_time_is_over(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        assert await soon(fabric.pull(WORK, "p2", wait_s=0.05)) == []

    async def test_of_many_waiting_pulls_each_message_wakes_one(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(MILL)
        pulls = [asyncio.create_task(fabric.pull(WORK, "p2", wait_s=LIMIT_S), name=f"pull {i}") for i in range(10)]
        await fabric.flush()
        for i in range(10):
            await other.store(f"work.mill.p2.t{i}", str(i).encode())
        got = [delivery.data for found in await soon(asyncio.gather(*pulls)) for delivery in found]
        assert sorted(got) == [str(i).encode() for i in range(10)]

    async def test_a_cancelled_pull_keeps_nothing(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(MILL)
        for turns in range(12):  # the cancellation meets the message at every stage of its way
            pull = asyncio.create_task(fabric.pull(WORK, "p2", wait_s=LIMIT_S), name="pull")
            await fabric.flush()
            store = asyncio.create_task(other.store(f"work.mill.p2.t{turns}", b""), name="store")
            for _ in range(turns):
                await asyncio.sleep(0)
            pull.cancel()
            await soon(store)
            outcome = (await asyncio.gather(pull, return_exceptions=True))[0]
            got = outcome[0] if not isinstance(outcome, BaseException) and outcome else await take(other)
            assert got.subject == f"work.mill.p2.t{turns}"
            # The broker counts a hand-out to who stops waiting in that very moment, though nobody got it.
            assert got.delivered <= 2
            other.publish(got.ack, b"+ACK")
            await other.flush()

    async def test_an_ack_ends_a_message_whoever_sends_it(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(MILL)
        for verb in (b"+ACK", b"+TERM"):
            await fabric.store("work.mill.p2.t1", b"")
            got = await take(fabric)
            other.publish(got.ack, verb)
            await emptied(fabric, WORK)
            assert await fabric.pull(WORK, "p2") == []

    async def test_an_ack_can_be_a_request(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        await fabric.store("work.mill.p2.t1", b"")
        got = await take(fabric)
        await fabric.request(got.ack, b"+ACK")
        assert (await fabric.depth(WORK)).messages == 0

    async def test_a_nak_of_another_connection_hands_it_out_again(self, under_test: BrokerUnderTest) -> None:
        fabric, node = await under_test.connect(), await under_test.node("n1")
        await fabric.ensure(MILL)
        await fabric.store("work.mill.p2.t1", b"")
        held = await take(fabric)
        node.publish(held.ack, b"-NAK")
        await node.flush()
        again = await take(fabric)
        assert (again.subject, again.seq, again.delivered) == (held.subject, held.seq, 2)
        assert again.ack.split(".")[4] == "2"

    async def test_a_nak_with_a_delay_waits_and_lets_others_pass(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        await fabric.store("work.mill.p2.t1", b"later")
        await fabric.store("work.mill.p2.t2", b"next")
        held = await take(fabric)
        fabric.publish(held.ack, b'-NAK {"delay": 300000000}')
        await fabric.flush()
        assert (await take(fabric)).data == b"next"
        again = await take(fabric)
        assert (again.data, again.delivered) == (b"later", 2)

    async def test_without_an_ack_it_is_handed_out_again_after_the_ack_wait(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(msgspec.structs.replace(MILL, ack_wait_s=0.3))
        await fabric.store("work.mill.p2.t1", b"")
        assert (await take(fabric)).delivered == 1
        assert (await take(fabric)).delivered == 2

    async def test_still_working_keeps_it_with_its_holder(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(msgspec.structs.replace(MILL, ack_wait_s=1.0))
        await fabric.store("work.mill.p2.t1", b"")
        held = await take(fabric)
        for _ in range(10):
            fabric.publish(held.ack, b"+WPI")
            assert await fabric.pull(WORK, "p2", wait_s=0.15) == []
        assert (await take(fabric)).delivered == 2

    async def test_who_puts_a_task_back_replaces_it_by_its_sequence(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        await fabric.store("work.mill.p2.t1", b"first try")
        held = await take(fabric)
        await fabric.store(held.subject, b"second try", expect_seq=held.seq)
        again = await take(fabric)
        assert (again.data, again.delivered) == (b"second try", 1)
        with pytest.raises(Conflict):
            await fabric.store(held.subject, b"third try", expect_seq=held.seq)
        assert (await fabric.depth(WORK)).messages == 1

    async def test_a_purged_task_is_not_handed_out(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        await fabric.store("work.mill.p2.t1", b"")
        assert await fabric.purge(WORK, subjects.work_anywhere("mill", "t1")[0]) == 1
        assert await fabric.pull(WORK, "p2") == []

    async def test_a_lane_made_later_gives_what_was_queued_before(self, under_test: BrokerUnderTest) -> None:
        fabric, agent = await under_test.connect(), await under_test.agent("mill", "0")
        await fabric.ensure(MILL)
        await fabric.store("work.mill.a.0.p1.t1", b"for you")
        lane, subject = subjects.agent_lane("0", "p1"), subjects.agent_lane_filter("mill", "0", "p1")
        for _ in range(2):
            await agent.ensure_lane(WORK, lane, subject, inactive_s=300.0)
        assert (await take(agent, lane)).data == b"for you"

    async def test_a_lane_that_overlaps_another_is_refused(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        with pytest.raises(PaddockError):
            await fabric.ensure_lane(WORK, "rival", "work.mill.p2.>")

    async def test_an_unused_lane_goes_away_and_its_messages_stay(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        lane, subject = subjects.agent_lane("0", "p1"), subjects.agent_lane_filter("mill", "0", "p1")
        await fabric.ensure_lane(WORK, lane, subject, inactive_s=0.2)
        await fabric.store("work.mill.a.0.p1.t1", b"for you")

        async def gone() -> bool:
            return (await fabric.depth(WORK)).consumers == 4

        await until(gone, "the unused lane is gone")
        with pytest.raises(NotFound):
            await fabric.pull(WORK, lane)
        await fabric.ensure_lane(WORK, lane, subject)
        assert (await take(fabric, lane)).data == b"for you"

    async def test_what_is_handed_out_stays_so_when_the_broker_restarts(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(MILL)
        for i in (1, 2):
            await fabric.store(f"work.mill.p2.t{i}", b"")
        held = await take(fabric)
        await under_test.stop()
        await under_test.start()
        await back(fabric)
        assert (await take(fabric)).seq == 2
        await fabric.request(held.ack, b"+ACK")
        assert (await fabric.depth(WORK)).messages == 1


class CoreContract:
    """Messages that are not stored."""

    async def test_subscribers_hear_what_matches_wildcards(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        heard: dict[str, list[str]] = {"a.b": [], "a.*": [], "a.>": [], "*.b": []}
        for pattern, found in heard.items():
            fabric.subscribe(pattern, lambda message, found=found: found.append(message.subject))  # type: ignore[misc]  # bound early
        await fabric.flush()
        for subject in ("a", "a.b", "a.c", "a.b.c", "b.b"):
            other.publish(subject, b"x")
        await until(lambda: "b.b" in heard["*.b"], "the last message")
        assert heard == {"a.b": ["a.b"], "a.*": ["a.b", "a.c"], "a.>": ["a.b", "a.c", "a.b.c"], "*.b": ["a.b", "b.b"]}

    async def test_a_message_arrives_whole(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        heard: list[Message] = []
        fabric.subscribe("topic.x", heard.append)
        await fabric.flush()
        other.publish("topic.x", b"data", reply="reply.here", headers={"A": "b"})
        await until(lambda: heard, "the message")
        assert (heard[0].subject, heard[0].data, heard[0].reply) == ("topic.x", b"data", "reply.here")
        assert heard[0].headers["A"] == "b"

    async def test_in_a_queue_group_one_hears_each_message(self, under_test: BrokerUnderTest) -> None:
        fabrics = [await under_test.connect() for _ in range(3)]
        heard: list[bytes] = []
        alone: list[bytes] = []
        for fabric in fabrics:
            fabric.subscribe("ask.mill", lambda message: heard.append(message.data), queue="fleet")
        fabrics[0].subscribe("ask.mill", lambda message: alone.append(message.data))
        for fabric in fabrics:
            await fabric.flush()
        for i in range(30):
            fabrics[0].publish("ask.mill", str(i).encode())
        await until(lambda: len(alone) == 30 and len(heard) >= 30, "all messages")
        for fabric in fabrics:
            await fabric.flush()
        assert sorted(heard, key=int) == [str(i).encode() for i in range(30)]

    async def test_a_closed_subscription_hears_nothing(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        heard: list[str] = []
        fabric.subscribe("a.one", lambda message: heard.append("closed")).close()
        fabric.subscribe("a.*", lambda message: heard.append("open"))
        await fabric.flush()
        fabric.publish("a.one")
        await until(lambda: heard, "the message")
        await fabric.flush()
        assert heard == ["open"]

    async def test_a_request_gets_its_answer(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        other.subscribe("echo", lambda message: other.publish(message.reply, message.data + b"!"))
        await other.flush()
        answers = await soon(asyncio.gather(*(fabric.request("echo", str(i).encode()) for i in range(20))))
        assert [answer.data for answer in answers] == [f"{i}!".encode() for i in range(20)]

    async def test_a_request_that_nobody_hears_fails_at_once(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        with pytest.raises(NoResponders):
            await fabric.request("nobody.here", timeout_s=LIMIT_S * 10)

    async def test_a_request_that_nobody_answers_times_out(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        other.subscribe("deaf", lambda message: None)
        await other.flush()
        with pytest.raises(TimedOut):
            await fabric.request("deaf", timeout_s=0.05)

    async def test_subscribers_of_a_streams_subject_hear_what_is_stored(self, under_test: BrokerUnderTest) -> None:
        fabric, agent = await under_test.connect(), await under_test.agent("mill", "0")
        await fabric.ensure(MILL)
        heard: list[Message] = []
        agent.subscribe("work.mill.a.0.>", heard.append)
        await agent.flush()
        await fabric.store("work.mill.a.0.p1.t1", b"for you")
        await until(lambda: heard, "the stored message")
        assert heard[0].data == b"for you"

    async def test_a_store_wakes_who_listens_for_it(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(LOG)
        heard: list[Message] = []
        fabric.subscribe(subjects.wake("LOG"), heard.append)
        await fabric.flush()
        await other.store("log.a", b"")
        await until(lambda: heard, "the wake")


class AwayContract:
    """The broker goes away and comes back; identities."""

    async def test_calls_fail_while_the_broker_is_away_and_work_again_after(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG, MILL)
        await fabric.store("log.a", b"kept")
        await under_test.stop()
        await until(lambda: not fabric.connected, "disconnected")
        for call in (
            fabric.store("log.a", b""),
            fabric.read("LOG"),
            fabric.pull(WORK, "p2"),
            fabric.request("x"),
            fabric.depth("LOG"),
            fabric.flush(),
        ):
            with pytest.raises(Unavailable):
                await soon(call)
        fabric.publish("log.b", b"dropped")
        await under_test.start()
        await back(fabric)
        assert [m.data for m in await fabric.read("LOG")] == [b"kept"]

    async def test_waits_end_when_the_broker_dies(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        await fabric.ensure(MILL)
        asked: list[Message] = []
        other.subscribe("deaf", asked.append)
        await other.flush()
        pull = asyncio.create_task(fabric.pull(WORK, "p2", wait_s=LIMIT_S * 10), name="pull")
        request = asyncio.create_task(fabric.request("deaf", timeout_s=LIMIT_S * 10), name="request")
        await until(lambda: asked, "the request is on its way")
        await under_test.stop()
        for task in (pull, request):
            with pytest.raises(Unavailable):
                await soon(task)

    async def test_subscriptions_survive_a_restart_and_callbacks_tell_of_it(self, under_test: BrokerUnderTest) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        heard: list[bytes] = []
        reconnected: list[str] = []
        fabric.subscribe("topic.x", lambda message: heard.append(message.data))
        fabric.on_reconnect(lambda: reconnected.append("fabric"))
        other.on_reconnect(lambda: reconnected.append("other"))
        await fabric.flush()
        assert not reconnected
        await under_test.stop()
        await under_test.start()
        await until(lambda: sorted(reconnected) == ["fabric", "other"], "both reconnected, once")
        await fabric.flush()
        other.publish("topic.x", b"again")
        await until(lambda: heard == [b"again"], "the message after the restart")

    async def test_a_reset_makes_the_connection_anew_and_loses_no_subscription(
        self, under_test: BrokerUnderTest
    ) -> None:
        fabric, other = await under_test.connect(), await under_test.connect()
        heard: list[bytes] = []
        reconnected: list[str] = []
        fabric.subscribe("topic.x", lambda message: heard.append(message.data))
        fabric.on_reconnect(lambda: reconnected.append("fabric"))
        other.subscribe("topic.y", lambda message: heard.append(message.data))
        await other.flush()
        fabric.publish("topic.y", b"said before")
        fabric.reset()
        await until(lambda: reconnected == ["fabric"], "it is connected again, and nobody else was touched")
        await fabric.flush()
        other.publish("topic.x", b"again")
        await until(lambda: sorted(heard) == [b"again", b"said before"], "what was said before and after")

    async def test_a_closed_connection_is_unavailable(self, under_test: BrokerUnderTest) -> None:
        fabric = await under_test.connect()
        await fabric.ensure(LOG)
        await fabric.close()
        await fabric.close()
        assert not fabric.connected
        with pytest.raises(Unavailable):
            await fabric.read("LOG")

    async def test_an_agent_works_with_its_own_rights(self, under_test: BrokerUnderTest) -> None:
        server, agent = await under_test.connect(), await under_test.agent("mill", "0")
        await server.ensure(*subjects.STREAMS, MILL)
        await agent.store("work.mill.p2.t1", b"for myself")
        held = await take(agent)
        await agent.store("result.mill.t1", b"done")
        await agent.store("$KV.state.mill.0.key", b"mine")
        agent.publish(held.ack, b"+ACK")
        await agent.flush()
        assert (await agent.last(subjects.STATE, "$KV.state.mill.0.key")) is not None
        assert (await agent.last(subjects.RESULTS, "result.mill.t1")) is not None
        await emptied(server, WORK)

    async def test_what_an_identity_may_not_do_is_denied(self, under_test: BrokerUnderTest) -> None:
        server, agent = await under_test.connect(), await under_test.agent("mill", "0")
        await server.ensure(*subjects.STREAMS, MILL)
        for call in (
            agent.store("result.other.t1", b""),
            agent.store("$KV.state.mill.1.key", b""),
            agent.last(subjects.WANTED, "$KV.wanted.fleet.mill"),
            agent.read(subjects.WANTED),
            agent.pull(subjects.work_stream("other"), "p2"),
            agent.delete_stream(WORK),
        ):
            with pytest.raises(Denied):
                await soon(call)
        assert await server.last(subjects.RESULTS, "result.other.t1") is None

    async def test_a_node_writes_its_present_and_reads_what_is_wanted(self, under_test: BrokerUnderTest) -> None:
        server, node = await under_test.connect(), await under_test.node("n1")
        await server.ensure(*subjects.STREAMS)
        await server.store("$KV.wanted.place.n1.mill", b"spec")
        async with tailing(node.tail(subjects.WANTED, subject="$KV.wanted.place.n1.*")) as batches:
            assert await texts(batches, 1) == [b"spec"]
        await node.store("$KV.now.node.n1", b"here")
        with pytest.raises(Denied):
            await soon(node.store("$KV.now.node.n2", b"not me"))


class FabricContract(StoreContract, TailContract, LaneContract, CoreContract, AwayContract):
    """All of it. A subclass whose name begins with `Test` gives the fixture `under_test`."""
