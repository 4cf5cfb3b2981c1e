"""Old blocks are kept until what took their place is on disk, and put back after a power cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from paddock.fabric import kept
from paddock.fabric.kept import STARTED, settle
from paddock.fabric.syncer import StreamFiles, Syncer
from paddock.testing.fabric import FakeBroker
from paddock.testing.wait import soon

from .test_syncer import Disk, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of two blocks, the first with an old value."""
    (tmp_path / STARTED).write_text(kept.boot_id())
    held = Store(tmp_path / "streams" / "S")
    held.append(b"old")
    held.roll()
    return held


def links(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.folder / "kept").glob("*")}


def started(store: Store, *, after_a_cut: bool, keep: bool = True) -> None:
    broker = store.folder.parents[1]
    if after_a_cut:
        (broker / STARTED).write_text("another start of the host")
    settle(broker, broker / "streams", keep=keep)
    assert (broker / STARTED).read_text() == kept.boot_id()


def test_every_block_is_kept_and_dropped_when_the_newer_is_synced(store: Store) -> None:
    files = StreamFiles(store.folder)
    files.sync()
    assert links(store) == {"1.blk": b"old", "2.blk": b""}
    store.append(b"new")
    store.path(1).unlink()
    assert links(store)["1.blk"] == b"old"
    files.sync()
    assert links(store) == {"2.blk": b"new"}


def test_a_block_that_went_after_the_look_is_kept_until_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StreamFiles(store.folder)
    files.sync()
    files.sync()  # the link changed the file, so it is synced once more
    store.append(b"new")
    real = os.fdatasync

    def meanwhile(handle: int) -> None:
        real(handle)
        store.path(1).unlink(missing_ok=True)

    monkeypatch.setattr(os, "fdatasync", meanwhile)
    files.sync()
    assert links(store)["1.blk"] == b"old"
    files.sync()
    assert links(store) == {"2.blk": b"new"}


def test_a_block_that_was_written_anew_is_kept_as_it_was(store: Store) -> None:
    files = StreamFiles(store.folder)
    files.sync()
    store.replace(1)
    assert links(store)["1.blk"] == b"old"
    files.sync()
    assert links(store) == {"1.blk": b"compact", "2.blk": b""}


def test_an_old_block_is_kept_for_as_long_as_one_before_it(store: Store) -> None:
    """That what was in block 1 is removed may be noted in block 2 alone."""
    store.roll()
    files = StreamFiles(store.folder)
    files.sync()
    of = {int(path.stem): path.stat().st_ino for path in store.blocks.glob("*.blk")}
    store.path(1).unlink()
    store.replace(2)
    held = kept.Kept(store.folder)
    held.follow({1: of[1], 2: store.path(2).stat().st_ino, 3: of[3]}, {2: store.path(2).stat().st_ino, 3: of[3]})
    assert links(store) == {"1.blk": b"old", "2.blk": b"", "3.blk": b""}
    held.follow({3: of[3]}, {3: of[3]})
    assert links(store) == {"3.blk": b""}


