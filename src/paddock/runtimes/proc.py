"""What /proc tells of processes, and the one thing that is said there."""

from __future__ import annotations

import os

OOM_SCORE = 200
"""How much sooner than its node an agent is taken when memory is short, in thousandths of all memory."""


def offer_to_oom_killer(pid: int | None = None) -> None:
    """Let the kernel, when memory is short, take a process that was just started (this one, if none is named) before
    its keepers, whose score it has inherited. To raise a score is allowed to everybody."""
    path = f"/proc/{pid or 'self'}/oom_score_adj"
    try:
        with open(path) as file:
            score = int(file.read())
        with open(path, "w") as file:
            file.write(str(min(1000, score + OOM_SCORE)))
    except OSError:
        pass  # it has ended, or this is no Linux that knows it


def environment(pid: int) -> list[bytes]:
    """`NAME=value` of a process at its start; empty when it has ended or is another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def children() -> list[int] | None:
    """Pids of this process's own children; None when the kernel does not list them."""
    found: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        return None  # built without CONFIG_PROC_CHILDREN, or a thread ended meanwhile: look at all processes instead
    return found
