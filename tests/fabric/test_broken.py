"""The one who may ask the server which streams take no more writes."""

from __future__ import annotations

import errno
import os

import pytest

from paddock.fabric import broken
from paddock.fabric.client import connect
from paddock.model.errors import PaddockError, Unavailable
from paddock.ports.fabric import Fabric
from paddock.testing.broker import RealBroker
from paddock.testing.wait import soon


async def test_a_server_that_is_well_has_no_broken_streams(broker: RealBroker) -> None:
    assert broker.server is not None
    watcher = await broken.Watcher.open(broker.server.url, broker.identities)
    assert await watcher.broken() == ""
    await broker.stop()
    assert await watcher.broken() == ""
    await watcher.close()


async def test_who_asks_may_do_nothing_else(broker: RealBroker) -> None:
    assert broker.server is not None
    asker = await connect(broker.server.url, creds=broker.identities.watcher(), inbox="_INBOX.watcher", name="test")
    for subject in ("$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.ACCOUNT.PING.CONNZ"):
        with pytest.raises(PaddockError):
            await asker.request(subject, b"", timeout_s=0.5)
    await asker.close()


def test_only_write_errors_count() -> None:
    text = "JetStream stream 'A > RESULTS' write error: write /data/1.blk: no space left on device"
    health = broken._Health(errors=[{"error": text}, {"error": "JetStream consumer 'A > B > C' is not current"}])
    assert broken.describe(health) == "RESULTS takes no writes: no space left on device"
    assert broken.describe(broken._Health(error="JetStream is not current with the meta leader")) == ""


async def test_a_stream_that_could_not_be_synced_is_broken_until_the_server_starts_anew(
    broker: RealBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broker.server is not None
    fabric = await broker.connect()
    watcher = await broken.Watcher.open(broker.server.url, broker.identities)

    def fails(handle: int) -> None:
        if "/WORK_mill/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(Unavailable, match="WORK_mill cannot be put on disk: Input/output error"):
        await fabric.store("work.mill.p2.t1", b"x")
    monkeypatch.undo()
    with pytest.raises(Unavailable, match="cannot be put on disk"):
        await fabric.store("work.mill.p2.t2", b"x")
    await fabric.store("result.mill.t1", b"x")
    assert await broken.streams(watcher, fabric) == "WORK_mill cannot be put on disk: Input/output error"
    await broker.stop()
    await broker.start()
    await soon(lambda: _stored(fabric, "work.mill.p2.t3"), what="it takes tasks again")
    assert await broken.streams(watcher, fabric) == ""
    await watcher.close()


async def _stored(fabric: Fabric, subject: str) -> int:
    """Its place, or 0."""
    try:
        return await fabric.store(subject, b"x")
    except Unavailable:
        return 0
