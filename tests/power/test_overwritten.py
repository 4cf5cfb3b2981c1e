"""The power is cut just when a newer message has made an older one's block empty, and is not on disk itself yet.

The broker removes such a block at once. What was accepted with it must be there after the cut: the old or the new.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from paddock.fabric import embedded, subjects
from paddock.fabric.client import NatsFabric
from paddock.fabric.identity import Identities
from paddock.testing.wait import soon

from .broker import Broker
from .disk import Disk
from .traced import TracedDisk

FILLER = b"x" * 900_000
"""Some of these fill a block, whatever size the broker gives it."""
KEY = "$KV.state.mill.precious"
TASK = "work.mill.p2.precious"


@pytest.fixture
async def broker(disk: Disk | TracedDisk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    held = Broker(disk, "always", monkeypatch)
    yield held
    await held.close()


def blocks(broker: Broker, stream: str) -> list[int]:
    """Numbers of the blocks that the stream has."""
    streams = embedded.streams_folder(broker.folder, Identities.open(broker.folder / "keys"))
    return sorted(int(path.stem) for path in (streams / stream / "msgs").glob("*.blk"))


async def alone_in_its_block(broker: Broker, server: NatsFabric, stream: str, store: str, filler: str) -> None:
    """`store` is all that counts in the first block, which is not the newest."""
    seq = await server.store(store, b"old", headers={"Precious": "yes"})
    (first,) = blocks(broker, stream)
    newest = 0
    while newest < first + 2:
        newest = await filled(broker, server, stream, filler)
    assert blocks(broker, stream)[0] == first
    assert seq == 1


async def filled(broker: Broker, server: NatsFabric, stream: str, filler: str) -> int:
    last = await server.last(stream, filler)
    await server.store(filler, FILLER, expect_seq=last.seq if last else 0)
    return blocks(broker, stream)[-1]


async def written_but_not_on_disk(broker: Broker, doing: asyncio.Task[object], stream: str) -> None:
    """Wait until the old block is gone."""
    await soon(lambda: _gone(broker, stream), what="the block is gone")
    assert not doing.done(), "it was told that it is on disk"


async def _gone(broker: Broker, stream: str) -> bool:
    return blocks(broker, stream)[0] > 1


def commit_names(broker: Broker) -> None:
    """As when anybody syncs anything on that disk: the journal has all names of that moment."""
    other = broker.disk.path / "other"
    handle = os.open(other, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(handle, b"x")
        os.fsync(handle)
    finally:
        os.close(handle)


async def test_a_key_has_its_old_value_or_the_new(broker: Broker) -> None:
    server = await broker.start()
    await alone_in_its_block(broker, server, subjects.STATE, KEY, "$KV.state.mill.filler")
    with broker.syncer_stopped():
        new = asyncio.create_task(server.store(KEY, b"new"))
        await written_but_not_on_disk(broker, new, subjects.STATE)
        commit_names(broker)
        broker.cut()
    new.cancel()
    server = await broker.restore()
    kept = await server.last(subjects.STATE, KEY)
    assert kept is not None
    assert kept.data in (b"old", b"new")


async def test_a_task_that_is_put_back_is_handed_out_again(broker: Broker) -> None:
    server = await broker.start()
    await alone_in_its_block(broker, server, "WORK_mill", TASK, "work.mill.p0.filler")
    (delivery,) = await server.pull("WORK_mill", "p2")
    with broker.syncer_stopped():
        back = asyncio.create_task(server.put_back(delivery))
        await written_but_not_on_disk(broker, back, "WORK_mill")
        commit_names(broker)
        broker.cut()
    back.cancel()
    server = await broker.restore()
    (again,) = await server.pull("WORK_mill", "p2", wait_s=10.0)
    assert (again.subject, again.data, again.headers["Precious"]) == (TASK, b"old", "yes")
