"""Which agents of a node run, whatever its journal tells: that was lost or spoilt, or the node has ended.

Nothing may be started for a second time, so a node with a doubtful journal asks before the first placement is read.
What it finds is then looked for as one whose start was under way when its node ended.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from paddock.runtimes import process, starts


class Found(NamedTuple):
    epoch: int
    pid: int


def incarnations(node_folder: str, socket_path: str) -> dict[str, Found]:
    """agent → the newest epoch of which there is a live process of this node, and that. Reads all of /proc."""
    found: dict[str, Found] = {}
    for path in Path(node_folder, "agents").glob("*/*.start"):
        folder = str(path.with_suffix(""))
        start = starts.read(folder)
        if start is not None and process.lives(start.pid, start.ticks, start.boot):
            found[f"{path.parent.name}/{path.stem}"] = Found(start.epoch, start.pid)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        env = _environment(pid)
        agent, epoch = env.get("PADDOCK_AGENT", ""), env.get("PADDOCK_EPOCH", "")
        if not agent or not epoch.isdecimal() or not _leads(pid):
            continue
        if env.get("PADDOCK_SOCKET", socket_path) == socket_path and _is_of(pid, env, node_folder):
            found[agent] = max(Found(int(epoch), int(pid)), found.get(agent, Found(0, 0)))
    return found


def last_epoch(node_folder: str) -> int:
    """The highest that an agent signed for here, alive or not."""
    folders = (str(path.with_suffix("")) for path in Path(node_folder, "agents").glob("*/*.start"))
    return max((start.epoch for start in map(starts.read, folders) if start is not None), default=0)


def _leads(pid: str) -> bool:
    """Agents have a session each; what they start carries their environment, too."""
    try:
        return os.getsid(int(pid)) == int(pid)
    except OSError:
        return False


def _is_of(pid: str, env: dict[str, str], node_folder: str) -> bool:
    """An agent of another user has no socket of ours; then it is its output that goes to a file of ours."""
    if "PADDOCK_SOCKET" in env:
        return True
    try:
        return os.readlink(f"/proc/{pid}/fd/1").startswith(f"{node_folder}/")
    except OSError:
        return False


def _environment(pid: str) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
