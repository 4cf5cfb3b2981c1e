"""One sync for all who wait: which files it syncs, whom it answers, and what the fabric makes of it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddock.fabric import embedded, groups, kept, subjects, syncer
from paddock.fabric.client import NatsFabric
from paddock.fabric.groups import ALL
from paddock.fabric.syncer import StreamFiles, Syncer
from paddock.model.errors import Conflict, Unavailable, Unsynced
from paddock.ports.fabric import Message
from paddock.testing.broker import RealBroker
from paddock.testing.fabric import FakeBroker, FakeFabric
from paddock.testing.wait import soon, until


def path_of(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")


class Disk:
    """What was synced: sees every sync of this process, and makes it, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        """Names of files and folders, in order."""
        self.bytes: dict[int, int] = {}
        """Inode → its size when it was synced last."""
        self.names: dict[str, dict[str, int]] = {}
        """Folder → name → inode, when it was synced last."""
        self.error: OSError | None = None
        self.gate: Callable[[int], None] = lambda handle: None
        self._real = os.fdatasync, os.fsync
        monkeypatch.setattr(os, "fdatasync", self._file)
        monkeypatch.setattr(os, "fsync", self._folder)

    def _file(self, handle: int) -> None:
        self.gate(handle)
        path = path_of(handle)
        if self.error is not None:
            raise self.error
        stat = os.fstat(handle)
        self._real[0](handle)
        self.bytes[stat.st_ino] = stat.st_size
        self.synced.append(Path(path).name)

    def _folder(self, handle: int) -> None:
        path = path_of(handle)
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                self.names[path] = {entry.name: entry.inode() for entry in entries}
        self._real[1](handle)
        self.synced.append(Path(path).name)


class Store:
    """A stream's folder as the broker has it, written to by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blocks = folder, folder / "msgs"
        self.blocks.mkdir(parents=True)
        (folder / "meta.inf").write_bytes(b"{}")
        self.last = 0
        self.roll()

    def path(self, number: int) -> Path:
        return self.blocks / f"{number}.blk"

    def append(self, data: bytes = b"x") -> None:
        with self.path(self.last).open("ab") as block:
            block.write(data)

    def roll(self) -> None:
        self.last += 1
        self.path(self.last).touch()

    def replace(self, number: int) -> None:
        """As it is compacted: written anew beside it, and renamed."""
        draft = self.blocks / f"{number}.new"
        draft.write_bytes(b"compact")
        draft.replace(self.path(number))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "S")


def test_what_was_written_is_synced_once(disk: Disk, store: Store) -> None:
    files = StreamFiles(store.folder)
    for _ in range(2):
        store.append()
        files.sync()
        disk.synced.clear()
        files.sync()
        assert "1.blk" not in disk.synced
    store.append()
    files.sync()
    assert disk.synced == ["1.blk"]


def test_a_folder_that_has_just_changed_is_looked_at_again_but_synced_once(disk: Disk, store: Store) -> None:
    files = StreamFiles(store.folder)
    for _ in range(5):
        store.append()
        files.sync()
    assert disk.synced.count("msgs") == 1
    assert disk.synced.count("1.blk") == 6


def test_a_block_that_is_full_is_synced_a_last_time_with_the_one_after_it(disk: Disk, store: Store) -> None:
    files = StreamFiles(store.folder)
    files.sync()
    store.append()
    store.roll()
    store.append()
    disk.synced.clear()
    files.sync()
    assert set(disk.synced) == {"1.blk", "2.blk", "msgs", "kept", "S"}
    assert disk.bytes[store.path(1).stat().st_ino] == 1


def test_a_block_that_was_written_anew_is_synced(disk: Disk, store: Store) -> None:
    files = StreamFiles(store.folder)
    store.roll()
    files.sync()
    store.replace(1)
    disk.synced.clear()
    files.sync()
    assert "1.blk" in disk.synced
    assert disk.bytes[store.path(1).stat().st_ino] == len("compact")


def test_the_one_that_is_written_to_may_be_replaced(disk: Disk, store: Store) -> None:
    files = StreamFiles(store.folder)
    files.sync()
    store.replace(1)
    files.sync()
    store.append()
    files.sync()
    assert disk.bytes[store.path(1).stat().st_ino] == len("compact") + 1


WHOLE_S = 1_700_000_000_000_000_000
"""ns; as ext4 with inodes of 128 bytes tells times."""


@pytest.mark.parametrize(("tick", "after_ns"), [(WHOLE_S + 1, 5_000_000), (WHOLE_S, 900_000_000)])
def test_a_folder_that_changes_twice_in_a_tick_of_the_clock_is_looked_at_twice(
    disk: Disk, store: Store, monkeypatch: pytest.MonkeyPatch, tick: int, after_ns: int
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: tick + after_ns)
    files = StreamFiles(store.folder)
    for _ in range(3):
        store.append()
        os.utime(store.blocks, ns=(tick, tick))
        files.sync()
        assert disk.bytes[store.path(store.last).stat().st_ino] == 1
        store.roll()


def test_a_block_that_goes_before_it_gets_its_link_is_looked_for_again(
    disk: Disk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the folder shows the same time as before."""
    store.roll()
    os.utime(store.blocks, ns=(WHOLE_S, WHOLE_S))
    real = os.link

    def purged(source: Path, target: Path) -> None:
        if store.path(1).exists():
            store.path(1).unlink()
            os.utime(store.blocks, ns=(WHOLE_S, WHOLE_S))
        real(source, target)

    monkeypatch.setattr(os, "link", purged)
    StreamFiles(store.folder).sync()
    assert {path.name for path in (store.folder / "kept").iterdir()} == {"2.blk"}


