"""Folders of agents that were healed by a clean start: moved aside, the last few kept for who wants to know why."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from paddock.model.errors import Unavailable

KEPT_MAX = 3


async def move_aside(folder: str, epoch: int) -> None:
    """What this incarnation left in its folder is `<folder>.kept-<epoch>` from now on; doing it twice is doing it once.
    Unavailable when the disk does not take it."""
    try:
        await asyncio.to_thread(_move, folder, epoch)
    except OSError as error:
        raise Unavailable(f"the folder {folder} cannot be moved aside: {error.strerror}") from error


def kept(folder: str) -> list[Path]:
    """What is kept, the newest first."""
    path = Path(folder)
    found = [entry for entry in path.parent.glob(f"{path.name}.kept-*") if _epoch(entry) >= 0]
    return sorted(found, key=_epoch, reverse=True)


def _move(folder: str, epoch: int) -> None:
    target = f"{folder}.kept-{epoch}"
    if os.path.isdir(folder) and not os.path.exists(target):
        os.rename(folder, target)
    for path in kept(folder)[KEPT_MAX:]:
        shutil.rmtree(path, ignore_errors=True)


def _epoch(path: Path) -> int:
    text = path.name.rpartition(".kept-")[2]
    return int(text) if text.isdecimal() else -1
