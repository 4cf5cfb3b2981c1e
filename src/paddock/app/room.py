"""The room on the disk of the data directory."""

from __future__ import annotations

import os
from pathlib import Path

FULL_BYTES = 4 * 1024 * 1024
"""With less than this free, what must be on disk cannot be promised any more."""
ROOM_BYTES = 16 * 1024 * 1024
"""With so much free, a fabric that failed a write is started anew."""


def free_bytes(path: Path) -> int:
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize


def no_room(path: Path) -> str:
    """Why nothing more can be accepted, or empty."""
    if free_bytes(path) >= FULL_BYTES:
        return ""
    return f"the disk of {path} is full: nothing more is accepted until there is space"
