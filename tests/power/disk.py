"""A disk whose power can be cut: an ext4 file system in a file, mounted by loop. It needs root and mkfs.ext4.

    made ──mounted──> in use ──cut: what was not synced by now is gone──> dead ──restored: journal replayed──> in use

`cut` is the ioctl that the tests of Linux file systems use for this (EXT4_IOC_SHUTDOWN without a flush of the journal):
from one moment on not one block reaches the disk any more, as when the power goes. What the kernel still held in memory
is lost with the unmount. So that nothing is written back by chance, the kernel's own periodic commit is put off
(`commit=`); what an fsync promises is not touched by that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from paddock.testing.wait import until

_EXT4_IOC_SHUTDOWN = 0x8004587D
_WITHOUT_LOG_FLUSH = 2
SIZE_MB = 256


class NoPowerToCut(Exception):
    """This machine does not let a test have a disk of its own."""


class Disk:
    """See the module's text. `close` takes it away, whatever state it is in."""

    def __init__(self, folder: Path, *, size_mb: int = SIZE_MB, sparse: bool = True) -> None:
        self._image = folder / "disk.img"
        self.path = folder / "disk"
        folder.mkdir(parents=True, exist_ok=True)
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size_mb * 1024 * 1024)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", str(self._image))
        if not sparse:
            self._image.write_bytes(self._image.read_bytes())
        self._mount()

    def _mount(self) -> None:
        run("mount", "-o", "loop,commit=300", str(self._image), str(self.path))

    def prefix(self) -> list[str]:
        """How a command begins whose writes go to this disk: any does, by their paths."""
        return []

    def cut(self) -> None:
        """From now on nothing is written any more."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_LOG_FLUSH))
        finally:
            os.close(fd)

    def restore(self) -> None:
        """The power is back: what is on the disk is there again. Nobody may hold a file of it any more."""
        self._unmount()
        self._mount()

    def _unmount(self) -> None:
        def gone() -> bool:
            return subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode == 0

        until(gone, what=f"{self.path} can be unmounted: all who used it have ended")

    def close(self) -> None:
        if os.path.ismount(self.path):
            self._unmount()
        self._image.unlink(missing_ok=True)


def run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoPowerToCut(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise NoPowerToCut(f"{' '.join(command)}: {done.stderr.strip()}")


def freeze(pids: Iterable[int]) -> None:
    """Stop these processes where they are, so that what they have said is all they ever said."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def end(pids: Iterable[int]) -> None:
    """No process survives a power cut."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