def test_new_links_come_before_old_ones_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What made the old one needless may lie in the new block, and that may go before it has its link."""
    StreamFiles(store.folder).sync()
    store.append(b"new")
    store.path(1).unlink()
    store.roll()
    files = StreamFiles(store.folder)

    def gone(source: Path, target: Path) -> None:
        store.path(3).unlink()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "link", gone)
        meanwhile.setattr(kept, "sync_folder", lambda folder: pytest.fail("nothing is to be dropped yet"))
        with pytest.raises(FileNotFoundError):
            kept.Kept(store.folder).follow({2: 0, 3: 0}, {2: 0, 3: 0})
    assert set(links(store)) == {"1.blk", "2.blk"}
    files.sync()
    assert set(links(store)) == {"2.blk"}


def test_another_syncer_goes_on_with_what_the_one_before_kept(store: Store) -> None:
    StreamFiles(store.folder).sync()
    store.path(1).unlink()
    StreamFiles(store.folder).sync()
    assert links(store) == {"2.blk": b""}


def test_no_space_for_a_name_is_told_and_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StreamFiles(store.folder)
    with monkeypatch.context() as full:

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(os, "link", refuse)
        with pytest.raises(OSError, match="No space left"):
            files.sync()
        assert not files.failed
    files.sync()
    assert set(links(store)) == {"1.blk", "2.blk"}


def test_a_link_that_was_made_before_the_space_ran_out_is_synced_with_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = StreamFiles(store.folder)
    disk = Disk(monkeypatch)
    real = os.link
    with monkeypatch.context() as full:

        def refuse(source: Path, target: Path) -> None:
            if store.last == 2 and target.name == "2.blk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(source, target)

        full.setattr(os, "link", refuse)
        with pytest.raises(OSError, match="No space left"):
            files.sync()
        store.path(2).unlink()
        files.sync()
    assert set(disk.names[str(store.folder / "kept")]) == {"1.blk"}
    assert "kept" in disk.names[str(store.folder)]


def test_garbage_in_the_note_of_the_last_start_counts_as_cut(store: Store) -> None:
    StreamFiles(store.folder).sync()
    store.path(1).unlink()
    (store.folder.parents[1] / STARTED).write_bytes(b"\xff\x00")
    started(store, after_a_cut=False)
    assert store.path(1).read_bytes() == b"old"


def test_after_a_cut_what_is_missing_or_was_replaced_is_put_back(store: Store) -> None:
    lane = store.folder / "obs" / "p0"
    lane.mkdir(parents=True)
    noted = store.blocks / "index.db", lane / "o.dat"
    for path in noted:
        path.write_bytes(b"noted")
    store.roll()
    StreamFiles(store.folder).sync()
    store.path(1).unlink()
    store.replace(2)
    started(store, after_a_cut=True)
    assert store.path(1).read_bytes() == b"old"
    assert store.path(2).read_bytes() == b""
    assert set(links(store)) == {"1.blk", "2.blk", "3.blk"}
    assert not any(path.exists() for path in noted), "it was noted without what is back"


def test_after_a_cut_that_took_nothing_all_stays(store: Store) -> None:
    (store.blocks / "index.db").write_bytes(b"noted")
    StreamFiles(store.folder).sync()
    started(store, after_a_cut=True)
    assert sorted(path.name for path in store.blocks.iterdir()) == ["1.blk", "2.blk", "index.db"]


def test_without_a_note_of_the_last_start_it_counts_as_cut(store: Store) -> None:
    StreamFiles(store.folder).sync()
    store.path(1).unlink()
    (store.folder.parents[1] / STARTED).unlink()
    started(store, after_a_cut=False)
    assert store.path(1).read_bytes() == b"old"


def test_a_broker_that_was_only_killed_gets_nothing_back(store: Store) -> None:
    StreamFiles(store.folder).sync()
    store.path(1).unlink()
    started(store, after_a_cut=False)
    assert not store.path(1).exists()
    assert set(links(store)) == {"2.blk"}


def test_what_lay_in_its_blocks_when_it_started_is_kept_before_anybody_asks(store: Store) -> None:
    started(store, after_a_cut=False)
    assert links(store) == {"1.blk": b"old", "2.blk": b""}


def test_what_could_not_be_synced_is_written_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = store.folder / "obs" / "p0"
    lane.mkdir(parents=True)
    (lane / "meta.inf").write_bytes(b"lane")
    (lane / "meta.inf").chmod(0o640)
    StreamFiles(store.folder).sync()
    store.path(1).unlink()
    store.append(b"new")
    kept.mark(store.folder, "Input/output error")
    (store.folder / "anew").write_bytes(b"of a start that was broken off")
    (store.folder / "kept" / "1.draft").write_bytes(b"likewise")
    before = {path: path.stat() for path in (store.path(2), lane / "meta.inf", store.folder / "meta.inf")}
    disk = Disk(monkeypatch)
    started(store, after_a_cut=False)
    for path, stat in before.items():
        found = path.stat()
        assert (found.st_ino != stat.st_ino, found.st_mode, found.st_size) == (True, stat.st_mode, stat.st_size)
        assert str(path.parent) in disk.names
    assert links(store) == {"1.blk": b"old", "2.blk": b"new"}, "the new value of what was in it may be what is lost"
    assert sorted(os.listdir(store.folder)) == ["kept", "meta.inf", "msgs", "obs"]
    StreamFiles(store.folder).sync()


def test_a_start_that_cannot_sync_is_not_believed_the_next_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.path(1).stat().st_ino
    disk = Disk(monkeypatch)
    disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        started(store, after_a_cut=False)
    disk.error = None
    assert kept.marked(store.folder) == "Input/output error"
    started(store, after_a_cut=False)
    assert store.path(1).stat().st_ino != before
    assert not kept.marked(store.folder)


@pytest.mark.parametrize("cut", [False, True])
def test_nothing_is_kept_where_nobody_waits_for_a_sync(store: Store, cut: bool) -> None:
    StreamFiles(store.folder).sync()
    store.path(1).unlink()
    started(store, after_a_cut=cut, keep=False)
    assert store.path(1).exists() == cut
    assert not (store.folder / "kept").exists()


async def test_where_nobody_asks_the_syncer_looks_itself(store: Store) -> None:
    StreamFiles(store.folder).sync()
    store.path(1).unlink()
    syncer = Syncer(FakeBroker().connect("server"), store.folder.parent)
    try:
        await soon(lambda: _kept(store, {"2.blk"}), what="it begins with what is kept")
        store.roll()
        store.path(2).unlink()
        await soon(lambda: _kept(store, {"3.blk"}), what="it looks again")
    finally:
        syncer.close()


async def _kept(store: Store, wanted: set[str]) -> bool:
    return set(links(store)) == wanted
