"""The one who may ask the server which streams take no more writes."""

from __future__ import annotations

import pytest

from paddock.fabric import broken
from paddock.fabric.client import connect
from paddock.model.errors import PaddockError
from paddock.testing.broker import RealBroker


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