def test_without_a_descriptor_it_is_told_and_tried_again(
    disk: Disk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = StreamFiles(store.folder)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for name in ("scandir", "open"):
        with monkeypatch.context() as full:
            full.setattr(os, name, refuse)
            with pytest.raises(OSError, match="Too many open files"):
                files.sync()
    store.append()
    files.sync()
    assert disk.bytes[store.path(1).stat().st_ino] == 1


def test_a_block_that_goes_while_it_is_looked_at_does_no_harm(disk: Disk, store: Store) -> None:
    files = StreamFiles(store.folder)
    files.sync()
    store.roll()
    store.replace(1)
    store.append()
    disk.gate = lambda handle: store.path(1).unlink(missing_ok=True)
    files.sync()
    assert disk.bytes[store.path(2).stat().st_ino] == 1


def test_a_purge_may_take_the_newest_and_make_another(
    disk: Disk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing and the look at it."""
    files = StreamFiles(store.folder)
    files.sync()
    store.roll()

    def purge(handle: int) -> None:
        if store.last == 2:
            store.path(2).unlink()
            store.roll()
            store.append()

    disk.gate = purge
    files.sync()
    assert disk.bytes[store.path(3).stat().st_ino] == 1


def test_what_could_not_be_synced_is_never_said_to_be(disk: Disk, store: Store) -> None:
    files = StreamFiles(store.folder)
    files.sync()
    store.append()
    disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        files.sync()
    disk.error = None  # the kernel has told it once, and forgotten the bytes
    with pytest.raises(OSError, match="Input/output error"):
        files.sync()
    assert files.failed == "Input/output error"
    with pytest.raises(OSError, match="Input/output error"):
        StreamFiles(store.folder).sync()  # that of another syncer; the kernel tells its descriptors nothing


def test_what_could_not_be_synced_nor_noted_is_noted_later(
    disk: Disk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = StreamFiles(store.folder)
    disk.error = OSError(errno.EIO, os.strerror(errno.EIO))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            files.sync()
        assert not files.marked
    disk.error = None
    with pytest.raises(OSError, match="Input/output error"):
        files.sync()
    assert files.marked
    assert kept.marked(store.folder) == "Input/output error"


def test_a_failed_write_to_a_block_that_is_full_by_now_is_heard_of(disk: Disk, store: Store) -> None:
    """The kernel tells it once to each descriptor that was open then, and not to later ones."""
    files = StreamFiles(store.folder)
    files.sync()
    open_then = files._newest
    store.append()
    store.roll()

    def failed(handle: int) -> None:
        if handle == open_then and path_of(handle).endswith("/1.blk"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.gate = failed
    with pytest.raises(OSError, match="Input/output error"):
        files.sync()


def test_a_stream_that_is_not_there_cannot_be_on_disk(disk: Disk, tmp_path: Path) -> None:
    files = StreamFiles(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        files.sync()
    assert files.gone
    assert not files.failed


def test_that_it_is_gone_can_be_on_disk(disk: Disk, store: Store) -> None:
    files = StreamFiles(store.folder)
    files.sync()
    shutil.rmtree(store.folder)
    files.sync(deep=True)
    assert files.gone
    assert "S" not in disk.names[str(store.folder.parent)]


def test_the_folders_of_the_last_stream_go_with_it(disk: Disk, tmp_path: Path) -> None:
    store = Store(tmp_path / "account" / "streams" / "S")
    files = StreamFiles(store.folder)
    files.sync()
    shutil.rmtree(tmp_path / "account")
    files.sync(deep=True)
    assert "account" not in disk.names[str(tmp_path)]


def test_everything_of_a_stream_can_be_asked_for(disk: Disk, store: Store) -> None:
    lane = store.folder / "obs" / "p0"
    lane.mkdir(parents=True)
    (lane / "meta.inf").write_bytes(b"lane")
    StreamFiles(store.folder).sync(deep=True)
    assert disk.bytes[(lane / "meta.inf").stat().st_ino] == 4
    assert disk.bytes[(store.folder / "meta.inf").stat().st_ino] == 2
    for folder in (lane, lane.parent, store.folder, *list(store.folder.parents)[:4]):
        assert str(folder) in disk.names


def test_a_block_may_be_written_anew_twice_and_have_its_old_inode(disk: Disk, store: Store) -> None:
    store.roll()
    for _ in range(20):  # the file system chooses
        files = StreamFiles(store.folder)
        files.sync()
        store.replace(1)
        store.replace(1)
        disk.synced.clear()
        files.sync()
        assert "1.blk" in disk.synced


STEPS = st.lists(
    st.sampled_from(["append", "roll", "replace oldest", "replace newest", "remove oldest", "purge", "sync"]),
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_after_a_sync_all_that_was_there_is_on_disk(
    steps: list[str], disk: Disk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("store") / "S")
    files = StreamFiles(store.folder)
    for step in [*steps, "sync"]:
        there = sorted(int(path.stem) for path in store.blocks.glob("*.blk"))
        if step == "append":
            store.append()
        elif step == "roll":
            store.roll()
        elif step == "replace oldest":
            store.replace(there[0])
        elif step == "replace newest":
            store.replace(there[-1])
        elif step == "remove oldest" and len(there) > 1:
            store.path(there[0]).unlink()
        elif step == "purge":
            for number in there:
                store.path(number).unlink()
            store.roll()
        elif step == "sync":
            files.sync()
            for number in there:
                found = store.path(number).stat()
                assert disk.bytes[found.st_ino] == found.st_size, f"{number}.blk"
                assert disk.names[str(store.blocks)][f"{number}.blk"] == found.st_ino


# --- who is answered


class Asked:
    """A syncer over a folder, and somebody who asks it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = FakeBroker()
        self.own: FakeFabric = self.broker.connect("server")
        self.asker: FakeFabric = self.broker.connect("server")
        self.syncer = Syncer(self.own, folder)

    def asks(self, stream: str, what: bytes = b"") -> asyncio.Task[Message]:
        question = self.asker.request(subjects.sync(stream), what, timeout_s=30.0)
        return asyncio.get_running_loop().create_task(question, name=f"asks {stream}")

    async def says(self, stream: str, what: bytes = b"") -> str:
        return (await self.asks(stream, what)).data.decode()


@pytest.fixture
async def asked(tmp_path: Path, disk: Disk) -> AsyncIterator[Asked]:
    held = Asked(tmp_path / "streams")
    yield held
    held.syncer.close()


class Gate:
    """Holds up the syncs of one stream until it is opened."""

    def __init__(self, disk: Disk, part: str) -> None:
        self.opened, self.reached, self._part = threading.Event(), 0, part
        disk.gate = self._wait

    def _wait(self, handle: int) -> None:
        if self._part in path_of(handle):
            self.reached += 1
            self.opened.wait(30.0)


async def test_who_asks_while_a_sync_is_under_way_shares_the_next_one(asked: Asked, disk: Disk) -> None:
    store = Store(asked.folder / "S")
    await asked.says("S")
    store.append()
    gate = Gate(disk, "1.blk")
    first = asked.asks("S")
    await asyncio.to_thread(until, lambda: gate.reached, what="it syncs")
    store.append()
    later = [asked.asks("S") for _ in range(5)]
    await soon(lambda: _waiting(asked, "S", 5), what="they have asked")
    assert not any(one.done() for one in (first, *later))
    disk.synced.clear()
    gate.opened.set()
    assert {(await one).data for one in (first, *later)} == {b""}
    assert disk.synced == ["1.blk", "1.blk"]


async def _waiting(asked: Asked, stream: str, count: int) -> bool:
    return len(asked.syncer._waiting.get(stream, [])) == count


async def test_questions_of_one_read_are_one_sync(asked: Asked, disk: Disk) -> None:
    store = Store(asked.folder / "S")
    await asked.says("S")
    store.append()
    disk.synced.clear()
    answers: list[bytes] = []
    asked.asker.subscribe("answer", lambda message: answers.append(message.data))
    for _ in range(5):
        asked.syncer._on_question(Message(subject="sync.S", data=b"", reply="answer"))
    await soon(lambda: _same(answers, [b""] * 5), what="all are answered")
    assert disk.synced == ["1.blk"]


async def _same(seen: list[bytes], wanted: list[bytes]) -> bool:
    return seen == wanted


async def test_streams_do_not_wait_for_each_other(asked: Asked, disk: Disk) -> None:
    Store(asked.folder / "slow")
    Store(asked.folder / "quick")
    gate = Gate(disk, "/slow/")
    slow = asked.asks("slow")
    assert await asked.says("quick") == ""
    assert not slow.done()
    gate.opened.set()
    assert (await slow).data == b""


@pytest.mark.parametrize("name", ["..", "a b", "*", "x" * 300, "é"])
async def test_a_name_that_no_stream_has_touches_no_file(asked: Asked, disk: Disk, name: str) -> None:
    answers: list[bytes] = []
    asked.asker.subscribe("answer", lambda message: answers.append(message.data))
    asked.syncer._on_question(Message(subject=f"sync.{name}", data=b"", reply="answer"))
    await asked.own.flush()
    await soon(lambda: _same(answers, [b"there is no such stream"]), what="it is answered")
    assert not asked.syncer._files
    assert not asked.syncer._waiting


async def test_a_stream_that_is_not_there_is_forgotten_and_may_come(asked: Asked, disk: Disk) -> None:
    assert await asked.says("S") != ""
    assert not asked.syncer._files
    store = Store(asked.folder / "S")
    assert await asked.says("S") == ""
    shutil.rmtree(store.folder)
    assert await asked.says("S", ALL) == ""
    assert not asked.syncer._files
    anew = Store(asked.folder / "S")
    anew.append(b"four")
    assert await asked.says("S") == ""
    assert disk.bytes[anew.path(1).stat().st_ino] == 4


async def test_a_failed_sync_is_told_until_the_broker_is_a_new_one(asked: Asked, disk: Disk) -> None:
    store = Store(asked.folder / "S")
    Store(asked.folder / "well")
    disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
    assert await asked.says("S") == "Input/output error"
    disk.error = None
    assert await asked.says("S") == "Input/output error"
    assert await asked.says("well") == ""
    failed = asked.syncer._files["S"]
    said = (await asked.asker.request(subjects.UNSYNCED)).data
    assert said == b"S cannot be put on disk: Input/output error"
    asked.broker.stop()
    asked.broker.start()
    await soon(lambda: _has_begun_anew(asked, failed), what="the syncer is connected again")
    store.append()
    assert await asked.says("S") == "Input/output error", "it may be the broker of before, or one that was not settled"
    asked.broker.stop()
    kept.settle(asked.folder.parent, asked.folder, keep=True)
    failed = asked.syncer._files["S"]
    asked.broker.start()
    await soon(lambda: _has_begun_anew(asked, failed), what="the syncer is connected again")
    assert await asked.says("S") == ""
    assert (await asked.asker.request(subjects.UNSYNCED)).data == b""


async def _has_begun_anew(asked: Asked, before: StreamFiles) -> bool:
    return asked.syncer._files.get("S") is not before


async def test_a_failure_that_has_no_mark_is_not_forgotten_with_the_connection(
    asked: Asked, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(asked.folder / "S")
    disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(syncer, "mark", lambda stream, why: False)
    assert await asked.says("S") == "Input/output error"
    disk.error = None
    asked.syncer._begin_anew()
    assert await asked.says("S") == "Input/output error"


async def test_a_stream_that_is_synced_when_the_broker_goes_is_looked_at_again(asked: Asked, disk: Disk) -> None:
    store = Store(asked.folder / "S")
    await asked.says("S")
    store.append()
    gate = Gate(disk, "1.blk")
    asking = asked.asks("S")
    await asyncio.to_thread(until, lambda: gate.reached, what="it syncs")
    asked.syncer._begin_anew()
    gate.opened.set()
    assert (await asking).data == b""
    await soon(lambda: _known(asked, "S"), what="it is looked at without being asked")


async def _known(asked: Asked, stream: str) -> bool:
    return stream in asked.syncer._files


# --- what the fabric makes of it


@pytest.fixture
async def server(broker: RealBroker) -> NatsFabric:
    assert broker.server is not None
    return await broker.connect()


async def test_nothing_is_accepted_before_it_is_on_disk(broker: RealBroker, server: NatsFabric) -> None:
    await broker.stop_syncer()
    stored = asyncio.ensure_future(server.store("work.mill.p2.t1", b"x"))
    await soon(lambda: _depth(server), what="the broker has taken it")
    assert not stored.done()
    await broker.start_syncer()
    assert await stored == 1


async def _depth(server: NatsFabric) -> int:
    return (await server.depth("WORK_mill")).messages


async def test_that_something_is_there_is_said_only_when_it_is_on_disk(broker: RealBroker, server: NatsFabric) -> None:
    """Who is refused goes by what is there: after a power cut it must still be."""
    await server.store("result.mill.t1", b"x", expect_seq=0)
    await broker.stop_syncer()
    refused = asyncio.ensure_future(server.store("result.mill.t1", b"y", expect_seq=0))
    read = asyncio.ensure_future(server.last(subjects.RESULTS, "result.mill.t1"))
    done, _ = await asyncio.wait({refused, read}, timeout=0.5)
    assert not done
    await broker.start_syncer()
    with pytest.raises(Conflict):
        await refused
    found = await read
    assert found is not None
    assert found.data == b"x"


async def test_without_a_syncer_it_is_unknown(
    broker: RealBroker, server: NatsFabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GIVE_UP_S", 0.0)
    await broker.stop_syncer()
    with pytest.raises(Unsynced):
        await server.store("work.mill.p2.t1", b"x")
    assert await _depth(server) == 1


async def test_a_failed_sync_is_an_error_of_who_stores(broker: RealBroker, server: NatsFabric, disk: Disk) -> None:
    disk.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(Unavailable, match="WORK_mill cannot be put on disk: No space left on device"):
        await server.store("work.mill.p2.t1", b"x")


async def test_it_goes_on_over_a_new_broker(broker: RealBroker, server: NatsFabric, disk: Disk) -> None:
    for turn in range(4):
        if turn % 2:
            await broker.stop()
        else:
            assert broker.server is not None
            os.kill(broker.server.pid, signal.SIGKILL)
            await soon(lambda: _gone(broker), what="it is dead")
        await broker.start()
        await soon(lambda turn=turn: _stored(server, f"work.mill.p2.t{turn}"), what="stored")
    block = next((embedded.streams_folder(broker.folder, broker.identities) / "WORK_mill" / "msgs").glob("*.blk"))
    assert disk.bytes[block.stat().st_ino] == block.stat().st_size


async def _gone(broker: RealBroker) -> bool:
    return broker.server is not None and not broker.server.alive()


async def _stored(server: NatsFabric, subject: str) -> bool:
    try:
        await server.store(subject, b"x")
    except Conflict:
        return True
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize("durability", ["always", "interval"])
async def test_only_a_broker_that_leaves_syncing_to_us_has_its_syncer_asked(
    tmp_path: Path, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "orders_renames", lambda folder: durability == "interval")
    broker = RealBroker(tmp_path / "fabric")
    await broker.start(durability=durability)
    server = await broker.connect()
    await broker.stop_syncer()
    await server.ensure(*subjects.STREAMS)
    await server.store("result.mill.t1", b"x")
    await broker.close()
