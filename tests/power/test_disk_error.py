"""A disk that cannot take what it was given: what the kernel then shows from memory must never count as on disk."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.fabric.kept import settle
from paddock.fabric.syncer import StreamFiles

from .disk import Disk, NoPowerToCut, run

MESSAGES = b"M" * 4096 * 64


class ThinDisk:
    """An ext4 of which the free blocks are not there yet, as on a thin volume: `fill` takes their room, `free` gives it
    back."""

    def __init__(self, folder: Path) -> None:
        self._pool = folder / "pool"
        self._pool.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(self._pool))
        try:
            self.disk = Disk(self._pool, size_mb=64, sparse=False)
            run("fstrim", str(self.disk.path))  # of the image only what the file system itself needs stays
        except BaseException:
            run("umount", "-l", str(self._pool))
            raise

    def fill(self) -> None:
        with (self._pool / "others").open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 65536):
                    pass
            except OSError:
                return

    def free(self) -> None:
        (self._pool / "others").unlink()

    def close(self) -> None:
        run("umount", "-l", str(self.disk.path))
        run("umount", "-l", str(self._pool))


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[ThinDisk]:
    try:
        made = ThinDisk(tmp_path)
    except NoPowerToCut as error:
        pytest.fail(f"no disk of its own can be made for the test: be root where loop devices can be mounted ({error})")
    yield made
    made.close()


def test_what_a_disk_did_not_take_is_on_disk_only_when_it_was_written_anew(thin: ThinDisk) -> None:
    broker = thin.disk.path / "fabric"
    stream = broker / "streams" / "S"
    block = stream / "msgs" / "1.blk"
    block.parent.mkdir(parents=True)
    block.write_bytes(b"A" * 4096)
    settle(broker, stream.parent, keep=True)
    files = StreamFiles(stream)
    files.sync()
    subprocess.run(["sync"], check=True)

    thin.fill()
    given = block.read_bytes()
    failed = False
    for _ in range(20):  # some blocks may have room behind them
        with block.open("ab") as file:
            file.write(MESSAGES)
        given += MESSAGES
        try:
            files.sync()
        except OSError as error:
            failed = error.errno == errno.ENOSPC
            break
    assert failed, "the disk took all"
    for one in (files, StreamFiles(stream)):
        with pytest.raises(OSError, match="No space left"):
            one.sync()
    try:
        settle(broker, stream.parent, keep=True)
    except OSError:
        with pytest.raises(OSError, match="No space left"):
            StreamFiles(stream).sync()
        thin.free()
        settle(broker, stream.parent, keep=True)
    StreamFiles(stream).sync()
    assert block.read_bytes() == given
    with block.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert block.read_bytes() == given, "what it shows was not on the disk"
