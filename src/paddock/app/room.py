"""The room on the disk of the data directory, and what follows from having had none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddock.app.data import DataDir

FULL_BYTES = 4 * 1024 * 1024
"""With less than this free, what must be on disk cannot be promised any more."""
ROOM_BYTES = 16 * 1024 * 1024
"""With so much free, a fabric that failed a write is started anew."""


def free_bytes(path: Path) -> int:
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize


def no_room(path: Path) -> str:
    """Why nothing more can be accepted, or empty."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:  # also what the kernel makes of a file system that it cannot write
        return f"the disk of {path} is read-only: call 'paddock down', see to the disk (dmesg), and call 'paddock up'"
    if free_bytes(path) >= FULL_BYTES:
        return ""
    return f"the disk of {path} is full: nothing more is accepted until there is space"


class DiskWatch:
    """Whether the fabric that runs met a full disk and has room again. A broker that failed a write for lack of space
    takes none on that stream until it is started anew, and knows of it only once somebody else tried (it deletes what
    was acknowledged, too)."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._met_full: int | None = None
        """Pid of the fabric that was there when the disk was full."""

    def unwell(self) -> str:
        """Why the fabric should be started anew, or empty. To be asked every few seconds."""
        running = self._data.running("fabric")
        free = free_bytes(self._data.path)
        if running is None or (self._met_full is not None and running.pid != self._met_full):
            self._met_full = None
        elif free < FULL_BYTES:
            self._met_full = running.pid
        elif self._met_full is not None and free >= ROOM_BYTES:
            return "its disk was full and has room again"
        return ""
