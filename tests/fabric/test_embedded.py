from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from paddock.fabric import client, embedded, subjects
from paddock.fabric.client import NatsFabric
from paddock.fabric.identity import Identities
from paddock.fabric.jetstream import ApiError, ApiReply, translate
from paddock.model.errors import Conflict, DataDirError, NotFound, QueueFull, Refused, TooLarge, Unavailable
from paddock.model.fleet import FleetSpec
from paddock.ports.fabric import StreamSpec
from paddock.testing.broker import RealBroker
from paddock.testing.wait import soon


async def emptied(fabric: NatsFabric, stream: str) -> bool:
    """The server takes acknowledgements in its own time, after it has read them."""
    return (await fabric.depth(stream)).messages == 0


async def test_a_second_start_attaches_to_what_runs(broker: RealBroker) -> None:
    again = await embedded.start(broker.folder)
    assert broker.server is not None
    assert again == broker.server


async def test_it_has_a_session_of_its_own(broker: RealBroker) -> None:
    assert broker.server is not None
    assert os.getsid(broker.server.pid) == broker.server.pid


async def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="always"):
        await embedded.start(tmp_path, durability="sometimes")


async def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Unavailable, match="is taken by another program"):
            await embedded.start(tmp_path / "fabric", port=taken.getsockname()[1])


async def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "fabric").write_text("in the way")
    with pytest.raises(DataDirError, match="fabric"):
        await embedded.start(tmp_path / "fabric")


async def test_connections_and_what_they_do_survive_broker_restarts(broker: RealBroker) -> None:
    server, agent = await broker.connect(), await broker.agent("mill", "0")
    work = subjects.work_stream("mill")
    heard: list[bytes] = []
    agent.subscribe("topic.news", lambda message: heard.append(message.data))
    batches = server.tail(subjects.RESULTS)
    assert list(await anext(batches)) == []
    for turn in range(5):
        assert broker.server is not None
        os.kill(broker.server.pid, signal.SIGKILL if turn % 2 else signal.SIGTERM)
        await broker.server.stop()
        await broker.start()
        await server.connection.wait_connected()
        await agent.connection.wait_connected()
        await server.store(f"work.mill.p2.t{turn}", b"{}")
        (delivery,) = await agent.pull(work, "p2", wait_s=5)
        await agent.store(f"result.mill.t{turn}", b"%d" % turn)
        agent.publish(delivery.ack, b"+ACK")
        await agent.flush()
        seen: list[bytes] = []
        async for batch in batches:
            seen += [stored.data for stored in batch]
            if seen:
                break
        assert seen == [b"%d" % turn]
        server.publish("topic.news", b"%d" % turn)
        await server.flush()
        await agent.flush()
    assert heard == [b"%d" % turn for turn in range(5)]
    await soon(lambda: emptied(server, work), what="acknowledged is gone")
    assert (await server.depth(work)).consumers == 4
    assert (await server.depth(subjects.RESULTS)).consumers == 0
    await batches.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def test_calls_fail_at_once_while_the_broker_is_away(broker: RealBroker) -> None:
    server = await broker.connect()
    await broker.stop()
    with pytest.raises(Unavailable):
        await server.store("event.x", b"{}")
    with pytest.raises(Unavailable):
        await server.pull(subjects.work_stream("mill"), "p2", wait_s=30)
    await broker.start()
    await server.connection.wait_connected()
    await server.store("event.x", b"{}")


async def test_each_kind_of_refusal_is_an_error_of_its_own(broker: RealBroker) -> None:
    server = await broker.connect()
    await server.ensure(subjects.work_stream_spec(FleetSpec(name="tiny", runtime="exec", queue_limit=2)))
    await server.store("work.tiny.p1.a", b"{}")
    with pytest.raises(Conflict):
        await server.store("work.tiny.p1.a", b"{}")
    await server.store("work.tiny.p1.b", b"{}")
    with pytest.raises(QueueFull, match="tiny"):
        await server.store("work.tiny.p1.c", b"{}")
    with pytest.raises(TooLarge):
        await server.store("event.big", b"x" * 2_000_000)
    await server.store("result.mill.once", b"1")
    with pytest.raises(Conflict):
        await server.store("result.mill.once", b"2")
    with pytest.raises(NotFound):
        await server.read("NOTHING")
    with pytest.raises(NotFound):
        await server.depth("NOTHING")
    with pytest.raises(NotFound):
        await server.pull(subjects.work_stream("mill"), "p9")
    with pytest.raises(Unavailable):
        await server.store("no.stream.takes.this", b"")


