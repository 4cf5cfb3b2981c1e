"""What each role may do, tried against a real nats-server."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from paddock.fabric import subjects
from paddock.fabric.client import NatsFabric, connect
from paddock.fabric.identity import Identities
from paddock.model.errors import DataDirError, Denied, Refused, Unavailable
from paddock.testing.broker import RealBroker
from paddock.testing.wait import soon

WORK = subjects.work_stream("mill")


async def emptied(fabric: NatsFabric, stream: str) -> bool:
    """The server takes acknowledgements in its own time, after it has read them."""
    return (await fabric.depth(stream)).messages == 0


async def test_an_agent_works_for_its_own_fleet_and_for_no_other(broker: RealBroker) -> None:
    server, agent = await broker.connect(), await broker.agent("mill", "0")
    await server.store("work.mill.p2.t1", b"{}")
    (delivery,) = await agent.pull(WORK, "p2", wait_s=5)
    await agent.store("result.mill.t1", b"{}")
    agent.publish(delivery.ack, b"+ACK")
    await agent.flush()
    await soon(lambda: emptied(server, WORK), what="acknowledged is gone")
    for foreign in ("result.other.t1", "$KV.wanted.fleet.mill", "$KV.now.agent.n.mill.0", "event.agent.died.x"):
        with pytest.raises(Denied, match="may not publish"):
            await agent.store(foreign, b"{}")


async def test_an_agent_reads_only_its_own_state_and_not_what_is_wanted(broker: RealBroker) -> None:
    first, second = await broker.agent("mill", "0"), await broker.agent("mill", "1")
    await first.store("$KV.state.mill.0.key", b"mine")
    found = await first.last(subjects.STATE, "$KV.state.mill.0.key")
    assert found is not None
    assert found.data == b"mine"
    with pytest.raises(Denied):
        await second.last(subjects.STATE, "$KV.state.mill.0.key")
    with pytest.raises(Denied):
        await second.store("$KV.state.mill.0.key", b"stolen")
    with pytest.raises(Denied):
        await second.read(subjects.WANTED)
    with pytest.raises(Denied):
        await second.purge(WORK, "work.mill.>")
    with pytest.raises(Denied):
        await second.delete_stream(WORK)


async def test_an_agent_does_not_hear_what_others_are_told(broker: RealBroker) -> None:
    agent = await broker.agent("mill", "0")
    heard: list[str] = []
    for subject in ("_INBOX.>", "work.mill.a.1.>", "node.here", "result.>", ">"):
        agent.subscribe(subject, lambda message: heard.append(message.subject))
    agent.subscribe("topic.free", lambda message: heard.append(message.subject))
    await agent.flush()
    server = await broker.connect()
    for subject in ("_INBOX.server.x", "work.mill.a.1.p2.t", "node.here", "result.mill.x", "topic.free"):
        server.publish(subject, b"x")
    await server.flush()
    await agent.flush()
    assert heard == ["topic.free"]


async def test_a_node_tells_of_itself_and_of_no_other_node(broker: RealBroker) -> None:
    node = await broker.node("here")
    await node.store("$KV.now.node.here", b"{}")
    await node.store("$KV.now.agent.here.mill.0", b"{}")
    assert await node.read(subjects.WANTED) == []
    for foreign in ("$KV.now.node.there", "$KV.now.agent.there.mill.0", "$KV.wanted.fleet.mill", "result.mill.x"):
        with pytest.raises(Denied):
            await node.store(foreign, b"{}")


async def test_strangers_are_refused(broker: RealBroker, tmp_path: Path) -> None:
    assert broker.server is not None
    other = Identities.open(tmp_path / "other")
    with pytest.raises((Denied, Unavailable)):
        await connect(
            broker.server.url, creds=other.minter("server").creds("x", {}), inbox="_INBOX.x", name="x", timeout_s=0.3
        )


async def test_a_role_key_cannot_mint_more_than_its_role(broker: RealBroker) -> None:
    minter = broker.identities.minter("agent")
    sly = await broker.connect(
        minter.creds("sly", {"fleet": "mill", "name": "9", "node": "here"}), "_INBOX.agent.here.mill.9"
    )
    with pytest.raises(Denied):
        await sly.store("$KV.wanted.fleet.mill", b"{}")


def test_keys_are_made_once_and_readable_by_the_owner_only(tmp_path: Path) -> None:
    first, second = Identities.open(tmp_path / "keys"), Identities.open(tmp_path / "keys")
    assert first.server_config()["account"] == second.server_config()["account"]
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "keys/keys.json").stat().st_mode) == 0o600
    assert "SA" not in str(first.server_config()["account_token"])[:2]


def test_a_damaged_key_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    Identities.open(tmp_path)
    (tmp_path / "keys.json").write_text('{"issued_at": 1, "see')
    with pytest.raises(DataDirError, match="restore it from a backup"):
        Identities.open(tmp_path)


async def test_what_is_not_a_credentials_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        await connect("nats://127.0.0.1:1", creds_path=tmp_path / "none", inbox="_INBOX.x", name="x")
    (tmp_path / "some").write_text("hello")
    with pytest.raises(Refused, match="not a NATS credentials file"):
        await connect("nats://127.0.0.1:1", creds_path=tmp_path / "some", inbox="_INBOX.x", name="x")
