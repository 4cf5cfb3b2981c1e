"""The fault menu does what it says, by its seed, and stops when told."""

from __future__ import annotations

import asyncio
import random

import pytest

from paddock.model.errors import Conflict, TimedOut, Unavailable
from paddock.ports.fabric import StreamSpec
from paddock.testing.fabric import FakeBroker
from paddock.testing.faults import Faults
from paddock.testing.loop import Process, run, settle

BOX = StreamSpec(name="KV_box", subjects=["$KV.box.>"], last_per_subject=True)
WORK = StreamSpec(name="WORK", subjects=["work.>"], work_queue=True, unique_subjects=True, lanes={"all": "work.>"})


def heard_of(faults: Faults, count: int = 200) -> tuple[int, int, float]:
    """(messages that came, different ones among them, when the last came) of `count` that were published."""

    async def main() -> tuple[int, int, float]:
        fabric = FakeBroker(faults=faults).connect()
        heard: list[tuple[bytes, float]] = []
        loop = asyncio.get_running_loop()
        fabric.subscribe("topic.x", lambda message: heard.append((message.data, loop.time())))
        for i in range(count):
            fabric.publish("topic.x", str(i).encode())
        await asyncio.sleep(60.0)
        return len(heard), len({data for data, _ in heard}), max(at for _, at in heard)

    return run(main)


def test_messages_are_lost_doubled_and_late_as_often_as_asked_for() -> None:
    came, different, _ = heard_of(Faults(1, lose=0.2))
    assert came == different
    assert 120 <= came <= 190
    came, different, _ = heard_of(Faults(1, double=0.2))
    assert different == 200
    assert 210 <= came <= 280
    came, different, last = heard_of(Faults(1, delay=0.2, delay_s_max=5.0))
    assert (came, different) == (200, 200)
    assert 2.0 < last <= 5.0


def test_without_faults_all_comes_at_once() -> None:
    assert heard_of(Faults(1)) == (200, 200, 0.0)


def test_the_same_seed_brings_the_same_faults() -> None:
    def draws(seed: int) -> list[list[float]]:
        faults = Faults(seed, lose=0.3, double=0.3, delay=0.3)
        return [faults.copies() for _ in range(100)]

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)


def test_calm_ends_the_faults_and_rage_brings_them_back() -> None:
    faults = Faults(1, lose=1.0)
    assert faults.copies() == []
    faults.calm()
    assert faults.copies() == [0.0]
    faults.rage()
    assert faults.copies() == []
    assert faults.happened == {"lose": 2}


def test_a_lost_ack_is_stored_though_the_caller_hears_nothing() -> None:
    async def main() -> None:
        fabric = FakeBroker(faults=Faults(1, lost_ack=1.0)).connect()
        await fabric.ensure(BOX)
        with pytest.raises(TimedOut):
            await fabric.store("$KV.box.a", b"1", timeout_s=2.0)
        assert await fabric.last("KV_box", "$KV.box.a") is not None

    run(main)


def test_a_refused_store_stores_nothing() -> None:
    async def main() -> None:
        fabric = FakeBroker(faults=Faults(1, unavailable=1.0)).connect()
        await fabric.ensure(BOX)
        with pytest.raises(Unavailable):
            await fabric.store("$KV.box.a", b"1")
        assert await fabric.last("KV_box", "$KV.box.a") is None

    run(main)


def test_a_false_conflict_meets_only_who_names_an_expected_sequence() -> None:
    async def main() -> None:
        fabric = FakeBroker(faults=Faults(1, conflict=1.0)).connect()
        await fabric.ensure(BOX)
        await fabric.store("$KV.box.a", b"1")
        with pytest.raises(Conflict):
            await fabric.store("$KV.box.b", b"1", expect_seq=0)

    run(main)


def test_a_lost_delivery_comes_again_after_the_ack_wait() -> None:
    async def main() -> None:
        faults = Faults(1, lost_delivery=1.0)
        fabric = FakeBroker(faults=faults).connect()
        await fabric.ensure(WORK)
        await fabric.store("work.t1", b"")
        assert await fabric.pull("WORK", "all") == []
        faults.calm()
        [delivery] = await fabric.pull("WORK", "all", wait_s=60.0)
        assert delivery.delivered == 2

    run(main)


def test_a_tail_that_was_not_woken_reads_on_by_itself() -> None:
    async def main() -> bytes:
        fabric = FakeBroker(faults=Faults(1, lose=1.0)).connect()
        await fabric.ensure(BOX)
        batches = fabric.tail("KV_box")
        assert await anext(batches) == []
        asyncio.get_running_loop().call_later(5.0, fabric.publish, "$KV.box.a", b"x")
        [stored] = await anext(batches)
        await batches.aclose()  # type: ignore[attr-defined]  # it is an async generator
        return stored.data

    assert run(main) == b"x"


def test_a_pull_of_a_killed_process_puts_nothing_back() -> None:
    async def main() -> tuple[int, int]:
        broker = FakeBroker(faults=Faults(1, latency_s_max=1.0))
        fabric = broker.connect()
        await fabric.ensure(WORK)
        await fabric.store("work.t1", b"")
        agent = Process("agent")
        connection = agent.call(broker.connect, "agent")
        agent.spawn(connection.pull("WORK", "all", wait_s=60.0), "pull")
        lane = broker.lane("WORK", "all")
        await settle(lambda: bool(lane.out), limit_s=10.0, what="the message is handed out", every_s=0.01)
        agent.kill()
        assert not connection.connected
        before = len(await fabric.pull("WORK", "all"))
        [delivery] = await fabric.pull("WORK", "all", wait_s=60.0)
        return before, delivery.delivered

    assert run(main) == (0, 2)


def test_wildcards_match_as_in_nats() -> None:
    from paddock.testing.streams import matches, overlap

    assert matches("a.*.c", "a.b.c")
    assert not matches("a.*", "a")
    assert not matches("a.>", "a")
    assert matches("a.>", "a.b.c")
    assert matches(">", "a")
    assert not matches("a.b", "a.b.c")
    assert overlap("a.*", "a.b")
    assert overlap("a.>", "*.b.c")
    assert not overlap("a.*", "a.b.c")
    assert not overlap("a.b", "a.c")
    dice = random.Random(3)
    for _ in range(300):
        one, other = (".".join(dice.choice("ab*") for _ in range(dice.randint(1, 3))) for _ in range(2))
        subject = other.replace("*", "a")
        assert not matches(one, subject) or overlap(one, other)