async def test_a_corrupted_store_says_so_or_starts(tmp_path: Path) -> None:
    held = await embedded.start(tmp_path / "fabric")
    await held.stop()
    (tmp_path / "fabric/nats.conf").unlink()
    (tmp_path / "fabric/keys/keys.json").write_bytes(b"\0" * 64)
    with pytest.raises(DataDirError, match="damaged"):
        await embedded.start(tmp_path / "fabric")


@pytest.mark.parametrize(
    ("mounts", "ordered"),
    [
        ("dev / ext4 rw,relatime 0 0", True),
        ("dev / ext4 rw,noauto_da_alloc 0 0", False),
        ("dev / ext4 rw,data=writeback 0 0", False),
        ("dev / xfs rw 0 0", False),
        ("dev / ext4 rw 0 0\ndev /data btrfs rw 0 0", False),
        ("dev / xfs rw 0 0\ndev /data ext4 rw 0 0", True),
        ("dev / ext4 rw 0 0\ndev /data xfs rw 0 0", False),
        ("dev / ext4 rw 0 0\ndev /dat xfs rw 0 0", True),
        ("dev /data ext4 rw 0 0\ndev /data xfs rw 0 0\ndev / ext4 rw 0 0", False),
        (r"dev / xfs rw 0 0" + "\n" + r"dev /data/a\040b zfs rw 0 0", True),
    ],
)
def test_whether_the_order_of_renames_is_kept_goes_by_the_mount(
    mounts: str, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: mounts)
    assert embedded.orders_renames(Path("/data/a b/fabric")) is ordered


@pytest.mark.parametrize(
    ("durability", "ordered", "expected"),
    [
        ("always", True, ("paddock-group-commit", "1s")),
        ("always", False, ("paddock", "always")),
        ("interval", True, ("paddock", "1s")),
    ],
)
def test_who_syncs_stands_in_the_config(
    tmp_path: Path, durability: str, ordered: bool, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "orders_renames", lambda folder: ordered)
    text = embedded._config(tmp_path, Identities.open(tmp_path / "keys"), port=20_000, durability=durability)
    lines = [line.strip() for line in text.splitlines()]
    assert f"server_name: {expected[0]}" in lines
    assert f"sync_interval: {expected[1]}" in lines


async def test_a_stream_is_made_although_the_broker_clears_up_meanwhile(tmp_path: Path) -> None:
    """It removes the folder of an account when that has no streams: after the last one was deleted, in its own time."""
    broker, spec = RealBroker(tmp_path / "fabric"), subjects.STREAMS[0]
    await broker.start()
    try:
        server = await broker.connect()
        for _ in range(40):
            await server.ensure(spec)
            assert (await server.depth(spec.name)).messages == 0
            await server.delete_stream(spec.name)
    finally:
        await broker.close()


async def test_what_stays_in_the_way_of_a_stream_is_told(broker: RealBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CREATE_S_MAX", 0.1)
    server, asked = await broker.connect(), []

    async def answer(call: str, body: object = None) -> None:
        asked.append(call)
        raise translate(ApiError(500, 10049, "error creating store for stream"), call)

    monkeypatch.setattr(server, "_api", answer)
    with pytest.raises(Unavailable, match="error creating store"):
        await server.ensure(subjects.STREAMS[1])
    assert len(asked) > 1


async def test_a_stream_whose_folder_went_at_that_moment_is_made_again(
    broker: RealBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, failures = await broker.connect(), ["first", "second"]
    ask = server._api

    async def answer(call: str, body: Any = None) -> ApiReply:
        if call.startswith("STREAM.CREATE.") and failures:
            failures.pop()
            raise translate(ApiError(500, 10049, "error creating store for stream"), call)
        return await ask(call, body)

    monkeypatch.setattr(server, "_api", answer)
    spec = StreamSpec(name="ANEW", subjects=["anew.>"])
    await server.ensure(spec)
    assert not failures
    assert (await server.depth("ANEW")).messages == 0
