"""What a forked child writes down of its own start, so that a node that was killed meanwhile finds it again.

Its environment in /proc is the fork server's own, and a name of 15 characters proves nothing; a small file does.
"""

from __future__ import annotations

import os

import msgspec

from paddock.fabric.boot import boot_id


class Start(msgspec.Struct, frozen=True):
    """One process, for ever: see `paddock.ports.runtime.Handle`."""

    epoch: int
    pid: int
    ticks: int
    boot: str = ""


def of_this_process(epoch: int) -> Start:
    with open("/proc/self/stat", "rb") as file:
        return Start(epoch, os.getpid(), int(file.read().rpartition(b")")[2].split()[19]), boot_id())


def path_of(folder: str) -> str:
    """Beside the agent's own folder; no agent's name has a dot."""
    return folder + ".start"


def write(folder: str, start: Start) -> None:
    """Whole or not at all. It has to survive the node, not the machine."""
    path = path_of(folder)
    draft = f"{path}.{start.pid}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(start))
    finally:
        os.close(fd)
    os.rename(draft, path)


def read(folder: str) -> Start | None:
    """None when no child ever wrote one here."""
    try:
        with open(path_of(folder), "rb") as file:
            return msgspec.json.decode(file.read(), type=Start)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
